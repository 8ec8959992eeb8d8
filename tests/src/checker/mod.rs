//! The offline checker: judges a run by the histories its actors wrote, against the promises P1 to P9.
//!
//! It knows nothing of the product's code. Each check is a pure function over the [`Book`] with a name, the
//! promise it guards and the lines that prove a violation; [`CHECKS`] lists them all. A check that finds nothing
//! proves only as much as the history holds: [`Verdict::seen`] counts what there was to judge.
//!
//! Planted violations show that each check bites, by name: see the tests of this module.

mod book;
mod delivery;
mod ending;
mod enqueue;
mod process;
#[cfg(test)]
mod scenario;

use std::io;
use std::path::Path;

pub use self::book::Book;
use crate::history::{HistoryReader, LineRef};

/// How exact a run's clocks and observers are, and the settings it ran under. All times in µs.
#[derive(Debug, Clone)]
pub struct Tolerances {
    /// A start may precede its due time by so much: the declared difference between the store's clock and the
    /// handlers' (0 on one host).
    pub early_us: u64,
    /// A process may have been dead for so long when its death is seen.
    pub late_death_us: u64,
    /// A delivery's timeout may begin so long before its handler: it counts from the hand-over.
    pub handover_us: u64,
    /// After its end a delivery may be unacknowledged for so long.
    pub ack_us: u64,
    /// A process that was stopped and let go on may act on what it knew before for so long.
    pub resume_us: u64,
    /// A running job that is cancelled may begin for so long (it was handed over already).
    pub cancel_us: u64,
    /// A job over its timeout must be gone after so long.
    pub timeout_us: u64,
    /// From a worker's death to the first re-run of its job; not judged unless set, since it needs a free slot.
    pub recovery_us: Option<u64>,
    /// The queue's `max_crashes`.
    pub max_crashes: u32,
    /// As many deaths by a foreign SIGKILL make a dead letter.
    pub max_killed: u32,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self {
            early_us: 0,
            late_death_us: 20_000,
            handover_us: 100_000,
            ack_us: 100_000,
            resume_us: 100_000,
            cancel_us: 1_000_000,
            timeout_us: 10_000_000,
            recovery_us: None,
            max_crashes: 3,
            max_killed: 10,
        }
    }
}

/// A broken promise, with the lines that show it.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The check that found it.
    pub check: &'static str,
    /// `queue/id`, or what else it is about.
    pub subject: String,
    pub message: String,
    pub evidence: Vec<LineRef>,
}

/// Where a check puts what it finds.
#[derive(Debug)]
struct Findings {
    check: &'static str,
    found: Vec<Violation>,
}

impl Findings {
    fn add(&mut self, subject: &str, message: impl Into<String>, evidence: impl Into<Vec<LineRef>>) {
        self.found.push(Violation {
            check: self.check,
            subject: subject.to_owned(),
            message: message.into(),
            evidence: evidence.into(),
        });
    }
}

/// One named check.
#[derive(Debug)]
pub struct Check {
    pub name: &'static str,
    /// The promise of the product that it guards.
    pub promise: &'static str,
    run: fn(&Book, &Tolerances, &mut Findings),
}

impl Check {
    /// Everything in the book that breaks the promise.
    #[must_use]
    pub fn run(&self, book: &Book, tolerances: &Tolerances) -> Vec<Violation> {
        let mut findings = Findings { check: self.name, found: Vec::new() };
        (self.run)(book, tolerances, &mut findings);
        findings.found
    }
}

