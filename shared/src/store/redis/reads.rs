//! The read side: jobs by id, pages, numbers. Nothing here counts or scans.

use super::RedisStore;
use super::deliver::{Kept, held, job_id};
use super::operate::Seen;
use super::reply::Parts;
use crate::clock::StoreTime;
use crate::job::State;
use crate::job::record::Record;
use crate::job::view::{Found, Place, Unacked};
use crate::names::{JobId, QueueName, WorkerId};
use crate::store::{MAX_BATCH, Page, QueueView, StoreError};

/// The most jobs of one page.
const MAX_PAGE: usize = MAX_BATCH;

impl RedisStore {
    pub(super) async fn look_raw(
        &self,
        queue: &QueueName,
        ids: &[JobId],
    ) -> Result<Vec<Option<Seen>>, StoreError> {
        let mut call = self.link.scripts.look.call(&self.keys.base(queue));
        for id in ids {
            call.arg(id.as_str());
        }
        let mut parts = Parts::new(self.link.read_one(call).await?)?;
        let now = parts.time()?;
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let (place, record) = (parts.text()?, parts.text()?);
            let (raw, detail, holder) = (parts.text()?, parts.text()?, parts.text()?);
            let (record, kept) = (Record::new(record), Kept::read(&raw));
            let place = match place.as_str() {
                "" => {
                    all.push(None);
                    continue;
                }
                "ended" => Place::Ended,
                "waiting" => Place::Waiting { due: StoreTime::from_micros(detail.parse().unwrap_or(0)) },
                _ => {
                    let held = held(&detail)?;
                    let worker =
                        WorkerId::new(&holder).map_err(|error| StoreError::Corrupt(error.to_string()))?;
                    let (token, due, started, deadline) =
                        (held.token, kept.due(&record), held.started, held.deadline);
                    Place::Running(Unacked { worker, token, due, started, deadline })
                }
            };
            let found =
                Found { queue: queue.clone(), id: id.clone(), record, progress: kept.progress, place, now };
            all.push(Some(Seen { found, progress: raw }));
        }
        Ok(all)
    }

    /// See [`crate::store::Store::look`].
    pub async fn look(&self, queue: &QueueName, ids: &[JobId]) -> Result<Vec<Option<Found>>, StoreError> {
        let mut all = Vec::with_capacity(ids.len());
        for batch in ids.chunks(MAX_BATCH) {
            all.extend(
                self.look_raw(queue, batch).await?.into_iter().map(|seen| seen.map(|seen| seen.found)),
            );
        }
        Ok(all)
    }

    /// See [`crate::store::Store::list`].
    pub async fn list(
        &self,
        queue: &QueueName,
        state: State,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let (ids, next) = match state {
            State::Scheduled | State::Ready => self.waiting_page(queue, state, cursor, limit).await?,
            State::Running => self.running_page(queue, cursor, limit).await?,
            State::Dead => self.dead_page(queue, cursor, limit).await?,
            State::Done | State::Cancelled | State::Expired => {
                self.ended_page(queue, state, cursor, limit).await?
            }
        };
        let ids: Vec<JobId> = ids.iter().map(|id| job_id(id)).collect::<Result<_, _>>()?;
        let found = if ids.is_empty() { Vec::new() } else { self.look(queue, &ids).await? };
        Ok(Page { found: found.into_iter().flatten().filter(|found| found.state() == state).collect(), next })
    }

    /// The queue's own clock: the server's, corrected where it has jumped. What is due is judged by it alone.
    async fn queue_now(&self, queue: &QueueName) -> Result<StoreTime, StoreError> {
        Parts::new(self.link.read_one(self.link.scripts.glance.call(&self.keys.base(queue))).await?)?.time()
    }

    /// Cursor: `PRIORITY SCORE ID` of the last job shown.
    async fn waiting_page(
        &self,
        queue: &QueueName,
        state: State,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, Option<String>), StoreError> {
        let now = self.queue_now(queue).await?.as_micros();
        let mut after = cursor.and_then(|text| {
            let mut parts = text.splitn(3, ' ');
            Some((parts.next()?.parse::<i64>().ok()?, parts.next()?.to_owned(), parts.next()?.to_owned()))
        });
        let priorities: Option<String> =
            self.link.query(redis::cmd("HGET").arg(self.keys.of(queue, "meta")).arg("prios")).await?;
        let mut ids = Vec::new();
        for priority in priorities.unwrap_or_default().split_ascii_whitespace() {
            let number: i64 = priority.parse().unwrap_or(0);
            let zset = self.keys.of(queue, &format!("due:{priority}"));
            // Where the state begins and ends in this set, as ranks.
            let ready: i64 = self.link.query(redis::cmd("ZCOUNT").arg(&zset).arg("-inf").arg(now)).await?;
            let (mut from, to) = if state == State::Ready { (0, ready - 1) } else { (ready, -1) };
            if let Some((past, score, id)) = &after {
                if number > *past {
                    continue;
                }
                if number == *past {
                    let rank: Option<i64> = self.link.query(redis::cmd("ZRANK").arg(&zset).arg(id)).await?;
                    let below: i64 = self
                        .link
                        .query(redis::cmd("ZCOUNT").arg(&zset).arg("-inf").arg(format!("({score}")))
                        .await?;
                    from = from.max(rank.map_or(below, |rank| rank + 1));
                } else {
                    after = None;
                }
            }
            let wanted = i64::try_from(limit - ids.len()).unwrap_or(1);
            let to = if to < 0 { from + wanted - 1 } else { to.min(from + wanted - 1) };
            if to < from {
                continue;
            }
            let page: Vec<(String, f64)> =
                self.link.query(redis::cmd("ZRANGE").arg(&zset).arg(from).arg(to).arg("WITHSCORES")).await?;
            let last = page.last().map(|(id, score)| format!("{priority} {score:.0} {id}"));
            ids.extend(page.into_iter().map(|(id, _)| id));
            if ids.len() >= limit {
                return Ok((ids, last));
            }
        }
        Ok((ids, None))
    }

    /// Cursor: `WORKER ID` of the last job shown.
    async fn running_page(
        &self,
        queue: &QueueName,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, Option<String>), StoreError> {
        let (past_worker, past_id) = cursor.and_then(|text| text.split_once(' ')).unwrap_or(("", ""));
        let mut workers: Vec<String> =
            self.link.query(redis::cmd("ZRANGE").arg(self.keys.of(queue, "leases")).arg(0).arg(-1)).await?;
        workers.sort_unstable();
        let mut ids = Vec::new();
        for worker in workers.iter().filter(|worker| worker.as_str() >= past_worker) {
            let key = self.keys.of(queue, &format!("unacked:{worker}"));
            let rows: Vec<(String, String)> = self.link.query(redis::cmd("HGETALL").arg(key)).await?;
            let mut held: Vec<&str> = rows
                .iter()
                .filter(|(token, _)| token != "+")
                .flat_map(|(_, ids)| ids.split_ascii_whitespace())
                .collect();
            held.sort_unstable();
            for id in held {
                if worker == past_worker && id <= past_id {
                    continue;
                }
                if ids.len() == limit {
                    let last = ids.last().map(|(worker, id)| format!("{worker} {id}"));
                    return Ok((ids.into_iter().map(|(_, id)| id).collect(), last));
                }
                ids.push((worker.clone(), id.to_owned()));
            }
        }
        Ok((ids.into_iter().map(|(_, id)| id).collect(), None))
    }

    /// Newest first. Cursor: `TIME ID` of the last job shown.
    async fn dead_page(
        &self,
        queue: &QueueName,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, Option<String>), StoreError> {
        let key = self.keys.of(queue, "dead");
        let mut from = 0_i64;
        if let Some((time, id)) = cursor.and_then(|text| text.split_once(' ')) {
            let rank: Option<i64> = self.link.query(redis::cmd("ZREVRANK").arg(&key).arg(id)).await?;
            let above: i64 =
                self.link.query(redis::cmd("ZCOUNT").arg(&key).arg(format!("({time}")).arg("+inf")).await?;
            from = rank.map_or(above, |rank| rank + 1);
        }
        let to = from + i64::try_from(limit).unwrap_or(1) - 1;
        let page: Vec<(String, f64)> =
            self.link.query(redis::cmd("ZREVRANGE").arg(&key).arg(from).arg(to).arg("WITHSCORES")).await?;
        let full = page.len() == limit;
        let next = page.last().filter(|_| full).map(|(id, time)| format!("{time:.0} {id}"));
        Ok((page.into_iter().map(|(id, _)| id).collect(), next))
    }

    /// Newest first. Cursor: the number of the last job shown, counted from the first that ever ended this way.
    async fn ended_page(
        &self,
        queue: &QueueName,
        state: State,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, Option<String>), StoreError> {
        let key = self.keys.of(queue, state.as_str());
        let cut: Option<i64> = self
            .link
            .query(redis::cmd("HGET").arg(self.keys.of(queue, "meta")).arg(format!("cut:{state}")))
            .await?;
        let cut = cut.unwrap_or(0);
        let length: i64 = self.link.query(redis::cmd("LLEN").arg(&key)).await?;
        // One past the index of the newest job to show.
        let end = cursor
            .and_then(|text| text.parse::<i64>().ok())
            .map_or(length, |number| (number - cut).min(length));
        let start = (end - i64::try_from(limit).unwrap_or(1)).max(0);
        if end <= start {
            return Ok((Vec::new(), None));
        }
        let mut ids: Vec<String> =
            self.link.query(redis::cmd("LRANGE").arg(&key).arg(start).arg(end - 1)).await?;
        ids.reverse();
        Ok((ids, (start > 0).then(|| (cut + start).to_string())))
    }

    /// See [`crate::store::Store::queues`].
    pub async fn queues(&self) -> Result<Vec<QueueName>, StoreError> {
        let mut names: Vec<String> = self.link.query(redis::cmd("SMEMBERS").arg(self.keys.queues())).await?;
        names.sort_unstable();
        Ok(names.iter().filter_map(|name| QueueName::new(name).ok()).collect())
    }

    /// See [`crate::store::Store::overview`].
    pub async fn overview(&self, queue: &QueueName) -> Result<QueueView, StoreError> {
        let call = self.link.scripts.glance.call(&self.keys.base(queue));
        let mut parts = Parts::new(self.link.read_one(call).await?)?;
        let now = parts.time()?;
        let paused = parts.flag()?;
        let ready: u64 = parts.number()?;
        let waiting: u64 = parts.number()?;
        let running = parts.number()?;
        let oldest = parts.maybe_time()?;
        let (outbox, inbox) = (parts.number()?, parts.number()?);
        let (enqueued_total, ended_total) = (parts.number()?, parts.number()?);
        let (done, dead, cancelled, expired) =
            (parts.number()?, parts.number()?, parts.number()?, parts.number()?);
        Ok(QueueView {
            queue: queue.to_string(),
            paused,
            scheduled: waiting.saturating_sub(ready),
            ready,
            running,
            done,
            dead,
            cancelled,
            expired,
            oldest_due_ms: oldest.map(|due| i64::try_from(now.since(due).as_millis()).unwrap_or(i64::MAX)),
            inbox,
            outbox,
            enqueued_total,
            ended_total,
        })
    }
}
