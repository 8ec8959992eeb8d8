//! A history that keeps every promise, made by hand, for tests to plant violations in.

use std::fs::File;
use std::io::Write as _;

use super::{Tolerances, Verdict, check_folder};
use crate::history::{Cause, Enqueue, Event, Fault, JobState, Outcome, Record, Refusal, Role, digest};

/// Wall time at monotonic time 0, in ms.
pub(super) const EPOCH_MS: i64 = 1_700_000_000_000;

pub(super) const PRODUCER: u32 = 10;
pub(super) const NEMESIS: u32 = 11;
pub(super) const AUDITOR: u32 = 12;
pub(super) const SINK: u32 = 13;
/// Workers; each keeps its pid, and is started anew with another.
pub(super) const CALM: u32 = 20;
pub(super) const KILLED: u32 = 21;
pub(super) const STOPPED: u32 = 22;
pub(super) const DRAINED: u32 = 23;
pub(super) const OVERDUE: u32 = 24;
pub(super) const CRASHER: u32 = 25;

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) ms: u64,
    pub(super) pid: u32,
    pub(super) event: Event,
}

/// Entries in any order; they are sorted by time when written.
#[derive(Debug, Clone, Default)]
pub(super) struct Scenario(pub(super) Vec<Entry>);

pub(super) fn enqueue(id: &str, due: Option<u64>, payload: &str) -> Enqueue {
    Enqueue { queue: "q".into(), id: id.into(), due_ms: due.map(wall), digest: digest(payload.as_bytes()) }
}

/// Wall time in ms at a monotonic time in ms.
pub(super) fn wall(ms: u64) -> i64 {
    EPOCH_MS + i64::try_from(ms).unwrap()
}

pub(super) fn start(id: &str, attempt: u32, token: u64) -> Event {
    Event::Start {
        queue: "q".into(),
        id: id.into(),
        attempt,
        token,
        worker: "default/1".into(),
        worker_pid: None,
        due_ms: None,
        timeout_ms: Some(60_000),
        digest: Some(digest(id.as_bytes())),
    }
}

pub(super) fn end(id: &str, token: u64, outcome: Outcome) -> Event {
    Event::End { queue: "q".into(), id: id.into(), attempt: 1, token, outcome }
}

pub(super) fn ended(id: &str, state: JobState, token: Option<u64>) -> Event {
    Event::Ended { queue: "q".into(), id: id.into(), state, token }
}

pub(super) fn stale(id: &str, token: u64) -> Event {
    Event::Stale { queue: "q".into(), id: id.into(), token, outcome: Outcome::Done }
}

pub(super) fn effect(id: &str, token: u64) -> Event {
    Event::Effect { queue: "q".into(), id: id.into(), attempt: 1, token, sink: "http".into() }
}

pub(super) fn audit(id: &str, state: JobState) -> Event {
    Event::Audit {
        audit: 1,
        queue: "q".into(),
        id: id.into(),
        state,
        attempts: 1,
        crashes: 0,
        killed: 0,
        spent: false,
        finals: Some(1),
        digest: Some(digest(id.as_bytes())),
    }
}

pub(super) fn fault(fault: Fault, pid: u32) -> Event {
    let role = Some(Role::Worker);
    Event::Fault { fault, target_pid: Some(pid), target_start: Some(u64::from(pid)), role }
}

pub(super) fn death(pid: u32, cause: Cause) -> Event {
    Event::Death { target_pid: pid, target_start: Some(u64::from(pid)), cause }
}

impl Scenario {
    pub(super) fn add(&mut self, ms: u64, pid: u32, event: Event) -> &mut Self {
        self.0.push(Entry { ms, pid, event });
        self
    }

    fn accepted(&mut self, ms: u64, id: &str, due: Option<u64>) -> &mut Self {
        self.add(ms, PRODUCER, Event::EnqInvoke(enqueue(id, due, id)));
        self.add(ms + 1, PRODUCER, Event::EnqOk(enqueue(id, due, id)))
    }

