//! Talk to a service manager that speaks systemd's notify protocol: `sd_notify(3)`, a datagram of `NAME=value` lines.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::settings::Environment;

use crate::unit::News;

/// Beyond what a stop may take by itself: killing what is left, and leaving.
const MARGIN: Duration = Duration::from_secs(10);

/// Says nothing where no one listens.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    /// Half of what the manager allows.
    every: Duration,
    last: Option<Mono>,
}

impl Notifier {
    /// What `$NOTIFY_SOCKET` and `$WATCHDOG_USEC` ask for.
    #[must_use]
    pub(crate) fn new(environment: &Environment) -> Self {
        let Some(name) = environment.filled("NOTIFY_SOCKET") else { return Self::default() };
        match open(name) {
            Ok(to) => Self { to: Some(to), watchdog: watchdog(environment) },
            Err(error) => {
                tracing::warn!("NOTIFY_SOCKET {name}: {error}");
                Self::default()
            }
        }
    }

    pub(crate) fn tell(&self, news: &News) {
        match news {
            News::Ready { status } => self.send(&format!("READY=1\nSTATUS={status}")),
            News::Status(status) => self.send(&format!("STATUS={status}")),
            // One datagram for each, since the last state in one would be the only one to count.
            News::Reloaded { status } => {
                self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", Mono::systemd_micros()));
                self.send(&format!("READY=1\nSTATUS={status}"));
            }
            News::Stopping { within, status } => {
                let extended = (*within + MARGIN).as_micros();
                self.send(&format!("STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={extended}"));
            }
        }
    }

    /// Feeds the watchdog if it is time to, and only while the master lives.
    pub(crate) fn feed(&mut self, now: Mono, fresh: bool) {
        let Some(Watchdog { every, last }) = &mut self.watchdog else { return };
        if fresh && last.is_none_or(|last| now.since(last) >= *every) {
            *last = Some(now);
            self.send("WATCHDOG=1");
        }
    }

    /// When to [`Self::feed`] next; if that is over, at the next turn of the loop with a living master.
    #[must_use]
    pub(crate) fn next_feed(&self, now: Mono) -> Option<Mono> {
        let Watchdog { every, last } = self.watchdog.as_ref()?;
        Some((*last)? + *every).filter(|next| *next > now)
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!("NOTIFY_SOCKET: {error}");
        }
    }
}

fn open(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold us up.
    socket.set_nonblocking(true)?;
    let address = match name.strip_prefix('@') {
        Some(name) => abstract_address(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    Ok((socket, address))
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &str) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &str) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

fn watchdog(environment: &Environment) -> Option<Watchdog> {
    let meant = |pid: &str| pid.parse() == Ok(std::process::id());
    if !environment.filled("WATCHDOG_PID").is_none_or(meant) {
        return None;
    }
    let limit: u64 = environment.filled("WATCHDOG_USEC")?.parse().ok().filter(|limit| *limit > 0)?;
    Some(Watchdog { every: Duration::from_micros(limit / 2), last: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        socket.set_nonblocking(true).unwrap();
        socket.recv(&mut buffer).map_or_else(
            |_| "nothing".to_owned(),
            |length| String::from_utf8_lossy(&buffer[..length]).into_owned(),
        )
    }

    fn notifier(name: &str) -> Notifier {
        Notifier::new(&Environment::from_iter([("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "2000000")]))
    }

    #[test]
    fn a_manager_is_told_and_its_watchdog_fed_only_while_the_master_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut notifier = notifier(path.to_str().unwrap());
        notifier.tell(&News::Ready { status: "serving".into() });
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving");
        notifier.tell(&News::Reloaded { status: "anew".into() });
        let reloading = heard(&manager);
        let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!((1..=Mono::systemd_micros()).contains(&micros.parse().unwrap()), "{reloading}");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=anew");
        notifier.tell(&News::Stopping { within: Duration::from_secs(40), status: "draining".into() });
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=50000000");

        let at = |millis: u64| Mono::from_nanos(millis * 1_000_000);
        for (moment, fresh, said) in [
            (0, false, "nothing"),
            (10, true, "WATCHDOG=1"),
            (900, true, "nothing"),
            (1100, false, "nothing"),
            (1200, true, "WATCHDOG=1"),
        ] {
            notifier.feed(at(moment), fresh);
            assert_eq!(heard(&manager), said, "{moment}");
        }
        assert_eq!(notifier.next_feed(at(1300)), Some(at(2200)));
        assert_eq!(notifier.next_feed(at(2200)), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_socket_is_reached() {
        let name = format!("roundsman-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&abstract_address(&name).unwrap()).unwrap();
        notifier(&format!("@{name}")).tell(&News::Status("here".into()));
        assert_eq!(heard(&manager), "STATUS=here");
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        let mut notifier = Notifier::new(&Environment::default());
        notifier.tell(&News::Status("x".into()));
        notifier.feed(Mono::default(), true);
        assert_eq!(notifier.next_feed(Mono::default()), None);
        let other = Environment::from_iter([
            ("NOTIFY_SOCKET", "/none"),
            ("WATCHDOG_USEC", "2000000"),
            ("WATCHDOG_PID", "1"),
        ]);
        assert!(Notifier::new(&other).watchdog.is_none());
    }
}
