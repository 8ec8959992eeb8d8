//! `simulate`: the scaling law under a load that only exists in memory, with one setting or with two side by side.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use roundsman_master::simulate::{Figures, KINDS, Lawful, Sample, Setting, Trace, run as play};
use roundsman_shared::settings::PoolSettings;
use roundsman_shared::settings::units::parse_duration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::DONE;
use crate::connect::Context;
use crate::errors::Failure;

/// Jobs of a recording.
const MOST: usize = 5_000_000;
/// Columns of a plot.
const COLUMNS: usize = 72;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Only these loads: step, ramp, diurnal, spikes, heavy, retry, crashloop, slowdep, satdep, hourly, deploy, sparse,
    /// longjobs. `--list` says what they are.
    #[arg(value_name = "LOAD")]
    loads: Vec<String>,
    /// Say what the loads are.
    #[arg(long, conflicts_with_all = ["loads", "file"])]
    list: bool,
    /// A recorded load: a line a job, {"due":MS,"ran":MS}, times in milliseconds.
    #[arg(long, value_name = "FILE", conflicts_with = "loads")]
    file: Option<PathBuf>,
    /// With the settings of this pool.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pool: String,
    #[command(flatten)]
    this: Changes,
    /// A second setting beside it, as target_wait=2s,max_workers=40,slots=4,min_workers=1.
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = changes)]
    against: Option<Changes>,
    /// From the start of a worker to its first job.
    #[arg(long, value_name = "DUR", default_value = "200ms", value_parser = parse_duration)]
    boot: Duration,
    /// The same seed, the same load.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Draw how waiting jobs and workers went.
    #[arg(long)]
    plot: bool,
}

/// What is other than in the pool's settings.
#[derive(Debug, Clone, Default, PartialEq, Args)]
struct Changes {
    /// The latency objective.
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    target_wait: Option<Duration>,
    /// The fewest workers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    min_workers: Option<u32>,
    /// The most workers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_workers: Option<u32>,
    /// Jobs that a worker runs at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: Option<u16>,
}

fn changes(text: &str) -> Result<Changes, String> {
    let mut changes = Changes::default();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or("write KEY=VALUE, with commas between several")?;
        let within = |number: u32, least: u32| {
            let fits = (least..=10_000).contains(&number);
            fits.then_some(number).ok_or_else(|| format!("{key}: must be between {least} and 10000"))
        };
        let number = || value.parse::<u32>().map_err(|error| format!("{key}: {value:?}: {error}"));
        match key.trim() {
            "target_wait" => {
                changes.target_wait = Some(parse_duration(value).map_err(|error| error.to_string())?)
            }
            "min_workers" => changes.min_workers = Some(within(number()?, 0)?),
            "max_workers" => changes.max_workers = Some(within(number()?, 1)?),
            "slots" => {
                let slots = u16::try_from(number()?).ok().filter(|slots| (1..=256).contains(slots));
                changes.slots = Some(slots.ok_or("slots: must be between 1 and 256")?);
            }
            other => {
                return Err(format!("{other:?} is none of target_wait, min_workers, max_workers, slots"));
            }
        }
    }
    Ok(changes)
}

