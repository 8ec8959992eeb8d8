//! A real Redis server of a test's own: on a free port, in its own folder, killed and restarted at will.
//!
//! The server listens on loopback TCP and on a Unix socket. Its folder, and so its data, is kept over
//! [`RedisServer::kill`] and [`RedisServer::restart`], and removed with the fixture.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::proc::{Process, State};
use crate::spawn;
use crate::wait::{TimedOut, wait_for};

/// For a start, with the loading of what an earlier run left.
const START: Duration = Duration::from_secs(30);
/// For anything else that the server or the kernel does.
const SOON: Duration = Duration::from_secs(10);
/// A port can be taken between our choice and the server's bind; so often we choose again.
const PORT_TRIES: u32 = 8;

/// When the append-only file reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    Always,
    EverySecond,
    No,
}

/// What differs from a server that keeps all in memory.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// `appendonly yes` with this `appendfsync`; else nothing is persisted.
    pub appendonly: Option<Fsync>,
    /// Bytes.
    pub maxmemory: Option<u64>,
    /// `noeviction` unless set.
    pub maxmemory_policy: Option<String>,
    /// Keeps the data here instead of in a temporary folder, so that it outlives the fixture.
    pub directory: Option<PathBuf>,
    /// Further settings, as `("enable-debug-command", "yes")`.
    pub settings: Vec<(String, String)>,
    /// Variables of the server's environment, as a preloaded clock needs.
    pub environment: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    #[error("redis-server cannot be started (is it installed? `ops/test` does that)")]
    Spawn(#[source] io::Error),
    #[error("redis-server left at once with {status}; its log ends:\n{log}")]
    Left { status: ExitStatus, log: String },
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    #[error("the server's folder or socket")]
    Io(#[from] io::Error),
    #[error("the server's process is gone")]
    Gone(#[from] rustix::io::Errno),
}

/// A running (or killed, or stopped) server. Ends with the fixture, or with the test's process.
#[derive(Debug)]
pub struct RedisServer {
    options: RedisOptions,
    directory: PathBuf,
    port: u16,
    child: Option<(Child, Process)>,
    /// Removed when dropped, and after the server: fields drop in this order.
    temporary: TempDir,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, refuses its settings or does not answer.
    pub fn start(options: RedisOptions) -> Result<Self, RedisError> {
        let temporary = tempfile::Builder::new().prefix("roundsman-redis-").tempdir()?;
        let directory = options.directory.clone().unwrap_or_else(|| temporary.path().to_owned());
        fs::create_dir_all(&directory)?;
        let mut server = Self { options, directory, port: 0, child: None, temporary };
        for _ in 1..PORT_TRIES {
            server.port = free_port()?;
            match server.launch() {
                Err(RedisError::Left { log, .. }) if is_clash(&log) => {}
                started => return started.map(|()| server),
            }
        }
        server.launch().map(|()| server)
    }

    /// `redis://127.0.0.1:PORT/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// `redis+unix://…`, the same server by its Unix socket.
    #[must_use]
    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.temporary.path().join("redis.sock")
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the append-only file lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The server's process; `None` once killed.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        self.child.as_ref().map(|(_, process)| *process)
    }

    /// # Panics
    /// When the server was killed and not restarted.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process().expect("the server runs").pid
    }

    /// SIGKILL, and waits for the end. Nothing is flushed.
    ///
    /// # Errors
    /// When the child cannot be waited for.
    pub fn kill(&mut self) -> Result<(), RedisError> {
        if let Some((mut child, _)) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM: an orderly end.
    ///
    /// # Errors
    /// When it does not end; it still runs then.
    pub fn shutdown(&mut self) -> Result<(), RedisError> {
        if let Some((child, process)) = &mut self.child {
            process.signal(Signal::TERM)?;
            let log = self.directory.join("redis.log");
            wait_for("redis-server to end", SOON, || match child.try_wait() {
                Ok(Some(_)) => Ok(()),
                other => Err(format!("{other:?}; log: {}", tail(&log))),
            })?;
            self.child = None;
        }
        Ok(())
    }

    /// Starts again on the same port and folder, after an orderly end if it still runs.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<(), RedisError> {
        self.shutdown()?;
        // Until a client's outgoing connection that was given our port is closed.
        let clash = wait_for("the port to be free", START, || match self.launch() {
            Err(RedisError::Left { log, .. }) if is_clash(&log) => Err(log),
            other => Ok(other),
        });
        clash?
    }

    /// SIGSTOP: the server keeps its connections and answers nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_process(&self) -> Result<(), RedisError> {
        let process = self.signal(Signal::STOP)?;
        wait_for("redis-server to stop", SOON, || match process.state() {
            Some(State::Stopped) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        Ok(())
    }

    /// SIGCONT, and waits for an answer.
    ///
    /// # Errors
    /// When it does not run or does not answer.
    pub fn continue_process(&self) -> Result<(), RedisError> {
        self.signal(Signal::CONT)?;
        wait_for("redis-server to answer again", SOON, || self.ping())?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<Process, RedisError> {
        let process = self.process().ok_or(rustix::io::Errno::SRCH)?;
        process.signal(signal)?;
        Ok(process)
    }

    /// What `redis-cli` prints for the command, without the last newline. An error reply is printed too.
    ///
    /// # Panics
    /// When `redis-cli` is missing or cannot reach the server.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut command = spawn::command("redis-cli");
        command.arg("-p").arg(self.port.to_string()).args(arguments);
        let done = spawn::output(command).expect("redis-cli is installed with redis-server");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "redis-cli {arguments:?}: {} {stderr}", done.status);
        let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        text
    }

    /// One section of `INFO`, as `info("stats")["total_commands_processed"]`.
    ///
    /// # Panics
    /// As [`Self::cli`].
    #[must_use]
    pub fn info(&self, section: &str) -> BTreeMap<String, String> {
        self.cli(&["INFO", section])
            .lines()
            .filter_map(|line| line.trim_end().split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn launch(&mut self) -> Result<(), RedisError> {
        let log = self.directory.join("redis.log");
        let output = File::create(&log)?;
        let mut command = spawn::bound_command("redis-server");
        command
            .args(self.arguments())
            .envs(self.options.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut child = spawn::start(command).map_err(RedisError::Spawn)?;
        let pid = child.id();
        let answered = wait_for("redis-server to answer PING", START, || {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => Ok(Some(status)),
                None => match self.ping_of(pid) {
                    Ok(()) => Ok(None),
                    Err(state) => Err(format!("{state}; log: {}", tail(&log))),
                },
            }
        });
        match answered {
            Ok(None) => {}
            Ok(Some(status)) => return Err(RedisError::Left { status, log: tail(&log) }),
            Err(late) => {
                child.kill()?;
                child.wait()?;
                return Err(late.into());
            }
        }
        let process = Process::of(pid).ok_or(rustix::io::Errno::SRCH)?;
        self.child = Some((child, process));
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let mut settings: Vec<(&str, String)> = vec![
            ("port", self.port.to_string()),
            ("bind", "127.0.0.1".to_owned()),
            ("unixsocket", self.socket().display().to_string()),
            ("dir", self.directory.display().to_string()),
            ("daemonize", "no".to_owned()),
            ("save", String::new()),
            ("maxmemory-policy", self.options.maxmemory_policy.as_deref().unwrap_or("noeviction").to_owned()),
        ];
        if let Some(fsync) = self.options.appendonly {
            let word = match fsync {
                Fsync::Always => "always",
                Fsync::EverySecond => "everysec",
                Fsync::No => "no",
            };
            settings.push(("appendonly", "yes".to_owned()));
            settings.push(("appendfsync", word.to_owned()));
        }
        if let Some(bytes) = self.options.maxmemory {
            settings.push(("maxmemory", bytes.to_string()));
        }
        settings.extend(self.options.settings.iter().map(|(key, value)| (&**key, value.clone())));
        settings.into_iter().flat_map(|(key, value)| [format!("--{key}"), value]).collect()
    }

    fn ping(&self) -> Result<(), String> {
        let mut connection = TcpStream::connect_timeout(&self.address(), SOON).map_err(|e| e.to_string())?;
        connection.set_read_timeout(Some(SOON)).map_err(|e| e.to_string())?;
        connection.write_all(b"PING\r\n").map_err(|e| e.to_string())?;
        let mut reply = [0; 128];
        let length = connection.read(&mut reply).map_err(|e| e.to_string())?;
        let reply = String::from_utf8_lossy(&reply[..length]);
        // `LOADING` while the append-only file is read; `NOAUTH` when a test sets a password.
        if reply.starts_with("+PONG") || reply.starts_with("-NOAUTH") { Ok(()) } else { Err(reply.into()) }
    }

    /// A `PONG` could come from a server of another test that took the port first, while ours is about to
    /// leave because of it: the one that answers must be the owner of our socket file.
    fn ping_of(&self, pid: u32) -> Result<(), String> {
        self.ping()?;
        let mut connection = std::os::unix::net::UnixStream::connect(self.socket())
            .map_err(|error| format!("{pid} has not made its socket: {error}"))?;
        connection.write_all(b"PING\r\n").map_err(|error| error.to_string())?;
        Ok(())
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Failing here would hide the test's own failure; the parent-death signal is the second line.
        let _ = self.kill();
    }
}

fn is_clash(log: &str) -> bool {
    log.contains("Address already in use")
}

/// The last lines of a log, for an error message.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeping() -> RedisServer {
        RedisServer::start(RedisOptions { appendonly: Some(Fsync::Always), ..RedisOptions::default() })
            .unwrap()
    }

    #[test]
    fn serves_by_port_and_by_socket() {
        let server = RedisServer::start(RedisOptions::default()).unwrap();
        assert_eq!(server.cli(&["SET", "k", "v"]), "OK");
        for url in [server.url(), server.unix_url()] {
            let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
            let value: String = redis::cmd("GET").arg("k").query(&mut connection).unwrap();
            assert_eq!(value, "v");
        }
        assert_eq!(server.info("server")["tcp_port"], server.port().to_string());
        assert_eq!(server.cli(&["CONFIG", "GET", "maxmemory-policy"]), "maxmemory-policy\nnoeviction");
        assert_eq!(server.info("server")["process_id"], server.pid().to_string());
    }

    #[test]
    fn keeps_its_data_over_kill_and_restart() {
        let mut server = keeping();
        let (url, first) = (server.url(), server.pid());
        for i in 0..100 {
            assert_eq!(server.cli(&["RPUSH", "list", &i.to_string()]), (i + 1).to_string());
        }
        server.kill().unwrap();
        assert_eq!(server.process(), None);
        server.restart().unwrap();
        assert_eq!(server.cli(&["LLEN", "list"]), "100");
        server.restart().unwrap();
        assert_eq!((server.cli(&["LLEN", "list"]), server.url()), ("100".to_owned(), url));
        assert_ne!(server.pid(), first);
    }

    #[test]
    fn a_memory_server_forgets() {
        let mut server = RedisServer::start(RedisOptions::default()).unwrap();
        assert_eq!(server.cli(&["SET", "k", "v"]), "OK");
        server.restart().unwrap();
        assert_eq!(server.cli(&["EXISTS", "k"]), "0");
    }

    #[test]
    fn data_in_a_given_folder_outlives_the_fixture() {
        let folder = tempfile::tempdir().unwrap();
        let options = RedisOptions {
            appendonly: Some(Fsync::EverySecond),
            directory: Some(folder.path().join("kept")),
            ..RedisOptions::default()
        };
        let mut first = RedisServer::start(options.clone()).unwrap();
        assert_eq!(first.cli(&["SET", "k", "v"]), "OK");
        first.shutdown().unwrap();
        drop(first);
        assert_eq!(RedisServer::start(options).unwrap().cli(&["GET", "k"]), "v");
    }

    #[test]
    fn stops_and_continues() {
        let server = RedisServer::start(RedisOptions::default()).unwrap();
        server.stop_process().unwrap();
        assert_eq!(server.process().unwrap().state(), Some(State::Stopped));
        server.continue_process().unwrap();
        assert_eq!(server.cli(&["PING"]), "PONG");
    }

    #[test]
    fn refuses_when_full() {
        let server = RedisServer::start(RedisOptions {
            maxmemory: Some(1),
            maxmemory_policy: Some("volatile-lru".to_owned()),
            ..RedisOptions::default()
        })
        .unwrap();
        assert!(server.cli(&["SET", "k", "v"]).starts_with("OOM"));
        assert_eq!(server.cli(&["CONFIG", "GET", "maxmemory-policy"]), "maxmemory-policy\nvolatile-lru");
    }

    #[test]
    fn says_why_it_did_not_start() {
        let settings = vec![("no-such-setting".to_owned(), "1".to_owned())];
        let error = RedisServer::start(RedisOptions { settings, ..RedisOptions::default() }).unwrap_err();
        let RedisError::Left { log, .. } = error else { panic!("{error}") };
        assert!(log.contains("no-such-setting"), "{log}");
    }

    #[test]
    fn a_taken_port_is_a_clash() {
        let first = RedisServer::start(RedisOptions::default()).unwrap();
        let mut second = RedisServer::start(RedisOptions::default()).unwrap();
        second.kill().unwrap();
        second.port = first.port;
        let error = second.launch().unwrap_err();
        assert!(matches!(&error, RedisError::Left { log, .. } if is_clash(log)), "{error}");
    }

    #[test]
    fn ends_with_the_fixture() {
        let server = RedisServer::start(RedisOptions::default()).unwrap();
        let process = server.process().unwrap();
        drop(server);
        assert!(!process.is_alive());
    }
}
