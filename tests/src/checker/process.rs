//! P6, P7 and P8: which processes are ended, when, and what that costs a job.

use std::collections::HashMap;

use super::book::{Book, Execution, Happening, Job, What};
use super::{Findings, Tolerances};
use crate::history::{Cause, Fault, JobState, LineRef};

/// A job that keeps killing its worker becomes a dead letter, and is not run once more.
pub(super) fn poison_is_contained(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        if job.facts.iter().any(|fact| matches!(fact.what, What::Revived)) {
            continue;
        }
        let crashes: Vec<LineRef> = book
            .executions(job)
            .iter()
            .filter(|run| run.end.is_none())
            .filter(|run| run.process.iter().any(|it| it.what == Happening::Death(Cause::Crashed)))
            .map(|run| run.start.at)
            .collect();
        if crashes.len() > tolerances.max_crashes as usize {
            findings.add(&job.name, format!("crashed {} workers", crashes.len()), crashes);
        }
        for fact in &job.facts {
            let What::Audit { state, crashes, killed, spent, .. } = fact.what else { continue };
            let poison = crashes >= tolerances.max_crashes || killed >= tolerances.max_killed;
            if poison && !state.is_final() {
                let message = format!("{crashes} crashes, {killed} times killed, and still {state:?}");
                findings.add(&job.name, message, [fact.at]);
            }
            if crashes > tolerances.max_crashes || killed > tolerances.max_killed {
                let message = format!("run on after {crashes} crashes and {killed} kills");
                findings.add(&job.name, message, [fact.at]);
            }
            let innocent =
                crashes == 0 && !spent && state == JobState::Dead && killed >= tolerances.max_crashes;
            if innocent && killed < tolerances.max_killed {
                findings.add(&job.name, "a dead letter because others killed its worker", [fact.at]);
            }
        }
    }
}

/// A worker is ended for silence only when something silenced it.
pub(super) fn a_stall_kill_has_a_cause(book: &Book, _: &Tolerances, findings: &mut Findings) {
    let mut silenced: HashMap<u32, u64> = HashMap::new();
    for (pid, fact) in book.process_facts() {
        if matches!(fact.what, Happening::Fault(Fault::Stop | Fault::Hang)) {
            let first = silenced.entry(pid).or_insert(fact.mono_us);
            *first = (*first).min(fact.mono_us);
        }
    }
    for (pid, fact) in book.process_facts() {
        let stalled = fact.what == Happening::Death(Cause::Stalled);
        if stalled && silenced.get(&pid).is_none_or(|since| *since > fact.mono_us) {
            findings.add(&format!("pid {pid}"), "killed for silence, and nothing had silenced it", [fact.at]);
        }
    }
}

fn each_run(book: &Book) -> impl Iterator<Item = (&Job, Execution)> {
    book.jobs.iter().flat_map(|job| book.executions(job).into_iter().map(move |run| (job, run)))
}

/// A worker is ended for a job over its timeout only when the timeout has passed.
pub(super) fn no_timeout_before_its_time(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    // By the line of the death: a worker with several slots has one job over its time and others that are not.
    let mut deaths: HashMap<LineRef, (bool, Vec<(String, LineRef)>)> = HashMap::new();
    for (job, run) in each_run(book) {
        let Some(death) = run.process.iter().find(|it| it.what == Happening::Death(Cause::Timeout)) else {
            continue;
        };
        if !run.is_in_flight(death.mono_us, tolerances) {
            continue;
        }
        let limit_us = run.start.mono_us + u64::from(run.run.timeout_ms) * 1_000;
        let overdue = death.mono_us.saturating_add(tolerances.handover_us) >= limit_us;
        let entry = deaths.entry(death.at).or_default();
        entry.0 |= overdue;
        entry.1.push((job.name.clone(), run.start.at));
    }
    for (death, (justified, runs)) in deaths {
        if let (false, Some((name, _))) = (justified, runs.first()) {
            let evidence = runs.iter().map(|(_, at)| *at).chain([death]).collect::<Vec<_>>();
            findings.add(name, "killed for its timeout before it had passed", evidence);
        }
    }
}

/// A job over its timeout is stopped, or its worker ended, once there is somebody to do it.
pub(super) fn overdue_is_ended(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    for (job, run) in each_run(book).filter(|(_, run)| run.run.timeout_ms > 0) {
        // While it is stopped nobody can say so; its master sees to it by silence.
        let stopped = run.process.iter().any(|it| it.what == Happening::Fault(Fault::Stop));
        let limit_us = u64::from(run.run.timeout_ms) * 1_000 + tolerances.timeout_us;
        let (from, to) = (run.start.mono_us, run.over_us(tolerances).min(book.last_us));
        let lasted = to.saturating_sub(from).saturating_sub(book.unwatched_us(from, to));
        if lasted > limit_us && !stopped {
            let message = format!("ran {} ms with a timeout of {} ms", lasted / 1_000, run.run.timeout_ms);
            findings.add(&job.name, message, [run.start.at]);
        }
    }
}

/// A worker that is not needed any more is let finish.
pub(super) fn scaling_kills_no_job(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for (job, run) in each_run(book).filter(|(_, run)| run.end.is_none()) {
        let gone =
            run.process.iter().find(|it| matches!(it.what, Happening::Death(Cause::Scaled | Cause::Memory)));
        if let Some(gone) = gone {
            findings.add(&job.name, "its worker was ended though it was running", [run.start.at, gone.at]);
        }
    }
}
