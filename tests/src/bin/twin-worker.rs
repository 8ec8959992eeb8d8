//! A worker that plays a trace of the scaling simulator, on the public handler API: `twin-worker FOLDER NAME SEED SCALE`.
//!
//! Each job sleeps for as long as the trace says, and is written down in a file of the folder; see
//! [`roundsman_tests::twin`]. What goes wrong in the trace goes wrong here: jobs take longer for a while, fail and come
//! back, or take longer the more of them a dependency serves.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use roundsman_master::simulate::{Fault, Trace};
use roundsman_tests::time;
use roundsman_tests::twin::{DEPENDENCY, Diary, Order, Run, Which};
use roundsman_worker::{Failure, Job, Worker};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

struct Player {
    trace: Trace,
    diary: Diary,
    folder: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match player(&arguments) {
        Some(player) => {
            let player = Arc::new(player);
            Worker::new().handle_any(move |job| play(player.clone(), job)).run()
        }
        // The pool is at fault, as when the program were missing.
        None => ExitCode::from(127),
    }
}

fn player(arguments: &[String]) -> Option<Player> {
    let [folder, name, seed, scale] = arguments else { return None };
    let which = Which { name, seed: seed.parse().ok()?, scale: scale.parse().ok()? };
    let folder = Path::new(folder);
    Some(Player { trace: which.trace()?, diary: Diary::create(folder).ok()?, folder: folder.to_owned() })
}

async fn play(player: Arc<Player>, job: Job<Order>) -> Result<(), Failure> {
    let started_us = time::mono_us();
    let Player { trace, diary, folder } = &*player;
    let Order { job: number, began_us } = job.payload;
    let since = |us: u64| us.saturating_sub(began_us) as f64 / 1e6;
    let arrival = trace.jobs.get(number).ok_or_else(|| Failure::dead("no such job in the trace"))?;
    // As long as the connection is open, the dependency serves it.
    let is_shared = trace.faults.iter().any(|fault| matches!(fault, Fault::Saturated { .. }));
    let mut connection = None;
    let mut at_once = 1;
    if is_shared {
        let mut stream = UnixStream::connect(folder.join(DEPENDENCY)).await?;
        at_once = usize::from(stream.read_u8().await?);
        connection = Some(stream);
    }
    let takes = trace.takes(arrival.service, since(started_us), at_once);
    tokio::time::sleep(Duration::from_secs_f64(takes)).await;
    drop(connection);
    let ended_us = time::mono_us();
    let failures = job.attempt.saturating_sub(1);
    let pause = trace.comes_back(number, failures, since(ended_us)).map(Duration::from_secs_f64);
    let again_us = pause.map(|pause| ended_us + u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
    diary.note(&Run { job: number, failures, started_us, ended_us, again_us })?;
    match pause {
        Some(pause) => Err(Failure::retry_after("it fails in the trace", pause)),
        None => Ok(()),
    }
}
