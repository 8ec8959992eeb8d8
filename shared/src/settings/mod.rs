//! Settings: read from every place that may name them, checked once, and trusted from then on.
//!
//! Order, weakest first: defaults, `/etc/roundsman/roundsman.toml`, the user's `roundsman.toml`, `./roundsman.toml`,
//! `--config FILE`, the environment (`ROUNDSMAN_STORE__URL` is `store.url`), flags. Bare `REDIS_URL` and `AMQP_URL`
//! count only where nothing else names a store or broker.
//!
//! The way of a value: [`layers`] lays the raw trees of all places over each other, each value with its [`origin`];
//! [`section`] reads the one tree key by key into the checked types, one file an element. What is wrong is refused
//! with origin, key and the nearest right name, and everything wrong at once.
//!
//! Reads files and, in [`environment`] alone, the environment; needs neither clock nor runtime.

pub mod environment;
mod load;
pub mod units;

mod amqp;
mod backoff;
mod foreign;
mod handler;
mod http;
mod notify;
mod pool;
mod queue;
mod schedule;
mod store;
mod transports;

mod address;
mod later;
mod layers;
mod origin;
mod secret;
mod section;
mod tree;
mod value;

pub use self::amqp::{AmqpIntake, AmqpSettings, DeadLetters};
pub use self::backoff::Backoff;
pub use self::environment::Environment;
pub use self::foreign::{Demand, Foreign, Liveness, StopSignal};
pub use self::handler::{
    AmqpHandler, CallbackHandler, Handler, HttpHandler, Program, RedisHandler, RedisTarget, signing_key,
};
pub use self::http::{Access, ApiToken, HttpSettings, Tls, TokenProof};
pub use self::later::Later;
pub use self::layers::{Files, Override, OverrideValue};
pub use self::load::{Effective, LoadInput, Loaded, Settings};
pub use self::notify::{NotifySettings, NotifyTarget, Trouble};
pub use self::origin::{Origin, Problem, SettingsError};
pub use self::pool::{Detection, PoolQueues, PoolRun, PoolSettings};
pub use self::queue::QueueSettings;
pub use self::schedule::ScheduleSettings;
pub use self::secret::{Secret, SecretUrl};
pub use self::store::{Durability, StoreSettings, StoreUrl};
pub use self::transports::{Allow, TransportLimits, TransportSettings};
