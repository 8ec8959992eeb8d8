//! P2, P3, P5 and P8: when a job is handed over, to whom, and why again.

use std::collections::HashSet;

use super::book::{Book, Execution, Fact, Happening, Job, NEVER, What};
use super::{Findings, Tolerances};
use crate::history::{Fault, LineRef, Outcome};

/// No run begins before its due time, by the handler's wall clock and the due time that the store told: its
/// first run the producer's, a later one what the delivery says.
pub(super) fn never_early(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        let moved = job.facts.iter().any(|fact| matches!(fact.what, What::Rescheduled { .. }));
        let asked = job.facts.iter().find_map(|fact| match fact.what {
            What::Acked { due_ms: Some(due_ms), .. } => Some((due_ms, fact.at)),
            _ => None,
        });
        let asked = asked.or_else(|| {
            job.facts.iter().find_map(|fact| match fact.what {
                What::Invoke { due_ms: Some(due_ms), .. } | What::Unknown { due_ms: Some(due_ms), .. } => {
                    Some((due_ms, fact.at))
                }
                _ => None,
            })
        });
        for fact in &job.facts {
            let What::Start(start) = fact.what else { continue };
            let asked = asked.filter(|_| !moved);
            let dues = [asked, start.due_ms().map(|due_ms| (due_ms, fact.at))];
            for (due_ms, at) in dues.into_iter().flatten() {
                let due_us = u64::try_from(due_ms).unwrap_or(0).saturating_mul(1_000);
                let allowed = due_us.saturating_sub(tolerances.early_us);
                if start.wall_us < allowed {
                    let early = due_us - start.wall_us;
                    findings.add(&job.name, format!("started {early} µs before it was due"), [at, fact.at]);
                    break;
                }
            }
        }
    }
}

/// Each delivery of a job has a higher token than the one before.
pub(super) fn tokens_rise(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        let mut highest: Option<(u64, LineRef)> = None;
        for fact in &job.facts {
            let What::Start(start) = fact.what else { continue };
            if let Some((token, at)) = highest
                && start.token <= token
                && !(start.token < token && book.just_resumed(fact, start, tolerances))
            {
                let message = format!("token {} after {token}", start.token);
                findings.add(&job.name, message, [at, fact.at]);
            }
            if highest.is_none_or(|(token, _)| start.token > token) {
                highest = Some((start.token, fact.at));
            }
        }
    }
}

/// No two live runs of a job at once. A run is live from its start to its end or its process's death, except
/// while its process is stopped.
pub(super) fn runs_never_overlap(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        let runs = book.executions(job);
        for (index, one) in runs.iter().enumerate() {
            for other in &runs[index + 1..] {
                let overlap = overlap_us(&one.spans(tolerances), &other.spans(tolerances));
                if overlap > 0 {
                    let message = if overlap >= NEVER / 2 {
                        "two live runs at once, and neither is known to have ended".to_owned()
                    } else {
                        format!("two live runs at once, for {overlap} µs")
                    };
                    let end = one.end.map(|(_, _, at)| at);
                    let evidence: Vec<LineRef> =
                        [Some(one.start.at), Some(other.start.at), end].into_iter().flatten().collect();
                    findings.add(&job.name, message, evidence);
                }
            }
        }
    }
}

fn overlap_us(one: &[(u64, u64)], other: &[(u64, u64)]) -> u64 {
    let mut most = 0;
    for (from, to) in one {
        for (since, until) in other {
            most = most.max(to.min(until).saturating_sub(*from.max(since)));
        }
    }
    most
}

/// Why a job was run again after a run of it.
enum RerunCause {
    /// The run itself asked for it, was given back, or an operator did.
    Asked,
    /// The run or its ack was cut off by what happened to its process or to the store.
    Cut,
}

