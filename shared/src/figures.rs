//! Figures: what processes count, as data. A worker counts its jobs, its master adds up what its workers and the master
//! itself counted, and whoever serves the metrics is handed the sums.
//!
//! ```text
//!   worker ──FromChild::Figure──▶ master ──ToChild::Figures──▶ what serves /metrics
//! ```
//! - Everything is cumulative since the start of the process that counts, so that a line may be lost or come twice.
//! - Bounded: of the kinds of jobs, [`MOST_KINDS`] are told apart and the rest is [`OTHER`].
//! - One closed list of names, with their labels and words, in [`Metric`].

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Kinds that become labels.
pub const MOST_KINDS: usize = 100;
/// The label of all other kinds.
pub const OTHER: &str = "other";
/// Upper bounds of the buckets of every spread, in seconds; beyond the last there is one more.
pub const BOUNDS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    900.0, 3600.0, 21600.0,
];

/// What can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    Jobs,
    JobWait,
    JobDuration,
    JobsRecovered,
    WorkerExits,
    ScaleDecisions,
    TransportRequests,
    StoreErrors,
}

impl Metric {
    pub const ALL: [Self; 8] = [
        Self::Jobs,
        Self::JobWait,
        Self::JobDuration,
        Self::JobsRecovered,
        Self::WorkerExits,
        Self::ScaleDecisions,
        Self::TransportRequests,
        Self::StoreErrors,
    ];

    /// The name to people, without the unit and without `_total`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jobs => "roundsman_jobs",
            Self::JobWait => "roundsman_job_wait",
            Self::JobDuration => "roundsman_job_duration",
            Self::JobsRecovered => "roundsman_jobs_recovered",
            Self::WorkerExits => "roundsman_worker_exits",
            Self::ScaleDecisions => "roundsman_scale_decisions",
            Self::TransportRequests => "roundsman_transport_requests",
            Self::StoreErrors => "roundsman_store_errors",
        }
    }

    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::Jobs => "Deliveries that ended on this host, by what became of the job",
            Self::JobWait => "From the moment a job was due to its start on this host",
            Self::JobDuration => "How long jobs ran on this host",
            Self::JobsRecovered => "Jobs given back by this host for a worker that was gone",
            Self::WorkerExits => "Worker processes of this host that ended",
            Self::ScaleDecisions => "Changes of the number of workers wanted on this host",
            Self::TransportRequests => "Requests that the transports of this host made",
            Self::StoreErrors => "Calls of this host that the store did not answer, or refused as a whole",
        }
    }

    #[must_use]
    pub const fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Jobs => &["queue", "kind", "outcome"],
            Self::JobWait => &["queue"],
            Self::JobDuration => &["queue", "kind"],
            Self::JobsRecovered => &["queue", "cause"],
            Self::WorkerExits => &["pool", "cause"],
            Self::ScaleDecisions => &["pool", "direction", "reason"],
            Self::TransportRequests => &["transport", "outcome"],
            Self::StoreErrors => &["operation"],
        }
    }

    /// Whether it is a spread of times, in seconds; else it is a count.
    #[must_use]
    pub const fn is_spread(self) -> bool {
        matches!(self, Self::JobWait | Self::JobDuration)
    }

    /// Which of the labels is a kind of job, of which only so many are told apart.
    const fn kind_at(self) -> Option<usize> {
        match self {
            Self::Jobs | Self::JobDuration => Some(1),
            _ => None,
        }
    }
}

/// How many times fell between which bounds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Spread {
    /// One for each of [`BOUNDS`] and one beyond, each alone; trailing zeros are left out.
    #[serde(rename = "b")]
    pub buckets: Vec<u64>,
    /// In seconds.
    #[serde(rename = "s")]
    pub sum: f64,
}

