//! What a worker process is told to do, in the `welcome` that its master sends: everything it needs, so that a worker
//! reads no configuration of its own, and no secret stands in an argument or in the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock::StoreClock;
use crate::foreign::{DemandSpec, KeepSpec};
use crate::job::Policy;
use crate::names::{NameError, Namespace, QueueName, WorkerId};
use crate::reach::Reach;
use crate::settings::units::Rate;
use crate::settings::{
    Access, AmqpIntake, ApiToken, DeadLetters, Handler, LoadInput, PoolQueues, PoolRun, Program, RedisTarget,
    Secret, SecretUrl, Settings, StoreUrl, TokenProof, TransportLimits, TransportSettings,
};
use crate::store::{StoreConfig, StorePlace};

/// In an ordered list each queue has so many times the share of the next.
const ORDER_FACTOR: u32 = 10;
const MOST_SHARE: u32 = 10_000;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    pub worker: WorkerId,
    pub store: StoreAddress,
    pub namespace: Namespace,
    pub lease: Duration,
    /// Queues to pull from and their shares of this worker's time.
    pub queues: Vec<(QueueName, u32)>,
    pub policies: BTreeMap<QueueName, Policy>,
    /// Jobs at once.
    pub slots: usize,
    /// Leave, and be replaced, after so many jobs; 0 for never.
    pub max_jobs: u64,
    /// What runs the jobs; nothing where the worker brings its own handlers.
    pub handler: Option<HandlerSpec>,
    /// What a process that runs no jobs is to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<PartSpec>,
    /// What the host knows of the store's clock.
    pub clock: Option<StoreClock>,
}

/// A part of the fleet that runs no jobs and needs to be told more than queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PartSpec {
    Http(Box<HttpSpec>),
    Amqp(AmqpSpec),
    Demand(DemandSpec),
    Keep(KeepSpec),
}

/// What takes messages in: `[amqp]` of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmqpSpec {
    pub url: Confidential,
    pub intakes: Vec<AmqpIn>,
}

/// A queue of the broker whose messages become jobs of a queue of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmqpIn {
    pub from: String,
    pub queue: QueueName,
    pub prefetch: u16,
    pub dead_letters: DeadLetters,
}

impl AmqpSpec {
    /// What the settings say; nothing where no queue of a broker is taken in.
    ///
    /// # Errors
    /// When a queue's name is none, which the settings' own check rules out.
    pub fn of(settings: &Settings) -> Result<Option<Self>, NameError> {
        let Some(url) = settings.amqp.url.as_ref().filter(|_| !settings.amqp.intakes.is_empty()) else {
            return Ok(None);
        };
        let intake = |intake: &AmqpIntake| {
            let queue = QueueName::new(&intake.queue)?;
            let AmqpIntake { from, prefetch, dead_letters, .. } = intake;
            Ok(AmqpIn { from: from.clone(), queue, prefetch: *prefetch, dead_letters: *dead_letters })
        };
        let intakes = settings.amqp.intakes.iter().map(intake).collect::<Result<_, NameError>>()?;
        Ok(Some(Self { url: url.expose().into(), intakes }))
    }
}

/// What serves the API: `[http]` of the settings, with tokens as their hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpSpec {
    pub listen: SocketAddr,
    pub behind_proxy: bool,
    /// Certificate chain and key, as PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Names under which browsers reach it, besides the address it listens on.
    pub hosts: Vec<String>,
    pub tokens: Vec<TokenSpec>,
    /// Where the callbacks of timers may go.
    pub reaches: Reaches,
    /// The store's URL with secrets masked.
    pub store: String,
    /// Another process of this host may listen on the address until this one is ready to take over from it.
    #[serde(default)]
    pub beside: bool,
    /// Where the socket that it listens on is handed to a successor.
    #[serde(default)]
    pub handover: Option<PathBuf>,
}

/// Where each transport may go for a job that names its own destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaches {
    pub http: Reach,
    pub amqp: Reach,
    pub redis: Reach,
    pub tcp: Reach,
}

impl Reaches {
    fn of(transports: &TransportSettings) -> Self {
        let reach = |of: &TransportLimits| Reach::global_and(&of.allow);
        Self {
            http: reach(&transports.http),
            amqp: reach(&transports.amqp),
            redis: reach(&transports.redis),
            tcp: reach(&transports.tcp),
        }
    }
}

/// A caller of the API.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSpec {
    pub name: String,
    pub access: Access,
    pub sha256: [u8; 32],
    /// Empty for all.
    pub queues: Vec<String>,
    pub rate_limit: Option<Rate>,
}

impl std::fmt::Debug for TokenSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TokenSpec").field(&self.name).field(&self.access).finish()
    }
}

