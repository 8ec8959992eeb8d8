//! Hints over Redis's channels, on a connection of their own. Lost ones are made up for by whoever waits for them.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};

use super::RedisStore;
use super::link::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, failed};
use crate::clock::StoreTime;
use crate::names::{JobId, QueueName, WorkerId};
use crate::store::{Hint, StoreError};

/// Hints that may wait for their reader. A full channel drops hints, which its reader's own looking makes up for.
const HINTS: usize = 1024;
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// How often the connection has to show that it still leads to a server.
const ASK_EVERY: Duration = Duration::from_secs(5);

impl RedisStore {
    /// See [`crate::store::Store::listen`].
    pub async fn listen(
        &self,
        queues: &[QueueName],
        _host: &str,
    ) -> Result<mpsc::Receiver<Hint>, StoreError> {
        let (sender, receiver) = mpsc::channel(HINTS);
        let channels: Vec<String> = queues.iter().map(|queue| self.keys.of(queue, "hints")).collect();
        let mut newest = self.link.newest();
        let first = self.subscribe(&channels).await?;
        let store = self.clone();
        tokio::spawn(async move {
            let mut pubsub = Some(first);
            while !sender.is_closed() {
                if let Some(pubsub) = pubsub.take() {
                    store.forward(pubsub, &mut newest, &sender).await;
                }
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(RECONNECT_AFTER) => {}
                }
                newest.mark_unchanged();
                if let Ok(again) = store.subscribe(&channels).await {
                    let _ = sender.try_send(Hint::Lost);
                    pubsub = Some(again);
                }
            }
        });
        Ok(receiver)
    }

    async fn subscribe(&self, channels: &[String]) -> Result<redis::aio::PubSub, StoreError> {
        let connect = async {
            let mut pubsub = self.link.client().get_async_pubsub().await?;
            pubsub.subscribe(channels).await?;
            Ok(pubsub)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(pubsub) => pubsub.map_err(|error| failed(&error)),
            Err(late) => Err(StoreError::Unavailable(late.to_string())),
        }
    }

    /// Passes hints on until the connection ends or may lead nowhere. One that brings nothing looks like one on which
    /// there is nothing to bring, so it is asked; and where ordinary traffic needed another connection, this one may
    /// still answer from a server to which nobody writes any more.
    async fn forward(
        &self,
        pubsub: redis::aio::PubSub,
        newest: &mut watch::Receiver<u64>,
        sender: &mpsc::Sender<Hint>,
    ) {
        let (mut sink, mut stream) = pubsub.split();
        let mut asking = tokio::time::interval(ASK_EVERY);
        asking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                () = sender.closed() => return,
                Ok(()) = newest.changed() => return,
                _ = asking.tick() => {
                    let pong = tokio::time::timeout(ANSWER_TIMEOUT, sink.ping::<redis::Value>()).await;
                    if matches!(pong, Ok(Ok(_))) {
                        continue;
                    }
                    return;
                }
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
