//! `doctor`: what is wrong or weak with store, machine, settings and fleet; every finding says what to do.

mod broker;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roundsman_shared::clock::Wall;
use roundsman_shared::exit;
use roundsman_shared::job::State;
use roundsman_shared::job::view::Place;
use roundsman_shared::names::QueueName;
use roundsman_shared::settings::{Durability, StoreUrl};
use roundsman_shared::store::{MAX_BATCH, QueueView, Store, StoreError};
use serde::Serialize;
use serde_json::json;

use super::DONE;
use crate::connect::Context;
use crate::errors::Failure;
use crate::explain::is_of_unknown_kind;
use crate::fleet::Fleet;
use crate::print::many;
use crate::time::span;

/// Clocks that differ by less are alike.
const SKEW: Duration = Duration::from_secs(1);
/// Descriptors that a fleet wants beside those of its workers, and for each of them.
const FILES: u64 = 256;
const FILES_A_WORKER: u64 = 8;
const OTHER: &str =
    "change the store as told, or name another one: --store, ROUNDSMAN_STORE__URL or url in [store]";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    check: &'static str,
    found: String,
    /// What to do; nothing where all is well.
    #[serde(rename = "do")]
    todo: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.0.push(Finding { level: Level::Ok, check, found: found.into(), todo: None });
    }

    fn warning(&mut self, check: &'static str, found: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Finding { level: Level::Warning, check, found: found.into(), todo: Some(todo.into()) });
    }

    fn error(&mut self, check: &'static str, found: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Finding { level: Level::Error, check, found: found.into(), todo: Some(todo.into()) });
    }
}

pub async fn run(context: &Context) -> Result<u8, Failure> {
    let mut findings = Findings::default();
    settings(context, &mut findings);
    machine(context, &mut findings);
    let mut code = exit::FAILED;
    match context.try_store().await {
        Ok(store) => {
            // What the rest would have found is not known; what was found so far is.
            if let Err(failure) = inside(context, &store, &mut findings).await {
                code = failure.code();
                findings.error("store", failure.lines().collect::<Vec<_>>().join(": "), OTHER);
            }
        }
        Err(StoreError::Unavailable(why)) => {
            code = exit::UNAVAILABLE;
            findings.error(
                "store",
                format!("{} is not reachable: {why}", context.settings().store.url),
                "start it, or name another one: --store, ROUNDSMAN_STORE__URL or url in [store]",
            );
        }
        Err(error) => {
            let found = format!("{}: {error}", context.settings().store.url);
            code = Failure::from(error).code();
            findings.error("store", found, OTHER);
        }
    }
    if !broker::look(context, &mut findings).await && code == exit::FAILED {
        code = exit::UNAVAILABLE;
    }
    let healthy = findings.0.iter().all(|finding| finding.level != Level::Error);
    if context.screen.json {
        context.screen.document(&json!({"ok": healthy, "findings": findings.0}))?;
    } else {
        for finding in &findings.0 {
            let mark = match finding.level {
                Level::Ok => "ok      ",
                Level::Warning => "warning ",
                Level::Error => "ERROR   ",
            };
            context.screen.line(&format!("{mark} {:<12} {}", finding.check, finding.found))?;
            for line in finding.todo.iter().flat_map(|todo| todo.lines()) {
                context.screen.line(&format!("{:21} -> {line}", ""))?;
            }
        }
    }
    if healthy { DONE } else { Err(Failure::said(code)) }
}

fn settings(context: &Context, findings: &mut Findings) {
    findings.ok("settings", "every key is known and its value is right");
    for warning in &context.loaded.warnings {
        findings.warning("settings", warning, "name the variable rightly, or unset it");
    }
    for later in &context.settings().later {
        findings.warning("settings", later.to_string(), "take it out, or wait for a version that serves it");
    }
    if let StoreUrl::Redis { url } = &context.settings().store.url {
        let host = host(url.expose());
        if url.scheme() == "redis" && !is_loopback(host) {
            findings.warning(
                "tls",
                format!("jobs and passwords travel to {host} unencrypted"),
                "use rediss://, or a network that nobody else is on",
            );
        }
    }
}

/// The host of a URL that has been checked.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => place.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn machine(context: &Context, findings: &mut Findings) {
    let workers: u64 = context.settings().pools.values().map(|pool| u64::from(pool.max_workers)).sum();
    let wanted = FILES + FILES_A_WORKER * workers;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < wanted => findings.warning(
            "files",
            format!("at most {limit} open files a process; up to {workers} workers may want {wanted}"),
            format!("raise it: ulimit -n {wanted}, or LimitNOFILE={wanted} in the unit"),
        ),
        Some(limit) => findings.ok("files", format!("{limit} open files a process are enough")),
        None => findings.ok("files", "open files are not limited"),
    }
    let mut directories: BTreeSet<PathBuf> = context.input.environment.state_dir().into_iter().collect();
    if let StoreUrl::Sqlite { path } = &context.settings().store.url {
        directories.extend(path.parent().map(Path::to_path_buf));
    }
    for directory in directories {
        state_directory(&directory, findings);
    }
}

