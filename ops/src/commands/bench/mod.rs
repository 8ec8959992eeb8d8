//! `roundsman bench`: figures on the configured store, in a namespace of their own that is thrown away afterwards.
//!
//! Everything is measured on the real way: `drain`, `latency` and `timers` run a fleet (`up`) of this same binary with a
//! handler that does nothing but note when it started. On Redis each figure stands beside the same writes made by bare
//! scripts in the same run, since absolute figures drift with the machine; the intake from a broker stands beside a bare
//! consumer of the same messages.

mod broker;
mod fleet;
mod http;
mod loops;

use std::time::Duration;

use clap::{Args, ValueEnum};
pub use fleet::worker;
use roundsman_shared::clock::Mono;
use roundsman_shared::names::{Namespace, QueueName};
use roundsman_shared::store::{Store, StoreConfig};
use serde::Serialize;

use super::DONE;
use crate::connect::{Context, store_config};
use crate::errors::Failure;

#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Only these figures.
    #[arg(value_enum)]
    only: Vec<Figure>,
    /// Jobs of the bulk figures.
    #[arg(long, default_value_t = 500_000, value_name = "N")]
    jobs: usize,
    /// Jobs of one call.
    #[arg(long, default_value_t = 256, value_name = "N")]
    batch: usize,
    /// Worker processes of the drain.
    #[arg(long, default_value_t = 2, value_name = "N")]
    workers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Figure {
    Enqueue,
    Drain,
    Single,
    Latency,
    Timers,
    Million,
    Idle,
    Http,
    /// Needs a broker: amqp.url.
    Amqp,
}

/// One figure.
#[derive(Debug, Serialize)]
pub struct Row {
    pub figure: &'static str,
    pub value: String,
    /// Against the same writes by bare scripts in the same run.
    pub ratio: Option<f64>,
    pub note: String,
}

/// What the figures are measured with.
pub struct Bench<'c> {
    pub context: &'c Context,
    pub store: Store,
    pub config: StoreConfig,
    pub queue: QueueName,
    pub args: BenchArgs,
}

pub async fn run(context: &Context, args: BenchArgs) -> Result<u8, Failure> {
    if args.batch == 0 || args.batch > roundsman_shared::store::MAX_BATCH {
        return Err(Failure::usage(format!(
            "--batch lies between 1 and {}",
            roundsman_shared::store::MAX_BATCH
        )));
    }
    let mut config = store_config(&context.settings().store)?;
    config.namespace = Namespace::new(&format!("bench-{:x}", Mono::now().as_nanos()))?;
    let store = Store::open(&config).await?;
    let durability = store.durability().await?;
    context.screen.note(&format!(
        "store: {} ({}, durability {}: {}); payload 100 bytes, batches of {}, namespace {}",
        context.settings().store.url,
        store.kind(),
        durability.level,
        durability.why,
        args.batch,
        config.namespace
    ));
    let bench = Bench { context, store, config, queue: QueueName::new("bench")?, args };
    let mut rows = Vec::new();
    for figure in Figure::value_variants() {
        let unasked = bench.args.only.is_empty();
        if !unasked && !bench.args.only.contains(figure) {
            continue;
        }
        if unasked && *figure == Figure::Amqp && context.settings().amqp.url.is_none() {
            continue;
        }
        let measured = bench.measure(*figure).await;
        bench.clean().await?;
        rows.extend(measured?);
    }
    if context.screen.json {
        context.screen.document(&serde_json::json!({ "durability": durability, "figures": rows }))?;
        return DONE;
    }
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| {
            let ratio = row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            vec![row.figure.to_owned(), row.value, ratio, row.note]
        })
        .collect();
    context.screen.table(&["FIGURE", "VALUE", "OF BARE", "NOTE"], &cells)?;
    DONE
}

impl Bench<'_> {
    async fn measure(&self, figure: Figure) -> Result<Vec<Row>, Failure> {
        match figure {
            Figure::Enqueue => self.enqueue().await,
            Figure::Single => self.single().await,
            Figure::Drain => self.drain().await,
            Figure::Latency => self.latency().await,
            Figure::Timers => self.timers().await,
            Figure::Million => self.million().await,
            Figure::Idle => self.idle().await,
            Figure::Http => self.http().await,
            Figure::Amqp => self.amqp().await,
        }
    }

    /// Leaves nothing behind.
    pub async fn clean(&self) -> Result<(), Failure> {
        // The API keeps timers in a queue of theirs.
        for queue in [&self.queue, &QueueName::new("timers")?] {
            match &self.store {
                Store::Redis(store) => store.forget_queue(queue).await?,
                Store::Sqlite(_) => {
                    for state in roundsman_shared::job::State::ALL {
                        while self.store.purge(queue, state).await? > 0 {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// Jobs a second.
pub fn rate(jobs: usize, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of jobs are far below 2^53")]
    let jobs = jobs as f64;
    jobs / took.as_secs_f64().max(1e-9)
}

/// `123,456/s`.
pub fn per_second(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + "/s"
}

/// `p50 0.42, p99 1.10, max 3.00 ms` of microseconds.
pub fn quantiles(micros: &mut [i64]) -> String {
    micros.sort_unstable();
    let at = |share: usize| {
        let index = (micros.len() * share / 1000).min(micros.len().saturating_sub(1));
        #[expect(clippy::cast_precision_loss, reason = "latencies are small")]
        let millis = micros.get(index).copied().unwrap_or(0) as f64 / 1000.0;
        millis
    };
    format!("p50 {:.2}, p99 {:.2}, max {:.2}, min {:.2} ms", at(500), at(990), at(1000), at(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(per_second(1_234_567.4), "1,234,567/s");
        assert_eq!(per_second(12.0), "12/s");
        assert_eq!(quantiles(&mut [3000, 1000, 2000]), "p50 2.00, p99 3.00, max 3.00, min 1.00 ms");
    }
}
