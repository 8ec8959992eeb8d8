//! STUB
#![allow(unused_variables, clippy::all)]
use super::*;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct SqliteStore;

impl SqliteStore {
    pub async fn open(path: &std::path::Path, config: &StoreConfig) -> Result<Self, StoreError> {
        todo!()
    }
    pub async fn enqueue(
        &self,
        queue: &QueueName,
        jobs: &[crate::job::NewJob],
        max_waiting: u64,
    ) -> Result<Vec<Enqueued>, StoreError> {
        todo!()
    }
    pub async fn exchange(
        &self,
        settle: Option<&SettleRequest>,
        pull: Option<&PullRequest>,
    ) -> Result<(Vec<Answer>, Option<Pulled>), StoreError> {
        todo!()
    }
    pub async fn renew(&self, request: &RenewRequest) -> Result<Renewed, StoreError> {
        todo!()
    }
    pub async fn unacked(&self, queue: &QueueName, worker: &WorkerId) -> Result<Vec<Held>, StoreError> {
        todo!()
    }
    pub async fn pulse(&self, queue: &QueueName, lease: Duration) -> Result<Pulse, StoreError> {
        todo!()
    }
    pub async fn trim(&self, queue: &QueueName, retention: &Retention) -> Result<bool, StoreError> {
        todo!()
    }
    pub async fn cancel(&self, queue: &QueueName, id: &JobId) -> Result<Cancelled, StoreError> {
        todo!()
    }
    pub async fn reschedule(&self, queue: &QueueName, id: &JobId, due: Due) -> Result<Changed, StoreError> {
        todo!()
    }
    pub async fn retry(&self, queue: &QueueName, id: &JobId) -> Result<Changed, StoreError> {
        todo!()
    }
    pub async fn delete(&self, queue: &QueueName, id: &JobId) -> Result<Changed, StoreError> {
        todo!()
    }
    pub async fn purge(&self, queue: &QueueName, state: crate::job::State) -> Result<u64, StoreError> {
        todo!()
    }
    pub async fn pause(&self, queue: &QueueName, paused: bool) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn look(&self, queue: &QueueName, ids: &[JobId]) -> Result<Vec<Option<Found>>, StoreError> {
        todo!()
    }
    pub async fn list(
        &self,
        queue: &QueueName,
        state: crate::job::State,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        todo!()
    }
    pub async fn queues(&self) -> Result<Vec<QueueName>, StoreError> {
        todo!()
    }
    pub async fn overview(&self, queue: &QueueName) -> Result<QueueView, StoreError> {
        todo!()
    }
    pub async fn live(
        &self,
        queue: &QueueName,
    ) -> Result<std::collections::BTreeMap<String, String>, StoreError> {
        todo!()
    }
    pub async fn set_live(
        &self,
        queue: &QueueName,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn outbox(&self, queue: &QueueName) -> Result<Vec<Outgoing>, StoreError> {
        todo!()
    }
    pub async fn outbox_moved(&self, queue: &QueueName, tickets: &[String]) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn beat(&self, beat: &HostBeat) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn leave(&self, host: &str) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn hosts(&self) -> Result<Vec<String>, StoreError> {
        todo!()
    }
    pub async fn clock(&self) -> Result<StoreClock, StoreError> {
        todo!()
    }
    pub async fn durability(&self) -> Result<Durability, StoreError> {
        todo!()
    }
    pub async fn listen(&self, queues: &[QueueName], host: &str) -> Result<mpsc::Receiver<Hint>, StoreError> {
        todo!()
    }
}
