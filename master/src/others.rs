//! The other hosts that serve the same pools, as they have entered themselves in the store's registry. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::registry::{self, HostRecord};
use crate::scale::Elsewhere;
use crate::share::Place;

/// What a host tells the others of a pool, so that all find the same number of workers to be needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolLoad {
    /// The fewest and the most workers that it has.
    pub min: u32,
    pub max: u32,
    /// Workers that are there or start.
    pub workers: u32,
    /// Jobs that run, and those among them that have run for long.
    pub running: u32,
    pub held: u32,
    /// Runs that it remembers, and how many microseconds one takes, long ones aside.
    pub runs: u32,
    pub service_us: u64,
    /// Runs that ever failed.
    pub failed: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Pool → host → what it tells.
    pools: BTreeMap<String, BTreeMap<String, PoolLoad>>,
}

impl Others {
    /// From all entries, this host's own aside. A host whose pool starts nothing has no part in it.
    pub(crate) fn of(records: &[String], own: &str) -> Self {
        let mut others = Self::default();
        let records = records.iter().filter_map(|text| serde_json::from_str::<HostRecord>(text).ok());
        for record in records.filter(|record| !registry::is_of(&record.host, own)) {
            let host = registry::host_of(&record.host);
            for pool in record.pools {
                let Some(load) = pool.load else { continue };
                let takes_part = pool.quarantined.is_none() && !record.quiet;
                let known = others.pools.entry(pool.pool).or_default().entry(host.to_owned()).or_default();
                // Two masters of one host have what it may have between them.
                if takes_part {
                    (known.min, known.max) = (known.min.max(load.min), known.max.max(load.max));
                }
                known.workers += load.workers;
                known.running += load.running;
                known.held += load.held;
                known.failed += load.failed;
                if load.runs > known.runs {
                    (known.runs, known.service_us) = (load.runs, load.service_us);
                }
            }
        }
        others
    }

    fn hosts(&self, pool: &str) -> impl Iterator<Item = (&String, &PoolLoad)> {
        self.pools.get(pool).into_iter().flatten()
    }

    /// All that serve the pool, this host first.
    pub(crate) fn places(&self, pool: &str, own: Place) -> Vec<Place> {
        let others = self.hosts(pool);
        let place =
            |(host, load): (&String, &PoolLoad)| Place { host: host.clone(), min: load.min, max: load.max };
        std::iter::once(own).chain(others.map(place).filter(|place| place.max > 0)).collect()
    }

    pub(crate) fn elsewhere(&self, pool: &str) -> Elsewhere {
        let mut all = Elsewhere::default();
        let mut service = 0.0;
        for (_, load) in self.hosts(pool) {
            all.workers += load.workers;
            all.running += load.running;
            all.held += load.held;
            all.runs += load.runs;
            service += load.service_us as f64 / 1e6 * f64::from(load.runs);
        }
        all.service = service / f64::from(all.runs.max(1));
        all
    }

    /// Runs that ever failed there.
    pub(crate) fn failed(&self, pool: &str) -> u64 {
        self.hosts(pool).map(|(_, load)| load.failed).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(host: &str, quiet: bool, load: &PoolLoad) -> String {
        let pool = json!({"pool": "p", "desired": 1, "why": "w", "workers": [], "load": load});
        json!({"host": host, "supervisor": {"pid": 1}, "master": {"pid": 2, "since": 3}, "quiet": quiet, "pools": [pool]})
            .to_string()
    }

    #[test]
    fn the_others_are_those_that_serve_the_pool() {
        let load = PoolLoad {
            max: 4,
            workers: 2,
            running: 3,
            held: 1,
            runs: 10,
            service_us: 200_000,
            failed: 5,
            min: 1,
        };
        let faster = PoolLoad { service_us: 100_000, ..load };
        let old = json!({"host": "old", "supervisor": {"pid": 1}, "master": {"pid": 2, "since": 3},
            "pools": [{"pool": "p", "desired": 1, "why": "w", "workers": []}]});
        let entries = [
            entry("own", false, &load),
            entry("own~77", false, &load),
            entry("b", false, &load),
            entry("c", true, &faster),
            old.to_string(),
            "nonsense".to_owned(),
        ];
        let others = Others::of(&entries, "own");
        let own = Place { host: "own".into(), min: 0, max: 2 };
        let b = Place { host: "b".into(), min: 1, max: 4 };
        assert_eq!(others.places("p", own.clone()), [own.clone(), b], "c is told to take nothing");
        assert_eq!(others.places("q", own.clone()), [own]);
        let elsewhere = others.elsewhere("p");
        assert_eq!((elsewhere.workers, elsewhere.running, elsewhere.held, elsewhere.runs), (4, 6, 2, 20));
        assert!((elsewhere.service - 0.15).abs() < 1e-9);
        assert_eq!(others.failed("p"), 10);
    }

    #[test]
    fn two_masters_of_a_host_are_one_host() {
        let load = PoolLoad { max: 4, workers: 2, ..PoolLoad::default() };
        let others = Others::of(&[entry("b", false, &load), entry("b~5", false, &load)], "own");
        let places = others.places("p", Place { host: "own".into(), min: 0, max: 4 });
        assert_eq!(places.iter().map(|place| place.max).collect::<Vec<_>>(), [4, 4]);
        assert_eq!(others.elsewhere("p").workers, 4);
    }
}
