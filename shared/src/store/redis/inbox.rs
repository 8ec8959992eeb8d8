//! The inbox: jobs that any Redis client pushed. There is no blocking peek in Redis, so an entry is moved to the list
//! of a taker, looked at there, and leaves that list in the same step as its job comes to exist. What a dead taker
//! left behind is taken over by the next.

use std::time::Duration;

use redis::{Cmd, Direction, RedisError};

use super::RedisStore;
use super::enqueue::enqueued;
use super::line::is_spent;
use super::link::{ANSWER_TIMEOUT, failed};
use super::reply::Parts;
use crate::job::NewJob;
use crate::job::letter::Letter;
use crate::names::{JobId, QueueName};
use crate::store::{Enqueued, MAX_BATCH, StoreError};

/// A raw entry in a taker's list.
pub type Taken = Vec<u8>;

/// A connection that may block, for one queue's inbox. None between the failure of one and the next call.
pub struct InboxConnection(Option<deadpool_redis::Connection>);

impl std::fmt::Debug for InboxConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InboxConnection")
    }
}

/// The connection's own deadline is that of the longest wait.
async fn in_time<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    tokio::time::timeout(limit, call).await.map_err(|late| RedisError::from(std::io::Error::from(late)))?
}

impl RedisStore {
    /// A connection of its own, since waiting on it stalls whatever shares it.
    ///
    /// # Errors
    /// When Redis is not reached.
    pub async fn inbox_connection(&self) -> Result<InboxConnection, StoreError> {
        self.link.blocking().await.map(|connection| InboxConnection(Some(connection)))
    }

    /// Waits up to `wait`, at most [`super::MAX_WAIT`], for an entry and moves it, and what else is there up to a batch, to the taker's list.
    ///
    /// # Errors
    /// See [`StoreError`]. What had been moved before stands in the taker's list.
    pub async fn inbox_take(
        &self,
        connection: &mut InboxConnection,
        queue: &QueueName,
        taker: &str,
        wait: Duration,
    ) -> Result<Vec<Taken>, StoreError> {
        let held = match &mut connection.0 {
            Some(held) => held,
            none @ None => none.insert(self.link.blocking().await?),
        };
        match self.take_from_inbox(held, queue, taker, wait).await {
            Ok(taken) => Ok(taken),
            Err(error) => {
                // The pool asks a connection only whether it answers: a demoted server's does, for ever.
                if is_spent(&error) {
                    drop(connection.0.take().map(deadpool_redis::Connection::take));
                }
                Err(failed(&error))
            }
        }
    }

    async fn take_from_inbox(
        &self,
        connection: &mut deadpool_redis::Connection,
        queue: &QueueName,
        taker: &str,
        wait: Duration,
    ) -> Result<Vec<Taken>, RedisError> {
        let (inbox, taking) = (self.keys.of(queue, "inbox"), self.keys.taking(queue, taker));
        let blmove = Cmd::blmove(&inbox, &taking, Direction::Right, Direction::Left, wait.as_secs_f64());
        let first: Option<Taken> = in_time(wait + ANSWER_TIMEOUT, blmove.query_async(connection)).await?;
        let Some(first) = first else { return Ok(Vec::new()) };
        let length: usize = in_time(ANSWER_TIMEOUT, Cmd::llen(&inbox).query_async(connection)).await?;
        let mut taken = vec![first];
        let more = length.min(MAX_BATCH - 1);
        if more > 0 {
            let mut pipe = redis::Pipeline::with_capacity(more);
            for _ in 0..more {
                pipe.lmove(&inbox, &taking, Direction::Right, Direction::Left);
            }
            let rest: Vec<Option<Taken>> = in_time(ANSWER_TIMEOUT, pipe.query_async(connection)).await?;
            taken.extend(rest.into_iter().flatten());
        }
        Ok(taken)
    }

    /// Enters a taker, so that others can find what it leaves behind, and answers all takers.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn inbox_takers(&self, queue: &QueueName, taker: &str) -> Result<Vec<String>, StoreError> {
        let mut call = self.link.scripts.enter.call(&self.keys.base(queue));
        call.arg("takers").arg(taker);
        self.link.run_one(call).await?;
        self.link.query(&Cmd::smembers(self.keys.of(queue, "takers"))).await
    }

    /// What stands in a taker's list, oldest first: left behind by an earlier life of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn inbox_left(&self, queue: &QueueName, taker: &str) -> Result<Vec<Taken>, StoreError> {
        let mut left: Vec<Taken> =
            self.link.query(&Cmd::lrange(self.keys.taking(queue, taker), -(MAX_BATCH as isize), -1)).await?;
        left.reverse();
        Ok(left)
    }

    /// Makes jobs of entries; `None` where another had taken the entry. An entry whose job is refused stays in the
    /// taker's list.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn inbox_admit(
        &self,
        queue: &QueueName,
        taker: &str,
        jobs: &[(NewJob, Taken)],
        max_waiting: u64,
    ) -> Result<Vec<Option<Enqueued>>, StoreError> {
        self.room().await?;
        self.register(queue).await?;
        let (jobs, raw): (Vec<NewJob>, Vec<&Taken>) =
            jobs.iter().map(|(job, raw)| (job.clone(), raw)).unzip();
        let mut call = self.enqueue_call(queue, &jobs, max_waiting);
        call.arg(taker);
        for raw in raw {
            call.arg(raw);
        }
        let mut parts = Parts::new(self.link.run_one(call).await?)?;
        let now = parts.time()?;
        if parts.is_empty() {
            return Ok(jobs.iter().map(|_| Some(Enqueued::Created { due: now })).collect());
        }
        let answers = jobs.iter().map(|_| enqueued(&mut parts)).collect::<Result<_, _>>()?;
        self.register_again(queue, &parts).await?;
        Ok(answers)
    }

    /// Makes a dead letter of an entry that cannot become a job.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn inbox_bury(
        &self,
        queue: &QueueName,
        taker: &str,
        raw: &Taken,
        id: &JobId,
        letter: &Letter,
    ) -> Result<bool, StoreError> {
        self.put_down(queue, (taker, raw), id, letter).await
    }

    /// See [`crate::store::Store::bury`].
    pub async fn bury(&self, queue: &QueueName, id: &JobId, letter: &Letter) -> Result<bool, StoreError> {
        self.put_down(queue, ("", b""), id, letter).await
    }

    async fn put_down(
        &self,
        queue: &QueueName,
        (taker, raw): (&str, &[u8]),
        id: &JobId,
        letter: &Letter,
    ) -> Result<bool, StoreError> {
        self.enter(queue).await?;
        let mut call = self.link.scripts.bury.call(&self.keys.base(queue));
        call.arg(taker).arg(raw).arg(id.as_str()).arg(&letter.content).arg(&letter.progress);
        Ok(self.link.run_one(call).await? == redis::Value::Int(1))
    }
}
