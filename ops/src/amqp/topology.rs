//! What the broker has: the queue that is taken in, and whether it dead-letters what is rejected.
//!
//! The queue is only looked at, whatever its type and arguments are. One that is missing is declared, durable and
//! without arguments, so that nothing published to it meanwhile is dropped.
//!
//! AMQP has no way to ask for a queue's arguments. A declaration that differs from the queue is refused with the first
//! difference in words, and that is how a dead letter exchange is found; it changes nothing.

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};
use roundsman_shared::settings::DeadLetters;

/// A queue has so many arguments at most, before what it has is left unknown.
const MOST_ARGUMENTS: usize = 24;

/// Looks at the queue, or declares it; answers whether what is rejected goes to a dead letter exchange.
///
/// # Errors
/// Why it cannot be taken in.
pub(super) async fn prepare(
    connection: &Connection,
    from: &ShortString,
    mode: DeadLetters,
) -> Result<bool, String> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel(connection).await?.queue_declare(from.clone(), passive, FieldTable::default()).await;
    match found {
        Ok(_) => {}
        Err(error) if is(&error, &AMQPSoftError::NOTFOUND) => {
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let declared =
                channel(connection).await?.queue_declare(from.clone(), durable, FieldTable::default()).await;
            declared.map_err(|error| format!("cannot be declared: {error}"))?;
            tracing::info!(from = from.as_str(), "the broker had no such queue: it is declared, durable");
        }
        Err(error) => return Err(error.to_string()),
    }
    match mode {
        DeadLetters::Auto => dead_letters(connection, from).await,
        DeadLetters::Broker => Ok(true),
        DeadLetters::Queue => Ok(false),
    }
}

/// A new one for each step: the broker closes the channel of one that it refuses.
async fn channel(connection: &Connection) -> Result<Channel, String> {
    connection.create_channel().await.map_err(|error| error.to_string())
}

fn is(error: &lapin::Error, kind: &AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(said) if matches!(said.kind(), AMQPErrorKind::Soft(soft) if soft == kind))
}

async fn dead_letters(connection: &Connection, from: &ShortString) -> Result<bool, String> {
    let mut options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    for _ in 0..MOST_ARGUMENTS {
        let declared =
            channel(connection).await?.queue_declare(from.clone(), options, arguments.clone()).await;
        let error = match declared {
            Ok(_) => return Ok(false),
            Err(error) if is(&error, &AMQPSoftError::PRECONDITIONFAILED) => error.to_string(),
            // It may not declare, or the queue is gone again.
            Err(_) => break,
        };
        match Difference::read(&error) {
            Some(Difference::Durable(durable)) => options.durable = durable,
            Some(Difference::AutoDelete(auto_delete)) => options.auto_delete = auto_delete,
            Some(Difference::DeadLetterExchange(None)) => return Ok(true),
            Some(Difference::DeadLetterExchange(Some(name))) => {
                return exchange_exists(connection, name).await;
            }
            Some(difference @ Difference::Argument { name, .. }) => {
                let Some(value) = difference.value() else { break };
                arguments.insert(name.into(), value);
            }
            None => break,
        }
    }
    tracing::info!(
        from = from.as_str(),
        "whether the queue has a dead letter exchange cannot be told: what is no job becomes a dead letter here"
    );
    Ok(false)
}

/// The broker drops what it should dead-letter to an exchange that is not there. The nameless one always is.
async fn exchange_exists(connection: &Connection, name: &str) -> Result<bool, String> {
    if name.is_empty() {
        return Ok(true);
    }
    let Ok(short) = ShortString::try_new(name) else { return Ok(false) };
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let channel = channel(connection).await?;
    let looked = channel.exchange_declare(short, ExchangeKind::Direct, passive, FieldTable::default());
    let found = looked.await.is_ok();
    if !found {
        tracing::warn!(
            exchange = name,
            "the dead letter exchange does not exist: what is no job becomes a dead letter here"
        );
    }
    Ok(found)
}

/// What the queue has otherwise than it was declared.
#[derive(Debug, PartialEq, Eq)]
enum Difference<'a> {
    Durable(bool),
    AutoDelete(bool),
    /// Its name, unless the broker's text was too long for it.
    DeadLetterExchange(Option<&'a str>),
    Argument {
        name: &'a str,
        value: &'a str,
        of: &'a str,
    },
}

impl<'a> Difference<'a> {
    /// `inequivalent arg 'NAME' for queue 'Q' in vhost 'V': received … but current is the value 'VALUE' of type 'TYPE'`,
    /// or without "the value" and type for what is no argument.
    fn read(error: &'a str) -> Option<Self> {
        let (_, rest) = error.split_once("inequivalent arg '")?;
        let (name, rest) = rest.split_once('\'')?;
        let current = rest.rsplit_once("but current is ").map(|(_, current)| current);
        let flag = || current?.split('\'').nth(1)?.parse().ok();
        let value = || {
            let (_, value) = current?.split_once("the value '")?;
            let (value, of) = value.rsplit_once("' of type '")?;
            Some((value, of.split('\'').next()?))
        };
        match name {
            "durable" => flag().map(Self::Durable),
            "auto_delete" => flag().map(Self::AutoDelete),
            "x-dead-letter-exchange" => Some(Self::DeadLetterExchange(value().map(|(value, _)| value))),
            _ => value().map(|(value, of)| Self::Argument { name, value, of }),
        }
    }

    /// As it is written to the broker.
    fn value(&self) -> Option<AMQPValue> {
        let Self::Argument { value, of, .. } = self else { return None };
        match *of {
            "longstr" => Some(AMQPValue::LongString((*value).into())),
            "bool" => value.parse().ok().map(AMQPValue::Boolean),
            _ => value.parse().ok().map(AMQPValue::LongLongInt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_read() {
        let said = |what: &str| format!("PRECONDITION_FAILED - inequivalent arg {what}");
        let dlx = said(
            "'x-dead-letter-exchange' for queue 'it's' in vhost '/': received none but current is the value 'd'l' of type 'longstr'",
        );
        assert_eq!(Difference::read(&dlx), Some(Difference::DeadLetterExchange(Some("d'l"))));
        assert_eq!(Difference::read(&dlx[..90]), Some(Difference::DeadLetterExchange(None)), "cut short");
        let limit = said(
            "'x-max-length' for queue 'q' in vhost '/': received none but current is the value '5' of type 'signedint'",
        );
        assert_eq!(Difference::read(&limit).unwrap().value(), Some(AMQPValue::LongLongInt(5)));
        let durable = said("'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'");
        assert_eq!(Difference::read(&durable), Some(Difference::Durable(false)));
        assert_eq!(Difference::read("RESOURCE_LOCKED - cannot obtain exclusive access"), None);
    }
}