impl Spread {
    pub fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = BOUNDS.partition_point(|bound| *bound < seconds);
        if self.buckets.len() <= at {
            self.buckets.resize(at + 1, 0);
        }
        self.buckets[at] += 1;
        self.sum += seconds;
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What has come since `before`; all of it where that was more, since then the counting began anew.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let at = |spread: &Self, at: usize| spread.buckets.get(at).copied().unwrap_or(0);
        let slots = self.buckets.len().max(before.buckets.len());
        let more: Option<Vec<u64>> =
            (0..slots).map(|slot| at(self, slot).checked_sub(at(before, slot))).collect();
        let more = more.map(|buckets| Self { buckets, sum: (self.sum - before.sum).max(0.0) });
        more.unwrap_or_else(|| self.clone())
    }

    /// The time, in seconds, that this share of all lies below, by the bounds; `None` for nothing.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let count = self.count();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within the count"
        )]
        let rank = ((count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let at = self.buckets.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        })?;
        Some(BOUNDS.get(at).copied().unwrap_or(f64::INFINITY))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Count(u64),
    Spread(Spread),
}

impl Value {
    const fn zero(metric: Metric) -> Self {
        if metric.is_spread() {
            Self::Spread(Spread { buckets: Vec::new(), sum: 0.0 })
        } else {
            Self::Count(0)
        }
    }

    /// What has come since `before`; all of it where that was more, since then the counting began anew.
    fn since(&self, before: Option<&Self>) -> Self {
        match (self, before) {
            (Self::Count(now), Some(Self::Count(before))) => {
                Self::Count(now.checked_sub(*before).unwrap_or(*now))
            }
            (Self::Spread(now), Some(Self::Spread(before))) => Self::Spread(now.since(before)),
            _ => self.clone(),
        }
    }

    fn add(&mut self, more: &Self) {
        match (self, more) {
            (Self::Count(sum), Self::Count(more)) => *sum = sum.saturating_add(*more),
            (Self::Spread(sum), Self::Spread(more)) => {
                if sum.buckets.len() < more.buckets.len() {
                    sum.buckets.resize(more.buckets.len(), 0);
                }
                for (sum, more) in sum.buckets.iter_mut().zip(&more.buckets) {
                    *sum = sum.saturating_add(*more);
                }
                sum.sum += more.sum;
            }
            // Of another build, that measures it otherwise.
            _ => {}
        }
    }

    fn is_well_formed(&self, metric: Metric) -> bool {
        match self {
            Self::Count(_) => !metric.is_spread(),
            Self::Spread(spread) => {
                metric.is_spread()
                    && spread.buckets.len() <= BOUNDS.len() + 1
                    && spread.sum.is_finite()
                    && spread.sum >= 0.0
            }
        }
    }
}

/// One figure with its name and the values of its labels, in the order of [`Metric::labels`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    #[serde(rename = "m")]
    pub metric: Metric,
    #[serde(rename = "l")]
    pub labels: Vec<String>,
    #[serde(rename = "v")]
    pub value: Value,
}

type Series = (Metric, Vec<String>);

/// The figures of a process.
#[derive(Debug, Default)]
pub struct Figures {
    rows: Vec<Row>,
    index: HashMap<Series, usize>,
    kinds: BTreeSet<String>,
    /// Rises with each change.
    version: u64,
}

#[derive(Debug)]
struct Row {
    figure: Figure,
    changed: u64,
}

/// The place of a figure, for whoever counts in it often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

/// What a child has said so far, to know what is new in what it says next.
#[derive(Debug, Default)]
pub struct Said(HashMap<Series, Value>);

/// The most rows that are taken from one child.
const MOST_OF_A_CHILD: usize = 4096;

impl Figures {
    /// The place of a figure, which begins at zero.
    pub fn place(&mut self, metric: Metric, labels: &[&str]) -> Place {
        debug_assert_eq!(labels.len(), metric.labels().len(), "{metric:?}");
        let mut labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        if let Some(kind) = metric.kind_at().and_then(|at| labels.get_mut(at)) {
            if self.kinds.len() < MOST_KINDS && !self.kinds.contains(kind) {
                self.kinds.insert(kind.clone());
            } else if !self.kinds.contains(kind) {
                OTHER.clone_into(kind);
            }
        }
        let series = (metric, labels);
        if let Some(at) = self.index.get(&series) {
            return Place(*at);
        }
        let at = self.rows.len();
        let figure = Figure { metric, labels: series.1.clone(), value: Value::zero(metric) };
        self.rows.push(Row { figure, changed: 0 });
        self.index.insert(series, at);
        Place(at)
    }

