//! `up --demo`: a fleet on a store of its own, which is thrown away, with a load of its own that bursts, hangs and
//! crashes. Nothing of the user's is read or touched: no settings, no store, no broker.
//!
//! The load is made of jobs itself: one of the queue `load` describes a second of it, brings its jobs about as
//! follow-ups, and the next second with them.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use roundsman_shared::clock::Wall;
use roundsman_shared::job::spec::{self, Fields, Limits};
use roundsman_shared::names::QueueName;
use roundsman_shared::settings::{LoadInput, Settings};
use roundsman_shared::store::{Store, StoreConfig};
use roundsman_worker::{Failure as Refused, FollowUp, Job, Output, Worker};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::connect::store_config;
use crate::errors::Failure;

/// The first argument of a worker of it.
pub const ROLE: &str = "demo-worker";

const WORK: &str = "demo";
const LOAD: &str = "load";

/// After so many seconds everything comes again.
const PERIOD: u32 = 60;
const HANG_AT: u32 = 2;
const BURST_AT: u32 = 5;
const CRASH_AT: u32 = 16;

const STEADY: usize = 3;
const BURST: usize = 400;
/// How long a job takes.
const TAKES: Duration = Duration::from_millis(150);
const SECOND: Duration = Duration::from_secs(1);

/// A second of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Second {
    number: u32,
}

/// What comes in one second.
#[derive(Debug, PartialEq, Eq)]
struct Scene {
    /// Kinds, with how many jobs of each.
    jobs: Vec<(&'static str, usize)>,
    /// What is to be seen, for the log.
    words: Option<&'static str>,
}

impl Second {
    fn scene(self) -> Scene {
        let mut scene = Scene { jobs: vec![("resize", STEADY)], words: None };
        let (jobs, words) = match self.number % PERIOD {
            HANG_AT => (("freeze", 1), "a job freezes its process: it is found out within 10 s and replaced"),
            BURST_AT => (
                ("resize", BURST),
                "a burst of 400 jobs arrives: the number of workers grows, and shrinks when it is over",
            ),
            CRASH_AT => (
                ("crash", 1),
                "a job aborts its process: tried again at once, then alone after 10 s, then set aside",
            ),
            _ => return scene,
        };
        scene.jobs.push(jobs);
        scene.words = Some(words);
        scene
    }
}

/// The folder of a demo, with the settings that it starts with. It goes with this value.
#[derive(Debug)]
pub struct Demo {
    folder: TempDir,
}

impl Demo {
    /// Makes its folder, and the first second of its load.
    pub fn prepare(input: &mut LoadInput) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("roundsman-demo-").tempdir()?;
        let program = std::env::current_exe()?;
        let program = utf8(&program)?;
        // The one setting that another fleet on this machine may stand in the way of.
        let listen = input.environment.filled("ROUNDSMAN_HTTP__LISTEN").unwrap_or("127.0.0.1:7070");
        let file = folder.path().join("roundsman.toml");
        std::fs::write(&file, settings(program, listen))?;
        input.config = Some(file);
        input.alone = true;
        let loaded = Settings::load(input)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(begin(&store_config(&loaded.settings.store)?))?;
        Ok(Self { folder })
    }

    /// What to tell whoever started it.
    pub fn hint(&self) -> String {
        format!(
            "a demo on a store of its own; `roundsman --store sqlite:{}/demo.db status` looks at it from another terminal",
            self.folder.path().display()
        )
    }
}

fn utf8(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other(format!("{}: the path is not UTF-8", path.display())))
}

fn settings(program: &str, listen: &str) -> String {
    format!(
        "[store]\nurl = \"sqlite:demo.db\"\n\
         [http]\nlisten = {listen:?}\n\
         [pools.{WORK}]\nqueues = [\"{WORK}\"]\ncommand = [{program:?}, \"{ROLE}\"]\n\
         min_workers = 1\nmax_workers = 8\ntarget_wait = \"1s\"\n\
         [pools.{LOAD}]\nqueues = [\"{LOAD}\"]\ncommand = [{program:?}, \"{ROLE}\"]\n\
         min_workers = 1\nmax_workers = 1\n"
    )
}

async fn begin(config: &StoreConfig) -> Result<(), Failure> {
    let store = Store::open(config).await?;
    let first = serde_json::to_string(&Second { number: 0 })?;
    let limits = Limits { max_payload: first.len(), now: Wall::now() };
    let job = spec::check(Fields::default(), first, &limits)?;
    store.enqueue(&QueueName::new(LOAD)?, &[job], 1).await?;
    Ok(())
}

/// The role of its workers.
pub fn worker() -> ExitCode {
    Worker::new()
        .handle_any(async |job: Job<Second>| load(job.payload))
        .handle("resize", async |job: Job<u32>| {
            tokio::time::sleep(TAKES).await;
            Ok::<_, Refused>(job.payload)
        })
        .handle("freeze", async |job: Job<u32>| {
            if job.attempt == 1 {
                // What a debugger or a stuck disk does to a process.
                let _ =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
                // The signal may reach another thread first: this one must not end its job meanwhile.
                std::future::pending::<()>().await;
            }
            Ok::<_, Refused>("not the second time")
        })
        .handle_blocking("crash", |_: Job<u32>| -> Result<(), Refused> { std::process::abort() })
        .run()
}

fn load(second: Second) -> Result<Output, Refused> {
    let Scene { jobs, words } = second.scene();
    if let Some(words) = words {
        tracing::info!("{words}");
    }
    let work = QueueName::new(WORK)?;
    let mut output = Output::new(&second.number)?;
    for (kind, count) in jobs {
        for number in 0..count {
            output = output.then(FollowUp::new(work.clone(), number.into()).kind(kind));
        }
    }
    let next = serde_json::to_value(Second { number: second.number.saturating_add(1) })?;
    Ok(output.then(FollowUp::new(QueueName::new(LOAD)?, next).delay(SECOND)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_once_in_a_period() {
        let count = |kind: &str| -> usize {
            let scenes = (0..PERIOD).flat_map(|number| Second { number }.scene().jobs);
            scenes.filter(|(name, _)| *name == kind).map(|(_, count)| count).sum()
        };
        assert_eq!((count("freeze"), count("crash")), (1, 1));
        assert_eq!(count("resize"), PERIOD as usize * STEADY + BURST);
        assert_eq!(Second { number: PERIOD + BURST_AT }.scene(), Second { number: BURST_AT }.scene());
    }
}
