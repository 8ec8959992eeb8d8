//! `[pools.NAME]`: like workers, what they serve, and how many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value as Json;

use super::foreign::{Foreign, Liveness};
use super::handler::{Handler, Shared};
use super::origin::Origin;
use super::section::Section;
use super::tree::Value;
use super::value::{Setting, Size, check_name};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86400);
const MIB: u64 = 1024 * 1024;
/// Far above what one host can do, so that it only catches slips.
const MOST_WORKERS: u32 = 10_000;
/// A beat comes every second, so that anything less would suspect every worker.
const LEAST_SILENCE: Duration = Duration::from_secs(2);
/// The pool that exists without being named.
pub(super) const DEFAULT_POOL: &str = "default";

/// A set of like workers on each host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// What they pull from.
    pub queues: PoolQueues,
    /// What they run.
    pub run: PoolRun,
    /// On each host; default 0.
    pub min_workers: u32,
    /// On each host, at least 1; default twice the number of cores.
    pub max_workers: u32,
    /// Over all hosts.
    pub max_workers_total: Option<u32>,
    /// Jobs at once in one worker, 1 to 256; default 1, or 32 for a transport, whose jobs mostly wait for others.
    pub slots: u16,
    /// The latency objective, from due to start; default 1 s.
    pub target_wait: Duration,
    /// How long running jobs may finish when the fleet stops; default 30 s.
    pub grace: Duration,
    /// In bytes: a worker over it is replaced after its jobs; default 512 MiB.
    pub max_memory: Option<u64>,
    /// A worker is replaced after so many jobs.
    pub max_jobs: Option<u64>,
    /// When a silent worker is given up.
    pub detection: Detection,
    /// Set when the workers know nothing of Roundsman.
    pub foreign: Option<Foreign>,
}

/// The queues that a pool serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolQueues {
    /// The earlier first. Empty only in a foreign pool.
    Ordered(Vec<String>),
    /// Shares of worker time, at least 1 each.
    Shares(BTreeMap<String, u32>),
}

impl PoolQueues {
    /// The queues' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (ordered, shares) = match self {
            Self::Ordered(names) => (Some(names), None),
            Self::Shares(shares) => (None, Some(shares.keys())),
        };
        ordered.into_iter().flatten().chain(shares.into_iter().flatten()).map(String::as_str)
    }
}

/// What a worker process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolRun {
    /// Roundsman's own worker with this handler.
    Handler(Handler),
    /// The user's worker: program and arguments.
    Command(Vec<String>),
}

/// When a worker that says nothing is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detection {
    /// Silent so long, it no longer counts as capacity; default 3.5 s.
    pub suspect: Duration,
    /// Silent so long, it is killed; default 10 s.
    pub silence: Duration,
    /// Its executor not moving for so long, it is killed; default 15 s.
    pub frozen: Duration,
}

impl PoolSettings {
    pub(super) fn read(mut section: Section<'_>, name: &str, cores: usize, shared: &Shared) -> Self {
        let foreign = Foreign::read(&mut section);
        let queues = read_queues(&mut section, name);
        let run = read_run(&mut section, shared);
        let cores = u32::try_from(cores).unwrap_or(MOST_WORKERS);
        let usual = cores.saturating_mul(2).clamp(1, MOST_WORKERS);
        let min_workers = section.within("min_workers", 0, 0..=MOST_WORKERS);
        // A minimum above the usual maximum raises it: who asks for ten has said enough.
        let max_workers = section.within("max_workers", usual.max(min_workers), 1..=MOST_WORKERS);
        let max_workers_total = section.get("max_workers_total", None);
        let slots = section.within("slots", usual_slots(&run), 1..=256);
        let settings = Self {
            queues,
            run,
            min_workers,
            max_workers,
            max_workers_total,
            slots,
            target_wait: section.within("target_wait", SECOND, Duration::from_millis(1)..=DAY),
            grace: section.within("grace", 30 * SECOND, Duration::ZERO..=DAY),
            max_memory: read_memory(&mut section),
            max_jobs: section.get("max_jobs", None),
            detection: read_detection(&mut section),
            foreign,
        };
        section.demand(
            min_workers <= max_workers,
            "min_workers",
            format!("must not be more than max_workers ({max_workers})"),
        );
        let total_fits = max_workers_total.is_none_or(|total| min_workers <= total);
        section.demand(
            total_fits,
            "max_workers_total",
            format!("must not be less than min_workers ({min_workers})"),
        );
        let needs_command = settings.foreign.is_none() || matches!(settings.run, PoolRun::Command(_));
        section.demand(needs_command, "demand", "needs command: the workers to start");
        let counted = settings.foreign.as_ref().is_none_or(|foreign| foreign.liveness == Liveness::Beats);
        for key in ["slots", "max_jobs"] {
            let counts = counted || !section.has(key);
            section.demand(counts, key, "counts jobs, of which only workers with liveness = \"beats\" tell");
        }
        section.finish();
        settings
    }
}

