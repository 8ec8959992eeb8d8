//! A real RabbitMQ of a test's own: a node on free ports, in its own folder, on loopback only, killed and restarted at
//! will. It has a port mapper of its own too, so that it neither meets nor leaves one of the machine's.
//!
//! The folder, and so the broker's durable state, is kept over [`RabbitServer::kill`] and [`RabbitServer::restart`].

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::proc::Process;
use crate::spawn;
use crate::wait::{TimedOut, wait_for};

/// An Erlang system takes its time, more so beside a build.
const START: Duration = Duration::from_secs(120);
/// For anything else.
const SOON: Duration = Duration::from_secs(10);
/// What Debian and Homebrew call the script that does not ask who runs it.
const SCRIPTS: [&str; 3] = [
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
];

#[derive(Debug, thiserror::Error)]
pub enum RabbitError {
    #[error("rabbitmq-server is not installed (`ops/test` does that)")]
    Missing,
    #[error("rabbitmq-server cannot be started")]
    Spawn(#[source] io::Error),
    #[error("rabbitmq-server left with {status}; its log ends:\n{log}")]
    Left { status: ExitStatus, log: String },
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    #[error("the broker's folder")]
    Io(#[from] io::Error),
    #[error("the broker's process is gone")]
    Gone(#[from] rustix::io::Errno),
}

/// A running (or killed) broker. Ends with the fixture, or with the test's process.
#[derive(Debug)]
pub struct RabbitServer {
    port: u16,
    mapper_port: u16,
    distribution_port: u16,
    node: Option<(Child, Process)>,
    mapper: Option<Child>,
    /// Removed when dropped, and after the processes: fields drop in this order.
    folder: TempDir,
}

impl RabbitServer {
    /// Starts a broker and waits until it greets.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> Result<Self, RabbitError> {
        Self::start_with("")
    }

    /// The same, with these lines more in its `rabbitmq.conf`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(settings: &str) -> Result<Self, RabbitError> {
        let folder = tempfile::Builder::new().prefix("roundsman-rabbit-").tempdir()?;
        fs::write(folder.path().join("plugins"), "[].\n")?;
        let limits = "vm_memory_high_watermark.absolute = 2GB\ndisk_free_limit.absolute = 1MB\n";
        fs::write(folder.path().join("rabbitmq.conf"), format!("{limits}{settings}"))?;
        let (port, mapper_port, distribution_port) = (free_port()?, free_port()?, free_port()?);
        let mut server = Self { port, mapper_port, distribution_port, node: None, mapper: None, folder };
        server.launch()?;
        Ok(server)
    }

    /// `amqp://guest:guest@127.0.0.1:PORT/%2f`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The node's process; `None` once killed.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        self.node.as_ref().map(|(_, process)| *process)
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// When the child cannot be waited for.
    pub fn kill(&mut self) -> Result<(), RabbitError> {
        if let Some((mut child, process)) = self.node.take() {
            // Its own children read from it and leave when it is gone; they are waited for, so that none outlives us.
            let below = process.descendants();
            child.kill()?;
            child.wait()?;
            wait_for("the broker's helpers to leave", SOON, || {
                let alive: Vec<_> = below.iter().filter(|it| it.is_alive()).collect();
                if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?}")) }
            })?;
        }
        Ok(())
    }

    /// SIGSTOP: it keeps its connections and says nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_process(&self) -> Result<(), RabbitError> {
        Ok(self.process().ok_or(rustix::io::Errno::SRCH)?.signal(Signal::STOP)?)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn continue_process(&self) -> Result<(), RabbitError> {
        Ok(self.process().ok_or(rustix::io::Errno::SRCH)?.signal(Signal::CONT)?)
    }

