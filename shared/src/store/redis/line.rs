//! The connection that all ordinary traffic shares, and its replacement.
//!
//! A connection is given up when it fails, when an answer is late, and when the server behind it says that it is not the
//! one to write to: a path that swallows packets and a demoted server keep a connection open for ever, and only another
//! one leads to where the address points now. What still waits for an answer on the old one keeps it until then.
//! One attempt runs at a time, and attempts keep a distance: however many calls fail, the server sees few of them.
//! redis' own `ConnectionManager` was not used, since it replaces a connection only when the socket itself fails.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo as _, RedisError, ServerErrorKind};
use tokio::sync::watch;

use super::link::{ANSWER_TIMEOUT, CONNECT_TIMEOUT};
use crate::clock::Mono;

/// Between the beginnings of two attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// After so long without traffic the kernel asks whether the other side is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// What was sent and is not acknowledged for so long ends the connection.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// A client whose sockets notice a peer that vanished.
pub(super) fn client(url: &str) -> Result<Client, RedisError> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    // A call must not wait for the acknowledgement of the one before it.
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(USER_TIMEOUT);
    Client::open(url.into_connection_info()?.set_tcp_settings(settings))
}

/// Whether another connection may lead further than this one. Nothing was done where the server itself says so; after
/// the other errors nobody knows.
pub(super) fn is_spent(error: &RedisError) -> bool {
    let socket = error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error();
    let server = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    );
    // A blocked call is told so when its server becomes a replica; a primary that was cut off has no replicas left.
    socket || server || matches!(error.code(), Some("UNBLOCKED" | "NOREPLICAS"))
}

/// See the module's text. Clones share the connection.
#[derive(Clone)]
pub(super) struct Line(Arc<Shared>);

struct Shared {
    client: Client,
    config: AsyncConnectionConfig,
    current: Mutex<Option<Open>>,
    attempts: tokio::sync::Mutex<Attempts>,
    /// The number of the newest connection.
    newest: watch::Sender<u64>,
}

/// An open connection.
#[derive(Clone)]
pub(super) struct Open {
    number: u64,
    pub(super) connection: MultiplexedConnection,
}

#[derive(Default)]
struct Attempts {
    began: Option<Mono>,
    /// What came of it, where it failed.
    failed: Option<RedisError>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("newest", &self.0.newest.borrow()).finish_non_exhaustive()
    }
}

impl Line {
    /// Connects with the first call.
    pub(super) fn new(client: Client) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        let (current, attempts) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Shared { client, config, current, attempts, newest: watch::Sender::new(0) }))
    }

    /// The connection; opens one where there is none.
    pub(super) async fn get(&self) -> Result<Open, RedisError> {
        if let Some(open) = self.0.current() {
            return Ok(open);
        }
        // In a task of its own: a caller that gives up must not undo what the others wait for.
        let opening = tokio::spawn(Arc::clone(&self.0).open(Mono::now()));
        opening.await.map_err(|error| RedisError::from(std::io::Error::other(error)))?
    }

    /// What a call ended with; gives the connection up if it is to blame.
    pub(super) fn judge(&self, open: &Open, error: &RedisError) {
        if is_spent(error) {
            tracing::debug!(%error, "the connection to Redis is given up");
            self.leave(open);
        }
    }

    /// Gives a connection up.
    pub(super) fn leave(&self, open: &Open) {
        let Ok(mut current) = self.0.current.lock() else { return };
        if current.as_ref().is_some_and(|current| current.number == open.number) {
            *current = None;
        }
    }

    /// Changes whenever another connection was opened.
    pub(super) fn newest(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }
}

impl Shared {
    fn current(&self) -> Option<Open> {
        self.current.lock().ok().and_then(|current| current.clone())
    }

    /// Opens a connection, or answers with what another call's attempt came to that began after `asked`.
    async fn open(self: Arc<Self>, asked: Mono) -> Result<Open, RedisError> {
        let mut attempts = self.attempts.lock().await;
        if let Some(open) = self.current() {
            return Ok(open);
        }
        if let Some(began) = attempts.began {
            if let Some(error) = attempts.failed.as_ref().filter(|_| began >= asked) {
                return Err(error.clone());
            }
            tokio::time::sleep(PAUSE.saturating_sub(Mono::now().since(began))).await;
        }
        attempts.began = Some(Mono::now());
        let opened = self.client.get_multiplexed_async_connection_with_config(&self.config).await;
        attempts.failed = opened.as_ref().err().cloned();
        let open = Open { number: *self.newest.borrow() + 1, connection: opened? };
        if let Ok(mut current) = self.current.lock() {
            *current = Some(open.clone());
        }
        self.newest.send_replace(open.number);
        Ok(open)
    }
}