fn usual_slots(run: &PoolRun) -> u16 {
    match run {
        PoolRun::Handler(handler) if handler.is_transport() => 32,
        PoolRun::Handler(_) | PoolRun::Command(_) => 1,
    }
}

fn read_memory(section: &mut Section<'_>) -> Option<u64> {
    let limit = section.checked("max_memory", Some(Size(512 * MIB)), |limit| match limit {
        Some(Size(bytes)) if *bytes < 16 * MIB => {
            Err("must be at least 16MiB, which a worker needs at rest; or 0 for no limit".into())
        }
        Some(_) | None => Ok(()),
    });
    limit.map(|Size(bytes)| bytes)
}

fn read_detection(section: &mut Section<'_>) -> Detection {
    let limits = || LEAST_SILENCE..=DAY;
    let suspect = section.within("suspect", Duration::from_millis(3500), limits());
    let silence = section.within("silence", 10 * SECOND, limits());
    let frozen = section.within("frozen", 15 * SECOND, limits());
    let told = if section.has("silence") { "silence" } else { "suspect" };
    section.demand(suspect < silence, told, "silence must be more than suspect");
    Detection { suspect, silence, frozen }
}

fn read_run(section: &mut Section<'_>, shared: &Shared) -> PoolRun {
    if !section.has("command") {
        section.node("command");
        return PoolRun::Handler(Handler::read(section, shared));
    }
    if section.node("handler").is_some() {
        section.refuse("command", "contradicts handler: write one of them".into());
    }
    PoolRun::Command(section.command("command").unwrap_or_default())
}

fn read_queues(section: &mut Section<'_>, pool: &str) -> PoolQueues {
    let foreign = section.has("demand");
    let Some(node) = section.node("queues") else {
        if !foreign && pool != DEFAULT_POOL {
            section.refuse("queues", format!("is missing: write one like [\"{pool}\"]"));
        }
        let names = if foreign { Vec::new() } else { vec!["default".to_owned()] };
        section.row("queues", names.show(), Origin::Default);
        return PoolQueues::Ordered(names);
    };
    if foreign {
        section.refuse("queues", "contradicts demand: these workers have a queue of their own".into());
        return PoolQueues::Ordered(Vec::new());
    }
    let read = match &node.value {
        Value::Table(_) => read_shares(&node.value).map(PoolQueues::Shares),
        Value::List(_) => Vec::<String>::read(&node.value).and_then(check_order).map(PoolQueues::Ordered),
        other => Err(format!(
            "expected a list like [\"default\"] or shares like {{ critical = 6, default = 3 }}, found {}",
            other.kind()
        )),
    };
    match read {
        Ok(queues) => {
            section.row("queues", show(&queues), node.origin.clone());
            queues
        }
        Err(message) => {
            section.refuse("queues", message);
            PoolQueues::Ordered(Vec::new())
        }
    }
}

fn check_order(names: Vec<String>) -> Result<Vec<String>, String> {
    if names.is_empty() {
        return Err("is empty: write at least one queue".into());
    }
    let mut seen = BTreeSet::new();
    for name in &names {
        check_name(name)?;
        if !seen.insert(name) {
            return Err(format!("names \"{name}\" twice"));
        }
    }
    Ok(names)
}

fn read_shares(value: &Value) -> Result<BTreeMap<String, u32>, String> {
    let Value::Table(table) = value else { return Err(String::new()) };
    if table.is_empty() {
        return Err("is empty: write at least one queue".into());
    }
    let share = |(name, node): (&String, &super::tree::Node)| {
        check_name(name)?;
        match u32::read(&node.value) {
            Ok(share @ 1..=10_000) => Ok((name.clone(), share)),
            Ok(share) => Err(format!("{name}: a share is 1 to 10000, not {share}")),
            Err(message) => Err(format!("{name}: {message}")),
        }
    };
    table.iter().map(share).collect()
}

