//! A step on the file: the queue rows that it reads and changes, its moment, and the hints that it owes.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, params};

use super::fault::Fault;
use super::guard::{self, Clocks, Line};
use super::hints::{Address, Nudge};
use crate::clock::StoreTime;
use crate::job::FinalState;
use crate::names::{Namespace, QueueName};

/// A row of `queues`.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    pub(super) no: i64,
    pub(super) name: QueueName,
    pub(super) paused: bool,
    pub(super) live_version: u64,
    pub(super) last_token: i64,
    pub(super) seq: i64,
    pub(super) waiting: u64,
    pub(super) running: u64,
    /// By [`code`] - 1.
    pub(super) kept: [u64; 4],
    pub(super) remembered: u64,
    pub(super) outbox: u64,
    pub(super) enqueued: u64,
    pub(super) ended: u64,
    pub(super) last_pulse: StoreTime,
    pub(super) hold_until: StoreTime,
}

impl Queue {
    pub(super) const fn next_seq(&mut self) -> i64 {
        self.seq += 1;
        self.seq
    }

    pub(super) const fn kept(&mut self, code: i64) -> &mut u64 {
        &mut self.kept[match code {
            1 => 0,
            2 => 1,
            3 => 2,
            _ => 3,
        }]
    }
}

/// What stands in `jobs.place` and `ended.state`.
pub(super) const fn code(state: FinalState) -> i64 {
    match state {
        FinalState::Done => 1,
        FinalState::Dead => 2,
        FinalState::Cancelled => 3,
        FinalState::Expired => 4,
    }
}

/// The final state of a `place`, unless it is 0.
pub(super) const fn final_state(place: i64) -> Option<FinalState> {
    match place {
        1 => Some(FinalState::Done),
        2 => Some(FinalState::Dead),
        3 => Some(FinalState::Cancelled),
        4 => Some(FinalState::Expired),
        _ => None,
    }
}

/// A number of rows, for a LIMIT.
pub(super) fn rows(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Text as it was found, even if it is none.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl rusqlite::ToSql for Raw<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// What both sides see: a connection inside a transaction, and the moment.
#[derive(Clone, Copy)]
pub(super) struct View<'c> {
    pub(super) conn: &'c Connection,
    pub(super) namespace: &'c Namespace,
    pub(super) now: StoreTime,
}

impl<'c> View<'c> {
    pub(super) fn sql(&self, sql: &str) -> Result<CachedStatement<'c>, Fault> {
        Ok(self.conn.prepare_cached(sql)?)
    }

    pub(super) fn queue(&self, name: &QueueName) -> Result<Option<Queue>, Fault> {
        let queue = self
            .sql(
                "SELECT no, paused, live_version, last_token, seq, waiting, running, done, dead, cancelled, expired,
                        remembered, outbox, enqueued, ended, last_pulse, hold_until
                 FROM queues WHERE namespace = ?1 AND name = ?2",
            )?
            .query_row([self.namespace.as_str(), name.as_str()], |row| {
                let count = |column| row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
                Ok(Queue {
                    no: row.get(0)?,
                    name: name.clone(),
                    paused: row.get(1)?,
                    live_version: count(2)?,
                    last_token: row.get(3)?,
                    seq: row.get(4)?,
                    waiting: count(5)?,
                    running: count(6)?,
                    kept: [count(7)?, count(8)?, count(9)?, count(10)?],
                    remembered: count(11)?,
                    outbox: count(12)?,
                    enqueued: count(13)?,
                    ended: count(14)?,
                    last_pulse: StoreTime::from_micros(row.get(15)?),
                    hold_until: StoreTime::from_micros(row.get(16)?),
                })
            })
            .optional()?;
        Ok(queue)
    }
}

/// A writing transaction. Queue rows are read once, changed in memory and written back by [`Tx::flush`].
pub(super) struct Tx<'c> {
    pub(super) view: View<'c>,
    clocks: &'c Clocks,
    line: Option<Line>,
    queues: Vec<(Queue, bool)>,
    /// Room is short: what has ended well is not kept.
    pub(super) tight: bool,
    pub(super) nudges: Vec<Nudge>,
}