    /// A run that ends its job as done, seen by the sink.
    fn done(&mut self, ms: u64, pid: u32, id: &str, attempt: u32, token: u64) -> &mut Self {
        self.add(ms, pid, start(id, attempt, token));
        self.add(ms + 1, SINK, effect(id, token));
        self.add(ms + 2, pid, end(id, token, Outcome::Done));
        self.add(ms + 3, pid, ended(id, JobState::Done, Some(token)))
    }

    /// Every kind of event once, and no promise broken. Times in ms.
    pub(super) fn good() -> Self {
        let mut it = Self::default();
        it.accepted(1_000, "plain", None).done(1_010, CALM, "plain", 1, 1);
        it.accepted(1_000, "timer", Some(3_000)).done(3_000, CALM, "timer", 1, 2);

        it.accepted(1_000, "retried", None).add(1_100, CALM, start("retried", 1, 3));
        it.add(1_110, CALM, end("retried", 3, Outcome::Retry)).done(1_500, CALM, "retried", 2, 4);
        it.accepted(1_000, "snoozed", None).add(1_100, CALM, start("snoozed", 1, 5));
        it.add(1_110, CALM, end("snoozed", 5, Outcome::Snooze)).done(1_600, CALM, "snoozed", 1, 6);

        // Its worker is killed in the middle, and the job is run elsewhere at once.
        it.accepted(1_000, "killed", None).add(1_990, KILLED, start("killed", 1, 7));
        it.add(2_000, NEMESIS, fault(Fault::Kill, KILLED)).add(2_004, NEMESIS, death(KILLED, Cause::Killed));
        it.done(2_003, CALM, "killed", 2, 8);

        // Its worker is stopped, taken for dead, and let go on: its ack is refused.
        it.accepted(1_000, "stopped", None).add(2_100, STOPPED, start("stopped", 1, 9));
        it.add(2_110, NEMESIS, fault(Fault::Stop, STOPPED)).done(12_200, CALM, "stopped", 2, 10);
        it.add(12_210, NEMESIS, fault(Fault::Continue, STOPPED));
        it.add(12_220, STOPPED, end("stopped", 9, Outcome::Done)).add(12_221, STOPPED, stale("stopped", 9));
        it.add(12_300, NEMESIS, death(STOPPED, Cause::Stalled));

        it.accepted(1_000, "released", None).add(3_000, DRAINED, start("released", 1, 11));
        it.add(3_010, DRAINED, end("released", 11, Outcome::Released));
        it.add(3_020, NEMESIS, death(DRAINED, Cause::Scaled)).done(3_100, CALM, "released", 1, 12);

        // It is over its timeout, and its worker is ended.
        it.accepted(1_000, "overdue", None).add(3_000, OVERDUE, start("overdue", 1, 13));
        it.add(64_000, NEMESIS, death(OVERDUE, Cause::Timeout)).done(64_010, CALM, "overdue", 2, 14);

        it.accepted(1_000, "crashes", None).add(3_000, CRASHER, start("crashes", 1, 15));
        it.add(3_010, NEMESIS, death(CRASHER, Cause::Crashed)).done(3_020, CALM, "crashes", 1, 16);

        it.accepted(1_000, "parent", None).add(4_000, CALM, start("parent", 1, 17));
        let child = enqueue("child", None, "child");
        let (parent_queue, parent_id) = ("q".into(), "parent".into());
        it.add(4_001, CALM, Event::FollowUp { enqueue: child, parent_queue, parent_id, token: 17 });
        it.add(4_002, CALM, end("parent", 17, Outcome::Done));
        it.add(4_003, CALM, ended("parent", JobState::Done, Some(17))).done(4_010, CALM, "child", 1, 18);

        // A repeat is answered the same, other content is refused and changes nothing.
        it.accepted(1_000, "twice", None).accepted(1_010, "twice", None);
        it.add(1_020, PRODUCER, Event::EnqInvoke(enqueue("twice", None, "other")));
        let (other, why) = (enqueue("twice", None, "other"), Refusal::Conflict);
        it.add(1_021, PRODUCER, Event::EnqRefused { enqueue: other, why }).done(1_300, CALM, "twice", 1, 19);

        it.add(1_000, PRODUCER, Event::EnqInvoke(enqueue("refused", None, "refused")));
        let (refused, why) = (enqueue("refused", None, "refused"), Refusal::Full);
        it.add(1_001, PRODUCER, Event::EnqRefused { enqueue: refused, why });

        it.add(1_000, PRODUCER, Event::EnqInvoke(enqueue("unknown", None, "unknown")));
        it.add(1_500, PRODUCER, Event::EnqUnknown(enqueue("unknown", None, "unknown")));
        it.done(1_400, CALM, "unknown", 1, 20);

        it.accepted(1_000, "cancelled", Some(90_000));
        let (queue, id) = ("q".into(), "cancelled".into());
        it.add(5_000, PRODUCER, Event::CancelOk { queue, id, was_running: false });
        it.add(5_000, PRODUCER, ended("cancelled", JobState::Cancelled, None));

        it.accepted(1_000, "revived", None).add(5_000, CALM, start("revived", 1, 21));
        it.add(5_001, CALM, end("revived", 21, Outcome::Dead));
        it.add(5_002, CALM, ended("revived", JobState::Dead, Some(21)));
        it.add(6_000, PRODUCER, Event::Revived { queue: "q".into(), id: "revived".into() });
        it.done(6_010, CALM, "revived", 1, 22);

        it.add(70_000, AUDITOR, Event::AuditPass { audit: 1, drained: true });
        for id in Self::DONE {
            it.add(70_001, AUDITOR, audit(id, JobState::Done));
        }
        it.add(70_001, AUDITOR, audit("cancelled", JobState::Cancelled));
        it
    }

