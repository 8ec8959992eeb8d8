//! Hints over Redis's channels, on a connection of their own. Lost ones are made up for by whoever waits for them.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::RedisStore;
use super::link::failed;
use crate::clock::StoreTime;
use crate::names::{JobId, QueueName, WorkerId};
use crate::store::{Hint, StoreError};

/// Hints that may wait for their reader. A full channel drops hints, which its reader's own looking makes up for.
const HINTS: usize = 1024;
const RECONNECT_AFTER: Duration = Duration::from_millis(200);

impl RedisStore {
    /// See [`crate::store::Store::listen`].
    pub async fn listen(
        &self,
        queues: &[QueueName],
        _host: &str,
    ) -> Result<mpsc::Receiver<Hint>, StoreError> {
        let (sender, receiver) = mpsc::channel(HINTS);
        let channels: Vec<String> = queues.iter().map(|queue| self.keys.of(queue, "hints")).collect();
        let mut first = self.link.client().get_async_pubsub().await.map_err(|error| failed(&error))?;
        first.subscribe(&channels).await.map_err(|error| failed(&error))?;
        let store = self.clone();
        tokio::spawn(async move {
            let mut pubsub = Some(first);
            while !sender.is_closed() {
                if let Some(pubsub) = pubsub.take() {
                    store.forward(pubsub, &sender).await;
                }
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(RECONNECT_AFTER) => {}
                }
                if let Ok(mut again) = store.link.client().get_async_pubsub().await
                    && again.subscribe(&channels).await.is_ok()
                {
                    let _ = sender.try_send(Hint::Lost);
                    pubsub = Some(again);
                }
            }
        });
        Ok(receiver)
    }

    /// Passes hints on until the connection ends.
    async fn forward(&self, pubsub: redis::aio::PubSub, sender: &mpsc::Sender<Hint>) {
        let (_keep, mut stream) = pubsub.split();
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                () = sender.closed() => return,
            };
            let Some(message) = message else { return };
            let queue =
                self.keys.queue_of(message.get_channel_name()).and_then(|name| QueueName::new(name).ok());
            let (Some(queue), Ok(text)) = (queue, message.get_payload::<String>()) else { continue };
            if let Some(hint) = parse(queue, &text) {
                let _ = sender.try_send(hint);
            }
        }
    }
}

fn parse(queue: QueueName, text: &str) -> Option<Hint> {
    let mut words = text.split(' ');
    match words.next()? {
        "work" => {
            let due = words.next()?.parse().ok()?;
            let next_due = words.next()?.parse().ok().map(StoreTime::from_micros);
            Some(Hint::Work { queue, due, next_due })
        }
        "cancel" => Some(Hint::Cancel {
            worker: WorkerId::new(words.next()?).ok()?,
            id: JobId::new(words.next()?).ok()?,
        }),
        "changed" => Some(Hint::Changed { queue }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read() {
        let queue = QueueName::new("q").unwrap();
        let work = |due, next_due| Some(Hint::Work { queue: queue.clone(), due, next_due });
        assert_eq!(parse(queue.clone(), "work 3 -"), work(3, None));
        assert_eq!(
            parse(queue.clone(), "work 0 1700000000000000"),
            work(0, Some(StoreTime::from_micros(1_700_000_000_000_000)))
        );
        assert_eq!(parse(queue.clone(), "changed"), Some(Hint::Changed { queue: queue.clone() }));
        assert_eq!(parse(queue, "nonsense 1"), None);
    }
}
