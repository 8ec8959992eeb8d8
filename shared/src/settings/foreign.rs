//! `demand`, `liveness`, `stall_after` and `stop_signal` of a pool: workers that know nothing of Roundsman.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address;
use super::amqp;
use super::secret::SecretUrl;
use super::section::Section;

const REDIS: [&str; 3] = ["redis", "rediss", "redis+unix"];
const KINDS: &str = "\"redis-list\", \"redis-zset\", \"redis-stream\", \"amqp\", \"http\", \"command\"";

/// How workers are scaled and watched that take their jobs from a queue of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Where the length of their queue is read.
    pub demand: Demand,
    /// What shows that they are alive; default nothing but that they run.
    pub liveness: Liveness,
    /// With [`Liveness::Stdout`]: silence for so long while there is demand is a stall; default 1 min.
    pub stall_after: Duration,
    /// The signal that has them finish and leave, without `SIG`; default `TERM`.
    pub stop_signal: StopSignal,
}

/// Where the length of a foreign queue is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// `LLEN`.
    RedisList {
        /// The server.
        url: SecretUrl,
        /// The list.
        key: String,
    },
    /// `ZCARD`.
    RedisZset {
        /// The server.
        url: SecretUrl,
        /// The sorted set.
        key: String,
    },
    /// The lag of a consumer group.
    RedisStream {
        /// The server.
        url: SecretUrl,
        /// The stream.
        key: String,
        /// The consumer group; empty for the stream's length.
        group: String,
    },
    /// The messages ready in a queue.
    Amqp {
        /// The broker.
        url: SecretUrl,
        /// The queue.
        queue: String,
    },
    /// A number in a JSON document.
    Http {
        /// The document.
        url: SecretUrl,
        /// Where in it, as `a.b.0`.
        path: String,
    },
    /// A number printed by a program.
    Command {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// What shows that a worker is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// That it runs.
    None,
    /// A line on its standard output now and then while there is demand.
    Stdout,
    /// The pipe protocol.
    Beats,
}

/// A signal that a program may want as its word to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the signals' own names")]
pub enum StopSignal {
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
}

const SIGNALS: [(&str, StopSignal); 6] = [
    ("TERM", StopSignal::Term),
    ("INT", StopSignal::Int),
    ("QUIT", StopSignal::Quit),
    ("HUP", StopSignal::Hup),
    ("USR1", StopSignal::Usr1),
    ("USR2", StopSignal::Usr2),
];

impl Foreign {
    /// Reads a pool's keys about foreign workers; they count only together with `demand`.
    pub(super) fn read(pool: &mut Section<'_>) -> Option<Self> {
        if !pool.has("demand") {
            pool.node("demand");
            for key in ["liveness", "stall_after", "stop_signal"] {
                if pool.node(key).is_some() {
                    pool.refuse(
                        key,
                        "counts only in a pool with demand, whose workers have a queue of their own".into(),
                    );
                }
            }
            return None;
        }
        let demand = read_demand(pool);
        let choices = [("none", Liveness::None), ("stdout", Liveness::Stdout), ("beats", Liveness::Beats)];
        let liveness = pool.choice("liveness", "none", &choices).unwrap_or(Liveness::None);
        let limits = Duration::from_secs(1)..=Duration::from_secs(86400);
        let stall_after = pool.within("stall_after", Duration::from_secs(60), limits);
        let counts = liveness == Liveness::Stdout || !pool.has("stall_after");
        pool.demand(counts, "stall_after", "counts only with liveness = \"stdout\"");
        let stop_signal = pool.choice("stop_signal", "TERM", &SIGNALS).unwrap_or(StopSignal::Term);
        Some(Self { demand: demand?, liveness, stall_after, stop_signal })
    }
}