fn rerun_cause(
    book: &Book,
    job: &Job,
    one: &Execution,
    next: &Fact,
    tolerances: &Tolerances,
) -> Option<RerunCause> {
    if let Some((at, Outcome::Retry | Outcome::Snooze | Outcome::Released, _)) = one.end
        && at <= next.mono_us
    {
        return Some(RerunCause::Asked);
    }
    let between = |mono_us: u64| {
        one.start.mono_us <= mono_us && mono_us <= next.mono_us.saturating_add(tolerances.late_death_us)
    };
    let revived = |fact: &Fact| matches!(fact.what, What::Revived) && between(fact.mono_us);
    if job.facts.iter().any(revived) {
        return Some(RerunCause::Asked);
    }
    let hit = one.process.iter().any(|fact| {
        let cuts = fact.is_end() || matches!(fact.what, Happening::Fault(Fault::Stop | Fault::Hang));
        cuts && between(fact.mono_us) && one.is_in_flight(fact.mono_us, tolerances)
    });
    // An outage that began before the run may still have lost its ack or its lease.
    (hit || was_away(book, one.start.mono_us, next.mono_us)).then_some(RerunCause::Cut)
}

/// Whether a store that was stopped at `since` was still stopped at `until`.
fn outage_lasts(book: &Book, since: u64, until: u64) -> bool {
    let mut answer = since <= until;
    for (mono_us, fault, _) in &book.common {
        if matches!(fault, Fault::StoreContinue) && (since..until).contains(mono_us) {
            answer = false;
        }
    }
    answer && book.common.iter().any(|(mono_us, fault, _)| *mono_us == since && *fault == Fault::StoreStop)
}

/// Whether the store was hit between two moments, or had been and was not back at the first.
fn was_away(book: &Book, from: u64, to: u64) -> bool {
    book.common.iter().any(|(mono_us, fault, _)| {
        matches!(fault, Fault::StoreKill | Fault::StoreStop)
            && *mono_us <= to
            && (from <= *mono_us || outage_lasts(book, *mono_us, from))
    })
}

/// Whether its process was stopped before its ack can have been sent, and did not go on until then.
fn stands_still(run: &Execution, until: u64, tolerances: &Tolerances) -> bool {
    let mut stopped = None;
    for fact in run.process.iter().take_while(|fact| fact.mono_us < until) {
        match fact.what {
            Happening::Fault(Fault::Stop) => stopped = stopped.or(Some(fact.mono_us)),
            Happening::Fault(Fault::Continue) => stopped = None,
            _ => {}
        }
    }
    stopped.is_some_and(|at| at <= run.end_us().saturating_add(tolerances.ack_us))
}

/// A job runs again only because its run asked for it or was cut off.
pub(super) fn a_rerun_has_a_cause(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        let runs = book.executions(job);
        for pair in runs.windows(2) {
            let [one, next] = pair else { continue };
            if rerun_cause(book, job, one, &next.start, tolerances).is_none() {
                let end = one.end.map(|(_, _, at)| at);
                let evidence: Vec<LineRef> =
                    [Some(one.start.at), end, Some(next.start.at)].into_iter().flatten().collect();
                findings.add(&job.name, "run again without a cause", evidence);
            }
        }
    }
}

/// Over the whole history, the runs that nobody asked for are no more than the jobs in flight in what was hit.
pub(super) fn extra_runs_are_bounded(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    /// Of the extra runs, as evidence.
    const SHOWN: usize = 10;
    let (mut extra, mut allowed) = (Vec::new(), 0_usize);
    for job in &book.jobs {
        let runs = book.executions(job);
        for run in &runs {
            let hit = run.process.iter().any(|fact| {
                let cuts = fact.is_end() || matches!(fact.what, Happening::Fault(Fault::Stop | Fault::Hang));
                cuts && run.is_in_flight(fact.mono_us, tolerances)
            });
            let outage = book.common.iter().any(|(mono_us, fault, _)| {
                matches!(fault, Fault::StoreKill | Fault::StoreStop)
                    && (run.is_in_flight(*mono_us, tolerances)
                        || outage_lasts(book, *mono_us, run.start.mono_us))
            });
            allowed += usize::from(hit || outage);
        }
        for pair in runs.windows(2) {
            let [one, next] = pair else { continue };
            if !matches!(rerun_cause(book, job, one, &next.start, tolerances), Some(RerunCause::Asked)) {
                extra.push(next.start.at);
            }
        }
    }
    if extra.len() > allowed {
        let message = format!("{} extra runs, {allowed} jobs in flight in what was hit", extra.len());
        extra.truncate(SHOWN);
        findings.add("run", message, extra);
    }
}