impl HttpSpec {
    /// From the settings; `None` where they turn it off.
    #[must_use]
    pub fn of(settings: &Settings) -> Option<Self> {
        let http = &settings.http;
        let token = |token: &ApiToken| TokenSpec {
            name: token.name.clone(),
            access: token.access,
            sha256: match &token.proof {
                TokenProof::Sha256(hash) => *hash,
                TokenProof::Token(token) => Sha256::digest(token.expose().as_bytes()).into(),
            },
            queues: token.queues.clone(),
            rate_limit: token.rate_limit,
        };
        Some(Self {
            listen: http.listen?,
            behind_proxy: http.behind_proxy,
            tls: http.tls.as_ref().map(|tls| (tls.cert.clone(), tls.key.clone())),
            hosts: http.hosts.clone(),
            tokens: http.tokens.iter().map(token).collect(),
            reaches: Reaches::of(&settings.transports),
            store: settings.store.url.to_string(),
            beside: false,
            handover: None,
        })
    }
}

/// Where the store is. Its debug form hides the URL, which may hold a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreAddress {
    Redis(String),
    Sqlite(PathBuf),
}

impl std::fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Redis(_) => f.write_str("Redis(…)"),
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
        }
    }
}

/// A built-in handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HandlerSpec {
    /// One process a job.
    Exec { command: Vec<String>, env: BTreeMap<String, String> },
    /// One long-lived program that answers by lines.
    Stream { command: Vec<String>, env: BTreeMap<String, String> },
    /// A webhook.
    Http { url: Confidential, secrets: Vec<Confidential>, limits: Limits },
    /// A message to a broker.
    Amqp { url: Confidential, exchange: String, routing_key: String, limits: Limits },
    /// An entry of a list or stream.
    Redis { url: Confidential, key: RedisKey, limits: Limits },
    /// A line over a connection.
    Tcp { address: String, limits: Limits },
    /// Wherever the job says.
    Callback { secrets: Vec<Confidential>, http: Limits, amqp: Limits, redis: Limits, tcp: Limits },
    /// Wherever the job before wanted its result to go. The broker is that of the settings.
    Reply { broker: Option<Broker>, http: Limits, amqp: Limits, redis: Limits, tcp: Limits },
    /// One line a job on the standard output of `up`.
    Stdout,
    /// Does nothing: what the bench measures the rest of the way with.
    Noop,
}

/// What only the worker should read. `Debug` prints `…`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Confidential(String);

impl Confidential {
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Confidential {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Confidential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// What a transport may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub reach: Reach,
    /// For one whole exchange.
    pub timeout: Duration,
}

/// The broker of the settings, as transports use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    pub url: Confidential,
    pub limits: Limits,
}

/// The key that entries are added to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisKey {
    List(String),
    Stream(String),
}

impl HandlerSpec {
    /// What a worker is told of a handler that the settings name.
    #[must_use]
    pub fn of(settings: &Settings, handler: &Handler) -> Self {
        let transports = &settings.transports;
        // The operator wrote these addresses himself, so they are meant.
        let written = |of: &TransportLimits| Limits { reach: Reach::anywhere(), timeout: of.timeout };
        let guarded =
            |of: &TransportLimits| Limits { reach: Reach::global_and(&of.allow), timeout: of.timeout };
        let secrets = |secret: &Option<Secret>| {
            let text = secret.as_ref().map_or("", Secret::expose);
            text.split_ascii_whitespace().map(Confidential::from).collect()
        };
        match handler {
            Handler::Exec(Program { command, env }) => {
                Self::Exec { command: command.clone(), env: env.clone() }
            }
            Handler::Stream(Program { command, env }) => {
                Self::Stream { command: command.clone(), env: env.clone() }
            }
            Handler::Http(http) => Self::Http {
                url: http.url.expose().into(),
                secrets: secrets(&http.secret),
                limits: guarded(&transports.http),
            },
            Handler::Amqp(amqp) => Self::Amqp {
                url: amqp.url.as_ref().or(settings.amqp.url.as_ref()).map_or("", SecretUrl::expose).into(),
                exchange: amqp.exchange.clone(),
                routing_key: amqp.routing_key.clone(),
                limits: written(&transports.amqp),
            },
            Handler::Redis(redis) => Self::Redis {
                url: match (&redis.url, &settings.store.url) {
                    (Some(url), _) | (None, StoreUrl::Redis { url }) => url.expose().into(),
                    (None, StoreUrl::Sqlite { .. }) => "".into(),
                },
                key: match &redis.target {
                    RedisTarget::List(name) => RedisKey::List(name.clone()),
                    RedisTarget::Stream(name) => RedisKey::Stream(name.clone()),
                },
                limits: written(&transports.redis),
            },
            Handler::Tcp { address } => {
                Self::Tcp { address: address.clone(), limits: written(&transports.tcp) }
            }
            Handler::Callback(callback) => Self::Callback {
                secrets: secrets(&callback.secret),
                http: guarded(&transports.http),
                amqp: guarded(&transports.amqp),
                redis: guarded(&transports.redis),
                tcp: guarded(&transports.tcp),
            },
            Handler::Stdout => Self::Stdout,
        }
    }

