//! Connections of all transports: the name is looked up, each address is judged, and the socket is connected to the very
//! address that was. Nothing is looked up twice, and no proxy stands between.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use roundsman_shared::reach::{Asked, Reach};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::circuit::Destination;

/// Of the addresses behind one name.
const MAX_ADDRESSES: usize = 8;
/// An address that does not answer for so long is left for the next one.
const NEXT_AFTER: Duration = Duration::from_secs(3);

/// Why an exchange came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The address may not be connected to. It says nothing of whoever is there.
    Refused(String),
    /// The destination cannot be reached, or does not do its part.
    Broken(String),
    /// It works, and does not want this.
    Unwanted(String),
    /// This can never work.
    Hopeless(String),
}

/// A connection, in the clear or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
pub(super) type Stream = Box<dyn Io>;

/// Makes connections.
#[derive(Default)]
pub(super) struct Connector {
    tls: OnceLock<Result<Arc<rustls::ClientConfig>, String>>,
}

/// With the causes that libraries hide behind one another.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

fn broken(what: impl std::fmt::Display, error: &(dyn std::error::Error + 'static)) -> Trouble {
    Trouble::Broken(format!("{what}: {}", chain(error)))
}

/// The addresses of a host that may be used.
///
/// # Errors
/// When it has none, or none that is permitted.
pub(super) async fn addresses(to: &Destination, reach: &Reach) -> Result<Vec<SocketAddr>, Trouble> {
    let host = to.host.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![(address, to.port).into()],
        Err(_) => tokio::net::lookup_host((host, to.port))
            .await
            .map_err(|error| broken(format_args!("cannot look up {host}"), &error))?
            .take(MAX_ADDRESSES)
            .collect(),
    };
    let asked = Asked { scheme: &to.scheme, host, port: to.port };
    let (mut permitted, mut refused) = (Vec::new(), None);
    for address in found {
        match reach.check(asked, address.ip()) {
            Ok(()) => permitted.push(address),
            Err(why) => refused = Some(why),
        }
    }
    match refused {
        _ if !permitted.is_empty() => Ok(permitted),
        Some(why) => Err(Trouble::Refused(format!("{host}: {why}"))),
        None => Err(Trouble::Broken(format!("{host} has no address"))),
    }
}

/// Connects to the first of these that answers.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Trouble> {
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        let attempt = TcpStream::connect(address);
        let connected = if index + 1 < addresses.len() {
            match tokio::time::timeout(NEXT_AFTER, attempt).await {
                Ok(connected) => connected,
                Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
            }
        } else {
            attempt.await
        };
        match connected {
            Ok(stream) => {
                // Each message is written whole.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = Some(broken(format_args!("cannot connect to {address}"), &error)),
        }
    }
    Err(last.unwrap_or_else(|| Trouble::Broken("there is no address to connect to".to_owned())))
}

/// A connection without encryption.
pub(super) async fn plain(to: &Destination, reach: &Reach) -> Result<TcpStream, Trouble> {
    connect(&addresses(to, reach).await?).await
}

impl Connector {
    /// A connection; with `tls` the host proves who it is.
    pub(super) async fn open(&self, to: &Destination, reach: &Reach, tls: bool) -> Result<Stream, Trouble> {
        let stream = plain(to, reach).await?;
        if !tls {
            return Ok(Box::new(stream));
        }
        let host = to.host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| Trouble::Hopeless(format!("{host} is no name for a certificate: {error}")))?;
        let config = self.tls()?;
        let secured = TlsConnector::from(config).connect(name, stream).await;
        secured
            .map(|stream| Box::new(stream) as Stream)
            .map_err(|error| broken(format_args!("no secure connection to {to}"), &error))
    }

    /// Reads the system's root certificates when they are first needed.
    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, Trouble> {
        self.tls.get_or_init(client_config).clone().map_err(Trouble::Broken)
    }
}

fn client_config() -> Result<Arc<rustls::ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
        return Err(format!("this host has no root certificates (the package ca-certificates): {why}"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What is kept between jobs, by destination, each with the moment when it was put here. The newest is taken first, so
/// that what is not needed grows old.
pub(super) struct Idle<T> {
    kept: Vec<(Destination, roundsman_shared::clock::Mono, T)>,
}

/// Of one destination, and of all.
const MAX_IDLE_EACH: usize = 32;
const MAX_IDLE: usize = 128;
/// Less than most servers keep a connection without traffic.
pub(super) const IDLE_FOR: Duration = Duration::from_secs(4);

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self { kept: Vec::new() }
    }
}

impl<T> Idle<T> {
    pub(super) fn take(&mut self, to: &Destination) -> Option<T> {
        let at = self.kept.iter().rposition(|(of, ..)| of == to)?;
        Some(self.kept.remove(at).2)
    }

    pub(super) fn put(&mut self, to: &Destination, connection: T) {
        let of_it = self.kept.iter().filter(|(of, ..)| of == to).count();
        if of_it >= MAX_IDLE_EACH
            && let Some(oldest) = self.kept.iter().position(|(of, ..)| of == to)
        {
            self.kept.remove(oldest);
        }
        if self.kept.len() >= MAX_IDLE {
            self.kept.remove(0);
        }
        self.kept.push((to.clone(), roundsman_shared::clock::Mono::now(), connection));
    }

    /// Drops what has not been wanted for long; answers whether anything is left.
    fn sweep(&mut self) -> bool {
        let now = roundsman_shared::clock::Mono::now();
        self.kept.retain(|(_, since, _)| now.since(*since) < IDLE_FOR);
        !self.kept.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }
}

/// Drops connections that are not wanted, until none is left.
pub(super) fn keep_swept<T: 'static>(
    idle: &Rc<std::cell::RefCell<Idle<T>>>,
    sweeping: &Rc<std::cell::Cell<bool>>,
) {
    if sweeping.replace(true) {
        return;
    }
    let (idle, sweeping) = (idle.clone(), sweeping.clone());
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(IDLE_FOR / 2).await;
            if !idle.borrow_mut().sweep() {
                sweeping.set(false);
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(host: &str, port: u16) -> Destination {
        Destination { scheme: "http".into(), host: host.into(), port }
    }

    #[tokio::test]
    async fn addresses_are_judged_after_they_are_looked_up() {
        let reach = Reach::default();
        for host in ["127.0.0.1", "[::1]", "localhost", "0x7f.1"] {
            let refused = addresses(&to(host, 80), &reach).await;
            assert!(matches!(refused, Err(Trouble::Refused(_))), "{host}: {refused:?}");
        }
        let allowed = Reach::global_and(&["127.0.0.0/8".parse().unwrap()]);
        let found = addresses(&to("127.0.0.1", 80), &allowed).await.unwrap();
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 80))]);
        let by_name = Reach::global_and(&["localhost".parse().unwrap()]);
        assert!(addresses(&to("localhost", 80), &by_name).await.is_ok());
    }

    #[test]
    fn idle_connections_are_bounded() {
        let mut idle = Idle::default();
        for n in 0..1000_u16 {
            idle.put(&to("a", n % 2), n);
        }
        assert_eq!(idle.len(), 2 * MAX_IDLE_EACH);
        for n in 0..1000_u16 {
            idle.put(&to("b", n), n);
        }
        assert_eq!(idle.len(), MAX_IDLE);
        assert_eq!((idle.take(&to("b", 999)), idle.take(&to("b", 0))), (Some(999), None));
    }
}
