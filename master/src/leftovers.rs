//! What a job started and its worker, dead with the master, could not end: found by the job's id and token in the
//! environment that an `exec` handler gave it, and ended before the job is given to another.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::store::Held;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// For them to be gone; who is in the kernel for longer is not waited for.
const GONE_WITHIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(2);
/// Looks: what is ended may have started more in its last moment.
const ROUNDS: usize = 8;

/// Ends every process that carries these deliveries. Only where `/proc` shows environments, and only of this user's.
pub(crate) async fn end(held: &[Held]) {
    let marks: Vec<[String; 2]> = held
        .iter()
        .map(|held| &held.delivery)
        .map(|it| [format!("ROUNDSMAN_JOB_ID={}", it.id), format!("ROUNDSMAN_TOKEN={}", it.token)])
        .collect();
    let begun = Mono::now();
    for _ in 0..ROUNDS {
        let found = carriers(&marks);
        if found.is_empty() || Mono::now().since(begun) > GONE_WITHIN {
            return;
        }
        for pid in &found {
            let Ok(handle) = pidfd_open(*pid, PidfdFlags::empty()) else { continue };
            // The handle holds whoever has the pid now: it must still be what was found.
            if carries(*pid, &marks) {
                tracing::warn!(
                    pid = pid.as_raw_nonzero(),
                    "a process of a job whose worker is gone is ended"
                );
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
        while found.iter().any(|pid| carries(*pid, &marks)) && Mono::now().since(begun) <= GONE_WITHIN {
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn carriers(marks: &[[String; 2]]) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| carries(*pid, marks)).collect()
}

fn carries(pid: Pid, marks: &[[String; 2]]) -> bool {
    let Ok(environ) = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())) else { return false };
    let has = |mark: &String| environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
    marks.iter().any(|[id, token]| has(id) && has(token))
}