/// All checks, by promise.
pub const CHECKS: &[Check] = &[
    Check { name: "history_is_whole", promise: "–", run: enqueue::history_is_whole },
    Check { name: "acked_is_never_lost", promise: "P1", run: enqueue::acked_is_never_lost },
    Check { name: "one_state_each", promise: "P1", run: enqueue::one_state_each },
    Check { name: "drained_means_final", promise: "P1", run: enqueue::drained_means_final },
    Check { name: "no_phantom", promise: "P1", run: enqueue::no_phantom },
    Check { name: "never_early", promise: "P2", run: delivery::never_early },
    Check { name: "ended_once", promise: "P3", run: ending::ended_once },
    Check { name: "ended_by_the_current_token", promise: "P3", run: ending::ended_by_the_current_token },
    Check { name: "final_is_final", promise: "P3", run: ending::final_is_final },
    Check { name: "stale_changes_nothing", promise: "P3", run: ending::stale_changes_nothing },
    Check { name: "tokens_rise", promise: "P3", run: delivery::tokens_rise },
    Check { name: "done_has_an_effect", promise: "P4", run: ending::done_has_an_effect },
    Check { name: "follow_ups_exist_once", promise: "P4", run: ending::follow_ups_exist_once },
    Check { name: "runs_never_overlap", promise: "P5", run: delivery::runs_never_overlap },
    Check { name: "a_rerun_has_a_cause", promise: "P5", run: delivery::a_rerun_has_a_cause },
    Check { name: "extra_runs_are_bounded", promise: "P5", run: delivery::extra_runs_are_bounded },
    Check { name: "recovery_is_prompt", promise: "P5", run: delivery::recovery_is_prompt },
    Check { name: "poison_is_contained", promise: "P6", run: process::poison_is_contained },
    Check { name: "a_stall_kill_has_a_cause", promise: "P7", run: process::a_stall_kill_has_a_cause },
    Check { name: "no_timeout_before_its_time", promise: "P7", run: process::no_timeout_before_its_time },
    Check { name: "overdue_is_ended", promise: "P7", run: process::overdue_is_ended },
    Check { name: "scaling_kills_no_job", promise: "P8", run: process::scaling_kills_no_job },
    Check { name: "attempts_are_charged_fairly", promise: "P8", run: delivery::attempts_are_charged_fairly },
    Check { name: "same_content_same_answer", promise: "P9", run: enqueue::same_content_same_answer },
    Check { name: "a_conflict_changes_nothing", promise: "P9", run: enqueue::a_conflict_changes_nothing },
    Check { name: "cancelled_never_starts", promise: "P3", run: ending::cancelled_never_starts },
];

/// What a history held to judge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    pub jobs: usize,
    pub acked: usize,
    pub starts: usize,
    pub ended: usize,
    pub faults: usize,
    pub audits: usize,
}

/// What came of checking a folder.
#[derive(Debug)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    pub seen: Seen,
    reader: HistoryReader,
}

impl Verdict {
    /// The violations with their evidence, for people.
    #[must_use]
    pub fn report(&self) -> String {
        use std::fmt::Write as _;
        /// Of each check; the rest is counted.
        const SHOWN: usize = 10;
        let mut text = String::new();
        for check in CHECKS {
            let found: Vec<&Violation> =
                self.violations.iter().filter(|violation| violation.check == check.name).collect();
            if found.is_empty() {
                continue;
            }
            let _ = writeln!(text, "{} ({}): {} violations", check.name, check.promise, found.len());
            for violation in found.iter().take(SHOWN) {
                let _ = writeln!(text, "  {}: {}", violation.subject, violation.message);
                for at in &violation.evidence {
                    let _ = writeln!(text, "    {}", self.reader.quote(*at));
                }
            }
            if found.len() > SHOWN {
                let _ = writeln!(text, "  and {} more", found.len() - SHOWN);
            }
        }
        text
    }
}

/// Runs every check over the histories of a folder.
///
/// # Errors
/// When a file cannot be read.
pub fn check_folder(folder: &Path, tolerances: &Tolerances) -> io::Result<Verdict> {
    let (book, reader) = Book::read(folder)?;
    let violations = CHECKS.iter().flat_map(|check| check.run(&book, tolerances)).collect();
    Ok(Verdict { violations, seen: book.seen(), reader })
}

#[cfg(test)]
mod tests;
