-- Schema 3: machines that run versions.

CREATE TABLE instances (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE,
    name         TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    owner_uid    INTEGER NOT NULL REFERENCES users (uid),
    image_id     TEXT    NOT NULL,             -- what a machine ran may be gone before its row
    image_name   TEXT    NOT NULL,             -- the one the image had then
    version_id   TEXT    NOT NULL,
    pid          INTEGER NOT NULL,             -- the process that runs it, with
    pid_started  INTEGER NOT NULL,             -- its start in clock ticks since
    boot_id      TEXT    NOT NULL,             -- this boot of the host
    monitor      TEXT,
    accelerator  TEXT,
    directory    TEXT    NOT NULL,
    console_path TEXT    NOT NULL,
    cpus         INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    ports        TEXT    NOT NULL,             -- JSON
    exit_code    INTEGER,
    reason       TEXT,
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    ended_at     INTEGER,
    CHECK ((state = 'ended') = (ended_at IS NOT NULL))
) STRICT;

-- Decides every race for a name among machines that have not ended.
CREATE UNIQUE INDEX instances_by_live_name ON instances (owner_uid, name) WHERE ended_at IS NULL;

-- Each holds the rowid behind its column, so that a page in the order of seq is one range.
CREATE INDEX instances_by_name ON instances (name);
CREATE INDEX instances_by_end ON instances (ended_at);