    /// Starts again on the same ports and folder, after killing it if it still runs.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<(), RabbitError> {
        self.kill()?;
        self.launch()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launch(&mut self) -> Result<(), RabbitError> {
        let script = SCRIPTS.iter().map(Path::new).find(|path| path.is_file()).ok_or(RabbitError::Missing)?;
        if self.mapper.is_none() {
            let mut mapper = spawn::bound_command("epmd");
            mapper
                .args(["-address", "127.0.0.1", "-port", &self.mapper_port.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            self.mapper = Some(spawn::start(mapper).map_err(RabbitError::Spawn)?);
            let port = self.mapper_port;
            wait_for("the port mapper to listen", SOON, || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|error| error.to_string())
            })?;
        }
        let log = self.path("log");
        let output = File::create(&log)?;
        let mut command = spawn::bound_command(script);
        let folder = self.folder.path();
        let in_folder = |name: &str| folder.join(name);
        // Its schedulers spin for a while when they have nothing to do, which other tests would feel.
        let arguments =
            "-noinput +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
        command
            .current_dir(folder)
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", self.mapper_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", format!("rabbit{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", in_folder("mnesia"))
            .env("RABBITMQ_LOG_BASE", in_folder("logs"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_SCHEMA_DIR", in_folder("schema"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", in_folder("config"))
            .env("RABBITMQ_CONF_ENV_FILE", in_folder("none"))
            .env("RABBITMQ_CONFIG_FILE", in_folder("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", in_folder("plugins"))
            .env("RABBITMQ_PID_FILE", in_folder("pid"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", arguments)
            // The script then becomes the node, instead of a parent that would leave it behind when it is killed.
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut child = spawn::start(command).map_err(RabbitError::Spawn)?;
        let pid = child.id();
        let port = self.port;
        let greeted = wait_for("rabbitmq-server to greet", START, || {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => Ok(Some(status)),
                None => greet(port).map(|()| None).map_err(|state| format!("{state}; log: {}", tail(&log))),
            }
        });
        match greeted {
            Ok(None) => {}
            Ok(Some(status)) => return Err(RabbitError::Left { status, log: tail(&log) }),
            Err(late) => {
                child.kill()?;
                child.wait()?;
                return Err(late.into());
            }
        }
        let process = Process::of(pid).ok_or(rustix::io::Errno::SRCH)?;
        self.node = Some((child, process));
        Ok(())
    }
}

impl Drop for RabbitServer {
    fn drop(&mut self) {
        // Failing here would hide the test's own failure; the parent-death signal is the second line.
        let _ = self.kill();
        if let Some(mut mapper) = self.mapper.take() {
            let _ = mapper.kill();
            let _ = mapper.wait();
        }
    }
}

/// A broker that is ready answers the protocol's header with `connection.start`.
fn greet(port: u16) -> Result<(), String> {
    let limit = Duration::from_secs(5);
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let mut connection = TcpStream::connect_timeout(&address, limit).map_err(|error| error.to_string())?;
    connection.set_read_timeout(Some(limit)).map_err(|error| error.to_string())?;
    connection.write_all(b"AMQP\x00\x00\x09\x01").map_err(|error| error.to_string())?;
    let mut reply = [0; 11];
    connection.read_exact(&mut reply).map_err(|error| error.to_string())?;
    // A method frame on channel 0, class 10, method 10.
    if reply[0] == 1 && reply[7..11] == [0, 10, 0, 10] { Ok(()) } else { Err(format!("{reply:?}")) }
}

/// The last lines of a log, for an error message.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_ends_and_leaves_nothing() {
        let mut server = RabbitServer::start().unwrap();
        let first = server.process().unwrap();
        let mapper = Process::of(server.mapper.as_ref().unwrap().id()).unwrap();
        server.restart().unwrap();
        let second = server.process().unwrap();
        assert!(!first.is_alive() && second.is_alive() && first.pid != second.pid);
        let below = second.descendants();
        assert!(!below.is_empty());
        drop(server);
        for process in below.into_iter().chain([second, mapper]) {
            assert!(!process.is_alive(), "{process}");
        }
    }
}