impl<'c> Tx<'c> {
    /// After `BEGIN IMMEDIATE`.
    pub(super) fn begin(
        conn: &'c Connection,
        namespace: &'c Namespace,
        clocks: &'c Clocks,
        tight: bool,
    ) -> Result<Self, Fault> {
        let before = guard::load(conn)?;
        let (line, now, jump) = guard::advance(before.as_ref(), &clocks.read());
        if let Some(micros) = jump {
            tracing::warn!(
                seconds = micros / 1_000_000,
                "the time of day has jumped ahead; jobs keep the time that it had before"
            );
        }
        guard::save(conn, before.as_ref(), &line)?;
        let view = View { conn, namespace, now };
        Ok(Self { view, clocks, line: Some(line), queues: Vec::new(), tight, nudges: Vec::new() })
    }

    /// The moment, anew.
    pub(super) fn tick(&mut self) {
        let (_, now, _) = guard::advance(self.line.as_ref(), &self.clocks.read());
        self.view.now = now;
    }

    pub(super) const fn now(&self) -> StoreTime {
        self.view.now
    }

    pub(super) fn sql(&self, sql: &str) -> Result<CachedStatement<'c>, Fault> {
        self.view.sql(sql)
    }

    /// Where the queue's row is, if the queue exists.
    pub(super) fn find(&mut self, name: &QueueName) -> Result<Option<usize>, Fault> {
        if let Some(at) = self.queues.iter().position(|(queue, _)| queue.name == *name) {
            return Ok(Some(at));
        }
        let Some(queue) = self.view.queue(name)? else { return Ok(None) };
        self.queues.push((queue, false));
        Ok(Some(self.queues.len() - 1))
    }

    /// The same; makes the queue.
    pub(super) fn make(&mut self, name: &QueueName) -> Result<usize, Fault> {
        if let Some(at) = self.find(name)? {
            return Ok(at);
        }
        self.sql("INSERT INTO queues (namespace, name) VALUES (?1, ?2)")?
            .execute([self.view.namespace.as_str(), name.as_str()])?;
        self.find(name)?
            .ok_or_else(|| Fault::Unreadable("a queue that was just made is not there".to_owned()))
    }

    pub(super) fn queue(&self, at: usize) -> &Queue {
        &self.queues[at].0
    }

    pub(super) fn change(&mut self, at: usize) -> &mut Queue {
        let (queue, dirty) = &mut self.queues[at];
        *dirty = true;
        queue
    }

    pub(super) fn nudge(&mut self, nudge: Nudge) {
        if !self.nudges.iter_mut().any(|held| held.merge(&nudge)) {
            self.nudges.push(nudge);
        }
    }

    /// Writes the queue rows back.
    pub(super) fn flush(&self) -> Result<(), Fault> {
        for (queue, _) in self.queues.iter().filter(|(_, dirty)| *dirty) {
            let n = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            self.view
                .sql(
                    "UPDATE queues SET paused = ?2, live_version = ?3, last_token = ?4, seq = ?5, waiting = ?6,
                            running = ?7, done = ?8, dead = ?9, cancelled = ?10, expired = ?11, remembered = ?12,
                            outbox = ?13, enqueued = ?14, ended = ?15, last_pulse = ?16, hold_until = ?17
                     WHERE no = ?1",
                )?
                .execute(params![
                    queue.no,
                    queue.paused,
                    n(queue.live_version),
                    queue.last_token,
                    queue.seq,
                    n(queue.waiting),
                    n(queue.running),
                    n(queue.kept[0]),
                    n(queue.kept[1]),
                    n(queue.kept[2]),
                    n(queue.kept[3]),
                    n(queue.remembered),
                    n(queue.outbox),
                    n(queue.enqueued),
                    n(queue.ended),
                    queue.last_pulse.as_micros(),
                    queue.hold_until.as_micros(),
                ])?;
        }
        Ok(())
    }

    /// Whom to tell of what was done here.
    pub(super) fn addresses(&self) -> Result<Vec<Address>, Fault> {
        if self.nudges.is_empty() { Ok(Vec::new()) } else { super::hints::addresses(&self.view) }
    }
}