impl Changes {
    fn over(&self, pool: &PoolSettings, boot: Duration, cores: usize) -> Result<Setting, Failure> {
        let setting = Setting {
            target_wait: self.target_wait.unwrap_or(pool.target_wait).as_secs_f64(),
            min_workers: self.min_workers.unwrap_or(pool.min_workers),
            max_workers: self.max_workers.unwrap_or(pool.max_workers),
            slots: self.slots.unwrap_or(pool.slots),
            boot: boot.as_secs_f64(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
        };
        if setting.min_workers > setting.max_workers {
            let (min, max) = (setting.min_workers, setting.max_workers);
            return Err(Failure::usage(format!("min_workers {min} is more than max_workers {max}")));
        }
        if setting.target_wait <= 0.0 {
            return Err(Failure::usage("target_wait must be more than nothing".to_owned()));
        }
        Ok(setting)
    }
}

fn words(setting: &Setting) -> String {
    let Setting { target_wait, min_workers, max_workers, slots, .. } = setting;
    format!("target_wait {target_wait} s, {min_workers} to {max_workers} workers of {slots}")
}

/// What one setting came to under one load.
struct Course {
    load: String,
    setting: Setting,
    figures: Figures,
    samples: Vec<Sample>,
}

impl Course {
    fn row(&self) -> Vec<String> {
        let figures = &self.figures;
        vec![
            self.load.clone(),
            words(&self.setting),
            figures.jobs.to_string(),
            format!("{:.2} %", figures.missed * 100.0),
            format!("{:.2}", figures.wait_p50),
            format!("{:.2}", figures.wait_p99),
            format!("{:.2}", figures.wait_max),
            format!("{:.2}", figures.cost),
            format!("{:.0}", figures.worker_seconds),
            figures.most.to_string(),
            figures.starts.to_string(),
            figures.decisions.to_string(),
        ]
    }

    fn document(&self) -> Value {
        let (setting, figures) = (&self.setting, &self.figures);
        json!({
            "load": self.load,
            "setting": {
                "target_wait": setting.target_wait, "min_workers": setting.min_workers,
                "max_workers": setting.max_workers, "slots": setting.slots, "boot": setting.boot,
            },
            "jobs": figures.jobs, "missed": figures.missed,
            "wait_p50": figures.wait_p50, "wait_p99": figures.wait_p99, "wait_max": figures.wait_max,
            "cost": figures.cost, "worker_seconds": figures.worker_seconds, "most_workers": figures.most,
            "starts": figures.starts, "decisions": figures.decisions, "reversals": figures.reversals,
            "lasted": figures.lasted,
        })
    }