    pub fn count_at(&mut self, place: Place, more: u64) {
        self.add(place, &Value::Count(more));
    }

    pub fn observe_at(&mut self, place: Place, time: Duration) {
        self.version += 1;
        let Some(row) = self.rows.get_mut(place.0) else { return };
        if let Value::Spread(spread) = &mut row.figure.value {
            spread.observe(time);
            row.changed = self.version;
        }
    }

    pub fn count(&mut self, metric: Metric, labels: &[&str], more: u64) {
        let place = self.place(metric, labels);
        self.count_at(place, more);
    }

    /// Adds what a child says that it has counted to what it said before.
    pub fn absorb(&mut self, figure: Figure, said: &mut Said) {
        let Figure { metric, labels, value } = figure;
        if labels.len() != metric.labels().len() || !value.is_well_formed(metric) {
            return;
        }
        let place = self.place(metric, &labels.iter().map(String::as_str).collect::<Vec<_>>());
        let series = (metric, labels);
        if said.0.len() >= MOST_OF_A_CHILD && !said.0.contains_key(&series) {
            return;
        }
        let more = value.since(said.0.get(&series));
        said.0.insert(series, value);
        self.add(place, &more);
    }

    /// Takes what another process has summed up as it stands.
    pub fn replace(&mut self, figure: Figure) {
        if figure.labels.len() != figure.metric.labels().len() || !figure.value.is_well_formed(figure.metric)
        {
            return;
        }
        let labels: Vec<&str> = figure.labels.iter().map(String::as_str).collect();
        let place = self.place(figure.metric, &labels);
        self.version += 1;
        if let Some(row) = self.rows.get_mut(place.0) {
            row.figure.value = figure.value;
            row.changed = self.version;
        }
    }

    fn add(&mut self, place: Place, more: &Value) {
        self.version += 1;
        if let Some(row) = self.rows.get_mut(place.0) {
            row.figure.value.add(more);
            row.changed = self.version;
        }
    }

    /// Where the counting stands, for [`Self::changed_since`]; nothing has changed before 0.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The figures that changed after this version, each with the version of its last change, in that order: whoever
    /// tells only the first of them goes on after the last one told.
    #[must_use]
    pub fn changed_since(&self, version: u64) -> Vec<(u64, &Figure)> {
        let changed = self.rows.iter().filter(|row| row.changed > version);
        let mut changed: Vec<_> = changed.map(|row| (row.changed, &row.figure)).collect();
        changed.sort_unstable_by_key(|(version, _)| *version);
        changed
    }

