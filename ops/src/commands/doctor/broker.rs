//! The AMQP broker of the settings, if they name one: whether it answers, and has what is taken in from it.

use std::time::Duration;

use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::types::{FieldTable, ShortString};
use roundsman_worker::broker;

use super::{Findings, host, is_loopback};
use crate::connect::Context;
use crate::print::many;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// In seconds; longer than it is connected.
const HEARTBEAT: u16 = 30;

/// Answers whether it is reachable, or not wanted.
pub(super) async fn look(context: &Context, findings: &mut Findings) -> bool {
    let amqp = &context.settings().amqp;
    let Some(url) = &amqp.url else { return true };
    let place = host(url.expose());
    if url.scheme() == "amqp" && !is_loopback(place) {
        findings.warning(
            "tls",
            format!("messages and passwords travel to {place} unencrypted"),
            "use amqps://, or a network that nobody else is on",
        );
    }
    let connected = tokio::time::timeout(ANSWER_WITHIN, broker::connect(url.expose(), HEARTBEAT)).await;
    let connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(why)) => return unreachable(findings, &format!("{url} is not reachable: {why}")),
        Err(_) => return unreachable(findings, &format!("{url} did not answer within {ANSWER_WITHIN:?}")),
    };
    findings.ok("amqp", format!("{url} answers"));
    for intake in &amqp.intakes {
        let (from, queue) = (&intake.from, &intake.queue);
        match waiting(&connection, from).await {
            Ok((messages, consumers)) => findings.ok(
                "amqp",
                format!(
                    "{from} is taken in as jobs of {queue}: {} waiting, {} connected",
                    many(u64::from(messages), "message"),
                    many(u64::from(consumers), "consumer")
                ),
            ),
            Err(why) => findings.warning(
                "amqp",
                format!("{from}, to be taken in as jobs of {queue}: {why}"),
                "a running fleet declares a queue that is missing, durable; declare it yourself if it is to be another",
            ),
        }
    }
    let _ = connection.close(200, ShortString::default()).await;
    true
}

fn unreachable(findings: &mut Findings, found: &str) -> bool {
    findings.error(
        "amqp",
        found,
        "start it, or name the right one: ROUNDSMAN_AMQP__URL or url in [amqp]; the fleet goes on trying, and loses nothing",
    );
    false
}

async fn waiting(connection: &Connection, from: &str) -> Result<(u32, u32), String> {
    let said = |error: lapin::Error| error.to_string();
    let from = ShortString::try_new(from).map_err(|error| error.to_string())?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let channel = connection.create_channel().await.map_err(said)?;
    let queue = channel.queue_declare(from, passive, FieldTable::default()).await.map_err(said)?;
    Ok((queue.message_count(), queue.consumer_count()))
}
