//! Who may be talked to now: a circuit breaker for each destination, and a bulkhead between them. Pure: time and
//! randomness are inputs.
//!
//! ```text
//!              OPEN_AFTER failures in a row              its moment has come
//!   closed ───────────────────────────────────▶ open ─────────────────────────▶ probing: one job goes
//!      ▲                                          ▲                                │
//!      │ any success                              └── the probe failed: longer ────┤
//!      └───────────────────────────────────────────────────────────────────────────┘
//! ```
//! A job that may not go is held: put back, uncharged, for later. Jobs held for one destination are given moments in a row,
//! so that a hundred thousand of them do not come back at once; the first comes when the probe is due.
//!
//! The bulkhead, where jobs choose their destinations: a destination that has answered lately and briskly may have three
//! quarters of the slots, a new one a quarter, and one in doubt (its last answer was a failure, or something has been under
//! way with it for long) half; all in doubt together half. So whoever hangs, there is room for those who answer. A job for
//! a brisk or new destination that has its share waits in its slot for a moment, so that the fleet sees the backlog and
//! grows by it; for one in doubt it is held.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use roundsman_shared::clock::Mono;
use url::Url;

/// Failures in a row that open a circuit.
pub(super) const OPEN_AFTER: u32 = 5;
/// How long it is open first; doubled with each probe that fails.
const OPEN_FOR: Duration = Duration::from_secs(1);
const MAX_OPEN: Duration = Duration::from_secs(30);
/// An exchange under way for so long casts doubt on its destination.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// Praise is forgotten after so long.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// A job held for a share of the slots, or for a probe's end, comes back after this at the earliest.
const HOLD: Duration = Duration::from_millis(250);
/// The same for a new destination, whose first answer is likely near.
const HOLD_NEW: Duration = Duration::from_millis(50);
/// Between the moments that held jobs of one destination are given.
const APART: Duration = Duration::from_millis(10);
/// The same for one in doubt, of whose share no more than this can come free.
const APART_DOUBTFUL: Duration = Duration::from_millis(50);
/// While a circuit is open, a hundredth of the time it is: the longer it lasts, the less is looked at.
const APART_OPEN: u32 = 100;
/// They come in bunches of so many, since a pull and an acknowledgement of many cost little more than of one.
const BUNCH: u32 = 10;
/// Up to here they are apart by that much. Who comes after is one of many, and they are closer, but few
/// enough in a second that others hardly feel it.
const ROW: Duration = Duration::from_secs(60);
const APART_MANY: Duration = Duration::from_millis(2);
/// The last of these moments; whoever comes after that is spread over the same time.
const MAX_ROW: Duration = Duration::from_secs(300);
/// Destinations that are remembered.
pub(super) const MAX_KNOWN: usize = 1024;

