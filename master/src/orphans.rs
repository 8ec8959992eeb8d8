//! The workers that an earlier master of this host left behind. Their jobs are given back when they are really gone, told
//! by pid and start time; until then they finish what they run.

use std::collections::BTreeMap;

use roundsman_shared::names::{QueueName, WorkerId};
use roundsman_shared::store::Store;
use tokio::sync::mpsc;

use crate::beside::Before;
use crate::event::Event;
use crate::machine::Machine;
use crate::registry::{self, HostRecord, start_time};

/// Reads the entries that earlier masters left, and watches who still lives. A lost entry costs time only: leases lapse.
pub(crate) async fn adopt(store: Store, host: String, events: mpsc::Sender<Event>) {
    let own = std::process::id();
    let left = |record: &HostRecord| {
        // One that is retired looks after its workers itself, as long as it lives.
        record.master.pid != own && (record.host == host || start_time(record.master.pid) == 0)
    };
    let mut desired = BTreeMap::new();
    for record in entries(&store, &host).await.into_iter().filter(left) {
        for pool in record.pools {
            let most = desired.entry(pool.pool.clone()).or_insert(0);
            *most = pool.desired.max(*most);
            for worker in pool.workers {
                let names = if worker.queues.is_empty() { &pool.queues } else { &worker.queues };
                let queues = names.iter().filter_map(|name| QueueName::new(name).ok()).collect();
                tokio::spawn(watch(worker.id, worker.pid, worker.started, queues, events.clone()));
            }
        }
    }
    let _ = events.send(Event::Adopted(desired)).await;
}

/// Reads what the master has that this one takes over from.
pub(crate) async fn inherit(store: Store, host: String, events: mpsc::Sender<Event>) {
    let leader = entries(&store, &host).await.into_iter().find(|record| record.host == host);
    let mut before = Before::default();
    for pool in leader.map(|record| record.pools).unwrap_or_default() {
        if pool.quarantined.is_some() {
            before.quarantined.insert(pool.pool.clone());
        }
        before.desired.insert(pool.pool, pool.desired);
    }
    let _ = events.send(Event::Found(before)).await;
}

/// What masters of this host have entered, the leading one and those beside it, on this machine.
async fn entries(store: &Store, host: &str) -> Vec<HostRecord> {
    let here = Machine::here();
    let of_host = |record: &HostRecord| registry::is_of(&record.host, host) && here.wrote(record);
    let records = store.hosts().await.unwrap_or_default();
    records.iter().filter_map(|text| serde_json::from_str(text).ok()).filter(of_host).collect()
}

async fn watch(
    worker: WorkerId,
    pid: u32,
    started: u64,
    queues: Vec<QueueName>,
    events: mpsc::Sender<Event>,
) {
    if started != 0 {
        ended(pid, started).await;
    }
    let _ = events.send(Event::OrphanGone { worker, queues }).await;
}

/// Waits until the process is gone. It need not be our child.
async fn ended(pid: u32, started: u64) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let Some(handle) = raw.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
        // The handle holds whoever owned the pid when it was opened: compare after opening.
        if start_time(pid) != started {
            return;
        }
        if let Ok(handle) = crate::watch::for_reading(handle) {
            let _ = handle.readable().await;
        }
    }
    #[cfg(not(target_os = "linux"))]
    while start_time(pid) == started {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}
