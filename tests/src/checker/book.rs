//! The history, sorted by what the checks ask: per job, per process, per audit.
//!
//! Text is kept only for names of jobs; a fact takes 72 bytes, so that a million jobs with all their events fit
//! into a gigabyte. The lines themselves stay in their files and are quoted from there.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;

use crate::history::{
    Cause, Enqueue, Event, Fault, HistoryReader, JobState, Line, LineRef, Outcome, Record, Refusal, Role, fnv,
};

use super::{Seen, Tolerances};

/// A moment that never came.
pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug, Default)]
pub struct Book {
    pub(super) jobs: Vec<Job>,
    names: HashMap<String, u32>,
    /// Pid and start time of each writer.
    writers: Vec<(u32, u64)>,
    writer_indexes: HashMap<(u32, u64), u32>,
    /// What happened to processes, by pid, in the order of time.
    processes: HashMap<u32, Vec<ProcessFact>>,
    /// Faults that hit everyone: of the store and of clocks.
    pub(super) common: Vec<(u64, Fault, LineRef)>,
    pub(super) audits: Vec<AuditPass>,
    /// When a supervisor or master that was stopped could not see to anything, in the order of time, apart.
    unwatched: Vec<(u64, u64)>,
    /// Supervisors and masters that something was done to.
    watchers: BTreeSet<(u32, Option<u64>)>,
    /// Lines that are no history, and gaps in a file's numbers.
    pub(super) broken: Vec<(LineRef, String)>,
    /// The last moment of the history.
    pub(super) last_us: u64,
    next_seq: HashMap<(u32, u64, u32), u64>,
}

#[derive(Debug)]
pub(super) struct Job {
    /// `queue/id`.
    pub(super) name: String,
    pub(super) facts: Vec<Fact>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Fact {
    pub(super) mono_us: u64,
    pub(super) at: LineRef,
    /// Index of the process that wrote it.
    writer: u32,
    pub(super) what: What,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Invoke {
        due_ms: Option<i64>,
    },
    Acked {
        digest: u64,
        due_ms: Option<i64>,
    },
    Refused {
        digest: u64,
        why: Refusal,
    },
    Unknown {
        digest: u64,
        due_ms: Option<i64>,
    },
    FollowUp {
        digest: u64,
        parent: u32,
        token: u64,
    },
    Rescheduled {
        digest: Option<u64>,
    },
    CancelOk {
        was_running: bool,
    },
    Deleted,
    Revived,
    Start(Start),
    End {
        token: u64,
        outcome: Outcome,
    },
    Stale {
        token: u64,
    },
    Effect {
        token: u64,
    },
    Ended {
        state: JobState,
        token: Option<u64>,
    },
    Audit {
        audit: u32,
        state: JobState,
        crashes: u32,
        killed: u32,
        spent: bool,
        finals: Option<u32>,
        digest: Option<u32>,
    },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) token: u64,
    pub(super) wall_us: u64,
    /// `NO_DUE` when the handler does not know.
    pub(super) due_ms: i64,
    pub(super) attempt: u32,
    pub(super) worker_pid: u32,
    /// 0 when the handler does not know.
    pub(super) timeout_ms: u32,
    /// The lower half; 0 when the handler does not say.
    pub(super) digest: u32,
}

const NO_DUE: i64 = i64::MIN;

