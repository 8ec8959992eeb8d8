//! `amqp`: a persistent, mandatory message, and the broker's confirmation. A job is done only when the broker has taken the
//! message and found a queue for it; one that it returns (no queue is bound) or refuses has failed, with the reason.
//!
//! `message-id` is the job's id, by which receivers drop repeats; `type` its kind; the headers `roundsman-attempt`,
//! `roundsman-token` and `traceparent` are as in a webhook, and what a job has of other headers that begin with
//! `roundsman-` goes along.
//!
//! One connection for each broker, and on it one channel for each exchange: the broker closes the channel that names an
//! exchange which is not there, and with it whatever else is under way on it. A connection that breaks is made anew by the
//! next job; how often that is tried is the circuit's affair.

use std::collections::BTreeMap;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use roundsman_shared::clock::Wall;
use roundsman_shared::job::settle::Outcome;
use roundsman_shared::reach::Reach;
use url::Url;

use super::circuit::{Destination, Verdict};
use super::connect::{Connector, Trouble, chain};
use super::lasting::{Lasting, Place};
use super::{Letter, broker};

/// Of one broker.
const MAX_CHANNELS: usize = 64;
/// Persistent.
const PERSISTENT: u8 = 2;

/// See the module's text.
#[derive(Default)]
pub(super) struct Amqp {
    brokers: Lasting<Live>,
}

struct Live {
    connection: Connection,
    /// By exchange.
    channels: BTreeMap<String, Channel>,
}

impl Amqp {
    #[expect(clippy::too_many_arguments, reason = "a message has as many parts")]
    pub(super) async fn deliver(
        &self,
        connector: &Connector,
        server: &Url,
        to: &Destination,
        exchange: &str,
        routing_key: &str,
        letter: &Letter<'_>,
        reach: &Reach,
    ) -> Result<(Outcome, Verdict), Trouble> {
        let place = self.brokers.of(server.as_str());
        let channel = channel(&place, connector, server, to, exchange, reach).await?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let payload = letter.body.as_str().as_bytes();
        let published = channel
            .basic_publish(short(exchange)?, short(routing_key)?, options, payload, properties(letter))
            .await;
        let confirmed = match published {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        match confirmed {
            Ok(Confirmation::Ack(None)) => {
                Ok((Outcome::Done { result: None, follow_ups: Vec::new(), note: None }, Verdict::Well))
            }
            Ok(Confirmation::Ack(Some(back)) | Confirmation::Nack(Some(back))) => {
                Err(Trouble::Unwanted(format!(
                    "{to} returned the message: {} {} (exchange {exchange:?}, routing key {routing_key:?})",
                    back.reply_code, back.reply_text
                )))
            }
            Ok(Confirmation::Nack(None)) => {
                Err(Trouble::Broken(format!("{to} could not take the message (nack)")))
            }
            Ok(Confirmation::NotRequested) => {
                Err(Trouble::Broken(format!("{to} does not confirm what it takes")))
            }
            Err(error) => Err(trouble(to, &error)),
        }
    }

    /// It did not answer.
    pub(super) fn forget(&self, server: &Url) {
        self.brokers.forget(server.as_str());
    }
}

/// The exchange's channel, with all that it needs made if need be.
async fn channel(
    place: &Place<Live>,
    connector: &Connector,
    server: &Url,
    to: &Destination,
    exchange: &str,
    reach: &Reach,
) -> Result<Channel, Trouble> {
    let mut place = place.lock().await;
    let kept = place.take().filter(|live| live.connection.status().connected());
    let live = match kept {
        Some(live) => place.insert(live),
        None => {
            let connection = Box::pin(broker::open(connector, server, to, reach, None)).await?;
            place.insert(Live { connection, channels: BTreeMap::new() })
        }
    };
    if let Some(channel) = live.channels.get(exchange).filter(|channel| channel.status().connected()) {
        return Ok(channel.clone());
    }
    live.channels.retain(|_, channel| channel.status().connected());
    if live.channels.len() >= MAX_CHANNELS
        && let Some((_, channel)) = live.channels.pop_first()
    {
        let _ = channel.close(200, ShortString::default()).await;
    }
    let channel = live.connection.create_channel().await.map_err(|error| trouble(to, &error))?;
    let confirm = channel.confirm_select(ConfirmSelectOptions::default()).await;
    confirm.map_err(|error| trouble(to, &error))?;
    live.channels.insert(exchange.to_owned(), channel.clone());
    Ok(channel)
}

pub(super) fn trouble(to: &Destination, error: &lapin::Error) -> Trouble {
    let text = format!("{to}: {}", chain(error));
    match error.kind() {
        // The channel was closed for what this job asked for, as an exchange that is not there.
        lapin::ErrorKind::ProtocolError(said) if !is_connection_error(said) => Trouble::Unwanted(text),
        _ => Trouble::Broken(text),
    }
}

fn is_connection_error(said: &lapin::protocol::AMQPError) -> bool {
    matches!(said.kind(), lapin::protocol::AMQPErrorKind::Hard(_))
}

fn short(text: &str) -> Result<ShortString, Trouble> {
    ShortString::try_new(text).map_err(|error| Trouble::Hopeless(error.to_string()))
}

fn properties(letter: &Letter<'_>) -> BasicProperties {
    let task = letter.task;
    let mut headers = FieldTable::default();
    for (name, value) in &task.spec.headers {
        let told = name == "traceparent" || name.starts_with("roundsman-");
        if let (true, Ok(name)) = (told, ShortString::try_new(name.as_str())) {
            headers.insert(name, AMQPValue::LongString(value.as_str().into()));
        }
    }
    headers.insert("roundsman-attempt".into(), AMQPValue::LongUInt(task.attempt));
    headers.insert("roundsman-token".into(), AMQPValue::LongLongInt(task.token));
    let seconds = u64::try_from(Wall::now().as_millis() / 1000).unwrap_or(0);
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_app_id("roundsman".into())
        .with_timestamp(seconds)
        .with_headers(headers);
    let fits = |text: &str| ShortString::try_new(text).ok();
    if let Some(id) = fits(task.id.as_str()) {
        properties = properties.with_message_id(id);
    }
    if let Some(kind) = task.spec.kind.as_deref().and_then(fits) {
        properties = properties.with_type(kind);
    }
    if let Some(id) = task.spec.headers.get("correlation-id").and_then(|text| fits(text)) {
        properties = properties.with_correlation_id(id);
    }
    if let Some(kind) = letter.body.content_type().and_then(fits) {
        properties = properties.with_content_type(kind);
    }
    properties
}