fn state_directory(directory: &Path, findings: &mut Findings) {
    let shown = directory.display();
    let Some(existing) = directory.ancestors().find(|path| path.exists()) else { return };
    if rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_err() {
        findings.error(
            "state",
            format!("{} cannot be written to; state is kept in {shown}", existing.display()),
            "let this user write there, or name another directory by STATE_DIRECTORY or XDG_STATE_HOME",
        );
        return;
    }
    if existing != directory {
        findings.ok("state", format!("{shown} is made when it is needed"));
        return;
    }
    let mode = fs::metadata(directory).map_or(0, |meta| meta.permissions().mode());
    if mode & 0o022 != 0 {
        findings.warning("state", format!("others may write to {shown}"), format!("chmod go-w {shown}"));
    } else {
        findings.ok("state", format!("{shown} is writable by its owner alone"));
    }
}

async fn inside(context: &Context, store: &Store, findings: &mut Findings) -> Result<(), Failure> {
    let url = &context.settings().store.url;
    findings.ok("store", format!("{url} answers, and drops no jobs when it is full"));
    match store.room().await {
        Ok(()) => {}
        Err(error @ StoreError::NearLimit(_)) => findings.error(
            "store",
            format!("it takes no jobs: {error}"),
            "give it more room, or let the fleet work off what it holds; keep_done and keep_done_max bound what is kept",
        ),
        Err(error) => findings.error("store", format!("it takes no jobs: {error}"), OTHER),
    }
    durability(context, store, findings).await?;
    clock(store, findings).await?;
    let fleet = Fleet::read(store).await?;
    let mut idle = true;
    for queue in context.queues(store).await? {
        let view = store.overview(&queue).await?;
        neglect(context, &fleet, &view, findings);
        strangers(store, &fleet, &queue, &view, findings).await?;
        unheard(store, &fleet, &queue, &view, findings).await?;
        room(context, store, &queue, &view, findings).await?;
        idle &= view.scheduled + view.ready + view.inbox == 0;
    }
    sick(&fleet, findings);
    for (host, part) in fleet.hosts.iter().flat_map(|host| host.parts.iter().map(move |part| (host, part))) {
        if let Some(says) = &part.says {
            findings.ok("parts", format!("{} on {}: {says}", part.part, host.host));
        }
    }
    match fleet.hosts.len() {
        0 if idle => findings.ok("fleet", "no fleet runs, and no job waits"),
        0 => {}
        hosts => findings.ok("fleet", format!("{} heard", many(hosts, "host"))),
    }
    for host in fleet.hosts.iter().filter(|host| host.store_replaced) {
        findings.error(
            "store",
            format!("the file was deleted or replaced while the fleet on {} ran: this is another one", host.host),
            "jobs that were only in the old file are not known any more: stop the fleet and put a copy back, or \
             restart the fleet if they are not missed",
        );
    }
    for host in fleet.hosts.iter().filter(|host| host.quiet) {
        findings.warning(
            "fleet",
            format!("{} is quiet (it was sent USR1) and takes no jobs", host.host),
            "restart it when its running jobs have ended",
        );
    }
    Ok(())
}

/// Pools that cannot do what is asked of them.
fn sick(fleet: &Fleet, findings: &mut Findings) {
    for (host, pool) in fleet.hosts.iter().flat_map(|host| host.pools.iter().map(move |pool| (host, pool))) {
        let name = format!("pool {} on {}", pool.pool, host.host);
        if let Some(cause) = &pool.quarantined {
            findings.error(
                "pools",
                format!("{name} is quarantined and starts no worker: {cause}"),
                "put its program right, then reload or restart the fleet; its jobs wait unharmed",
            );
        } else if pool.saturated {
            findings.warning(
                "pools",
                format!("{name} is at its maximum and needs more: {}", pool.why()),
                "raise max_workers, or add a host",
            );
        }
    }
}

async fn durability(context: &Context, store: &Store, findings: &mut Findings) -> Result<(), Failure> {
    let given = store.durability().await?;
    let found = format!("an acknowledged job survives: {} ({})", given.level, given.why);
    let level = given.level.parse::<Durability>().ok();
    let stronger = match store {
        Store::Redis(_) => {
            "for more: CONFIG SET appendonly yes, CONFIG SET appendfsync always, CONFIG REWRITE"
        }
        Store::Sqlite(_) => "keep the file on a local disk",
    };
    match context.settings().store.durability {
        Some(wanted) if level.is_none_or(|level| level < wanted) => {
            findings.error("durability", format!("{found}; {wanted} is demanded"), stronger);
        }
        _ if level.is_none_or(|level| level == Durability::Memory) => {
            findings.warning("durability", found, stronger);
        }
        _ => findings.ok("durability", found),
    }
    Ok(())
}

