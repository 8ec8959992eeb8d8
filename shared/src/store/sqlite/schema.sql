-- Version 1. Times are microseconds of the store's clock, unless a name ends in _ms.
-- A job's row stands in `jobs` from enqueue to the end of its retention. Where the job is, says one other table:
--   waiting   by priority and due time (scheduled or ready: the clock tells which)
--   unacked   under a lease
--   ended     by final state, oldest first
-- `place` and `at` in `jobs` lead there: place 0 is waiting or unacked, and `at` its score in `waiting`;
-- 1 to 4 is done, dead, cancelled, expired, and `at` its seq in `ended`.

CREATE TABLE clock (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    boot   TEXT NOT NULL,
    mono   INTEGER NOT NULL,    -- ns since boot
    line   INTEGER NOT NULL,    -- the furthest that the store's clock had got by then
    shift  INTEGER NOT NULL     -- store's clock = time of day + shift
) STRICT;

CREATE TABLE queues (
    no           INTEGER PRIMARY KEY,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    paused       INTEGER NOT NULL DEFAULT 0,
    live_version INTEGER NOT NULL DEFAULT 0,
    last_token   INTEGER NOT NULL DEFAULT 0,
    seq          INTEGER NOT NULL DEFAULT 0,
    waiting      INTEGER NOT NULL DEFAULT 0,
    running      INTEGER NOT NULL DEFAULT 0,
    done         INTEGER NOT NULL DEFAULT 0,
    dead         INTEGER NOT NULL DEFAULT 0,
    cancelled    INTEGER NOT NULL DEFAULT 0,
    expired      INTEGER NOT NULL DEFAULT 0,
    remembered   INTEGER NOT NULL DEFAULT 0,
    outbox       INTEGER NOT NULL DEFAULT 0,
    enqueued     INTEGER NOT NULL DEFAULT 0,
    ended        INTEGER NOT NULL DEFAULT 0,
    last_pulse   INTEGER NOT NULL DEFAULT 0,
    hold_until   INTEGER NOT NULL DEFAULT 0,
    UNIQUE (namespace, name)
) STRICT;

CREATE TABLE jobs (
    queue    INTEGER NOT NULL,
    id       TEXT NOT NULL,
    place    INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    rank     INTEGER NOT NULL,  -- minus the priority, so that everything ascends
    progress TEXT,              -- of a job that has not ended; rows that do not grow split no pages
    record   TEXT NOT NULL,
    PRIMARY KEY (queue, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE waiting (
    queue INTEGER NOT NULL,
    rank  INTEGER NOT NULL,
    score INTEGER NOT NULL,
    id    TEXT NOT NULL,
    PRIMARY KEY (queue, rank, score, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE unacked (
    queue       INTEGER NOT NULL,
    id          TEXT NOT NULL,
    lease       INTEGER NOT NULL,
    token       INTEGER NOT NULL,
    due         INTEGER NOT NULL,
    started_ms  INTEGER,
    deadline_ms INTEGER,
    PRIMARY KEY (queue, id)
) STRICT, WITHOUT ROWID;

-- A worker that holds something. The row goes with its last job.
CREATE TABLE leases (
    no      INTEGER PRIMARY KEY,
    queue   INTEGER NOT NULL,
    worker  TEXT NOT NULL,
    until   INTEGER NOT NULL,
    held    INTEGER NOT NULL,
    cancels INTEGER NOT NULL DEFAULT 0,
    UNIQUE (queue, worker)
) STRICT;

-- Running jobs that somebody wants cancelled.
CREATE TABLE cancels (
    lease INTEGER NOT NULL,
    id    TEXT NOT NULL,
    PRIMARY KEY (lease, id)
) STRICT, WITHOUT ROWID;

-- Workers whose lease lapsed and whose jobs went to others.
CREATE TABLE lost (
    queue  INTEGER NOT NULL,
    worker TEXT NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (queue, worker)
) STRICT, WITHOUT ROWID;

CREATE TABLE ended (
    queue    INTEGER NOT NULL,
    state    INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    id       TEXT NOT NULL,
    at       INTEGER NOT NULL,
    progress TEXT NOT NULL,
    PRIMARY KEY (queue, state, seq)
) STRICT, WITHOUT ROWID;

-- Chosen ids of jobs that have ended.
CREATE TABLE remembered (
    queue  INTEGER NOT NULL,
    id     TEXT NOT NULL,
    digest TEXT NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (queue, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX remembered_by_age ON remembered (queue, at);

CREATE TABLE outbox (
    queue    INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    target   TEXT NOT NULL,
    id       TEXT NOT NULL,
    due_kind INTEGER NOT NULL,  -- 0 now, 1 in `due`, 2 at `due`
    due      INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    expires  INTEGER,
    content  TEXT NOT NULL,
    PRIMARY KEY (queue, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE live (
    queue INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (queue, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE hosts (
    namespace TEXT NOT NULL,
    host      TEXT NOT NULL,
    record    TEXT NOT NULL,
    until     INTEGER NOT NULL,
    PRIMARY KEY (namespace, host)
) STRICT, WITHOUT ROWID;

-- Sockets that want hints.
CREATE TABLE listeners (
    socket    TEXT NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    host      TEXT NOT NULL,
    queues    TEXT NOT NULL     -- a JSON array
) STRICT, WITHOUT ROWID;
