//! P3 and P4: a job ends once, by the delivery that holds it, and leaves its effect and its follow-ups.

use std::collections::HashMap;

use super::book::{Book, Fact, Job, What};
use super::{Findings, Tolerances};
use crate::history::{JobState, LineRef};

/// A job's facts, cut where an operator had it tried again: each part ends once.
fn lives(job: &Job) -> impl Iterator<Item = &[Fact]> {
    job.facts.split(|fact| matches!(fact.what, What::Revived))
}

fn revivals(job: &Job) -> usize {
    job.facts.iter().filter(|fact| matches!(fact.what, What::Revived)).count()
}

#[derive(Clone, Copy)]
struct Ended {
    mono_us: u64,
    state: JobState,
    token: Option<u64>,
    at: LineRef,
}

/// The recorded outcomes that differ. The same one may be recorded twice: by the worker that was answered, and
/// by an audit, which may not know the token.
fn outcomes(life: &[Fact]) -> Vec<Ended> {
    let mut found: Vec<Ended> = Vec::new();
    for fact in life {
        let What::Ended { state, token } = fact.what else { continue };
        let known = found
            .iter_mut()
            .find(|it| it.state == state && (it.token == token || it.token.is_none() || token.is_none()));
        match known {
            Some(it) => it.token = it.token.or(token),
            None => found.push(Ended { mono_us: fact.mono_us, state, token, at: fact.at }),
        }
    }
    found
}

/// At most one final outcome is recorded.
pub(super) fn ended_once(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        for life in lives(job) {
            let ended = outcomes(life);
            if ended.len() > 1 {
                let evidence: Vec<LineRef> = ended.iter().map(|it| it.at).collect();
                findings.add(&job.name, format!("{} final outcomes", ended.len()), evidence);
            }
        }
        let allowed = 1 + revivals(job);
        for fact in &job.facts {
            if let What::Audit { finals: Some(finals), .. } = fact.what
                && finals as usize > allowed
            {
                findings.add(&job.name, format!("its record shows {finals} final outcomes"), [fact.at]);
            }
        }
    }
}

/// The delivery that ended a job was the last one given.
pub(super) fn ended_by_the_current_token(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        for life in lives(job) {
            for ended in outcomes(life) {
                let Some(token) = ended.token else { continue };
                let newer = life.iter().find(|fact| match fact.what {
                    What::Start(start) => start.token > token,
                    _ => false,
                });
                if let Some(newer) = newer {
                    findings.add(&job.name, "ended by a delivery that was replaced", [newer.at, ended.at]);
                }
            }
        }
    }
}

/// After its end a job neither starts nor shows another state.
pub(super) fn final_is_final(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        for life in lives(job) {
            let Some(ended) = outcomes(life).first().copied() else { continue };
            for fact in life.iter().filter(|fact| fact.mono_us > ended.mono_us) {
                match fact.what {
                    // A process stopped between its last look at the lease and the start: its ack is stale.
                    What::Start(start)
                        if ended.token.is_none_or(|token| start.token < token)
                            && book.just_resumed(fact, start, tolerances) => {}
                    What::Start(_) => {
                        findings.add(&job.name, "started after its end", [ended.at, fact.at]);
                    }
                    What::Audit { audit, state, .. }
                        if state != ended.state && began_after(book, audit, ended.mono_us) =>
                    {
                        let message = format!("ended {:?}, and is {state:?} in a later audit", ended.state);
                        findings.add(&job.name, message, [ended.at, fact.at]);
                    }
                    _ => {}
                }
            }
        }
    }
}

fn began_after(book: &Book, audit: u32, mono_us: u64) -> bool {
    book.audits.iter().any(|pass| pass.audit == audit && pass.mono_us > mono_us)
}

/// A delivery that was told `stale` is not the one that ended the job.
pub(super) fn stale_changes_nothing(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        for ended in lives(job).flat_map(outcomes) {
            let told = job.facts.iter().find(|fact| match fact.what {
                What::Stale { token } => ended.token == Some(token),
                _ => false,
            });
            if let Some(told) = told {
                findings.add(&job.name, "told stale, and its outcome was recorded", [told.at, ended.at]);
            }
        }
    }
}

/// A job that is done was run, by the delivery that ended it or one before.
pub(super) fn done_has_an_effect(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        let done = job.facts.iter().filter_map(|fact| match fact.what {
            What::Ended { state: JobState::Done, token } => Some((token, fact.at)),
            What::Audit { state: JobState::Done, .. } => Some((None, fact.at)),
            _ => None,
        });
        for (token, at) in done {
            let ran = job.facts.iter().any(|fact| match fact.what {
                What::Start(start) => token.is_none_or(|token| start.token <= token),
                What::Effect { token: seen } => token.is_none_or(|token| seen <= token),
                _ => false,
            });
            if !ran {
                findings.add(&job.name, "done, and nothing shows that it ran", [at]);
            }
        }
    }
}

/// A follow-up exists exactly when the delivery that returned it ended its job.
pub(super) fn follow_ups_exist_once(book: &Book, _: &Tolerances, findings: &mut Findings) {
    let mut endings: HashMap<&str, Vec<Ended>> = HashMap::new();
    for job in &book.jobs {
        for fact in &job.facts {
            let What::FollowUp { parent, token, .. } = fact.what else { continue };
            let parent = book.job(parent);
            let ended = endings.entry(&parent.name).or_insert_with(|| {
                lives(parent).flat_map(outcomes).filter(|it| it.token.is_some()).collect()
            });
            if ended.is_empty() {
                continue;
            }
            let by_this = ended.iter().find(|it| it.token == Some(token) && it.state == JobState::Done);
            let seen = job.facts.iter().find(|fact| {
                matches!(fact.what, What::Start(_) | What::Ended { .. } | What::Audit { .. } | What::Deleted)
            });
            let also =
                job.facts.iter().any(|fact| matches!(fact.what, What::Acked { .. } | What::Unknown { .. }));
            let again = job.facts.iter().any(|other| match other.what {
                What::FollowUp { token: other, .. } => {
                    other != token && ended.iter().any(|it| it.token == Some(other))
                }
                _ => false,
            });
            match (by_this, seen) {
                (Some(by), None) if !book.audits.is_empty() => {
                    findings.add(
                        &job.name,
                        format!("follow-up of {} does not exist", parent.name),
                        [fact.at, by.at],
                    );
                }
                (None, Some(seen)) if !also && !again => {
                    let message = format!("follow-up of a delivery of {} that was not accepted", parent.name);
                    findings.add(&job.name, message, [fact.at, seen.at]);
                }
                _ => {}
            }
        }
    }
}

/// A job that was cancelled before it was handed over has no run after that; a running one is told to stop.
pub(super) fn cancelled_never_starts(book: &Book, tolerances: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        for life in lives(job) {
            for cancel in life {
                let What::CancelOk { was_running } = cancel.what else { continue };
                let until = cancel.mono_us + if was_running { tolerances.cancel_us } else { 0 };
                let late =
                    life.iter().find(|fact| matches!(fact.what, What::Start(_)) && fact.mono_us > until);
                if let Some(late) = late {
                    findings.add(&job.name, "started after its cancel was accepted", [cancel.at, late.at]);
                }
            }
        }
    }
}
