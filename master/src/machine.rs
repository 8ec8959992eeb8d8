//! Which machine this is. The host's id names a fleet, and two machines, or two containers on one, can be given the same:
//! to each of them the pids of the other's workers look like those of processes that are gone. So the registry says whose
//! pids they are, nobody gives back the jobs of another machine's workers, and the second that comes is refused.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::store::Store;
use serde::{Deserialize, Serialize};

use crate::registry::{HostRecord, LEASE};

/// An entry that nobody renews is gone after its lease; so much later it was renewed.
const SLACK: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);

/// Where a pid means the same process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// One machine between two of its starts.
    boot: String,
    /// The namespace of pids; zero where there are none.
    pids: u64,
}

impl Machine {
    pub(crate) fn here() -> Self {
        Self { boot: boot(), pids: pid_namespace() }
    }

    /// Whether the pids of an entry mean processes of ours. One that does not say was written by an earlier version, of
    /// which it can only be hoped.
    pub(crate) fn wrote(&self, record: &HostRecord) -> bool {
        record.machine.as_ref().is_none_or(|machine| machine == self)
    }
}

#[cfg(target_os = "linux")]
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(not(target_os = "linux"))]
fn boot() -> String {
    let asked = std::process::Command::new("sysctl").args(["-n", "kern.bootsessionuuid"]).output();
    asked.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(target_os = "linux")]
fn pid_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino()).unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
const fn pid_namespace() -> u64 {
    0
}

/// Another machine serves the store under this host's id.
#[derive(Debug)]
pub(crate) struct Taken;

/// Waits until no other machine is entered under this host's id. An entry may be what a machine left that is gone, as
/// this one before it was started anew, so it is given the time to lapse; if somebody renews it, this host is refused.
pub(crate) async fn claim(store: &Store, host: &str) -> Result<(), Taken> {
    let here = Machine::here();
    let mut first: Option<(Mono, String)> = None;
    loop {
        match store.hosts().await {
            Ok(records) => {
                let Some(other) = records.into_iter().find(|text| is_of_another(text, host, &here)) else {
                    return Ok(());
                };
                let now = Mono::now();
                let (since, text) = first.get_or_insert_with(|| {
                    tracing::warn!(
                        host,
                        "another machine, or this one before it was restarted, is entered under this host's id; \
                         waiting to see whether it is gone"
                    );
                    (now, other.clone())
                });
                if *text != other || now.since(*since) > LEASE + SLACK {
                    return Err(Taken);
                }
            }
            Err(error) => tracing::debug!(%error, "the registry was not read"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_of_another(text: &str, host: &str, here: &Machine) -> bool {
    serde_json::from_str::<HostRecord>(text).is_ok_and(|record| record.host == host && !here.wrote(&record))
}
