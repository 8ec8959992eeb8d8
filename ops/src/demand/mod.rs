//! The part that reads how much waits for foreign pools, about once a second, and tells the master. A process of its own,
//! since it talks to servers and programs that are not ours, and the master never waits for anybody.
//!
//! ```text
//! redis      a list, a sorted set, a stream or its group
//! amqp       the messages ready in a queue
//! http       a number in a JSON document
//! command    a number that a program prints
//! ```
//! Each pool has a task of its own, so that a source that hangs is nothing to the others. A source that cannot be read is
//! asked ever more rarely, and the master is told why: it leaves the number of workers as it is.

mod amqp;
mod command;
mod http;
mod redis;

use std::collections::BTreeMap;
use std::time::Duration;

use roundsman_shared::assignment::{Assignment, PartSpec};
use roundsman_shared::exit;
use roundsman_shared::foreign::Source;
use roundsman_shared::pipe::Incoming;
use roundsman_shared::protocol::{self, BEAT_MS, Beat, Doing, FromChild, ToChild};
use tokio::sync::mpsc;

use crate::part::{self, Part};

/// Between two readings.
const PAUSE: Duration = Duration::from_secs(1);
/// For one reading, with the connection.
const WITHIN: Duration = Duration::from_secs(5);
/// Between two tries of a source that cannot be read, at most.
const MOST_PAUSE: Duration = Duration::from_secs(8);
/// Bytes of the reason that are handed on.
const MAX_WHY: usize = 256;

type Reading = Result<u64, String>;

/// Runs the role; answers the exit code.
pub(crate) fn run() -> u8 {
    part::run(serve)
}

async fn serve(part: &mut Part, assignment: Assignment) -> (u8, String) {
    let Some(PartSpec::Demand(spec)) = assignment.part else {
        return (exit::CONFIG, "it was not told what to read".to_owned());
    };
    let (tell, mut told) = mpsc::channel(spec.pools.len().max(1));
    for (pool, source) in spec.pools {
        tokio::spawn(follow(pool, source, tell.clone()));
    }
    part.ready();
    let mut known: BTreeMap<String, Reading> = BTreeMap::new();
    let mut beat = tokio::time::interval(Duration::from_millis(BEAT_MS));
    loop {
        tokio::select! {
            Some((pool, reading)) = told.recv() => {
                let (length, why) = match reading.clone() {
                    Ok(length) => (Some(length), None),
                    Err(why) => (None, Some(why)),
                };
                part.say(FromChild::Demand { pool: pool.clone(), length, why });
                known.insert(pool, reading);
            }
            heard = part.hear() => {
                // It has nothing to finish.
                if matches!(heard, Incoming::Closed | Incoming::Message(ToChild::Stop { .. })) {
                    return (exit::OK, "told to stop".to_owned());
                }
            }
            _ = beat.tick() => {
                let says = Some(protocol::cut(words(&known), protocol::MAX_SAYS));
                part.say(FromChild::Hb(Beat { doing: Doing::Idle, store_ok: true, says, ..Beat::default() }));
            }
        }
    }
}

fn words(known: &BTreeMap<String, Reading>) -> String {
    let one = |(pool, reading): (&String, &Reading)| match reading {
        Ok(length) => format!("{pool}: {length} waiting"),
        Err(why) => format!("{pool}: cannot be read: {why}"),
    };
    known.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Reads one source for ever.
async fn follow(pool: String, source: Source, tell: mpsc::Sender<(String, Reading)>) {
    let mut reader = Reader::of(source);
    let mut pause = PAUSE;
    loop {
        let reading = reader.read().await;
        match &reading {
            Ok(_) => pause = PAUSE,
            Err(why) => {
                if pause == PAUSE {
                    tracing::warn!(
                        pool,
                        why,
                        "it cannot be read how much waits: the number of workers stays"
                    );
                }
                pause = (pause * 2).min(MOST_PAUSE);
            }
        }
        if tell.send((pool.clone(), reading)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// A source, with the connection that is kept between two readings.
enum Reader {
    Redis(redis::Reader),
    Amqp(amqp::Reader),
    Http { url: String, path: String },
    Command(Vec<String>),
}

impl Reader {
    fn of(source: Source) -> Self {
        use redis::What;
        match source {
            Source::RedisList { url, key } => Self::Redis(redis::Reader::new(url, What::List(key))),
            Source::RedisZset { url, key } => Self::Redis(redis::Reader::new(url, What::SortedSet(key))),
            Source::RedisStream { url, key, group } => {
                Self::Redis(redis::Reader::new(url, What::Stream { key, group }))
            }
            Source::Amqp { url, queue } => Self::Amqp(amqp::Reader::new(url, queue)),
            Source::Http { url, path } => Self::Http { url: url.expose().to_owned(), path },
            Source::Command { command } => Self::Command(command),
        }
    }

    async fn read(&mut self) -> Reading {
        let reading = async {
            match self {
                Self::Redis(reader) => reader.read().await,
                Self::Amqp(reader) => reader.read().await,
                Self::Http { url, path } => http::read(url, path).await,
                Self::Command(command) => command::read(command).await,
            }
        };
        let reading = tokio::time::timeout(WITHIN, reading).await;
        let reading = reading.unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}")));
        if reading.is_err() {
            match self {
                Self::Redis(reader) => reader.forget(),
                Self::Amqp(reader) => reader.forget(),
                Self::Http { .. } | Self::Command(_) => {}
            }
        }
        reading.map_err(|why| protocol::cut(why, MAX_WHY))
    }
}
