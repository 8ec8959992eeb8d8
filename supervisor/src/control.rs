//! The control socket: orders of `stop`, `scale`, `deploy` and the like, and the answers to them.
//!
//! Everything is bounded, since whoever connects may be slow, hostile or gone: the number of clients, the bytes of an order
//! and of an answer that nobody reads, and the time until an order has come. Nothing here waits.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::control::{MAX_LINE, Order, Reply};
use roundsman_shared::exit;
use roundsman_shared::protocol::{Lines, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::unit::Asker;

/// Clients at once; the next wait in the kernel.
const CLIENTS: usize = 32;
/// Bytes of answers that one client has not read yet.
const UNREAD: usize = 1024 * 1024;
/// From the connection to the whole order.
const ORDER_WITHIN: Duration = Duration::from_secs(10);
/// At the end, for the last answers to be taken.
const LAST_WORD: Duration = Duration::from_millis(500);
/// `sun_path` has room for so many bytes on every system, and ends with a zero.
const LONGEST_PATH: usize = 103;

#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    clients: BTreeMap<Asker, Client>,
    next: Asker,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    lines: Lines,
    since: Mono,
    /// It has said what it wants.
    asked: bool,
    /// It says nothing more.
    silent: bool,
    unsent: Vec<u8>,
    /// Nothing follows but what is unsent.
    last: bool,
}

/// Whether a socket can have this path.
#[must_use]
pub(crate) fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= LONGEST_PATH
}

impl Control {
    /// Listens there. What an earlier supervisor left is removed: its lock is ours by now.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn listen(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The folder is its user's alone, so that nobody can slip in before the mode is set.
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path, clients: BTreeMap::new(), next: 0 })
    }

    /// What to wait for.
    pub(crate) fn watched(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = (self.clients.len() < CLIENTS).then(|| PollFd::new(&self.listener, PollFlags::IN));
        let clients = self.clients.values().map(|client| {
            // The end of what it says would be ready to be read for ever; that it is gone is told all the same.
            let input = if client.silent { PollFlags::empty() } else { PollFlags::IN };
            let out = if client.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            PollFd::new(&client.stream, input | out)
        });
        listener.into_iter().chain(clients)
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.clients.values().filter(|client| !client.asked).map(|client| client.since + ORDER_WITHIN).min()
    }

    /// Takes in who comes and what they want.
    pub(crate) fn gather(&mut self, now: Mono) -> Vec<(Asker, Order)> {
        while self.clients.len() < CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    self.next += 1;
                    let lines = Lines::new(MAX_LINE);
                    let client = Client {
                        stream,
                        lines,
                        since: now,
                        asked: false,
                        silent: false,
                        unsent: Vec::new(),
                        last: false,
                    };
                    self.clients.insert(self.next, client);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let mut orders = Vec::new();
        self.clients.retain(|asker, client| {
            let gone = client.read(|order| orders.push((*asker, order)));
            client.flush();
            let late = !client.asked && now.since(client.since) >= ORDER_WITHIN;
            let over = client.last && client.unsent.is_empty();
            !gone && !late && !over
        });
        orders
    }

    /// Answers; somebody who is gone, or does not read, gets none.
    pub(crate) fn reply(&mut self, to: Asker, reply: &Reply) {
        let Some(client) = self.clients.get_mut(&to) else { return };
        if client.last {
            return;
        }
        client.say(reply);
        client.flush();
        if client.last && client.unsent.is_empty() {
            self.clients.remove(&to);
        }
    }

    /// Gives the last answers a moment to be read.
    pub(crate) fn close(mut self) {
        let end = Mono::now() + LAST_WORD;
        while self.clients.values().any(|client| !client.unsent.is_empty()) && Mono::now() < end {
            self.clients.values_mut().for_each(Client::flush);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A file without a listener is removed by the next, too.
        let _ = fs::remove_file(&self.path);
    }
}

impl Client {
    fn say(&mut self, reply: &Reply) {
        let line = encode(reply);
        self.last |= reply.is_last();
        if self.unsent.len() + line.len() > UNREAD {
            self.last = true;
            return;
        }
        self.unsent.extend_from_slice(line.as_bytes());
    }

    fn is_gone(&self) -> bool {
        let mut watched = [PollFd::new(&self.stream, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut watched, Some(&at_once)).is_ok()
            && watched.iter().any(|fd| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR))
    }

