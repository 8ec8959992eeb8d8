//! What a keeper does about its worker, and when. Pure: it is told what happens and the time.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::protocol::Doing;

/// A worker that runs for so long has started.
const SETTLED: Duration = Duration::from_millis(300);
/// A worker that is replaced since it says nothing has so long to leave by itself, or its grace where that is shorter.
const STALLED: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Whether anything waits in the worker's queue.
    Demand { waiting: bool },
    /// It is to leave within this time.
    Stop { by: Duration },
    /// A moment passed; the worker's last line came then.
    Time { last_line: Option<Mono> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Ready,
    /// The signal to stop.
    Stop,
    /// All that there is of it.
    Kill,
    Warn {
        code: &'static str,
        message: String,
    },
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Vigil {
    started: Mono,
    stall_after: Option<Duration>,
    grace: Duration,
    ready: bool,
    /// Since when something waits, as far as is known.
    waiting: Option<Mono>,
    /// When it is killed.
    kill: Option<Mono>,
    killed: bool,
    told: bool,
    stalled: Option<String>,
}

impl Vigil {
    pub(super) const fn new(started: Mono, stall_after: Option<Duration>, grace: Duration) -> Self {
        Self {
            started,
            stall_after,
            grace,
            ready: false,
            waiting: None,
            kill: None,
            killed: false,
            told: false,
            stalled: None,
        }
    }

    pub(super) fn step(&mut self, now: Mono, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Demand { waiting: false } => self.waiting = None,
            Event::Demand { waiting: true } => {
                self.waiting.get_or_insert(now);
            }
            Event::Stop { by } => {
                let until = now + by.min(self.grace);
                let first = !std::mem::replace(&mut self.told, true);
                self.kill = Some(self.kill.map_or(until, |kill| kill.min(until)));
                if first && self.stalled.is_none() {
                    actions.push(Action::Stop);
                }
            }
            Event::Time { last_line } => self.time(now, last_line, &mut actions),
        }
        if self.kill.is_some_and(|kill| now >= kill) && !self.killed {
            self.killed = true;
            if self.told && !self.grace.is_zero() {
                let message = "its worker did not leave in time, and is killed".to_owned();
                actions.push(Action::Warn { code: "killed", message });
            }
            actions.push(Action::Kill);
        }
        actions
    }

    fn time(&mut self, now: Mono, last_line: Option<Mono>, actions: &mut Vec<Action>) {
        if self.kill.is_some() {
            return;
        }
        if !self.ready && now.since(self.started) >= SETTLED {
            self.ready = true;
            actions.push(Action::Ready);
        }
        let (Some(stall_after), Some(waiting)) = (self.stall_after, self.waiting) else { return };
        let since = last_line.unwrap_or(self.started).max(self.started).max(waiting);
        if now.since(since) >= stall_after {
            let message = format!("not a line in {stall_after:?} though its queue is not empty");
            actions.push(Action::Warn { code: "stalled", message: message.clone() });
            self.stalled = Some(message);
            self.kill = Some(now + self.grace.min(STALLED));
            actions.push(Action::Stop);
        }
    }

    /// As the master is to see it. Whether it works on something is its own secret; where nothing waits it may be idle.
    pub(super) const fn doing(&self) -> Doing {
        if self.kill.is_some() {
            Doing::Draining
        } else if !self.ready {
            Doing::Starting
        } else if self.waiting.is_some() {
            Doing::Busy
        } else {
            Doing::Idle
        }
    }

    pub(super) const fn is_told_to_stop(&self) -> bool {
        self.told
    }

    pub(super) fn stalled(&self) -> Option<&str> {
        self.stalled.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(10);
    const GRACE: Duration = Duration::from_secs(5);

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn tick(last_line: Option<u64>) -> Event {
        Event::Time { last_line: last_line.map(at) }
    }

    #[test]
    fn silence_counts_only_while_something_waits() {
        let mut vigil = Vigil::new(at(0), Some(STALL), GRACE);
        assert_eq!(vigil.step(at(400), tick(None)), [Action::Ready]);
        assert_eq!((vigil.step(at(60_000), tick(None)), vigil.doing()), (vec![], Doing::Idle));
        assert_eq!(vigil.step(at(60_000), Event::Demand { waiting: true }), []);
        assert_eq!((vigil.step(at(69_999), tick(None)), vigil.doing()), (vec![], Doing::Busy));
        assert_eq!(vigil.step(at(75_000), tick(Some(69_000))), [], "a line came");
        assert_eq!(vigil.step(at(78_000), Event::Demand { waiting: false }), []);
        assert_eq!(vigil.step(at(90_000), tick(Some(69_000))), []);
        assert_eq!(vigil.step(at(91_000), Event::Demand { waiting: true }), []);
        assert_eq!(vigil.step(at(100_999), tick(Some(69_000))), []);
        let stalled = vigil.step(at(101_000), tick(Some(69_000)));
        assert!(matches!(stalled[..], [Action::Warn { code: "stalled", .. }, Action::Stop]), "{stalled:?}");
        assert_eq!(vigil.step(at(102_900), tick(Some(101_500))), [], "too late");
        assert_eq!(vigil.step(at(103_000), tick(None)), [Action::Kill]);
        assert_eq!(vigil.step(at(104_000), tick(None)), [], "once");
        assert!(vigil.stalled().is_some() && !vigil.is_told_to_stop());
    }

    #[test]
    fn without_a_bound_nobody_is_silent() {
        let mut vigil = Vigil::new(at(0), None, GRACE);
        vigil.step(at(0), Event::Demand { waiting: true });
        assert_eq!(vigil.step(at(400), tick(None)), [Action::Ready]);
        assert_eq!(vigil.step(at(4_000_000), tick(None)), []);
    }

    #[test]
    fn who_does_not_leave_in_its_grace_is_killed() {
        let mut vigil = Vigil::new(at(0), Some(STALL), GRACE);
        assert_eq!(vigil.step(at(1_000), Event::Stop { by: Duration::from_secs(1 << 30) }), [Action::Stop]);
        assert_eq!((vigil.step(at(5_999), tick(None)), vigil.doing()), (vec![], Doing::Draining));
        let late = vigil.step(at(6_000), tick(None));
        assert!(matches!(late[..], [Action::Warn { code: "killed", .. }, Action::Kill]), "{late:?}");
        let mut vigil = Vigil::new(at(0), None, GRACE);
        vigil.step(at(1_000), Event::Stop { by: GRACE });
        let now = vigil.step(at(1_500), Event::Stop { by: Duration::ZERO });
        assert!(matches!(now[..], [_, Action::Kill]), "the second word counts where it is shorter: {now:?}");
    }
}