impl Start {
    pub(super) fn due_ms(self) -> Option<i64> {
        (self.due_ms != NO_DUE).then_some(self.due_ms)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessFact {
    pub(super) mono_us: u64,
    pub(super) at: LineRef,
    start: Option<u64>,
    pub(super) what: Happening,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    Fault(Fault),
    Death(Cause),
}

impl ProcessFact {
    /// The process is gone from here on.
    pub(super) fn is_end(self) -> bool {
        matches!(self.what, Happening::Fault(Fault::Kill) | Happening::Death(_))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct AuditPass {
    pub(super) audit: u32,
    pub(super) drained: bool,
    pub(super) mono_us: u64,
    pub(super) at: LineRef,
}

/// One run of a job by a handler, with all that is known of its end.
#[derive(Debug)]
pub(super) struct Execution {
    pub(super) start: Fact,
    pub(super) run: Start,
    /// The handler's own word.
    pub(super) end: Option<(u64, Outcome, LineRef)>,
    /// What happened to its process since, in the order of time.
    pub(super) process: Vec<ProcessFact>,
}

impl Execution {
    /// When its process was gone.
    pub(super) fn death_us(&self) -> u64 {
        self.process.iter().find(|fact| fact.is_end()).map_or(NEVER, |fact| fact.mono_us)
    }

    pub(super) fn end_us(&self) -> u64 {
        self.end.map_or(NEVER, |(mono_us, _, _)| mono_us)
    }

    /// When it was over in either way. An end and an injected kill are written before they take effect, but a
    /// death is seen after it: it counts from the earliest moment at which it may have happened.
    pub(super) fn over_us(&self, tolerances: &Tolerances) -> u64 {
        let death = match self.process.iter().find(|fact| fact.is_end()) {
            None => NEVER,
            Some(fact) if matches!(fact.what, Happening::Fault(_)) => fact.mono_us,
            Some(fact) => fact.mono_us.saturating_sub(tolerances.late_death_us).max(self.start.mono_us),
        };
        self.end_us().min(death)
    }

    /// Whether the job would not be done if its process ended then: it runs, or its ack may be on the way.
    pub(super) fn is_in_flight(&self, mono_us: u64, tolerances: &Tolerances) -> bool {
        self.start.mono_us <= mono_us && mono_us <= self.end_us().saturating_add(tolerances.ack_us)
    }

    /// The spans in which it really ran: a stopped process is not live, and one that was let go on has a
    /// moment to notice that its job is not its own any more.
    pub(super) fn spans(&self, tolerances: &Tolerances) -> Vec<(u64, u64)> {
        let over = self.over_us(tolerances);
        let mut spans = Vec::new();
        let mut from = Some(self.start.mono_us);
        for fact in self.process.iter().take_while(|fact| fact.mono_us < over) {
            match (fact.what, from) {
                (Happening::Fault(Fault::Stop), Some(since)) => {
                    spans.push((since, fact.mono_us));
                    from = None;
                }
                (Happening::Fault(Fault::Continue), None) => {
                    from = Some(fact.mono_us.saturating_add(tolerances.resume_us));
                }
                _ => {}
            }
        }
        spans.extend(from.filter(|since| *since < over).map(|since| (since, over)));
        spans
    }
}

impl Book {
    /// Reads the histories of a folder.
    ///
    /// # Errors
    /// When a file cannot be read; what a file holds is for the checks to judge.
    pub fn read(folder: &Path) -> io::Result<(Self, HistoryReader)> {
        let reader = HistoryReader::open(folder)?;
        let mut book = Self::default();
        reader.for_each(|at, line| match line {
            Line::Record(record) => book.add(at, *record),
            Line::Torn => {}
            Line::Malformed(error) => book.broken.push((at, format!("no line of a history: {error}"))),
        })?;
        Ok((book.sorted(), reader))
    }

    fn sorted(mut self) -> Self {
        for job in &mut self.jobs {
            job.facts.shrink_to_fit();
            job.facts.sort_by_key(|fact| fact.mono_us);
        }
        for facts in self.processes.values_mut() {
            facts.sort_by_key(|fact| fact.mono_us);
        }
        self.common.sort_by_key(|(mono_us, _, _)| *mono_us);
        self.audits.sort_by_key(|pass| pass.mono_us);
        self.unwatched = self.stops_of_watchers();
        self
    }

    fn stops_of_watchers(&self) -> Vec<(u64, u64)> {
        let mut stops = Vec::new();
        for (pid, start) in &self.watchers {
            let mut since = None;
            let facts = self.processes.get(pid).into_iter().flatten().filter(|fact| fact.start == *start);
            for fact in facts {
                if fact.what == Happening::Fault(Fault::Stop) {
                    since = since.or(Some(fact.mono_us));
                } else if fact.is_end() || fact.what == Happening::Fault(Fault::Continue) {
                    stops.extend(since.take().map(|since| (since, fact.mono_us)));
                }
            }
            stops.extend(since.map(|since| (since, self.last_us)));
        }
        stops.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::new();
        for (since, until) in stops {
            match apart.last_mut().filter(|(_, last)| since <= *last) {
                Some((_, last)) => *last = until.max(*last),
                None => apart.push((since, until)),
            }
        }
        apart
    }

    /// For how much of a span a supervisor or a master was stopped.
    pub(super) fn unwatched_us(&self, from: u64, to: u64) -> u64 {
        self.unwatched.iter().map(|(since, until)| to.min(*until).saturating_sub(from.max(*since))).sum()
    }

    /// What there is to judge.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let mut seen = Seen { jobs: self.jobs.len(), audits: self.audits.len(), ..Seen::default() };
        for fact in self.jobs.iter().flat_map(|job| &job.facts) {
            match fact.what {
                What::Acked { .. } => seen.acked += 1,
                What::Start(_) => seen.starts += 1,
                What::Ended { .. } => seen.ended += 1,
                _ => {}
            }
        }
        let processes = self.process_facts().filter(|(_, fact)| matches!(fact.what, Happening::Fault(_)));
        seen.faults = processes.count() + self.common.len();
        seen
    }

    pub(super) fn job(&self, index: u32) -> &Job {
        // Indexes are only made by `job_index`.
        &self.jobs[index as usize]
    }

    fn job_index(&mut self, queue: &str, id: &str) -> u32 {
        let name = format!("{queue}/{id}");
        if let Some(known) = self.names.get(&name) {
            return *known;
        }
        let index = u32::try_from(self.jobs.len()).unwrap_or(u32::MAX);
        self.jobs.push(Job { name: name.clone(), facts: Vec::new() });
        self.names.insert(name, index);
        index
    }

    fn add(&mut self, at: LineRef, record: Record) {
        self.check_seq(at, &record);
        self.last_us = self.last_us.max(record.mono_us);
        let Record { mono_us, wall_us, pid, start, event, .. } = record;
        let fresh = u32::try_from(self.writers.len()).unwrap_or(u32::MAX);
        let writer = *self.writer_indexes.entry((pid, start)).or_insert(fresh);
        if writer == fresh {
            self.writers.push((pid, start));
        }
        let Some((queue, id, what)) = self.understand(at, mono_us, wall_us, pid, event) else { return };
        let index = self.job_index(&queue, &id);
        self.jobs[index as usize].facts.push(Fact { mono_us, at, writer, what });
    }

    fn check_seq(&mut self, at: LineRef, record: &Record) {
        let next = self.next_seq.entry((record.pid, record.start, at.file())).or_insert(0);
        if record.seq != *next {
            self.broken.push((at, format!("line {next} of this writer is missing")));
        }
        *next = record.seq + 1;
    }

    /// Files what is not about one job; gives back what is.
    fn understand(
        &mut self,
        at: LineRef,
        mono_us: u64,
        wall_us: u64,
        pid: u32,
        event: Event,
    ) -> Option<(String, String, What)> {
        let hash = |text: &String| fnv(text.as_bytes());
        let short = |text: &Option<String>| text.as_ref().map(|text| lower(hash(text)));
        let named = |it: Enqueue, what: What| Some((it.queue, it.id, what));
        match event {
            Event::EnqInvoke(it) => {
                let what = What::Invoke { due_ms: it.due_ms };
                named(it, what)
            }
            Event::EnqOk(it) => {
                let what = What::Acked { digest: hash(&it.digest), due_ms: it.due_ms };
                named(it, what)
            }
            Event::EnqRefused { enqueue, why } => {
                let what = What::Refused { digest: hash(&enqueue.digest), why };
                named(enqueue, what)
            }
            Event::EnqUnknown(it) => {
                let what = What::Unknown { digest: hash(&it.digest), due_ms: it.due_ms };
                named(it, what)
            }
            Event::FollowUp { enqueue, parent_queue, parent_id, token } => {
                let parent = self.job_index(&parent_queue, &parent_id);
                let what = What::FollowUp { digest: hash(&enqueue.digest), parent, token };
                named(enqueue, what)
            }
            Event::Rescheduled { queue, id, digest, .. } => {
                Some((queue, id, What::Rescheduled { digest: digest.as_ref().map(hash) }))
            }
            Event::CancelOk { queue, id, was_running } => Some((queue, id, What::CancelOk { was_running })),
            Event::Deleted { queue, id } => Some((queue, id, What::Deleted)),
            Event::Revived { queue, id } => Some((queue, id, What::Revived)),
            Event::Start { queue, id, attempt, token, worker_pid, due_ms, timeout_ms, digest, .. } => {
                let start = Start {
                    token,
                    wall_us,
                    due_ms: due_ms.unwrap_or(NO_DUE),
                    attempt,
                    worker_pid: worker_pid.unwrap_or(pid),
                    timeout_ms: timeout_ms.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX)),
                    digest: short(&digest).unwrap_or(0),
                };
                Some((queue, id, What::Start(start)))
            }
            Event::End { queue, id, token, outcome, .. } => Some((queue, id, What::End { token, outcome })),
            Event::Stale { queue, id, token, .. } => Some((queue, id, What::Stale { token })),
            Event::Effect { queue, id, token, .. } => Some((queue, id, What::Effect { token })),
            Event::Ended { queue, id, state, token } => Some((queue, id, What::Ended { state, token })),
            Event::Audit { audit, queue, id, state, crashes, killed, spent, finals, digest, .. } => {
                let digest = short(&digest);
                Some((queue, id, What::Audit { audit, state, crashes, killed, spent, finals, digest }))
            }
            Event::AuditPass { audit, drained } => {
                self.audits.push(AuditPass { audit, drained, mono_us, at });
                None
            }
            Event::Fault { fault, target_pid: Some(target), target_start, role }
                if !matches!(role, Some(Role::Store)) =>
            {
                let fact = ProcessFact { mono_us, at, start: target_start, what: Happening::Fault(fault) };
                if matches!(role, Some(Role::Supervisor | Role::Master)) {
                    self.watchers.insert((target, target_start));
                }
                self.processes.entry(target).or_default().push(fact);
                None
            }
            Event::Fault { fault, .. } => {
                self.common.push((mono_us, fault, at));
                None
            }
            Event::Death { target_pid, target_start, cause } => {
                let what = Happening::Death(cause);
                let fact = ProcessFact { mono_us, at, start: target_start, what };
                self.processes.entry(target_pid).or_default().push(fact);
                None
            }
        }
    }

    /// What happened to each process, with its pid.
    pub(super) fn process_facts(&self) -> impl Iterator<Item = (u32, &ProcessFact)> {
        self.processes.iter().flat_map(|(pid, facts)| facts.iter().map(|fact| (*pid, fact)))
    }

    /// What happened to the process that wrote a start, and to its worker, until either was gone.
    ///
    /// A fault is written just before it is made, so it may stand before a start that it came too late to
    /// prevent; it counts from the start on then.
    fn of_process(&self, fact: &Fact, worker_pid: u32) -> Vec<ProcessFact> {
        let (pid, start) = self.writers[fact.writer as usize];
        let mut facts = self.of_pid(pid, Some(start), fact.mono_us);
        if worker_pid != pid {
            facts.extend(self.of_pid(worker_pid, None, fact.mono_us));
        }
        facts.sort_by_key(|fact| fact.mono_us);
        // After the end a pid names another process; only the sight of the death that a fault caused belongs here.
        if let Some(end) = facts.iter().position(|fact| fact.is_end()) {
            let seen = facts[end + 1..].first().is_some_and(|it| matches!(it.what, Happening::Death(_)));
            facts.truncate(end + 1 + usize::from(seen));
        }
        facts
    }

    fn of_pid(&self, pid: u32, start: Option<u64>, since_us: u64) -> Vec<ProcessFact> {
        /// Between the writing of a fault and the fault.
        const MOMENT_US: u64 = 1_000_000;
        let Some(known) = self.processes.get(&pid) else { return Vec::new() };
        let same = |fact: &&ProcessFact| match (fact.start, start) {
            (Some(one), Some(other)) => one == other,
            _ => fact.mono_us.saturating_add(MOMENT_US) >= since_us,
        };
        let mut facts: Vec<ProcessFact> = Vec::new();
        for fact in known.iter().filter(same) {
            if fact.mono_us < since_us {
                // Undone before the start, or no state at all.
                facts.clear();
                if fact.what == Happening::Fault(Fault::Continue) {
                    continue;
                }
            }
            facts.push(ProcessFact { mono_us: fact.mono_us.max(since_us), ..*fact });
        }
        facts
    }

    pub(super) fn executions(&self, job: &Job) -> Vec<Execution> {
        let mut executions: Vec<Execution> = Vec::new();
        for fact in &job.facts {
            match fact.what {
                What::Start(run) => executions.push(Execution {
                    start: *fact,
                    run,
                    end: None,
                    process: self.of_process(fact, run.worker_pid),
                }),
                What::End { token, outcome } => {
                    let open = executions.iter_mut().find(|it| it.run.token == token && it.end.is_none());
                    if let Some(execution) = open {
                        execution.end = Some((fact.mono_us, outcome, fact.at));
                    }
                }
                _ => {}
            }
        }
        executions
    }

    /// Whether a process was let go on shortly before: what it does first, it may have decided before the stop.
    pub(super) fn just_resumed(&self, fact: &Fact, start: Start, tolerances: &Tolerances) -> bool {
        let (pid, _) = self.writers[fact.writer as usize];
        [pid, start.worker_pid].iter().filter_map(|pid| self.processes.get(pid)).flatten().any(|it| {
            it.what == Happening::Fault(Fault::Continue)
                && it.mono_us <= fact.mono_us
                && fact.mono_us - it.mono_us <= tolerances.resume_us
        })
    }
}

pub(super) fn lower(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_stays_small() {
        assert!(size_of::<Fact>() <= 72, "{} bytes", size_of::<Fact>());
    }
}