    /// The highest of each column, as bars.
    fn plot(&self, value: impl Fn(&Sample) -> f64) -> (String, f64) {
        let width = (self.figures.lasted / COLUMNS as f64).max(1e-9);
        let mut columns = [0.0_f64; COLUMNS];
        for sample in &self.samples {
            let place = ((sample.at / width) as usize).min(COLUMNS - 1);
            if let Some(column) = columns.get_mut(place) {
                *column = column.max(value(sample));
            }
        }
        let most = columns.iter().copied().fold(0.0, f64::max);
        let bar = |value: &f64| {
            let place = (value / most.max(1e-9) * (BARS.len() - 1) as f64).ceil() as usize;
            if *value > 0.0 { BARS.get(place).copied().unwrap_or('█') } else { ' ' }
        };
        (columns.iter().map(bar).collect(), most)
    }
}

pub fn run(context: &Context, args: &SimulateArgs) -> Result<u8, Failure> {
    let screen = &context.screen;
    if args.list {
        if screen.json {
            let loads: BTreeMap<&str, &str> = KINDS.into_iter().map(|kind| (kind.name, kind.what)).collect();
            screen.document(&loads)?;
        } else {
            let rows: Vec<Vec<String>> =
                KINDS.into_iter().map(|kind| vec![kind.name.to_owned(), kind.what.to_owned()]).collect();
            screen.table(&["LOAD", "WHAT IT IS"], &rows)?;
        }
        return DONE;
    }
    let pools = &context.loaded.settings.pools;
    let pool = pools.get(&args.pool).ok_or_else(|| {
        let known = pools.keys().cloned().collect::<Vec<_>>().join(", ");
        Failure::usage(format!("there is no pool {:?}", args.pool))
            .advise(format!("the settings name {known}"))
    })?;
    let setting = |changes: &Changes| changes.over(pool, args.boot, context.input.cores);
    let mut settings = vec![setting(&args.this)?];
    if let Some(against) = &args.against {
        settings.push(setting(against)?);
    }
    let mut courses = Vec::new();
    for (load, trace) in traces(args)? {
        for setting in &settings {
            let (figures, samples) = play(&trace, setting, &mut Lawful::default(), args.seed);
            courses.push(Course { load: load.clone(), setting: *setting, figures, samples });
        }
    }
    if screen.json {
        let rows: Vec<Value> = courses.iter().map(Course::document).collect();
        screen.document(&json!({"seed": args.seed, "courses": rows}))?;
        return DONE;
    }
    let headings = [
        "LOAD", "SETTING", "JOBS", "LATE", "P50 S", "P99 S", "MAX S", "COST", "WORKER S", "MOST", "STARTS",
        "CHANGES",
    ];
    screen.table(&headings, &courses.iter().map(Course::row).collect::<Vec<_>>())?;
    if args.plot {
        for course in &courses {
            let (waiting, most) = course.plot(|sample| sample.ready as f64);
            let (workers, workers_most) = course.plot(|sample| f64::from(sample.workers));
            screen.line(&format!("\n{}, {}", course.load, words(&course.setting)))?;
            screen.line(&format!("  waiting {waiting} {most:.0} at most"))?;
            screen.line(&format!("  workers {workers} {workers_most:.0} at most"))?;
        }
    }
    screen.note("LATE: waited longer than target_wait. COST: seconds of workers as a multiple of the seconds that jobs ran");
    DONE
}

fn traces(args: &SimulateArgs) -> Result<Vec<(String, Trace)>, Failure> {
    if let Some(file) = &args.file {
        return Ok(vec![(file.display().to_string(), recorded(file)?)]);
    }
    let all = KINDS.map(|kind| kind.name);
    let named: Vec<&str> =
        if args.loads.is_empty() { all.to_vec() } else { args.loads.iter().map(String::as_str).collect() };
    let trace = |name: &str| {
        let trace = Trace::named(name, args.seed, 1.0)
            .ok_or_else(|| Failure::usage(format!("{name:?} is none of {}", all.join(", "))))?;
        Ok((name.to_owned(), trace))
    };
    named.into_iter().map(trace).collect()
}

/// A job as somebody wrote it down.
#[derive(Debug, Deserialize)]
struct Recorded {
    /// Milliseconds since whenever: the first job begins the load.
    due: f64,
    ran: f64,
}

fn recorded(file: &Path) -> Result<Trace, Failure> {
    let name = file.display();
    let open = std::fs::File::open(file).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    let mut jobs = Vec::new();
    for (number, line) in std::io::BufReader::new(open).lines().enumerate() {
        let line = line.map_err(|error| Failure::usage(format!("{name}: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |why: String| Failure::usage(format!("{name}:{}: {why}", number + 1));
        let job: Recorded = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        let is_right = |ms: f64| ms.is_finite() && (0.0..1e15).contains(&ms);
        if !is_right(job.due) || !is_right(job.ran) {
            return Err(wrong("due and ran are milliseconds, not less than 0".to_owned()));
        }
        if jobs.len() == MOST {
            return Err(wrong(format!("more than {MOST} jobs are not taken")));
        }
        jobs.push(job);
    }
    let first = jobs.iter().map(|job| job.due).fold(f64::INFINITY, f64::min);
    if jobs.is_empty() {
        return Err(Failure::usage(format!("{name}: holds no job"))
            .advise("write a line a job: {\"due\":1700000000000,\"ran\":120}"));
    }
    let seconds = |ms: f64| Duration::from_secs_f64(ms / 1000.0);
    Ok(Trace::recorded(
        "recorded",
        jobs.into_iter().map(|job| (seconds(job.due - first), seconds(job.ran))).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_setting_is_read_from_words() {
        let read = changes("target_wait=2s,max_workers=40,slots=4").unwrap();
        assert_eq!(
            read,
            Changes {
                target_wait: Some(Duration::from_secs(2)),
                max_workers: Some(40),
                slots: Some(4),
                min_workers: None
            }
        );
        for wrong in ["", "slots", "slots=0", "slots=x", "speed=1", "target_wait=5"] {
            assert!(changes(wrong).is_err(), "{wrong}");
        }
    }
}