    pub fn iter(&self) -> impl Iterator<Item = &Figure> {
        self.rows.iter().map(|row| &row.figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(figures: &Figures, metric: Metric, labels: &[&str]) -> Value {
        let found = figures.iter().find(|it| it.metric == metric && it.labels == labels);
        found.unwrap_or_else(|| panic!("{metric:?} {labels:?}")).value.clone()
    }

    #[test]
    fn a_spread_finds_its_bucket_and_its_quantiles() {
        let mut spread = Spread::default();
        for millis in [0, 1, 1, 2, 90, 400_000_000] {
            spread.observe(Duration::from_millis(millis));
        }
        assert_eq!(spread.buckets, [1, 2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(spread.quantile(0.5), Some(0.001));
        assert_eq!(spread.quantile(0.6), Some(0.0025));
        assert_eq!(spread.quantile(1.0), Some(f64::INFINITY));
        assert_eq!(Spread::default().quantile(0.5), None);
    }

    #[test]
    fn what_children_count_is_summed_up_however_often_it_is_said_and_however_often_they_start() {
        let mut master = Figures::default();
        let labels = ["q", "k", "done"];
        let mut said = Said::default();
        for life in 0..2 {
            let mut worker = Figures::default();
            for _ in 0..3 {
                worker.count(Metric::Jobs, &labels, 2);
                let wait = worker.place(Metric::JobWait, &["q"]);
                worker.observe_at(wait, Duration::from_millis(3));
                for _ in 0..2 {
                    for figure in worker.iter() {
                        let line = serde_json::to_string(figure).unwrap();
                        master.absorb(serde_json::from_str(&line).unwrap(), &mut said);
                    }
                }
            }
            let ended = 6 * (life + 1);
            assert_eq!(sum(&master, Metric::Jobs, &labels), Value::Count(ended));
            let Value::Spread(spread) = sum(&master, Metric::JobWait, &["q"]) else { panic!("a spread") };
            assert_eq!(spread.buckets, [0, 0, 0, ended / 2]);
            // As for each process anew.
            said = Said::default();
        }
    }

    #[test]
    fn a_counter_that_went_back_began_anew() {
        let mut sums = Figures::default();
        let mut said = Said::default();
        for value in [5, 2] {
            let labels = vec!["q".to_owned(), "lapsed".to_owned()];
            sums.absorb(
                Figure { metric: Metric::JobsRecovered, labels, value: Value::Count(value) },
                &mut said,
            );
        }
        assert_eq!(sum(&sums, Metric::JobsRecovered, &["q", "lapsed"]), Value::Count(7));
    }

    #[test]
    fn only_so_many_kinds_are_told_apart() {
        let mut figures = Figures::default();
        for n in 0..MOST_KINDS + 50 {
            figures.count(Metric::Jobs, &["q", &format!("kind-{n}"), "done"], 1);
            figures.count(Metric::Jobs, &["q", &format!("kind-{n}"), "retry"], 1);
        }
        assert_eq!(figures.iter().count(), 2 * (MOST_KINDS + 1));
        assert_eq!(sum(&figures, Metric::Jobs, &["q", OTHER, "done"]), Value::Count(50));
        assert_eq!(sum(&figures, Metric::Jobs, &["q", "kind-0", "retry"]), Value::Count(1));
    }

    #[test]
    fn nonsense_from_a_child_changes_nothing() {
        let mut sums = Figures::default();
        for line in [
            r#"{"m":"jobs","l":["q"],"v":1}"#,
            r#"{"m":"jobs","l":["q","k","done"],"v":{"b":[1],"s":1.0}}"#,
            r#"{"m":"job_wait","l":["q"],"v":3}"#,
            r#"{"m":"job_wait","l":["q"],"v":{"b":[1],"s":-1.0}}"#,
            r#"{"m":"job_wait","l":["q"],"v":{"b":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"s":1.0}}"#,
        ] {
            sums.absorb(serde_json::from_str(line).unwrap(), &mut Said::default());
        }
        assert_eq!(sums.iter().count(), 0);
    }

    #[test]
    fn what_changed_is_told_once() {
        let mut figures = Figures::default();
        let errors = |figures: &mut Figures, more| figures.count(Metric::StoreErrors, &["pull"], more);
        errors(&mut figures, 1);
        let told = figures.version();
        assert_eq!(figures.changed_since(told), []);
        figures.count(Metric::WorkerExits, &["p", "clean"], 1);
        let (first, figure) = figures.changed_since(told)[0];
        assert_eq!(figure.metric, Metric::WorkerExits);
        errors(&mut figures, 1);
        assert_eq!(figures.changed_since(told).len(), 2);
        assert_eq!(figures.changed_since(first).len(), 1);
        assert_eq!(figures.changed_since(0).len(), 2);
    }

    /// However long the names, a figure fits a line of the pipe.
    #[test]
    fn a_figure_fits_a_line() {
        let spread = Spread { buckets: vec![u64::MAX; BOUNDS.len() + 1], sum: f64::MAX };
        let labels = vec!["\u{1}".repeat(64), "\u{1}".repeat(128)];
        let figure = Figure { metric: Metric::JobDuration, labels, value: Value::Spread(spread) };
        assert!(serde_json::to_string(&figure).unwrap().len() < crate::protocol::MAX_LINE_UP - 64);
    }
}
