//! The connection to Redis: deadlines on everything, reconnects, and the server's fitness.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, PoolError, Runtime, Timeouts};
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::{Mutex, watch};

use super::line::{self, Line};
use super::scripts::Scripts;
use crate::clock::Mono;
use crate::store::{Durability, StoreError};

/// How long an answer may take. Longer than any script, shorter than any lease's margin.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest wait of a blocking command.
pub const MAX_WAIT: Duration = Duration::from_secs(30);
/// Connections that block: one for each watched inbox.
const BLOCKING: usize = 256;
/// How long the memory figure that admits enqueues may be old.
pub(super) const MEMORY_AGE: Duration = Duration::from_millis(500);
/// Enqueues are refused above this share of `maxmemory`, so that acknowledgements and retries still fit.
const MEMORY_SHARE: f64 = 0.8;
/// How long a connection may go on being read from before it is asked whether its server still is the primary: a
/// write would be told, a read never is.
const ROLE_AGE: Duration = Duration::from_secs(5);
const REPLICA: &str =
    "its address leads to a read-only replica, which takes no jobs: name the primary, or promote this one";
/// The oldest server whose scripts know flags.
const MIN_VERSION: (u32, u32) = (7, 0);

/// One shared connection and the scripts.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    line: Line,
    /// Connections that may block; ordinary traffic never shares them.
    blocking: Pool,
    pub(super) scripts: Scripts,
    /// When memory was last looked at, and what came of it.
    pub(super) memory: Mutex<Option<(Mono, Result<(), StoreError>)>>,
    /// When the role of the server was last looked at.
    role: Mutex<Mono>,
}

/// Made when first asked for; none of the library's own waits is endless.
fn blocking_pool(client: &Client) -> Result<Pool, StoreError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(MAX_WAIT + ANSWER_TIMEOUT));
    let manager = Manager::new_with_config(client.get_connection_info().clone(), config)
        .map_err(|error| failed(&error))?;
    let wait = Some(CONNECT_TIMEOUT);
    Pool::builder(manager)
        .max_size(BLOCKING)
        .timeouts(Timeouts { wait, create: wait, recycle: wait })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| StoreError::Unfit(error.to_string()))
}

