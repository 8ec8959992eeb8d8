//! What the command line says of a run.

use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Redis,
    Sqlite,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) jobs: Option<u64>,
    pub(crate) kills: Option<u64>,
    pub(crate) channel_kills: Option<u64>,
    pub(crate) broker_kills: Option<u64>,
    pub(crate) rolls: Option<u64>,
    /// Between two faults, on average.
    pub(crate) every: Option<Duration>,
    pub(crate) seed: u64,
    pub(crate) store: StoreKind,
    /// Of a matrix.
    pub(crate) row: Option<String>,
    /// How long a pause or the whole run lasts, in place of its own.
    pub(crate) pause: Option<Duration>,
    /// Where the histories are kept.
    pub(crate) keep: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            jobs: None,
            kills: None,
            channel_kills: None,
            broker_kills: None,
            rolls: None,
            every: None,
            seed: 1,
            store: StoreKind::Redis,
            row: None,
            pause: None,
            keep: None,
        };
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|error| format!("{flag} {value}: {error}"));
            match flag.as_str() {
                "--jobs" => options.jobs = Some(number()?),
                "--kills" => options.kills = Some(number()?),
                "--channel-kills" => options.channel_kills = Some(number()?),
                "--broker-kills" => options.broker_kills = Some(number()?),
                "--every" => options.every = Some(Duration::from_millis(number()?)),
                "--seed" => options.seed = number()?,
                "--row" => options.row = Some(value),
                "--seconds" => options.pause = Some(Duration::from_secs(number()?)),
                "--minutes" => options.pause = Some(Duration::from_secs(number()? * 60)),
                "--rolls" => options.rolls = Some(number()?),
                "--keep" => options.keep = Some(PathBuf::from(value)),
                "--store" => {
                    options.store = match value.as_str() {
                        "redis" => StoreKind::Redis,
                        "sqlite" => StoreKind::Sqlite,
                        _ => return Err(format!("no store {value:?}: redis or sqlite")),
                    };
                }
                _ => return Err(format!("no option {flag}")),
            }
        }
        Ok(options)
    }
}

/// Numbers that a seed gives again and again (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0, below the bound.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let bound = u64::try_from(of.len()).ok().filter(|bound| *bound > 0)?;
        of.get(usize::try_from(self.below(bound)).ok()?)
    }

    /// The wait for the next event of a Poisson process.
    pub(crate) fn exponential(&mut self, mean: Duration) -> Duration {
        let uniform = f64::from(u32::try_from(self.next() >> 32).unwrap_or(u32::MAX)) + 1.0;
        mean.mul_f64(-(uniform / (f64::from(u32::MAX) + 2.0)).ln())
    }
}
