//! The yardstick of `roundsman bench`: the same writes as enqueue, pull and acknowledge make, by scripts that decide
//! nothing, driven from one connection. Figures are given as ratios to it, since absolute ones drift with the machine.

use super::RedisStore;
use super::reply::Parts;
use crate::names::QueueName;
use crate::store::StoreError;

/// What one pull of the yardstick took.
#[derive(Debug, Default)]
pub struct BareBatch {
    token: String,
    pub ids: Vec<String>,
}

impl RedisStore {
    /// Writes records as an enqueue would.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn bare_enqueue(&self, queue: &QueueName, jobs: &[(String, String)]) -> Result<(), StoreError> {
        let mut call = self.link.scripts.bare_enqueue.call(&self.keys.base(queue));
        call.arg(jobs.len());
        for (id, record) in jobs {
            call.arg(id).arg(record);
        }
        self.link.run_one(call).await.map(|_| ())
    }

    /// Acknowledges a batch and takes the next one, as a worker would.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn bare_drain(
        &self,
        queue: &QueueName,
        worker: &str,
        max: usize,
        done: &BareBatch,
        progress: &str,
    ) -> Result<BareBatch, StoreError> {
        let mut call = self.link.scripts.bare_drain.call(&self.keys.base(queue));
        call.arg(worker).arg(max).arg(10_000).arg(&done.token).arg(done.ids.len());
        for id in &done.ids {
            call.arg(id);
        }
        for _ in &done.ids {
            call.arg(progress);
        }
        let mut parts = Parts::new(self.link.run_one(call).await?)?;
        if parts.is_empty() {
            return Ok(BareBatch::default());
        }
        let (token, joined) = (parts.text()?, parts.text()?);
        Ok(BareBatch { token, ids: joined.split(' ').map(str::to_owned).collect() })
    }

    /// Commands that the server has run, its processor time in seconds, and the bytes that it uses.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn server_figures(&self) -> Result<(u64, f64, u64), StoreError> {
        let info: redis::InfoDict = self.link.query(&redis::cmd("INFO")).await?;
        let seconds = |name: &str| info.get::<f64>(name).unwrap_or(0.0);
        let commands = info.get("total_commands_processed").unwrap_or(0);
        let busy = seconds("used_cpu_user") + seconds("used_cpu_sys");
        Ok((commands, busy, info.get("used_memory").unwrap_or(0)))
    }

    /// Removes every key of a queue. For namespaces that were made to be thrown away.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget_queue(&self, queue: &QueueName) -> Result<(), StoreError> {
        let pattern = format!("{}*", self.keys.base(queue));
        let mut cursor = 0_u64;
        loop {
            let (next, keys): (u64, Vec<String>) = self
                .link
                .query(redis::cmd("SCAN").arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000))
                .await?;
            if !keys.is_empty() {
                self.link.query::<u64>(redis::cmd("UNLINK").arg(keys)).await?;
            }
            if next == 0 {
                break;
            }
            cursor = next;
        }
        self.link.query::<u64>(redis::cmd("SREM").arg(self.keys.queues()).arg(queue.as_str())).await?;
        Ok(())
    }
}