    const DONE: [&str; 13] = [
        "plain", "timer", "retried", "snoozed", "killed", "stopped", "released", "overdue", "crashes",
        "parent", "child", "twice", "revived",
    ];

    /// Drops the events that match; a planted violation that drops nothing would prove nothing.
    pub(super) fn drop_where(&mut self, matches: impl Fn(&Entry) -> bool) -> &mut Self {
        let before = self.0.len();
        self.0.retain(|entry| !matches(entry));
        assert!(self.0.len() < before, "nothing was dropped");
        self
    }

    /// Changes the events for which `change` says that it did; at least one.
    pub(super) fn change(&mut self, mut change: impl FnMut(&mut Entry) -> bool) -> &mut Self {
        let changed = self.0.iter_mut().filter_map(|entry| change(entry).then_some(())).count();
        assert!(changed > 0, "nothing was changed");
        self
    }

    /// Writes a file for each actor and lets the checker judge the folder.
    pub(super) fn verdict(&self, tolerances: &Tolerances) -> (Verdict, String) {
        let folder = tempfile::tempdir().unwrap();
        let mut entries = self.0.clone();
        entries.sort_by_key(|entry| entry.ms);
        let mut files: std::collections::BTreeMap<u32, (File, u64)> = std::collections::BTreeMap::new();
        for Entry { ms, pid, event } in entries {
            let (file, seq) = files.entry(pid).or_insert_with(|| {
                (File::create(folder.path().join(format!("{pid}.history.jsonl"))).unwrap(), 0)
            });
            let (mono_us, start) = (ms * 1_000, u64::from(pid));
            let wall_us = u64::try_from(EPOCH_MS).unwrap() * 1_000 + mono_us;
            let record = Record { seq: *seq, mono_us, boot_us: mono_us, wall_us, pid, start, event };
            writeln!(file, "{}", serde_json::to_string(&record).unwrap()).unwrap();
            *seq += 1;
        }
        let verdict = check_folder(folder.path(), tolerances).unwrap();
        let report = verdict.report();
        (verdict, report)
    }
}
