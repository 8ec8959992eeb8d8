//! The store on Redis 7.0 or later (and Valkey): for any number of hosts.
//!
//! ```text
//! keys      every key's name
//! scripts   one Lua file a verb, each an atomic step
//! line      the connection that is shared, and its replacement
//! link      the deadlines, and what the server must be like
//! enqueue, deliver, operate, reads, inbox, hints    the verbs
//! ```
//! Ordinary traffic shares one multiplexed connection; whatever blocks (an inbox, the hints) has its own.

mod bare;
mod deliver;
mod enqueue;
mod hints;
mod inbox;
mod keys;
mod line;
mod link;
mod operate;
mod points;
mod reads;
mod reply;
mod scripts;

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use super::{StoreConfig, StoreError};
use crate::names::QueueName;
pub use bare::BareBatch;
pub use inbox::{InboxConnection, Taken};
pub use link::MAX_WAIT;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct RedisStore {
    link: Arc<link::Link>,
    keys: keys::Keys,
    /// Queues that this process has entered in the registry.
    known: Arc<Mutex<HashSet<QueueName>>>,
    /// How many queues have been asked to make room, so that each has its turn.
    gave_way: Arc<AtomicUsize>,
}

impl RedisStore {
    /// Connects and checks the server.
    ///
    /// # Errors
    /// See [`super::Store::open`].
    pub async fn open(url: &str, config: &StoreConfig) -> Result<Self, StoreError> {
        let link = link::Link::open(url).await?;
        Ok(Self {
            link: Arc::new(link),
            keys: keys::Keys::new(config.namespace.clone()),
            known: Arc::default(),
            gave_way: Arc::default(),
        })
    }
}