fn read_demand(pool: &mut Section<'_>) -> Option<Demand> {
    let (kind, mut section) = pool.tagged("demand", "redis-list")?;
    let demand = match kind.as_str() {
        "redis-list" => server(&mut section, &REDIS, "key").map(|(url, key)| Demand::RedisList { url, key }),
        "redis-zset" => server(&mut section, &REDIS, "key").map(|(url, key)| Demand::RedisZset { url, key }),
        "redis-stream" => {
            let named = server(&mut section, &REDIS, "key");
            let group = section.get("group", String::new());
            named.map(|(url, key)| Demand::RedisStream { url, key, group })
        }
        "amqp" => {
            server(&mut section, &amqp::SCHEMES, "queue").map(|(url, queue)| Demand::Amqp { url, queue })
        }
        "http" => {
            server(&mut section, &["https", "http"], "path").map(|(url, path)| Demand::Http { url, path })
        }
        "command" => section.command("command").map(|command| Demand::Command { command }),
        other => {
            section.refuse("type", format!("\"{other}\" is none of {KINDS}"));
            return None;
        }
    };
    section.finish();
    demand
}

fn server(section: &mut Section<'_>, schemes: &[&str], place: &'static str) -> Option<(SecretUrl, String)> {
    let url = address::url(section, schemes);
    let scheme = schemes.first().copied().unwrap_or_default();
    section.demand(url.is_some(), "url", format!("is missing: write one like \"{scheme}://localhost\""));
    let filled = |text: &String| if text.is_empty() { Err("is empty".into()) } else { Ok(()) };
    let place = section.required(place, "\"queue:default\"", filled);
    Some((url?, place?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    fn pool(lines: &str) -> String {
        format!("[pools.mail]\ncommand = [\"sidekiq\"]\n{lines}")
    }

    #[test]
    fn a_foreign_pool_is_read() {
        let text = pool(
            "demand = { type = \"redis-list\", url = \"redis://:p@a\", key = \"queue:default\" }\n\
             liveness = \"stdout\"\nstall_after = \"2m\"\nstop_signal = \"USR1\"",
        );
        let settings = settings(&text);
        let foreign = settings.pools["mail"].foreign.clone().unwrap();
        let Demand::RedisList { url, key } = foreign.demand else { panic!("{:?}", foreign.demand) };
        assert_eq!((url.expose(), key.as_str()), ("redis://:p@a", "queue:default"));
        assert_eq!(foreign.liveness, Liveness::Stdout);
        assert_eq!(foreign.stall_after, Duration::from_secs(120));
        assert_eq!(foreign.stop_signal, StopSignal::Usr1);
        assert!(settings.pools["mail"].queues.names().next().is_none());
    }

    #[test]
    fn bad_values_are_refused() {
        let list = "demand = { type = \"redis-list\", url = \"redis://a\", key = \"k\" }";
        for (lines, line, message) in [
            (
                "queues = [\"a\"]\nliveness = \"none\"".into(),
                4,
                "liveness: counts only in a pool with demand, whose workers have a queue of their own".into(),
            ),
            ("demand = { type = \"kafka\" }".into(), 3, format!("demand.type: \"kafka\" is none of {KINDS}")),
            (
                "demand = { type = \"redis-list\", key = \"k\" }".into(),
                3,
                "demand.url: is missing: write one like \"redis://localhost\"".into(),
            ),
            (
                "demand = { type = \"amqp\", url = \"amqp://a\" }".into(),
                3,
                "demand.queue: is missing: write one like \"queue:default\"".into(),
            ),
            (
                format!("{list}\nliveness = \"ping\""),
                4,
                "liveness: \"ping\" is none of \"none\", \"stdout\", \"beats\"".into(),
            ),
            (
                format!("{list}\nstall_after = \"5s\""),
                4,
                "stall_after: counts only with liveness = \"stdout\"".to_owned(),
            ),
            (
                format!("{list}\nstop_signal = \"KILL\""),
                4,
                "stop_signal: \"KILL\" is none of \"TERM\", \"INT\", \"QUIT\", \"HUP\", \"USR1\", \"USR2\""
                    .into(),
            ),
            (
                format!("{list}\nmax_jobs = 5"),
                4,
                "max_jobs: counts jobs, of which only workers with liveness = \"beats\" tell".to_owned(),
            ),
            (
                format!("{list}\nqueues = [\"a\"]"),
                4,
                "queues: contradicts demand: these workers have a queue of their own".into(),
            ),
        ] {
            let expected = format!("/etc/r/r.toml:{line}: pools.mail.{message}");
            assert_eq!(problems(&pool(&lines)), [expected]);
        }
    }
}
