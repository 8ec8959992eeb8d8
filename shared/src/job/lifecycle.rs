//! The one table of a job's states and events. The stores, the in-memory model and `ops/docs/lifecycle.md` all
//! follow it; a test holds them together.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a job is. It is always in exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its due time lies in the future.
    Scheduled,
    /// Due, and waiting for a worker.
    Ready,
    /// Delivered to a worker under a lease: unacked.
    Running,
    /// Ended well.
    Done,
    /// Ended badly; kept with its reason until somebody retries or purges it.
    Dead,
    /// Ended because somebody asked for it.
    Cancelled,
    /// Ended because its expiry passed before it could start.
    Expired,
}

impl State {
    pub const ALL: [Self; 7] =
        [Self::Scheduled, Self::Ready, Self::Running, Self::Done, Self::Dead, Self::Cancelled, Self::Expired];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether the job has ended.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled | Self::Expired)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for State {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|state| state.as_str()).collect();
            format!("{text:?} is no state; the states are {}", names.join(", "))
        })
    }
}

/// The states in which a job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinalState {
    Done,
    Dead,
    Cancelled,
    Expired,
}

impl FinalState {
    pub const ALL: [Self; 4] = [Self::Done, Self::Dead, Self::Cancelled, Self::Expired];

    #[must_use]
    pub const fn state(self) -> State {
        match self {
            Self::Done => State::Done,
            Self::Dead => State::Dead,
            Self::Cancelled => State::Cancelled,
            Self::Expired => State::Expired,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.state().as_str()
    }
}

/// What can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// Its due time comes.
    FallDue,
    /// A worker pulls it.
    Deliver,
    /// The handler ended well.
    AckDone,
    /// The handler failed and may be tried again.
    AckRetry,
    /// The handler asked to be called again later; no attempt is charged.
    AckSnooze,
    /// The handler failed for good, or its attempts are used up.
    AckDead,
    /// A running job obeyed a cancellation.
    AckCancelled,
    /// The worker found that its expiry has passed before starting it.
    AckExpired,
    /// The worker puts it back unstarted or unfinished; no attempt is charged.
    GiveBack,
    /// Its worker died; it runs again at once.
    Crash,
    /// Its worker died once more; it runs again later, alone.
    CrashAgain,
    /// Its worker died once too often.
    CrashDead,
    /// Its worker's lease lapsed.
    Lapse,
    /// Somebody cancels it.
    Cancel,
    /// Its expiry has passed while it waits.
    Expire,
    /// Somebody moves its due time into the future.
    Postpone,
    /// Somebody moves its due time to now.
    Hasten,
    /// Somebody wants it tried again.
    Retry,
}

impl Event {
    /// What became of a delivery that ended so, in one word, as metrics count it.
    #[must_use]
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::AckDone => "done",
            Self::AckRetry => "retry",
            Self::AckSnooze => "snooze",
            Self::AckDead => "dead",
            Self::AckCancelled | Self::Cancel => "cancelled",
            Self::AckExpired | Self::Expire => "expired",
            Self::Crash | Self::CrashAgain => "crashed",
            Self::CrashDead => "crashed_dead",
            Self::Lapse => "lapsed",
            Self::GiveBack | Self::FallDue | Self::Deliver | Self::Postpone | Self::Hasten | Self::Retry => {
                "returned"
            }
        }
    }
}

impl Event {
    pub const ALL: [Self; 18] = [
        Self::FallDue,
        Self::Deliver,
        Self::AckDone,
        Self::AckRetry,
        Self::AckSnooze,
        Self::AckDead,
        Self::AckCancelled,
        Self::AckExpired,
        Self::GiveBack,
        Self::Crash,
        Self::CrashAgain,
        Self::CrashDead,
        Self::Lapse,
        Self::Cancel,
        Self::Expire,
        Self::Postpone,
        Self::Hasten,
        Self::Retry,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FallDue => "fall due",
            Self::Deliver => "deliver",
            Self::AckDone => "ack done",
            Self::AckRetry => "ack retry",
            Self::AckSnooze => "ack snooze",
            Self::AckDead => "ack dead",
            Self::AckCancelled => "ack cancelled",
            Self::AckExpired => "ack expired",
            Self::GiveBack => "give back",
            Self::Crash => "crash",
            Self::CrashAgain => "crash again",
            Self::CrashDead => "crash dead",
            Self::Lapse => "lapse",
            Self::Cancel => "cancel",
            Self::Expire => "expire",
            Self::Postpone => "postpone",
            Self::Hasten => "hasten",
            Self::Retry => "retry",
        }
    }
}

