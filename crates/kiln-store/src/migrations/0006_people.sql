-- Schema 6: who people are to the daemon, what they belong to, and what they did.

-- People are named by what they are called too.
CREATE UNIQUE INDEX users_by_name ON users (name) WHERE name IS NOT NULL;

CREATE TABLE orgs (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    name       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    created_by INTEGER NOT NULL                -- no reference: whoever made it may be removed
) STRICT;

CREATE TABLE org_members (
    org_id   TEXT    NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    uid      INTEGER NOT NULL REFERENCES users (uid) ON DELETE CASCADE,
    standing TEXT    NOT NULL,
    added_at INTEGER NOT NULL,
    PRIMARY KEY (org_id, uid)
) STRICT, WITHOUT ROWID;

CREATE INDEX org_members_by_user ON org_members (uid, org_id);

-- Holds the rowid behind its column, so that a page in the order of seq is one range.
CREATE INDEX images_by_org ON images (org_id) WHERE org_id IS NOT NULL;

-- Every call that changes something, and every one that was refused. Nothing here refers to
-- another table: a line outlives what it tells of.
CREATE TABLE audit (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    at           INTEGER NOT NULL,
    actor        TEXT    NOT NULL,             -- 'unix:<uid>'
    user_name    TEXT,                         -- what the user was called then
    role         TEXT    NOT NULL,             -- and was then
    method       TEXT    NOT NULL,
    object_kind  TEXT,
    object_name  TEXT,                         -- as the call named it
    object_id    TEXT,
    result       TEXT    NOT NULL,             -- 'ok', or a code
    request_id   TEXT    NOT NULL,
    operation_id TEXT,
    unwritten    INTEGER NOT NULL DEFAULT 0    -- failed calls of this actor since the line before
) STRICT;

CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_actor ON audit (actor);
CREATE INDEX audit_by_object_id ON audit (object_id) WHERE object_id IS NOT NULL;
CREATE INDEX audit_by_object_name ON audit (object_name) WHERE object_name IS NOT NULL;
