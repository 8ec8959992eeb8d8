//! What came of a trace, whoever played it.

/// See the module's text.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    pub jobs: usize,
    /// The share of jobs that waited longer than the objective.
    pub missed: f64,
    /// Seconds from due to start.
    pub wait_mean: f64,
    pub wait_p50: f64,
    pub wait_p99: f64,
    pub wait_max: f64,
    /// Seconds that workers existed, as a multiple of the seconds that their jobs ran (in all slots).
    pub cost: f64,
    pub worker_seconds: f64,
    pub starts: usize,
    /// Times that another number was wanted.
    pub decisions: usize,
    /// Of these, those that took back another within ten seconds, bursts and the first worker aside.
    pub reversals: usize,
    /// Workers that there were at most, those that finish what they run before they leave among them.
    pub most: u32,
    /// Seconds from the first job to the last end.
    pub lasted: f64,
}

impl Figures {
    /// The mean of several courses, figure by figure.
    #[must_use]
    pub fn mean(of: &[Self]) -> Self {
        let mean = |what: fn(&Self) -> f64| of.iter().map(what).sum::<f64>() / of.len().max(1) as f64;
        let count = |what: fn(&Self) -> f64| mean(what).round() as usize;
        Self {
            jobs: count(|it| it.jobs as f64),
            missed: mean(|it| it.missed),
            wait_mean: mean(|it| it.wait_mean),
            wait_p50: mean(|it| it.wait_p50),
            wait_p99: mean(|it| it.wait_p99),
            wait_max: mean(|it| it.wait_max),
            cost: mean(|it| it.cost),
            worker_seconds: mean(|it| it.worker_seconds),
            starts: count(|it| it.starts as f64),
            decisions: count(|it| it.decisions as f64),
            reversals: count(|it| it.reversals as f64),
            most: mean(|it| f64::from(it.most)).round() as u32,
            lasted: mean(|it| it.lasted),
        }
    }

    /// What is to be said of how long each job waited, in seconds.
    #[must_use]
    pub fn of_waits(mut waits: Vec<f64>, target_wait: f64) -> Self {
        waits.sort_by(f64::total_cmp);
        let jobs = waits.len();
        let share = |share: f64| {
            let place = ((jobs as f64 * share).ceil() as usize).clamp(1, jobs.max(1)) - 1;
            waits.get(place).copied().unwrap_or_default()
        };
        let missed = waits.iter().filter(|wait| **wait > target_wait).count();
        Self {
            jobs,
            missed: missed as f64 / jobs.max(1) as f64,
            wait_mean: waits.iter().sum::<f64>() / jobs.max(1) as f64,
            wait_p50: share(0.5),
            wait_p99: share(0.99),
            wait_max: waits.last().copied().unwrap_or_default(),
            ..Self::default()
        }
    }
}
