-- Schema 9: other daemons that this one sends work to.

CREATE TABLE agents (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    name             TEXT    NOT NULL UNIQUE,
    address          TEXT    NOT NULL,
    identity_path    TEXT,                     -- a private key of this host; SSH only
    known_hosts_path TEXT,
    timeout_seconds  INTEGER NOT NULL,
    added_by         INTEGER NOT NULL,         -- no reference: whoever added it may be removed
    added_at         INTEGER NOT NULL,
    last_seen_at     INTEGER,
    last_failed_at   INTEGER,
    last_error       TEXT                      -- JSON: why it did not answer, until it does again
) STRICT;
