//! The store at its limit: enqueues are refused in words, and what was accepted still runs to its end.

use std::time::Duration;

use roundsman_tests::history::{Event, JobState, Refusal};
use roundsman_tests::redis_server::RedisOptions;
use roundsman_tests::spawn;
use tempfile::TempDir;

use crate::Failure;
use crate::audit::{audit, drained};
use crate::load::Order;
use crate::options::{Options, StoreKind};
use crate::report::Report;
use crate::stand::{Plan, QUEUE, Stand, queue};

/// The backlog that must at least fit, and still drain.
const JOBS: u64 = 10_000;
/// One job's share of the limit, so that the backlog reaches it at about the wanted number.
const BYTES_EACH: u64 = 1_400;
const PADDING: usize = 700;
const BATCH: u64 = 500;
const DRAIN: Duration = Duration::from_secs(180);
/// More than this, and the limit does not bite.
const MANY: u64 = 20;
/// `EX_TEMPFAIL`: try again.
const TRY_AGAIN: Option<i32> = Some(75);

pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    let jobs = options.jobs.unwrap_or(JOBS);
    let limit = match options.store {
        StoreKind::Redis => 4_000_000 + jobs * BYTES_EACH,
        StoreKind::Sqlite => 48_000_000 + jobs * BYTES_EACH * 2,
    };
    // Dropped last: the file lies in it.
    let disk = if options.store == StoreKind::Sqlite { Some(SmallDisk::mount(limit)?) } else { None };
    let plan = Plan {
        redis: RedisOptions { maxmemory: Some(limit), ..RedisOptions::default() },
        sqlite: disk.as_ref().map(|disk| disk.folder.path().to_owned()),
        slots: 8,
        keep: jobs * MANY,
        ..Plan::default()
    };
    let mut stand = Stand::new(options, &plan)?;
    let store = stand.store()?;
    let mut report = Report::new("full");
    let ids = fill(&stand, jobs * MANY, &mut report)?;
    let stored = ids.len() as u64;
    report.figure("limit / jobs stored", format!("{limit} bytes / {stored}"));
    report.demand(stored >= jobs, || format!("refused after {stored} jobs already"));

    // One job by itself, as a user meets it.
    let alone = stand.site.cli(&["enqueue", QUEUE, "{\"n\":0}", "--id", "alone"])?;
    report.figure(
        "one more",
        format!("exit {:?}: {}", alone.code, alone.stderr.trim_end().replace('\n', " | ")),
    );
    report.demand(alone.code == TRY_AGAIN && alone.stdout.is_empty(), || format!("{alone:?}"));
    report.demand(alone.stderr.contains("nearly full"), || format!("no clear words: {}", alone.stderr));
    let found = stand.site.cli(&["job", "show", &format!("{QUEUE}/alone")])?;
    report.demand(found.code == Some(3), || format!("the refused job is there: {found:?}"));

    stand.up()?;
    let drained = stand.runtime.block_on(drained(&store, DRAIN + Duration::from_millis(stored * 5)))?;
    report.demand(drained, || {
        format!(
            "the backlog does not drain: {}",
            stand.fleet().map_or(String::new(), |it| {
                let log = it.stderr();
                log.lines().rev().take(5).collect::<Vec<_>>().join("\n")
            })
        )
    });
    // On a disk that is nearly full, jobs that ended well are not kept; the store still counts them.
    let overview = stand.runtime.block_on(store.overview(&queue(QUEUE)?))?;
    report.figure("ended, by the store's count", overview.ended_total);
    report.demand(overview.ended_total == stored, || {
        format!("{} of {stored} jobs ended, by the store's count", overview.ended_total)
    });
    if options.store == StoreKind::Sqlite && overview.ended_total == stored {
        for id in &ids {
            let (queue, id) = (QUEUE.to_owned(), id.clone());
            stand.writer.record(Event::Ended { queue, id, state: JobState::Done, token: None })?;
        }
    }
    let counted = audit(&stand, &store, drained, |_| Ok(()))?;
    stand.stop(&mut report)?;
    counted.tell(&mut report);
    let done = counted.states.get("done").copied().unwrap_or(0);
    let forgotten = stored.saturating_sub(done);
    let all_kept = forgotten == 0 || options.store == StoreKind::Sqlite;
    report.demand(done <= stored && all_kept, || format!("{done} of {stored} jobs are done"));
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

/// A file system in memory with so many bytes, which takes root to make.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    fn mount(bytes: u64) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("roundsman-disk-").tempdir()?;
        let mut mount = spawn::command("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(folder.path());
        let done = spawn::output(mount)?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            return Err(format!("a small disk cannot be made: {}", why.trim_end()).into());
        }
        Ok(Self { folder })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut unmount = spawn::command("umount");
        unmount.arg(self.folder.path());
        let _ = spawn::output(unmount);
    }
}

/// Enqueues by the command line until it is refused; answers what was stored.
fn fill(stand: &Stand, most: u64, report: &mut Report) -> Result<Vec<String>, Failure> {
    let queue = queue(QUEUE)?;
    let mut stored = Vec::new();
    let mut n = 0;
    while n < most {
        let order = |n| Order {
            id: format!("job-{n}"),
            payload: format!("{{\"n\":{n},\"ms\":1,\"padding\":\"{}\"}}", "x".repeat(PADDING)),
            delay: None,
        };
        let orders: Vec<Order> = (n..n + BATCH).map(order).collect();
        n += BATCH;
        let mut lines = String::new();
        for order in &orders {
            stand.writer.record(Event::EnqInvoke(order.named(&queue, None)))?;
            lines.push_str(&order.line());
            lines.push('\n');
        }
        let done = stand.site.cli_with_input(&["enqueue", QUEUE, "--ndjson"], &lines)?;
        let ids: std::collections::BTreeSet<&str> = done.stdout.lines().collect();
        for order in &orders {
            let enqueue = order.named(&queue, None);
            stand.writer.record(if ids.contains(order.id.as_str()) {
                stored.push(order.id.clone());
                Event::EnqOk(enqueue)
            } else {
                Event::EnqRefused { enqueue, why: Refusal::Full }
            })?;
        }
        if done.code != Some(0) {
            let said = done.stderr.trim_end().replace('\n', " | ");
            report.figure("refused with", format!("exit {:?}: {said}", done.code));
            report.demand(done.code == TRY_AGAIN, || format!("exit {:?} when full: {said}", done.code));
            report.demand(said.contains("nearly full"), || format!("no clear words when full: {said}"));
            return Ok(stored);
        }
    }
    report.broken(format!("never refused, after {} jobs", stored.len()));
    Ok(stored)
}
