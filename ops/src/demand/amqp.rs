//! The messages that are ready in a broker's queue.

use lapin::options::QueueDeclareOptions;
use lapin::types::{FieldTable, ShortString};
use lapin::{Connection, Error};
use roundsman_shared::assignment::Confidential;
use roundsman_worker::broker;

use super::Reading;

/// In seconds.
const HEARTBEAT: u16 = 10;

pub(super) struct Reader {
    url: Confidential,
    queue: String,
    connection: Option<Connection>,
}

impl Reader {
    pub(super) const fn new(url: Confidential, queue: String) -> Self {
        Self { url, queue, connection: None }
    }

    /// The connection is made anew.
    pub(super) fn forget(&mut self) {
        self.connection = None;
    }

    pub(super) async fn read(&mut self) -> Reading {
        let said = |error: Error| error.to_string();
        if !self.connection.as_ref().is_some_and(|connection| connection.status().connected()) {
            self.connection = Some(broker::connect(self.url.expose(), HEARTBEAT).await?);
        }
        let Some(connection) = &self.connection else { return Err("no connection".to_owned()) };
        let queue = ShortString::try_new(self.queue.as_str()).map_err(|error| error.to_string())?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        // A refusal closes the channel, and a channel is cheap.
        let channel = connection.create_channel().await.map_err(said)?;
        let declared = channel.queue_declare(queue, passive, FieldTable::default()).await.map_err(said)?;
        let length = u64::from(declared.message_count());
        let _ = channel.close(200, ShortString::default()).await;
        Ok(length)
    }
}
