//! `stop`, `reload`, `scale`, `worker`, `deploy`: what is asked of a fleet that runs on this machine, over its control socket.

use std::time::Duration;

use clap::{Args, Subcommand};
use roundsman_shared::control::{Order, Reply};
use roundsman_shared::protocol::encode;
use roundsman_shared::settings::units;
use roundsman_supervisor::Fleet;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::DONE;
use crate::connect::Context;
use crate::errors::Failure;
use crate::print::{clean, many};

/// To reach a supervisor, which does nothing but wait for such calls.
const REACH: Duration = Duration::from_secs(5);
/// After a fleet has said that it has stopped, for its last process to be gone.
const GONE: Duration = Duration::from_secs(15);
/// Longest that a new program is watched.
const LONGEST_WATCH: Duration = Duration::from_secs(3600);

/// Which fleet, where several serve one store on one machine.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The fleet with this name, as given to `up --host-id`; needed only where several serve the store on this machine.
    #[arg(long, value_name = "NAME")]
    host_id: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// Do not wait for running jobs: put them back.
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Clone, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Clone, Args)]
pub struct ScaleArgs {
    /// A pool of the settings.
    #[arg(value_name = "POOL")]
    pool: String,
    /// So many workers, or `auto`: as many as it needs.
    #[arg(value_name = "N|auto", value_parser = number_or_auto)]
    to: To,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct To(Option<u32>);

fn number_or_auto(text: &str) -> Result<To, String> {
    match text {
        "auto" => Ok(To(None)),
        number => number.parse().map(|to| To(Some(to))).map_err(|_not| "a number, or auto".to_owned()),
    }
}

#[derive(Debug, Clone, Args)]
pub struct DeployArgs {
    /// Only the fleets whose names match, where several serve the store on this machine; `*` and `?` stand for anything
    /// and for one character. They are rolled one after another.
    #[arg(long, value_name = "PATTERN")]
    host: Option<String>,
    /// Workers that change at a time, over all pools; a quarter of them unless said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// How long the new program is watched, with the old one standing by to come back.
    #[arg(long, value_name = "DUR", default_value = "10s")]
    watch: String,
}

/// `roundsman worker …`
#[derive(Debug, Clone, Subcommand)]
pub enum WorkerVerb {
    /// The workers of all hosts.
    List,
    /// Have a worker of this machine leave after its jobs; another takes its place where one is needed.
    Stop {
        /// As `worker list` names it: POOL/NUMBER.
        #[arg(value_name = "WORKER")]
        worker: String,
        /// Do not wait for its jobs: put them back.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        which: Which,
    },
    /// Say what a worker of this machine is at: its jobs, threads and what they have started.
    Dump {
        /// As `worker list` names it: POOL/NUMBER.
        #[arg(value_name = "WORKER")]
        worker: String,
        #[command(flatten)]
        which: Which,
    },
}

pub async fn stop(context: &Context, args: StopArgs) -> Result<u8, Failure> {
    let fleet = one(context, &args.which).await?;
    order(context, &fleet, &Order::Stop { now: args.now }).await?;
    // The lock goes with the last process.
    let gone = async {
        while fleets(context).iter().any(|it| it.pid == fleet.pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(GONE, gone).await.map_err(|_late| {
        Failure::timed_out(format!("process {} has stopped its fleet and does not end", fleet.pid))
    })?;
    DONE
}

pub async fn reload(context: &Context, args: ReloadArgs) -> Result<u8, Failure> {
    order(context, &one(context, &args.which).await?, &Order::Reload).await
}

pub async fn scale(context: &Context, args: ScaleArgs) -> Result<u8, Failure> {
    let fleet = one(context, &args.which).await?;
    order(context, &fleet, &Order::Scale { pool: args.pool, to: args.to.0 }).await
}

pub async fn worker(context: &Context, verb: WorkerVerb) -> Result<u8, Failure> {
    match verb {
        WorkerVerb::List => list(context).await,
        WorkerVerb::Stop { worker, now, which } => {
            let fleet = one(context, &which).await?;
            order(context, &fleet, &Order::StopWorker { worker, now }).await
        }
        WorkerVerb::Dump { worker, which } => {
            let fleet = one(context, &which).await?;
            order(context, &fleet, &Order::DumpWorker { worker }).await
        }
    }
}

pub async fn deploy(context: &Context, args: DeployArgs) -> Result<u8, Failure> {
    let watch =
        units::parse_duration(&args.watch).map_err(|error| Failure::usage(format!("--watch: {error}")))?;
    if watch > LONGEST_WATCH {
        return Err(Failure::usage("--watch: an hour at most"));
    }
    let watch_ms = u64::try_from(watch.as_millis()).unwrap_or(u64::MAX);
    let all = some(context).await?;
    let matching: Vec<Fleet> = match &args.host {
        None => all,
        Some(pattern) => {
            let found: Vec<Fleet> =
                all.iter().filter(|fleet| matches(pattern, &fleet.host)).cloned().collect();
            if found.is_empty() {
                return Err(Failure::not_found(format!(
                    "no fleet of this machine matches \"{pattern}\"; there are: {}",
                    names(&all)
                )));
            }
            found
        }
    };
    for fleet in &matching {
        if matching.len() > 1 {
            context.screen.note(&format!("rolling {}", fleet.host));
        }
        order(context, fleet, &Order::Deploy { batch: args.batch, watch_ms }).await?;
    }
    DONE
}

fn fleets(context: &Context) -> Vec<Fleet> {
    roundsman_supervisor::fleets(&context.input.environment, &context.settings().store)
}

fn names(fleets: &[Fleet]) -> String {
    fleets.iter().map(|fleet| fleet.host.as_str()).collect::<Vec<_>>().join(", ")
}

/// The fleets of this machine; at least one.
async fn some(context: &Context) -> Result<Vec<Fleet>, Failure> {
    let found = fleets(context);
    if !found.is_empty() {
        return Ok(found);
    }
    let url = &context.settings().store.url;
    let failure =
        Failure::not_found(format!("no fleet that this user may speak to serves {url} on this machine"));
    let elsewhere = match context.try_store().await {
        Ok(store) => crate::fleet::Fleet::read(&store).await.unwrap_or_default(),
        Err(_) => crate::fleet::Fleet::default(),
    };
    let hosts: Vec<&str> = elsewhere.hosts.iter().map(|host| host.host.as_str()).collect();
    Err(if hosts.is_empty() {
        failure.advise("`roundsman up` starts one; --store names another store")
    } else {
        failure.advise(format!(
            "it is served by {}: run this there, as the user that the fleet runs as",
            hosts.join(", ")
        ))
    })
}

async fn one(context: &Context, which: &Which) -> Result<Fleet, Failure> {
    let mut found = some(context).await?;
    if let Some(id) = &which.host_id {
        let all = names(&found);
        found.retain(|fleet| fleet.host == *id);
        return found.pop().ok_or_else(|| {
            Failure::not_found(format!("no fleet of this machine is called \"{id}\"; there are: {all}"))
        });
    }
    match &found[..] {
        [only] => Ok(only.clone()),
        several => Err(Failure::refused(format!(
            "several fleets serve this store on this machine: {}",
            names(several)
        ))
        .advise("say which with --host-id")),
    }
}

/// Says it, and prints what comes back until it is over.
async fn order(context: &Context, fleet: &Fleet, order: &Order) -> Result<u8, Failure> {
    let lost = |error: &dyn std::fmt::Display| {
        Failure::unavailable(format!("the fleet of process {} does not answer: {error}", fleet.pid))
    };
    let reached = tokio::time::timeout(REACH, UnixStream::connect(&fleet.socket)).await;
    let mut stream = match reached {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(lost(&error)),
        Err(_late) => return Err(lost(&"nothing within 5 s")),
    };
    stream.write_all(encode(order).as_bytes()).await.map_err(|error| lost(&error))?;
    let mut lines = BufReader::new(stream).lines();
    // The parts of a longer text are data, and one document; how far it is, is not.
    let mut parts = String::new();
    while let Some(line) = lines.next_line().await.map_err(|error| lost(&error))? {
        let reply: Reply = serde_json::from_str(&line).map_err(|error| lost(&error))?;
        match reply {
            Reply::Says { text } if matches!(order, Order::DumpWorker { .. }) => parts += &(text + "\n"),
            Reply::Says { text } => context.screen.note(&clean(&text)),
            Reply::Done { text } => {
                say(context, fleet, &(parts + &text))?;
                return DONE;
            }
            Reply::Refused { code, text } => {
                return Err(Failure::with_code(code, text.lines().map(clean).collect::<Vec<_>>().join("\n")));
            }
        }
    }
    Err(lost(&"it has ended meanwhile"))
}

fn say(context: &Context, fleet: &Fleet, text: &str) -> Result<(), Failure> {
    if context.screen.json {
        return context.screen.document(&json!({ "host": fleet.host, "text": text }));
    }
    text.lines().try_for_each(|line| context.screen.line(&clean(line)))
}

async fn list(context: &Context) -> Result<u8, Failure> {
    let fleet = crate::fleet::Fleet::read(&context.store().await?).await?;
    if context.screen.json {
        let workers: Vec<serde_json::Value> = fleet
            .records
            .iter()
            .flat_map(|host| {
                let pools = host["pools"].as_array().cloned().unwrap_or_default();
                let host = host["host"].clone();
                pools.into_iter().flat_map(move |pool| {
                    let host = host.clone();
                    let workers = pool["workers"].as_array().cloned().unwrap_or_default();
                    workers.into_iter().map(move |mut worker| {
                        worker["host"] = host.clone();
                        worker["pool"] = pool["pool"].clone();
                        worker
                    })
                })
            })
            .collect();
        context.screen.document(&json!({ "workers": workers }))?;
        return DONE;
    }
    let mut rows = Vec::new();
    for host in &fleet.hosts {
        for worker in host.pools.iter().flat_map(|pool| &pool.workers) {
            let jobs: Vec<String> = worker.jobs.iter().map(job_name).collect();
            rows.push(vec![
                host.host.clone(),
                worker.worker.clone(),
                worker.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                worker.state.clone(),
                format!("{} MiB", worker.rss / 1024 / 1024),
                jobs.join(" "),
            ]);
        }
    }
    if rows.is_empty() {
        context.screen.line(&format!("no workers run; {} of this store", many(fleet.hosts.len(), "host")))?;
    } else {
        context.screen.table(&["HOST", "WORKER", "PID", "STATE", "MEMORY", "JOBS"], &rows)?;
    }
    DONE
}

fn job_name(job: &serde_json::Value) -> String {
    let word = |key: &str| job[key].as_str().unwrap_or_default().to_owned();
    clean(&format!("{}/{}", word("queue"), word("id")))
}

/// Whether a name fits a pattern with `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Which prefixes of the name the pattern so far can stand for.
    let mut able = vec![false; name.len() + 1];
    if let Some(first) = able.first_mut() {
        *first = true;
    }
    for part in pattern {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            next[at] = match part {
                '*' => able[at] || at > 0 && next[at - 1],
                '?' => at > 0 && able[at - 1],
                part => at > 0 && able[at - 1] && name[at - 1] == part,
            };
        }
        able = next;
    }
    able.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_names() {
        for (pattern, name, fits) in [
            ("mill-1", "mill-1", true),
            ("mill-1", "mill-10", false),
            ("mill-*", "mill-10", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("m?ll*0", "mill-10", true),
            ("*l*1", "mill-10", false),
            ("**a", "ba", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(500), &"a".repeat(400)), "in time that does not grow out of hand");
    }

    #[test]
    fn a_number_or_auto() {
        assert_eq!(number_or_auto("auto"), Ok(To(None)));
        assert_eq!(number_or_auto("0"), Ok(To(Some(0))));
        assert!(number_or_auto("-1").is_err() && number_or_auto("many").is_err());
    }
}