    /// What delivers the replies that jobs ask for.
    #[must_use]
    pub fn reply(settings: &Settings) -> Self {
        let transports = &settings.transports;
        let guarded =
            |of: &TransportLimits| Limits { reach: Reach::global_and(&of.allow), timeout: of.timeout };
        let limits = Limits { reach: Reach::anywhere(), timeout: transports.amqp.timeout };
        Self::Reply {
            broker: settings.amqp.url.as_ref().map(|url| Broker { url: url.expose().into(), limits }),
            http: guarded(&transports.http),
            amqp: guarded(&transports.amqp),
            redis: guarded(&transports.redis),
            tcp: guarded(&transports.tcp),
        }
    }
}

impl Assignment {
    /// What a worker of this pool is told, from the settings.
    ///
    /// # Errors
    /// When there is no such pool.
    pub fn of(settings: &Settings, pool: &str, worker: WorkerId) -> Result<Self, String> {
        let Some(own) = settings.pools.get(pool) else { return Err(format!("there is no pool {pool:?}")) };
        let queues = shares(&own.queues).map_err(|error| error.to_string())?;
        let handler = match &own.run {
            PoolRun::Command(_) => None,
            PoolRun::Handler(handler) => Some(HandlerSpec::of(settings, handler)),
        };
        let policies =
            queues.iter().map(|(queue, _)| (queue.clone(), settings.queue(queue.as_str()).clone())).collect();
        Ok(Self {
            worker,
            store: match &settings.store.url {
                StoreUrl::Sqlite { path } => StoreAddress::Sqlite(path.clone()),
                StoreUrl::Redis { url } => StoreAddress::Redis(url.expose().to_owned()),
            },
            namespace: Namespace::new(settings.store.namespace.as_ref())
                .map_err(|error| error.to_string())?,
            lease: settings.store.lease,
            queues,
            policies,
            slots: usize::from(own.slots),
            max_jobs: own.max_jobs.unwrap_or(0),
            handler,
            part: None,
            clock: None,
        })
    }

    /// The assignment of a worker that somebody started by hand, from the configuration it finds.
    ///
    /// # Errors
    /// When the configuration is wrong or has no such pool.
    pub fn by_hand(pool: &str) -> Result<Self, String> {
        let input = LoadInput::capture().map_err(|error| error.to_string())?;
        let loaded = Settings::load(&input).map_err(|error| error.to_string())?;
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let worker = format!("{host}:{pool}:0:{}", crate::job::spec::generate_id());
        Self::of(&loaded.settings, pool, WorkerId::new(&worker).map_err(|error| error.to_string())?)
    }

    /// How the store is to be opened.
    #[must_use]
    pub fn store_config(&self) -> StoreConfig {
        let place = match &self.store {
            StoreAddress::Redis(url) => StorePlace::Redis(url.clone()),
            StoreAddress::Sqlite(path) => StorePlace::Sqlite(path.clone()),
        };
        StoreConfig { place, namespace: self.namespace.clone(), lease: self.lease }
    }

    /// The policy of a queue; the default where none was given.
    #[must_use]
    pub fn policy(&self, queue: &QueueName) -> Policy {
        self.policies.get(queue).cloned().unwrap_or_default()
    }
}

/// The order of a list as shares: the earlier has most of the time, and no queue none.
///
/// # Errors
/// When a name is none.
pub fn shares(queues: &PoolQueues) -> Result<Vec<(QueueName, u32)>, NameError> {
    match queues {
        PoolQueues::Shares(shares) => {
            shares.iter().map(|(name, share)| Ok((QueueName::new(name)?, *share))).collect()
        }
        PoolQueues::Ordered(names) => {
            let share = |place: usize| {
                let after = u32::try_from(names.len() - 1 - place).unwrap_or(u32::MAX);
                ORDER_FACTOR.saturating_pow(after).min(MOST_SHARE)
            };
            names.iter().enumerate().map(|(place, name)| Ok((QueueName::new(name)?, share(place)))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_reach_the_worker_and_nobody_else() {
        let spec = HandlerSpec::Http {
            url: "https://u:hunter2@a.example/hunter2".into(),
            secrets: vec!["hunter2".into()],
            limits: Limits {
                reach: Reach::global_and(&["127.0.0.0/8".parse().unwrap()]),
                timeout: Duration::from_secs(3),
            },
        };
        assert!(!format!("{spec:?}").contains("hunter2"));
        let sent = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<HandlerSpec>(&sent).unwrap(), spec);
    }
}