async fn clock(store: &Store, findings: &mut Findings) -> Result<(), Failure> {
    let reading = store.clock().await?.reading.as_millis();
    let own = Wall::now().as_millis();
    let apart = Duration::from_millis(reading.abs_diff(own));
    if apart > SKEW {
        let way = if reading > own { "ahead of" } else { "behind" };
        findings.warning(
            "clock",
            format!("the store's clock is {} {way} this host's", span(apart)),
            "jobs fall due by the store's; keep both right with NTP, as --at and logs mean this host's",
        );
    } else {
        findings.ok("clock", "the store's clock agrees with this host's");
    }
    Ok(())
}

fn neglect(context: &Context, fleet: &Fleet, view: &QueueView, findings: &mut Findings) {
    let queue = &view.queue;
    let waiting = view.scheduled + view.ready + view.inbox;
    if waiting == 0 {
        return;
    }
    let waiting = many(waiting, "job");
    if fleet.neglect(queue).is_some() {
        let todo = if context.settings().pools.values().any(|pool| pool.queues.names().any(|it| it == queue))
        {
            "start `roundsman up`: a pool in these settings serves it".to_owned()
        } else {
            format!("name it in a pool: queues = [\"{queue}\"], and start or reload the fleet")
        };
        findings.warning(
            "queues",
            format!("{waiting} of {queue} waiting, and no running pool serves it"),
            todo,
        );
    }
    if view.paused {
        let todo = format!("`roundsman queue resume {queue}` lets them go on");
        findings.warning("queues", format!("{waiting} of {queue} waiting, and it is paused"), todo);
    }
}

/// Waiting jobs, of the first that would go, whose kind no pool of the queue knows: by what pools say of themselves, or
/// because the last worker that took them put them back for it, to be offered again a little later.
async fn strangers(
    store: &Store,
    fleet: &Fleet,
    queue: &QueueName,
    view: &QueueView,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let mut kinds = BTreeSet::new();
    for (state, count) in [(State::Ready, view.ready), (State::Scheduled, view.scheduled)] {
        if count == 0 {
            continue;
        }
        for found in store.list(queue, state, None, MAX_BATCH).await?.found {
            let Ok(kind) = found.record.decode().map(|spec| spec.kind) else { continue };
            let put_back = found.progress.attempts.last().is_some_and(is_of_unknown_kind);
            let unsaid = || kind.as_deref().is_some_and(|kind| fleet.is_stranger(queue.as_str(), kind));
            if put_back || unsaid() {
                kinds.insert(kind.unwrap_or_default());
            }
        }
    }
    for kind in kinds {
        findings.warning(
            "kinds",
            format!("jobs of {queue} wait whose kind {kind:?} no running pool knows"),
            "deploy workers that handle it, or cancel those jobs",
        );
    }
    Ok(())
}

/// Jobs in the hands of a host that has gone silent.
async fn unheard(
    store: &Store,
    fleet: &Fleet,
    queue: &QueueName,
    view: &QueueView,
    findings: &mut Findings,
) -> Result<(), Failure> {
    if view.running == 0 {
        return Ok(());
    }
    let page = store.list(queue, State::Running, None, MAX_BATCH).await?;
    let hosts: BTreeSet<String> = page
        .found
        .iter()
        .filter_map(|found| match &found.place {
            Place::Running(unacked) => Some(unacked.worker.host().to_owned()),
            Place::Waiting { .. } | Place::Ended => None,
        })
        .filter(|host| !fleet.is_heard(host))
        .collect();
    for host in hosts {
        findings.warning(
            "hosts",
            format!("jobs of {queue} are held by {host}, which is not heard"),
            "any running fleet takes them over when their lease lapses; start one if none runs",
        );
    }
    Ok(())
}

async fn room(
    context: &Context,
    store: &Store,
    queue: &QueueName,
    view: &QueueView,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let (waiting, most) = (view.scheduled + view.ready, context.policy(store, queue).await?.max_waiting);
    if waiting > most / 5 * 4 {
        findings.warning(
            "queues",
            format!(
                "{} of {queue} waiting, and more than {most} are refused (max_waiting)",
                many(waiting, "job")
            ),
            format!("work them off with more workers, or `roundsman queue set {queue} max_waiting N`"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_hosts_need_tls() {
        for url in ["redis://localhost", "redis://:p@127.0.0.1:6379/0", "redis://[::1]:1"] {
            assert!(is_loopback(host(url)), "{url}");
        }
        for url in ["redis://u:p@10.0.0.1:6379", "redis://example.com/0", "redis://localhost.example.com"] {
            assert!(!is_loopback(host(url)), "{url}");
        }
    }
}
