//! P1 and P9: what was accepted exists, once, with the content it was given.

use std::collections::BTreeSet;

use super::book::{AuditPass, Book, Fact, Job, What, lower};
use super::{Findings, Tolerances};
use crate::history::{JobState, LineRef, Refusal};

/// Every line is read, and no writer's line is missing: nothing is hidden from the other checks.
pub(super) fn history_is_whole(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for (at, message) in &book.broken {
        findings.add("history", message.clone(), [*at]);
    }
}

fn audit_of(job: &Job, pass: &AuditPass) -> impl Iterator<Item = (JobState, LineRef)> {
    job.facts.iter().filter_map(|fact| match fact.what {
        What::Audit { audit, state, .. } if audit == pass.audit => Some((state, fact.at)),
        _ => None,
    })
}

/// When the job's enqueue was acknowledged first.
fn acked(job: &Job) -> Option<&Fact> {
    job.facts.iter().find(|fact| matches!(fact.what, What::Acked { .. }))
}

/// Each acknowledged job is shown by each later audit, unless it had ended (its record may be forgotten) or an
/// operator removed it.
pub(super) fn acked_is_never_lost(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        let Some(ack) = acked(job) else { continue };
        let mut judged = false;
        for pass in book.audits.iter().filter(|pass| pass.mono_us > ack.mono_us) {
            judged = true;
            let excused = job.facts.iter().any(|fact| match fact.what {
                What::Ended { .. } => fact.mono_us <= pass.mono_us,
                What::Deleted => true,
                _ => false,
            });
            if !excused && audit_of(job, pass).next().is_none() {
                findings.add(&job.name, "acknowledged, and no audit shows it", [ack.at, pass.at]);
            }
        }
        if !judged {
            findings.add(&job.name, "acknowledged, and no audit was made after that", [ack.at]);
        }
    }
}

/// No audit shows a job twice.
pub(super) fn one_state_each(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        for pass in &book.audits {
            let shown: Vec<LineRef> = audit_of(job, pass).map(|(_, at)| at).collect();
            if shown.len() > 1 {
                findings.add(&job.name, format!("in {} states at once", shown.len()), shown);
            }
        }
    }
}

/// When nothing was left to do, every job has ended.
pub(super) fn drained_means_final(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for pass in book.audits.iter().filter(|pass| pass.drained) {
        for job in &book.jobs {
            for (state, at) in audit_of(job, pass).filter(|(state, _)| !state.is_final()) {
                findings.add(&job.name, format!("still {state:?} when all was drained"), [pass.at, at]);
            }
        }
    }
}

/// Nothing runs or is stored that nobody enqueued, or whose every enqueue was refused.
pub(super) fn no_phantom(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        let exists = job.facts.iter().find(|fact| {
            matches!(
                fact.what,
                What::Start(_) | What::Effect { .. } | What::Ended { .. } | What::Audit { .. }
            )
        });
        let Some(exists) = exists else { continue };
        let (mut asked, mut refused, mut known) = (0, Vec::new(), false);
        for fact in &job.facts {
            match fact.what {
                What::Invoke { .. } => asked += 1,
                What::Refused { .. } => refused.push(fact.at),
                What::Acked { .. } | What::Unknown { .. } | What::FollowUp { .. } => known = true,
                _ => {}
            }
        }
        // A producer that died after its call left an invoke without an answer.
        if !known && asked <= refused.len() {
            let evidence = [vec![exists.at], refused].concat();
            findings.add(&job.name, "exists, though no enqueue of it can have been accepted", evidence);
        }
    }
}

/// The same content is answered the same; two contents are never both accepted under one id.
pub(super) fn same_content_same_answer(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        let changed = job.facts.iter().any(|it| matches!(it.what, What::Rescheduled { .. } | What::Deleted));
        let mut first: Option<(u64, Option<i64>, LineRef)> = None;
        for fact in &job.facts {
            match (fact.what, first) {
                (What::Acked { digest, due_ms }, None) => first = Some((digest, due_ms, fact.at)),
                (What::Acked { digest, .. }, Some((one, _, at))) if digest != one && !changed => {
                    findings.add(&job.name, "two contents were accepted", [at, fact.at]);
                }
                (What::Acked { due_ms, .. }, Some((_, due, at))) if due_ms != due && !changed => {
                    findings.add(&job.name, "a repeat was answered with another due time", [at, fact.at]);
                }
                (What::Refused { digest, why: Refusal::Conflict }, Some((one, _, at)))
                    if digest == one && !changed =>
                {
                    findings.add(&job.name, "a repeat was refused as a conflict", [at, fact.at]);
                }
                _ => {}
            }
        }
    }
}

/// What is handed over and stored is content that was accepted, whatever conflicting enqueues were refused.
pub(super) fn a_conflict_changes_nothing(book: &Book, _: &Tolerances, findings: &mut Findings) {
    for job in &book.jobs {
        let allowed: BTreeSet<u32> = job
            .facts
            .iter()
            .filter_map(|fact| match fact.what {
                What::Acked { digest, .. }
                | What::Unknown { digest, .. }
                | What::FollowUp { digest, .. }
                | What::Rescheduled { digest: Some(digest) } => Some(lower(digest)),
                _ => None,
            })
            .collect();
        if allowed.is_empty() {
            continue;
        }
        let refused = job.facts.iter().filter(|fact| matches!(fact.what, What::Refused { .. }));
        let refused: Vec<LineRef> = refused.map(|fact| fact.at).collect();
        for fact in &job.facts {
            let digest = match fact.what {
                What::Start(start) if start.digest != 0 => start.digest,
                What::Audit { digest: Some(digest), .. } => digest,
                _ => continue,
            };
            if !allowed.contains(&digest) {
                let evidence = [vec![fact.at], refused.clone()].concat();
                findings.add(&job.name, "holds content that was never accepted", evidence);
            }
        }
    }
}
