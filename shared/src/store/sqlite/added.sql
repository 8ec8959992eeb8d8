-- What came to the schema without changing it for those who know nothing of it: made in every file that lacks it.

-- Moments of charts.
CREATE TABLE IF NOT EXISTS points (
    namespace TEXT NOT NULL,
    step      INTEGER NOT NULL,     -- seconds
    at        INTEGER NOT NULL,     -- Unix seconds
    text      TEXT NOT NULL,
    PRIMARY KEY (namespace, step, at)
) STRICT, WITHOUT ROWID;