/// What callers are told of an error. What only another configuration mends is [`StoreError::Unfit`].
pub(super) fn failed(error: &RedisError) -> StoreError {
    let detail = || error.detail().unwrap_or("no reason is given");
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => StoreError::Unfit(
            "Redis does not know this user with this password (WRONGPASS): correct them in the URL".to_owned(),
        ),
        (_, Some("NOAUTH")) => StoreError::Unfit(
            "Redis wants a user and a password (NOAUTH): put them into the URL, as in redis://USER:PASSWORD@HOST"
                .to_owned(),
        ),
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => StoreError::Unfit(format!(
            "the Redis user of the URL may not do this (NOPERM: {}): let it, as by ACL SETUSER USER +@all -@admin \
             '~NAMESPACE*' '~{{NAMESPACE}}*' '&NAMESPACE:*'",
            detail()
        )),
        // Whoever promotes it makes it fit, so it is awaited.
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => StoreError::Unavailable(REPLICA.to_owned()),
        (_, Some("OOM")) => StoreError::NearLimit("Redis has reached its maxmemory".to_owned()),
        (_, Some("MISCONF")) => {
            StoreError::NearLimit("Redis cannot write to its disk (MISCONF)".to_owned())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

fn is_replica(info: &redis::InfoDict) -> bool {
    info.get::<String>("role").as_deref() == Some("slave")
}

impl Link {
    pub(super) async fn open(url: &str) -> Result<Self, StoreError> {
        if url.starts_with("rediss://") {
            // A second installation of the same provider is refused and harmless.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = line::client(url)
            .map_err(|error| StoreError::Unfit(format!("the Redis URL is wrong: {error}")))?;
        let line = Line::new(client.clone());
        let scripts = Scripts::new();
        let mut open = line.get().await.map_err(|error| failed(&error))?;
        scripts.load(&mut open.connection).await.map_err(|error| failed(&error))?;
        let blocking = blocking_pool(&client)?;
        let link =
            Self { client, line, blocking, scripts, memory: Mutex::new(None), role: Mutex::new(Mono::now()) };
        link.check_server().await?;
        Ok(link)
    }

    /// A connection that may block.
    pub(super) async fn blocking(&self) -> Result<deadpool_redis::Connection, StoreError> {
        self.blocking.get().await.map_err(|error| match error {
            PoolError::Backend(error) => failed(&error),
            other => StoreError::Unavailable(other.to_string()),
        })
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Changes whenever ordinary traffic was given another connection.
    pub(super) fn newest(&self) -> watch::Receiver<u64> {
        self.line.newest()
    }

    /// Runs script calls in one round trip; one answer each.
    pub(super) async fn run(&self, calls: &[Cmd]) -> Result<Vec<Value>, StoreError> {
        let mut open = self.line.get().await.map_err(|error| failed(&error))?;
        self.scripts.run(&mut open.connection, calls).await.map_err(|error| {
            self.line.judge(&open, &error);
            failed(&error)
        })
    }

    /// Runs one script call.
    pub(super) async fn run_one(&self, call: Cmd) -> Result<Value, StoreError> {
        let answers = self.run(&[call]).await?;
        answers.into_iter().next().ok_or_else(|| StoreError::Corrupt("Redis gave no answer".to_owned()))
    }

    /// Runs one script call that writes nothing.
    pub(super) async fn read_one(&self, call: Cmd) -> Result<Value, StoreError> {
        self.ask_role().await?;
        self.run_one(call).await
    }

    /// Runs a plain command, which reads.
    pub(super) async fn query<T: redis::FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        self.ask_role().await?;
        self.command(cmd).await
    }

    /// Gives the connection up where it leads to a replica: the next one may lead to the primary. A store that is a
    /// replica for good can be read all the same.
    async fn ask_role(&self) -> Result<(), StoreError> {
        let Ok(mut asked) = self.role.try_lock() else { return Ok(()) };
        if Mono::now().since(*asked) < ROLE_AGE {
            return Ok(());
        }
        let open = self.line.get().await.map_err(|error| failed(&error))?;
        let info: redis::InfoDict = self.command(redis::cmd("INFO").arg("replication")).await?;
        if is_replica(&info) {
            self.line.leave(&open);
        }
        *asked = Mono::now();
        Ok(())
    }

    async fn command<T: redis::FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        let mut open = self.line.get().await.map_err(|error| failed(&error))?;
        cmd.query_async(&mut open.connection).await.map_err(|error| {
            self.line.judge(&open, &error);
            failed(&error)
        })
    }

    async fn info(&self) -> Result<redis::InfoDict, StoreError> {
        self.query(&redis::cmd("INFO")).await
    }

    async fn config(&self, name: &str) -> Option<String> {
        let pair: Vec<String> = self.query(redis::cmd("CONFIG").arg("GET").arg(name)).await.ok()?;
        pair.into_iter().nth(1)
    }

    /// Refuses a server that would lose jobs by design.
    async fn check_server(&self) -> Result<(), StoreError> {
        let info = self.info().await?;
        let version: String = info.get("redis_version").unwrap_or_default();
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
        let version_of = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version_of < MIN_VERSION {
            return Err(StoreError::Unfit(format!("Redis {version} is too old; 7.0 or later is needed")));
        }
        if info.get::<String>("cluster_enabled").as_deref() == Some("1") {
            return Err(StoreError::Unfit(
                "Redis Cluster is not supported yet; use a single server".to_owned(),
            ));
        }
        let policy: String = info.get("maxmemory_policy").unwrap_or_else(|| "noeviction".to_owned());
        let limit: u64 = info.get("maxmemory").unwrap_or(0);
        // The volatile policies drop only keys that expire, and no key of ours does.
        if limit > 0 && policy.starts_with("allkeys") {
            return Err(StoreError::Unfit(format!(
                "Redis drops keys when its memory is full (maxmemory-policy {policy}), and jobs with them; \
                 set maxmemory-policy noeviction"
            )));
        }
        Ok(())
    }

    /// Whether there is room for more jobs.
    pub(super) async fn judge_memory(&self) -> Result<Result<(), StoreError>, StoreError> {
        let open = self.line.get().await.map_err(|error| failed(&error))?;
        let info: redis::InfoDict = self.command(redis::cmd("INFO").arg("memory").arg("replication")).await?;
        if is_replica(&info) {
            self.line.leave(&open);
            return Err(StoreError::Unavailable(REPLICA.to_owned()));
        }
        let (used, limit): (u64, u64) =
            (info.get("used_memory").unwrap_or(0), info.get("maxmemory").unwrap_or(0));
        let policy: String = info.get("maxmemory_policy").unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a share of bytes needs no more")]
        let verdict = if limit > 0 && policy.starts_with("allkeys") {
            Err(StoreError::Unfit(format!(
                "Redis drops keys when its memory is full (maxmemory-policy {policy})"
            )))
        } else if limit > 0 && used as f64 > limit as f64 * MEMORY_SHARE {
            Err(StoreError::NearLimit(format!(
                "Redis uses {used} of {limit} bytes (maxmemory); above {:.0} % only running jobs go on",
                MEMORY_SHARE * 100.0
            )))
        } else {
            Ok(())
        };
        Ok(verdict)
    }

    pub(super) async fn durability(&self) -> Result<Durability, StoreError> {
        let info = self.info().await?;
        let aof = info.get::<String>("aof_enabled").as_deref() == Some("1");
        let fsync = self.config("appendfsync").await;
        let answer = |level: &str, why: String| Ok(Durability { level: level.to_owned(), why });
        match (aof, fsync.as_deref()) {
            (true, Some("always")) => answer("fsync", "appendonly yes, appendfsync always".to_owned()),
            (true, fsync) => {
                let fsync = fsync.unwrap_or("unknown");
                answer(
                    "memory",
                    format!("appendonly yes, appendfsync {fsync}: a crash may lose the last seconds"),
                )
            }
            (false, _) => answer(
                "memory",
                "appendonly no: a crash of Redis loses what came after its last snapshot".to_owned(),
            ),
        }
    }
}
