//! The master of a host: keeps its pools filled with workers, watches them, replaces what dies or hangs, gives the jobs
//! of the dead back at once, and wakes idle workers the moment that work is due. It never looks into a payload.
//!
//! ```text
//! cores (pure)   slot      one worker process, from spawn to reaping
//!                pool      the slots of a pool: starts, wake-ups, quarantine
//!                scale     how many workers are needed, and why;  foreign: the same where they have a queue of their own
//!                beside    whose they are while two masters share a host
//!                guard     whether the machine has room for more
//! rim            run       the one loop
//!                fleet     carries out what the cores decide;  crew: one pool of it
//!                spawn     the one thread that starts processes
//!                child     a running process: pipes, signals, exit;  stderr: what it writes
//!                oom       whether it ended for want of memory;  host_load: what the machine has left
//!                listener  hints, the next due time, a look a second;  alarm: on time
//!                release   jobs of the dead;  orphans: workers of an earlier master;  leftovers: what those left
//!                upkeep    trimming, follow-ups, live settings
//!                registry  the host's entry for `status`;  machine: whose pids it holds
//!                parent    the pipe to the supervisor;  answer: what people ask of this master
//!                plan      from settings to pools
//! ```

#![expect(clippy::cast_precision_loss, reason = "rates and spans are far below 2^52")]

mod alarm;
mod answer;
mod beside;
mod child;
mod crew;
mod event;
mod fleet;
mod foreign;
pub mod guard;
mod host_load;
#[cfg(target_os = "linux")]
mod leftovers;
mod listener;
mod load;
mod machine;
mod oom;
mod orphans;
mod others;
mod parent;
mod plan;
pub mod pool;
mod random;
mod registry;
mod release;
mod run;
pub mod scale;
pub mod share;
mod shortage;
pub mod simulate;
pub mod slot;
mod spawn;
mod stderr;
mod upkeep;
#[cfg(target_os = "linux")]
mod watch;

/// What the end of a worker means for its jobs, for the simulation in this repository's tests.
#[doc(hidden)]
pub use release::{Ending, Release};
use roundsman_shared::launch::MasterStart;
use roundsman_shared::protocol::FromChild;
use roundsman_shared::settings::LoadInput;
use roundsman_shared::{exit, telemetry};

/// The role `roundsman master`, from `hello` to the exit code. Must be called before the process has other threads or
/// a runtime: it takes over standard input and output, which are the pipes to its supervisor.
#[must_use]
pub fn serve() -> u8 {
    match roles_end() {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(%error, "the master cannot run");
            exit::FAILED
        }
    }
}

fn roles_end() -> std::io::Result<u8> {
    let input = LoadInput::capture()?;
    let _ = telemetry::start(&input.environment, telemetry::Level::Info);
    let mut parent = parent::Parent::take(&input.environment)?;
    let Some(work) = parent.welcome() else { return Ok(exit::OK) };
    let start: MasterStart = match serde_json::from_value(work) {
        Ok(start) => start,
        Err(error) => {
            tracing::error!(%error, "the supervisor's welcome is not understood");
            return Ok(exit::CONFIG);
        }
    };
    let plan = match run::plan(&start) {
        Ok(plan) => plan,
        Err(error) => {
            tracing::error!(error, "the settings are wrong");
            parent.finish(&FromChild::Bye {
                why: "the settings are wrong".to_owned(),
                code: i32::from(exit::CONFIG),
            });
            return Ok(exit::CONFIG);
        }
    };
    make_room(&plan);
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(run::serve(start, plan, parent, &input));
    // Blocking calls into a store that hangs must not hold the exit.
    runtime.shutdown_background();
    code
}

/// Each worker costs five descriptors; the usual limit of 1024 is raised only where that is too few.
fn make_room(plan: &plan::Plan) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const A_WORKER: u64 = 6;
    const THE_REST: u64 = 100;
    // Those that are replaced have somebody in their stead before they are gone.
    let most = |max: u32| u64::from(max) + u64::from(max.div_ceil(4));
    let workers: u64 = plan.pools.values().map(|pool| most(pool.max)).sum();
    let needed = workers.saturating_mul(A_WORKER).saturating_add(THE_REST);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        let current = Some(maximum.map_or(needed, |maximum| maximum.min(needed)));
        let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
    }
}
