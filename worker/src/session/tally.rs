//! What the session counts for the metrics.

use std::collections::HashMap;
use std::time::Duration;

use roundsman_shared::figures::{Figures, Metric, Place};
use roundsman_shared::job::lifecycle::Event;
use roundsman_shared::names::QueueName;

use crate::api::Request;

/// What a job without a kind counts under.
const NO_KIND: &str = "";

/// The figures of a worker, with the places of those that every job touches.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) figures: Figures,
    /// Of each line and kind.
    places: HashMap<(usize, Option<String>), Places>,
}

#[derive(Debug, Default)]
struct Places {
    wait: Option<Place>,
    duration: Option<Place>,
    outcomes: Vec<(Event, Place)>,
}

/// A delivery that ended.
pub(super) struct End<'a> {
    pub(super) line: usize,
    pub(super) queue: &'a QueueName,
    pub(super) kind: Option<&'a str>,
    pub(super) event: Event,
    /// Of one that ran: from due to start, and how long it ran.
    pub(super) times: Option<(Duration, Duration)>,
}

impl Tally {
    /// The most kinds whose places are remembered; those of the others are looked up.
    const MOST_PLACES: usize = 1024;

    pub(super) fn ended(&mut self, end: &End<'_>) {
        let Self { figures, places } = self;
        let key = (end.line, end.kind.map(str::to_owned));
        if places.len() >= Self::MOST_PLACES && !places.contains_key(&key) {
            places.clear();
        }
        let places = places.entry(key).or_default();
        let (queue, kind) = (end.queue.as_str(), end.kind.unwrap_or(NO_KIND));
        let known = places.outcomes.iter().find(|(event, _)| *event == end.event).map(|(_, place)| *place);
        let counted = known.unwrap_or_else(|| {
            let place = figures.place(Metric::Jobs, &[queue, kind, end.event.outcome()]);
            places.outcomes.push((end.event, place));
            place
        });
        figures.count_at(counted, 1);
        if let Some((wait, ran)) = end.times {
            let at = *places.wait.get_or_insert_with(|| figures.place(Metric::JobWait, &[queue]));
            figures.observe_at(at, wait);
            let at =
                *places.duration.get_or_insert_with(|| figures.place(Metric::JobDuration, &[queue, kind]));
            figures.observe_at(at, ran);
        }
    }

    pub(super) fn request(&mut self, request: Request) {
        self.figures.count(Metric::TransportRequests, &[request.transport, request.outcome], 1);
    }

    pub(super) fn store_error(&mut self, operation: &str) {
        self.figures.count(Metric::StoreErrors, &[operation], 1);
    }
}