    /// Reads the one order; answers whether the other side is gone.
    fn read(&mut self, mut each: impl FnMut(Order)) -> bool {
        if self.silent {
            return self.is_gone();
        }
        let mut buffer = [0; 4096];
        loop {
            let read = match self.stream.read(&mut buffer) {
                // Who has only shut down its writing side may still read.
                Ok(0) => {
                    self.silent = true;
                    return !self.asked || self.is_gone();
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            };
            let mut first = None;
            self.lines.push(buffer.get(..read).unwrap_or_default(), |line| {
                if first.is_none() {
                    first = Some(
                        line.map_err(|error| error.to_string())
                            .and_then(|line| serde_json::from_str(line).map_err(|error| error.to_string())),
                    );
                }
            });
            match first {
                // One connection, one order.
                Some(_) if self.asked => {}
                Some(Ok(order)) => {
                    self.asked = true;
                    each(order);
                }
                Some(Err(error)) => {
                    self.asked = true;
                    let text = format!("the order is not understood by this fleet: {error}");
                    self.say(&Reply::Refused { code: exit::USAGE, text });
                }
                None => {}
            }
        }
    }

    fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.unsent.clear();
                    self.last = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let end = Mono::now() + Duration::from_secs(10);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Mono::now() < end, "nothing came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn an_order_comes_in_and_its_answers_go_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let mut control = Control::listen(path.clone()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"{\"do\":\"re").unwrap();
        assert_eq!(control.gather(Mono::now()), []);
        client.write_all(b"load\"}\n{\"do\":\"stop\"}\n").unwrap();
        let orders = wait_for(|| Some(control.gather(Mono::now())).filter(|orders| !orders.is_empty()));
        assert_eq!(orders, [(1, Order::Reload)], "one connection, one order");
        control.reply(1, &Reply::Says { text: "a".into() });
        control.reply(1, &Reply::Done { text: "b".into() });
        control.reply(1, &Reply::Done { text: "c".into() });
        let lines: Vec<String> = BufReader::new(client).lines().map(Result::unwrap).collect();
        assert_eq!(lines, [r#"{"t":"says","text":"a"}"#, r#"{"t":"done","text":"b"}"#]);
        assert!(control.clients.is_empty());
        drop(control);
        assert!(!path.exists());
    }

    #[test]
    fn nonsense_is_answered_and_silence_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(dir.path().join("c.sock")).unwrap();
        for nonsense in ["{}\n".to_owned(), "x".repeat(MAX_LINE + 1), "{\"do\":\"dance\"}\n".to_owned()] {
            let mut client = UnixStream::connect(&control.path).unwrap();
            client.write_all(nonsense.as_bytes()).unwrap();
            let mut answer = String::new();
            client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            wait_for(|| {
                assert_eq!(control.gather(Mono::now()), []);
                let _ = client.read_to_string(&mut answer);
                answer.contains("refused").then_some(())
            });
        }
        let silent = UnixStream::connect(&control.path).unwrap();
        wait_for(|| {
            control.gather(Mono::now());
            (!control.clients.is_empty()).then_some(())
        });
        control.gather(Mono::now() + ORDER_WITHIN);
        assert!(control.clients.is_empty());
        drop(silent);
    }

    #[test]
    fn who_leaves_before_the_answer_is_forgotten_and_who_only_listens_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(dir.path().join("c.sock")).unwrap();
        let ask = |control: &mut Control| {
            let mut client = UnixStream::connect(&control.path).unwrap();
            client.write_all(b"{\"do\":\"reload\"}\n").unwrap();
            let orders = wait_for(|| Some(control.gather(Mono::now())).filter(|orders| !orders.is_empty()));
            (client, orders[0].0)
        };
        let (leaves, _) = ask(&mut control);
        drop(leaves);
        wait_for(|| {
            control.gather(Mono::now());
            control.clients.is_empty().then_some(())
        });
        let (mut listens, asker) = ask(&mut control);
        listens.shutdown(std::net::Shutdown::Write).unwrap();
        wait_for(|| {
            control.gather(Mono::now());
            control.clients.get(&asker)?.silent.then_some(())
        });
        // It would wake the loop again and again.
        let mut watched: Vec<PollFd<'_>> = control.watched().collect();
        assert_eq!(poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0));
        drop(watched);
        control.reply(asker, &Reply::Done { text: "a".into() });
        let mut answer = String::new();
        listens.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("done"), "{answer}");
    }

    #[test]
    fn crowds_and_the_deaf_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(dir.path().join("c.sock")).unwrap();
        let crowd: Vec<UnixStream> =
            (0..CLIENTS + 8).map(|_| UnixStream::connect(&control.path).unwrap()).collect();
        wait_for(|| {
            control.gather(Mono::now());
            (control.clients.len() == CLIENTS).then_some(())
        });
        drop(crowd);
        wait_for(|| {
            control.gather(Mono::now());
            control.clients.is_empty().then_some(())
        });
        let mut deaf = UnixStream::connect(&control.path).unwrap();
        deaf.write_all(b"{\"do\":\"reload\"}\n").unwrap();
        let orders = wait_for(|| Some(control.gather(Mono::now())).filter(|orders| !orders.is_empty()));
        let text = "x".repeat(MAX_LINE);
        for _ in 0..1000 {
            control.reply(orders[0].0, &Reply::Says { text: text.clone() });
        }
        assert!(control.clients.values().all(|client| client.unsent.len() <= UNREAD));
    }
}
