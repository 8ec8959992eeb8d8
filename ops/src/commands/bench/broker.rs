//! The intake of messages, beside a bare consumer of as many on the same broker.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection};
use roundsman_shared::clock::Mono;
use roundsman_shared::job::spec;
use roundsman_worker::broker;

use super::fleet::{LOOK_EVERY, PATIENCE};
use super::{Bench, Row, per_second, rate};
use crate::errors::Failure;

/// Of one round; more would only take longer.
const MOST: usize = 100_000;
const ROUNDS: usize = 3;
/// As the intake's own default.
const PREFETCH: u16 = 1000;
/// Messages that the bare consumer acknowledges at once.
const ACK_EVERY: usize = 100;
/// Confirms that are awaited together.
const PUBLISH: usize = 1000;
const HEARTBEAT: u16 = 60;
const BODY: [u8; 100] = *b"\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"";

fn lost(error: &lapin::Error) -> Failure {
    Failure::failed(format!("the broker: {error}"))
}

impl Bench<'_> {
    /// Persistent messages with an id, taken in, stored and acknowledged; nobody runs them.
    pub(super) async fn amqp(&self) -> Result<Vec<Row>, Failure> {
        let Some(url) = &self.context.settings().amqp.url else {
            return Err(Failure::usage("bench amqp needs a broker: set amqp.url, or AMQP_URL"));
        };
        let connection = broker::connect(url.expose(), HEARTBEAT).await.map_err(Failure::failed)?;
        let from = self.config.namespace.as_str();
        let measured = self.rounds(&connection, url.expose(), from).await;
        let cleaned = delete(&connection, from).await;
        let _ = connection.close(200, ShortString::default()).await;
        let rows = measured?;
        cleaned.map_err(|error| lost(&error))?;
        Ok(rows)
    }

    async fn rounds(&self, connection: &Connection, url: &str, from: &str) -> Result<Vec<Row>, Failure> {
        let messages = self.args.jobs.min(MOST);
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            fill(connection, from, messages).await.map_err(|error| lost(&error))?;
            bare.push(consume(connection, from, messages).await.map_err(|error| lost(&error))?);
            fill(connection, from, messages).await.map_err(|error| lost(&error))?;
            ours.push(self.take_in(url, from, messages).await?);
            self.clean().await?;
        }
        let best = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied().unwrap_or_default()
        };
        let (ours, bare) = (best(&mut ours), best(&mut bare));
        Ok(vec![Row {
            figure: "amqp intake",
            value: per_second(ours),
            ratio: Some(ours / bare),
            note: format!(
                "{messages} persistent messages, prefetch {PREFETCH}; a bare consumer with an ack every {ACK_EVERY}: {}",
                per_second(bare)
            ),
        }])
    }

    /// From a tenth of the messages stored to all: the start of the processes is left out.
    async fn take_in(&self, url: &str, from: &str, messages: usize) -> Result<f64, Failure> {
        let before = self.store.overview(&self.queue).await?.enqueued_total;
        let settings = format!(
            "[pools.default]\nqueues = [\"none\"]\nhandler = {{ type = \"stdout\" }}\n\
             [amqp]\nurl = {url:?}\n[[amqp.in]]\nfrom = {from:?}\nqueue = {:?}\nprefetch = {PREFETCH}\n",
            self.queue.as_str()
        );
        let _fleet = self.fleet_of(0, "", &settings).await?;
        let (tenth, all) = (messages as u64 / 10, messages as u64);
        let (mut first, begun) = (None, Mono::now());
        loop {
            let stored = self.store.overview(&self.queue).await?.enqueued_total - before;
            let now = Mono::now();
            match first {
                None if stored >= tenth => first = Some((stored, now)),
                Some((at, since)) if stored >= all => {
                    let counted = usize::try_from(stored - at).unwrap_or(0);
                    return Ok(rate(counted, now.since(since)));
                }
                _ if now.since(begun) > PATIENCE => {
                    return Err(Failure::timed_out(format!("{stored} of {messages} messages were taken in")));
                }
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}

async fn fill(connection: &Connection, from: &str, messages: usize) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(from.into(), options, FieldTable::default()).await?;
    let mut sent = 0;
    while sent < messages {
        let batch = PUBLISH.min(messages - sent);
        let mut confirms = Vec::with_capacity(batch);
        for _ in 0..batch {
            let id = ShortString::from(spec::generate_id().as_str());
            let properties = BasicProperties::default().with_message_id(id).with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let exchange = ShortString::default();
            confirms.push(channel.basic_publish(exchange, from.into(), options, &BODY, properties).await?);
        }
        for confirm in confirms {
            confirm.await?;
        }
        sent += batch;
    }
    channel.close(200, ShortString::default()).await
}

/// Takes them as fast as one can, and does nothing with them.
async fn consume(connection: &Connection, from: &str, messages: usize) -> lapin::Result<f64> {
    let channel: Channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(from.into(), ShortString::default(), options, FieldTable::default()).await?;
    let (mut taken, mut first) = (0, None);
    let tenth = messages / 10;
    while taken < messages {
        let Some(delivery) = consumer.next().await else { break };
        let delivery = delivery?;
        taken += 1;
        if taken == tenth {
            first = Some(Mono::now());
        }
        if taken % ACK_EVERY == 0 || taken == messages {
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
    }
    let took = first.map_or(Duration::MAX, |first| Mono::now().since(first));
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    channel.close(200, ShortString::default()).await?;
    Ok(rate(taken - tenth, took))
}

async fn delete(connection: &Connection, from: &str) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    channel.queue_delete(from.into(), QueueDeleteOptions::default()).await?;
    Ok(())
}