/// The first re-run of a job after its worker's death comes within the time that the run allows.
pub(super) fn recovery_is_prompt(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    let Some(limit) = tolerances.recovery_us else { return };
    for job in &book.jobs {
        let runs = book.executions(job);
        // A second death waits on purpose.
        let Some(one) = runs.first().filter(|run| run.death_us() < run.end_us()) else { continue };
        let waited = match runs.get(1) {
            Some(next) => next.start.mono_us.saturating_sub(one.death_us()),
            None if job.facts.iter().any(|it| matches!(it.what, What::Ended { .. } | What::Deleted)) => {
                continue;
            }
            None => book.last_us.saturating_sub(one.death_us()),
        };
        if waited > limit {
            let evidence: Vec<LineRef> =
                [Some(one.start.at), one.process.iter().find(|it| it.is_end()).map(|it| it.at)]
                    .into_iter()
                    .chain([runs.get(1).map(|next| next.start.at)])
                    .flatten()
                    .collect();
            findings.add(&job.name, format!("not run again for {waited} µs"), evidence);
        }
    }
}

/// A snooze and a give-back leave the attempt as it was; a retry raises it.
///
/// A run whose process died before its word can have been acknowledged is judged as cut off, not by that word; so is one
/// whose process was stopped by then, and had not gone on when the job ran again. One that leaves by itself has its acks sent first, unless it leaves because its leases are about to lapse: then it also leaves
/// others of its jobs unfinished, or the store was away.
pub(super) fn attempts_are_charged_fairly(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    let last = |run: &Execution| run.process.iter().find(|it| it.is_end()).copied();
    let in_haste: HashSet<LineRef> = book
        .jobs
        .iter()
        .flat_map(|job| book.executions(job))
        .filter(|run| run.end.is_none())
        .filter_map(|run| Some(last(&run)?.at))
        .collect();
    for job in &book.jobs {
        if job.facts.iter().any(|fact| matches!(fact.what, What::Revived)) {
            continue;
        }
        for pair in book.executions(job).windows(2) {
            let [one, next] = pair else { continue };
            let Some((end_us, outcome, at)) = one.end else { continue };
            let heard_us = match last(one) {
                Some(it) if matches!(it.what, Happening::Fault(_)) => {
                    end_us.saturating_add(tolerances.ack_us)
                }
                Some(it) if in_haste.contains(&it.at) || was_away(book, one.start.mono_us, it.mono_us) => {
                    NEVER
                }
                _ => end_us,
            };
            let died = one.death_us() < next.start.mono_us && one.death_us() <= heard_us;
            if died || stands_still(one, next.start.mono_us, tolerances) {
                continue;
            }
            let fair = match outcome {
                Outcome::Snooze | Outcome::Released => next.run.attempt == one.run.attempt,
                Outcome::Retry => next.run.attempt > one.run.attempt,
                Outcome::Done | Outcome::Dead | Outcome::Cancelled => true,
            };
            if !fair {
                let message = format!(
                    "attempt {} after attempt {} ended {outcome:?}",
                    next.run.attempt, one.run.attempt
                );
                findings.add(&job.name, message, [one.start.at, at, next.start.at]);
            }
        }
    }
}
