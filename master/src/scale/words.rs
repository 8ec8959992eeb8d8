//! A decision in plain words.

use std::fmt::Write as _;

use super::{Bound, Limits, Reason, Terms};
use crate::guard::{Held, Short};

pub(super) fn shifted(why: &str, offset: i32) -> String {
    let (count, way, signal) =
        if offset > 0 { (offset, "more", "SIGTTIN") } else { (offset.saturating_neg(), "fewer", "SIGTTOU") };
    format!("{why}; {count} {way} than that by {signal}")
}

pub(super) fn shared(why: &str, all: u32, here: u32, hosts: usize) -> String {
    format!("{why}; of {all} on {hosts} hosts {here} here")
}

pub(super) fn held(why: &str, held: &Held) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let short = match held.short {
        Short::Memory { left, each } => {
            format!("this machine has {} MiB left, and a worker takes {}", mib(left), mib(each))
        }
        Short::MemoryPressure { percent } => {
            format!("programs on this machine wait for memory {percent:.0} % of the time")
        }
        Short::Cpu { percent, cores } => {
            let cores = if cores == 1 {
                "its processor".to_owned()
            } else {
                format!("one of its {cores} processors")
            };
            format!(
                "programs on this machine wait for {cores} {percent:.0} % of the time, and these workers want one"
            )
        }
    };
    format!("{why}; held at {}: {short}", held.at)
}

pub(super) fn blind(target: u32) -> String {
    format!("the store is not reachable: {target} as before")
}

/// `target`: what it came to, within the limits.
pub(super) fn of(terms: &Terms, needed: u32, target: u32, reason: Reason, limits: &Limits) -> String {
    let mut parts = Vec::new();
    if terms.ready > 0 {
        parts.push(format!("{} ready", terms.ready));
    }
    if terms.soon > 0 {
        parts.push(format!("{} due in a moment", terms.soon));
    }
    // Less than one in ten seconds is nothing to speak of.
    if terms.rate >= 0.1 {
        parts.push(format!("{:.1}/s arriving", terms.rate));
    }
    let guess = if terms.is_service_known { "" } else { " (a guess)" };
    let each = format!("{} each{guess}", span(terms.service));
    let held = terms.held.round() as u32;
    let mut text = match parts.split_last() {
        None if held == 0 => format!("nothing to do needs {}", workers(needed)),
        None => format!("{} held by long jobs need {}", workers(held), workers(needed)),
        Some((last, first)) => {
            let list =
                if first.is_empty() { last.clone() } else { format!("{} and {last}", first.join(", ")) };
            let held =
                if held > 0 { format!(", and {} held by long jobs", workers(held)) } else { String::new() };
            format!("{list} at {each}{held} need {}", workers(needed))
        }
    };
    if terms.is_burst {
        text.push_str(", at once, since the first has waited long");
    }
    match reason {
        Reason::MaxWorkers => {
            let _ = match limits.bound {
                Bound::Host => write!(text, "; bounded by max_workers {}", limits.max),
                Bound::Hosts(hosts) => {
                    write!(text, "; bounded by max_workers, {} on {hosts} hosts", limits.max)
                }
                Bound::Total => write!(text, "; bounded by max_workers_total {}", limits.max),
            };
        }
        Reason::MinWorkers => {
            let _ = write!(text, "; min_workers is {}", limits.min);
        }
        Reason::Failing => {
            let _ = write!(text, "; {target} as long as workers fail");
        }
        Reason::Hold if terms.is_small => {
            let _ = write!(text, "; {target}, as so small a fall is put off for a while");
        }
        Reason::Hold if target > needed => {
            let _ = write!(text, "; {target} until the need has been lower for {:.0} s", terms.hold);
        }
        Reason::Hold => {
            let _ = write!(text, "; {target} until it has needed them for a moment");
        }
        Reason::Load | Reason::Machine | Reason::ByHand | Reason::Blind => {}
    }
    text
}

fn workers(count: u32) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

fn span(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.1} s")
    } else if seconds >= 0.01 {
        format!("{:.0} ms", seconds * 1000.0)
    } else {
        format!("{:.1} ms", seconds * 1000.0)
    }
}