/// Every legal step. What is not listed is refused and changes nothing.
pub const TRANSITIONS: &[(State, Event, State)] = &[
    (State::Scheduled, Event::FallDue, State::Ready),
    (State::Scheduled, Event::Cancel, State::Cancelled),
    (State::Scheduled, Event::Expire, State::Expired),
    (State::Scheduled, Event::Postpone, State::Scheduled),
    (State::Scheduled, Event::Hasten, State::Ready),
    (State::Scheduled, Event::Retry, State::Ready),
    (State::Ready, Event::Deliver, State::Running),
    (State::Ready, Event::Cancel, State::Cancelled),
    (State::Ready, Event::Expire, State::Expired),
    (State::Ready, Event::Postpone, State::Scheduled),
    (State::Ready, Event::Hasten, State::Ready),
    (State::Running, Event::AckDone, State::Done),
    (State::Running, Event::AckRetry, State::Scheduled),
    (State::Running, Event::AckSnooze, State::Scheduled),
    (State::Running, Event::AckDead, State::Dead),
    (State::Running, Event::AckCancelled, State::Cancelled),
    (State::Running, Event::AckExpired, State::Expired),
    (State::Running, Event::GiveBack, State::Ready),
    (State::Running, Event::Crash, State::Ready),
    (State::Running, Event::CrashAgain, State::Scheduled),
    (State::Running, Event::CrashDead, State::Dead),
    (State::Running, Event::Lapse, State::Ready),
    // The worker is told; the job stays its until it acks.
    (State::Running, Event::Cancel, State::Running),
    (State::Dead, Event::Retry, State::Ready),
    (State::Cancelled, Event::Retry, State::Ready),
    (State::Expired, Event::Retry, State::Ready),
];

/// The state that `event` leads to, or `None` where the table refuses it.
#[must_use]
pub fn next(state: State, event: Event) -> Option<State> {
    TRANSITIONS.iter().find(|(from, on, _)| (*from, *on) == (state, event)).map(|(_, _, to)| *to)
}

/// The table as `ops/docs/lifecycle.md` shows it: a row an event, a column a state.
#[must_use]
pub fn as_markdown() -> String {
    use fmt::Write as _;
    let mut page = String::from("| event |");
    for state in State::ALL {
        let _ = write!(page, " {state} |");
    }
    page.push_str("\n|---|");
    page.push_str(&"---|".repeat(State::ALL.len()));
    page.push('\n');
    for event in Event::ALL {
        let _ = write!(page, "| {} |", event.as_str());
        for state in State::ALL {
            let _ = match next(state, event) {
                Some(to) => write!(page, " {to} |"),
                None => write!(page, " – |"),
            };
        }
        page.push('\n');
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_stands_once() {
        for (at, (state, event, _)) in TRANSITIONS.iter().enumerate() {
            assert!(
                !TRANSITIONS[at + 1..].iter().any(|(s, e, _)| (s, e) == (state, event)),
                "{state} {event:?} twice"
            );
        }
    }

    #[test]
    fn every_state_is_reached_and_final_ones_are_left_by_retry_alone() {
        for state in State::ALL {
            let reached = state == State::Scheduled || TRANSITIONS.iter().any(|(_, _, to)| *to == state);
            assert!(reached, "{state} is never reached");
        }
        assert!(TRANSITIONS.iter().all(|(from, event, _)| !from.is_final() || *event == Event::Retry));
        assert_eq!(next(State::Done, Event::Retry), None);
    }

    #[test]
    fn the_page_shows_this_table() {
        let page = include_str!("../../../ops/docs/lifecycle.md");
        assert!(page.contains(&as_markdown()), "ops/docs/lifecycle.md should hold:\n{}", as_markdown());
    }
}
