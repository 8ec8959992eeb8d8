//! Whether what real processes did is what the simulator says they do.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use roundsman_master::simulate::Figures;

/// Of what was simulated, so much more or less is still the same.
const SHARE: f64 = 0.2;
/// Waits that differ by no more are the same, however short they are.
const WAIT_S: f64 = 0.25;
/// Shares of jobs that waited too long that differ by no more are the same, however small they are.
const MISSED: f64 = 0.005;
/// Workers at most.
const MOST: u32 = 1;
/// The same where the machine may be busy with something else.
const SHARE_ROUGHLY: f64 = 0.4;
const MISSED_ROUGHLY: f64 = 0.05;

/// A load, as both played it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Course {
    pub(crate) load: String,
    /// The mean of several simulated courses, and the workers that each had at most.
    pub(crate) simulated: Figures,
    pub(crate) most: RangeInclusive<u32>,
    pub(crate) live: Figures,
    /// What starts took: in the mean, which the simulator is given, and 95 % of them.
    pub(crate) boot: Duration,
    pub(crate) boot_p95: Duration,
    /// The latest that a job was enqueued after its moment.
    pub(crate) late: Duration,
}

impl Course {
    /// In words; none where they agree.
    pub(crate) fn differences(&self, rough: bool) -> Vec<String> {
        let (simulated, live) = (&self.simulated, &self.live);
        let share = if rough { SHARE_ROUGHLY } else { SHARE };
        let missed = if rough { MISSED_ROUGHLY } else { MISSED };
        let is_near = |live: f64, simulated: f64| (live - simulated).abs() <= share * simulated;
        let mut found = Vec::new();
        if !is_near(live.worker_seconds, simulated.worker_seconds) {
            found
                .push(format!("worker-seconds: {:.2} times", live.worker_seconds / simulated.worker_seconds));
        }
        if (live.missed - simulated.missed).abs() > missed && !is_near(live.missed, simulated.missed) {
            found.push(format!("late: {:+.2} points", (live.missed - simulated.missed) * 100.0));
        }
        if live.jobs != simulated.jobs && self.load != "retry" {
            found.push(format!("jobs: {} and {}", live.jobs, simulated.jobs));
        }
        if rough {
            return found;
        }
        let wait = live.wait_p99 - simulated.wait_p99;
        if wait.abs() > WAIT_S && !is_near(live.wait_p99, simulated.wait_p99) {
            found.push(format!("p99: {wait:+.2} s"));
        }
        // One peak hangs on chance more than on the load.
        let nearest = live.most.clamp(*self.most.start(), *self.most.end());
        if live.most.abs_diff(nearest) > MOST && !is_near(f64::from(live.most), f64::from(nearest)) {
            found.push(format!(
                "most workers: {} and {} to {}",
                live.most,
                self.most.start(),
                self.most.end()
            ));
        }
        found
    }

    pub(crate) fn table(&self, rough: bool) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<10} {:<9} {:>6} {:>7} {:>7} {:>7} {:>7} {:>7} {:>9} {:>5} {:>7} {:>8}",
            self.load,
            "",
            "JOBS",
            "LATE %",
            "MEAN S",
            "P50 S",
            "P99 S",
            "MAX S",
            "WORKER S",
            "MOST",
            "STARTS",
            "CHANGES"
        );
        for (name, figures) in [("simulated", &self.simulated), ("live", &self.live)] {
            let _ = writeln!(
                text,
                "{:<10} {name:<9} {:>6} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>9.0} {:>5} {:>7} {:>8}",
                "",
                figures.jobs,
                figures.missed * 100.0,
                figures.wait_mean,
                figures.wait_p50,
                figures.wait_p99,
                figures.wait_max,
                figures.worker_seconds,
                figures.most,
                figures.starts,
                figures.decisions
            );
        }
        let over = |of: fn(&Figures) -> f64| match (of(&self.live), of(&self.simulated)) {
            (_, 0.0) => "-".to_owned(),
            (live, simulated) => format!("{:.2}", live / simulated),
        };
        let _ = writeln!(
            text,
            "{:<10} {:<9} {:>6} {:>7} {:>7} {:>7} {:>7} {:>7} {:>9} {:>5} {:>7} {:>8}",
            "",
            "ratio",
            over(|it| it.jobs as f64),
            over(|it| it.missed),
            over(|it| it.wait_mean),
            over(|it| it.wait_p50),
            over(|it| it.wait_p99),
            over(|it| it.wait_max),
            over(|it| it.worker_seconds),
            over(|it| f64::from(it.most)),
            over(|it| it.starts as f64),
            over(|it| it.decisions as f64)
        );
        let ms = |span: Duration| span.as_secs_f64() * 1000.0;
        let _ = writeln!(
            text,
            "{:<10} {} to {} simulated workers at most; a start takes {:.0} ms, 95 % take {:.0} ms; the producer was \
             {:.0} ms late at most",
            "",
            self.most.start(),
            self.most.end(),
            ms(self.boot),
            ms(self.boot_p95),
            ms(self.late)
        );
        let differences = self.differences(rough);
        let verdict = if differences.is_empty() {
            "they agree".to_owned()
        } else {
            format!("THEY DIFFER: {}", differences.join("; "))
        };
        let _ = writeln!(text, "{:<10} {verdict}", "");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(change: impl FnOnce(&mut Figures)) -> Course {
        let simulated = Figures {
            jobs: 100,
            missed: 0.01,
            wait_p99: 0.1,
            worker_seconds: 100.0,
            most: 3,
            ..Figures::default()
        };
        let mut live = simulated;
        change(&mut live);
        let span = Duration::from_millis(20);
        Course {
            load: "step".to_owned(),
            simulated,
            most: 3..=3,
            live,
            boot: span,
            boot_p95: span,
            late: span,
        }
    }

    #[test]
    fn what_differs_is_named() {
        assert!(course(|_| {}).differences(false).is_empty());
        let near = course(|live| {
            (live.missed, live.wait_p99, live.worker_seconds, live.most) = (0.014, 0.34, 119.0, 4);
        });
        assert!(near.differences(false).is_empty(), "{:?}", near.differences(false));
        let far = course(|live| {
            (live.missed, live.wait_p99, live.worker_seconds, live.most) = (0.016, 0.36, 79.0, 5);
        });
        assert_eq!(
            far.differences(false),
            [
                "worker-seconds: 0.79 times",
                "late: +0.60 points",
                "p99: +0.26 s",
                "most workers: 5 and 3 to 3"
            ]
        );
        assert!(far.differences(true).is_empty());
        assert_eq!(course(|live| live.jobs = 99).differences(true), ["jobs: 99 and 100"]);
    }
}
