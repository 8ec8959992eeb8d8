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
    pub most: u32,
    /// Seconds from the first job to the last end.
    pub lasted: f64,
}

impl Figures {
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