fn show(queues: &PoolQueues) -> Json {
    match queues {
        PoolQueues::Ordered(names) => names.show(),
        PoolQueues::Shares(shares) => {
            shares.iter().map(|(name, share)| (name.clone(), Json::from(*share))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    #[test]
    fn defaults() {
        let settings = settings("");
        assert_eq!(settings.pools.keys().collect::<Vec<_>>(), ["default"]);
        let pool = &settings.pools["default"];
        let expected = PoolSettings {
            queues: PoolQueues::Ordered(vec!["default".into()]),
            run: PoolRun::Handler(Handler::Stdout),
            min_workers: 0,
            max_workers: 8,
            max_workers_total: None,
            slots: 1,
            target_wait: SECOND,
            grace: 30 * SECOND,
            max_memory: Some(512 * MIB),
            max_jobs: None,
            detection: Detection {
                suspect: Duration::from_millis(3500),
                silence: 10 * SECOND,
                frozen: 15 * SECOND,
            },
            foreign: None,
        };
        assert_eq!(pool, &expected);
    }

    #[test]
    fn pools_are_read() {
        let settings = settings(
            "[pools.mail]\nqueues = { critical = 6, default = 3 }\ncommand = [\"./my-worker\"]\n\
             max_workers_total = 4\nmax_memory = 0\nmin_workers = 3\n[pools.b]\nqueues = [\"z\", \"a\"]\nmin_workers = 20",
        );
        let mail = &settings.pools["mail"];
        assert_eq!(mail.queues.names().collect::<Vec<_>>(), ["critical", "default"]);
        assert_eq!(mail.run, PoolRun::Command(vec!["/etc/r/my-worker".into()]));
        assert_eq!((mail.max_workers_total, mail.max_memory), (Some(4), None));
        assert_eq!(settings.pools["b"].queues.names().collect::<Vec<_>>(), ["z", "a"]);
        assert_eq!(settings.pools["b"].max_workers, 20);
        assert!(!settings.pools.contains_key("default"));
        assert_eq!(settings.queues.keys().collect::<Vec<_>>(), ["a", "critical", "default", "z"]);
    }

    #[test]
    fn bad_values_are_refused() {
        for (lines, line, message) in [
            ("max_wokers = 4", 2, "max_wokers: unknown key; did you mean \"max_workers\"?"),
            ("max_workers = 0", 2, "max_workers: must be between 1 and 10000, not 0"),
            ("min_workers = 5\nmax_workers = 4", 2, "min_workers: must not be more than max_workers (4)"),
            (
                "min_workers = 5\nmax_workers_total = 4",
                3,
                "max_workers_total: must not be less than min_workers (5)",
            ),
            ("slots = 257", 2, "slots: must be between 1 and 256, not 257"),
            (
                "max_memory = \"5MiB\"",
                2,
                "max_memory: must be at least 16MiB, which a worker needs at rest; or 0 for no limit",
            ),
            ("suspect = \"10s\"", 2, "suspect: silence must be more than suspect"),
            ("silence = \"3s\"", 2, "silence: silence must be more than suspect"),
            ("silence = \"1s\"", 2, "silence: must be between 2s and 1d, not 1s"),
            ("queues = []", 2, "queues: is empty: write at least one queue"),
            ("queues = [\"a\", \"a\"]", 2, "queues: names \"a\" twice"),
            (
                "queues = [\"a b\"]",
                2,
                "queues: \"a b\" is no right name: 1 to 64 characters of A-Z a-z 0-9 . _ -",
            ),
            (
                "queues = \"a\"",
                2,
                "queues: expected a list like [\"default\"] or shares like { critical = 6, default = 3 }, found a string",
            ),
            ("queues = { a = 0 }", 2, "queues: a: a share is 1 to 10000, not 0"),
            ("command = [\"a\"]\nhandler = \"stdout\"", 2, "command: contradicts handler: write one of them"),
            (
                "demand = { type = \"command\", command = [\"a\"] }",
                2,
                "demand: needs command: the workers to start",
            ),
        ] {
            let expected = format!("/etc/r/r.toml:{line}: pools.default.{message}");
            assert_eq!(problems(&format!("[pools.default]\n{lines}")), [expected]);
        }
        let missing = "/etc/r/r.toml:1: pools.mail.queues: is missing: write one like [\"mail\"]";
        assert_eq!(problems("[pools.mail]"), [missing]);
    }
}