/// What shares a fate: one server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Destination {
    pub(super) scheme: String,
    /// A name in lower case, or an address; IPv6 in brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Destination {
    pub(super) fn of(url: &Url) -> Self {
        let usual = match url.scheme() {
            "amqp" => 5672,
            "amqps" => 5671,
            "redis" | "rediss" => 6379,
            _ => url.port_or_known_default().unwrap_or(0),
        };
        // A socket in the file system has no host; its path stands for it.
        let host = url.host_str().filter(|host| !host.is_empty()).unwrap_or_else(|| url.path());
        let host = if usual == 0 { host } else { host.trim_end_matches('.') };
        Self {
            scheme: url.scheme().to_owned(),
            host: if usual == 0 { host.to_owned() } else { host.to_ascii_lowercase() },
            port: url.port().unwrap_or(usual),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        match port {
            // A socket's path.
            0 => write!(f, "{scheme}:{host}"),
            _ => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

/// Leave to go, to be handed in when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) to: Destination,
    number: u64,
    probe: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    Go(Pass),
    /// In the slot, until something ends or for a moment.
    Wait,
    Hold {
        after: Duration,
        why: String,
    },
}

/// What an exchange said of its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered, be it to complain about the job.
    Well,
    /// It did not, or said that it cannot serve; with the reason.
    Ill(String),
    /// The exchange was broken off by us.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Mono, times: u32 },
    Probing { times: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    New,
    Brisk,
    Doubtful,
}

#[derive(Debug)]
struct Circuit {
    state: State,
    /// Starts of what is under way, by the number of the pass.
    under_way: BTreeMap<u64, Mono>,
    praised: Option<Mono>,
    blamed: bool,
    last_error: String,
    /// The moment that the next held job is given.
    row: Mono,
    used: Mono,
}

impl Circuit {
    fn standing(&self, now: Mono) -> Standing {
        let slow = self.under_way.values().next().is_some_and(|since| now.since(*since) >= SLOW);
        let fresh = self.praised.is_some_and(|at| now.since(at) < FRESH_FOR);
        match (self.blamed || slow, fresh) {
            (true, _) => Standing::Doubtful,
            (false, true) => Standing::Brisk,
            (false, false) => Standing::New,
        }
    }

    /// The next moment in the row of those held, not before `least` from now.
    fn hold(&mut self, now: Mono, least: Duration, apart: Duration, random: f64) -> Duration {
        let first = now + least;
        if self.row <= first {
            self.row = first + apart;
            return least;
        }
        if self.row > first + MAX_ROW {
            return next_multiple(first + MAX_ROW.mul_f64(random), APART * BUNCH).since(now);
        }
        let (apart, bunch) = if self.row > first + ROW {
            (APART_MANY.min(apart), APART * BUNCH)
        } else {
            (apart, apart * BUNCH)
        };
        let moment = next_multiple(self.row, bunch);
        self.row = self.row + apart;
        moment.since(now)
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Circuits {
    /// Where there is only one destination, its share is everything.
    shared: bool,
    slots: usize,
    known: HashMap<Destination, Circuit>,
    next: u64,
}

impl Circuits {
    pub(super) fn new(slots: usize, shared: bool) -> Self {
        Self { shared, slots: slots.max(1), known: HashMap::new(), next: 1 }
    }

    /// Decides about one job. `waiting` of all jobs wait in their slots already; `random` lies in 0 to 1.
    pub(super) fn admit(&mut self, now: Mono, to: &Destination, waiting: usize, random: f64) -> Admission {
        self.make_room(to);
        let doubtful = self.under_way(now, |standing| standing == Standing::Doubtful);
        let unproven = self.under_way(now, |standing| standing != Standing::Brisk);
        let (slots, shared, number) = (self.slots, self.shared, self.next);
        let circuit = self.known.entry(to.clone()).or_insert_with(|| Circuit {
            state: State::Closed { failures: 0 },
            under_way: BTreeMap::new(),
            praised: None,
            blamed: false,
            last_error: String::new(),
            row: now,
            used: now,
        });
        circuit.used = now;
        let probe = match circuit.state {
            State::Closed { .. } => false,
            State::Open { until, times } if now < until => {
                let after = circuit.hold(now, until.since(now), apart_open(times), random);
                return Admission::Hold { after, why: closed_to(to, &circuit.last_error) };
            }
            State::Open { times, .. } => {
                circuit.state = State::Probing { times };
                true
            }
            State::Probing { times } => {
                let after = circuit.hold(now, HOLD, apart_open(times), random);
                return Admission::Hold { after, why: closed_to(to, &circuit.last_error) };
            }
        };
        let own = circuit.under_way.len();
        let standing = circuit.standing(now);
        let share = |part: usize, of: usize| (slots * part / of).max(1);
        let room = match standing {
            _ if !shared || probe => true,
            Standing::Brisk => own < share(3, 4),
            Standing::Doubtful => own < share(1, 2) && doubtful < share(1, 2),
            // The first always finds out, while there is a slot that the proven do not need.
            Standing::New if own == 0 => unproven < share(7, 8),
            Standing::New => own < share(1, 4) && unproven < share(3, 4),
        };
        if room {
            self.next += 1;
            circuit.under_way.insert(number, now);
            return Admission::Go(Pass { to: to.clone(), number, probe });
        }
        if standing != Standing::Doubtful && own > 0 && waiting < share(1, 4) {
            return Admission::Wait;
        }
        let (least, apart) = match standing {
            Standing::Doubtful => (HOLD, APART_DOUBTFUL),
            Standing::New | Standing::Brisk => (HOLD_NEW, APART),
        };
        let after = circuit.hold(now, least, apart, random);
        Admission::Hold { after, why: format!("{to} has its share of the worker's slots") }
    }

    /// Takes a pass back.
    pub(super) fn settle(&mut self, now: Mono, pass: &Pass, verdict: Verdict, random: f64) {
        let Some(circuit) = self.known.get_mut(&pass.to) else { return };
        let since = circuit.under_way.remove(&pass.number).unwrap_or(now);
        match verdict {
            Verdict::Well => {
                if !matches!(circuit.state, State::Closed { failures: 0 }) {
                    circuit.row = now;
                }
                circuit.state = State::Closed { failures: 0 };
                circuit.praised = Some(now);
                circuit.blamed = now.since(since) >= SLOW;
            }
            Verdict::Ill(error) => {
                circuit.last_error = error;
                circuit.blamed = true;
                circuit.state = match circuit.state {
                    State::Closed { failures } if failures + 1 < OPEN_AFTER => {
                        State::Closed { failures: failures + 1 }
                    }
                    State::Closed { .. } => open(now, 1, random),
                    State::Probing { times } if pass.probe => open(now, times.saturating_add(1), random),
                    // What was under way before it opened tells nothing new.
                    state @ (State::Probing { .. } | State::Open { .. }) => state,
                };
            }
            Verdict::Unknown => {
                if let (State::Probing { times }, true) = (circuit.state, pass.probe) {
                    circuit.state = State::Open { until: now, times };
                }
            }
        }
    }

    fn under_way(&self, now: Mono, which: impl Fn(Standing) -> bool) -> usize {
        if !self.shared {
            return 0;
        }
        let all = self.known.values().filter(|circuit| !circuit.under_way.is_empty());
        all.filter(|circuit| which(circuit.standing(now))).map(|circuit| circuit.under_way.len()).sum()
    }

    /// Forgets the destination that was wanted longest ago, rather one that was well. Those under way are fewer than slots.
    fn make_room(&mut self, to: &Destination) {
        if self.known.len() < MAX_KNOWN || self.known.contains_key(to) {
            return;
        }
        let idle = self.known.iter().filter(|(_, circuit)| circuit.under_way.is_empty());
        let is_open = |circuit: &Circuit| !matches!(circuit.state, State::Closed { .. });
        let oldest = idle.min_by_key(|(_, circuit)| (is_open(circuit), circuit.used));
        if let Some(oldest) = oldest.map(|(to, _)| to.clone()) {
            self.known.remove(&oldest);
        }
    }
}

fn next_multiple(moment: Mono, of: Duration) -> Mono {
    let of = u64::try_from(of.as_nanos()).unwrap_or(u64::MAX).max(1);
    Mono::from_nanos(moment.as_nanos().div_ceil(of).saturating_mul(of))
}

fn open_for(times: u32) -> Duration {
    OPEN_FOR.saturating_mul(1 << times.saturating_sub(1).min(16)).min(MAX_OPEN)
}

fn apart_open(times: u32) -> Duration {
    (open_for(times) / APART_OPEN).max(APART)
}

/// Between half of the time and all of it, so that many workers do not probe in step.
fn open(now: Mono, times: u32, random: f64) -> State {
    State::Open { until: now + open_for(times).mul_f64(0.5 + 0.5 * random), times }
}

fn closed_to(to: &Destination, error: &str) -> String {
    format!("{to} fails again and again, and is left alone for a while; the last time: {error}")
}

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod tests;
