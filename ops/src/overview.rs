//! Store, fleet and queues at a glance, as `status`, the API and the dashboard show them.

use roundsman_shared::names::QueueName;
use roundsman_shared::store::{Durability, QueueView, Store};
use serde_json::{Value, json};

use crate::errors::Failure;
use crate::fleet::Fleet;

/// See the module's text.
#[derive(Debug)]
pub struct Overview {
    pub durability: Durability,
    pub fleet: Fleet,
    pub queues: Vec<QueueView>,
}

impl Overview {
    pub async fn read(store: &Store, queues: &[QueueName]) -> Result<Self, Failure> {
        let (durability, fleet) = (store.durability().await?, Fleet::read(store).await?);
        Ok(Self { durability, fleet, queues: views(store, queues).await? })
    }

    /// The document; `url` is shown as it is.
    #[must_use]
    pub fn document(&self, store: &Store, url: &str) -> Value {
        json!({
            "store": {
                "url": url,
                "kind": store.kind(),
                "durability": self.durability.level,
                "durability_why": self.durability.why,
            },
            "hosts": self.fleet.records,
            "queues": self.queues,
        })
    }
}

/// Queues in numbers.
pub async fn views(store: &Store, queues: &[QueueName]) -> Result<Vec<QueueView>, Failure> {
    let mut views = Vec::new();
    for queue in queues {
        views.push(store.overview(queue).await?);
    }
    Ok(views)
}
