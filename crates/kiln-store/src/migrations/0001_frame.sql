-- Schema 1: the frame that every later feature stands on.
--
-- Times are microseconds since 1970, UTC. Ids are hyphenated lower-case UUIDs. `seq` gives rows
-- their order and lists their cursor; it is the rowid and is never used twice. Words (states,
-- kinds, roles) are checked by the parsers that read them, not here, so that a new word needs no
-- new table.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (key, value) VALUES ('store_id', lower(hex(randomblob(16))));

CREATE TABLE users (
    uid           INTEGER NOT NULL PRIMARY KEY,
    name          TEXT,
    role          TEXT,
    first_seen_at INTEGER NOT NULL
) STRICT;

CREATE TABLE images (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    name        TEXT    NOT NULL,              -- the one it has, or had when it was forgotten
    owner_id    INTEGER NOT NULL REFERENCES users (uid),
    org_id      TEXT,
    visibility  TEXT    NOT NULL,
    revision    INTEGER NOT NULL DEFAULT 1,    -- raised by every change, for optimistic updates
    kind        TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    managed     INTEGER NOT NULL CHECK (managed IN (0, 1)),
    limits      TEXT,                          -- JSON
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    deleted_at  INTEGER,
    purge_after INTEGER
) STRICT;

-- Each holds the rowid behind its column, so that a page in the order of seq is one range.
CREATE INDEX images_by_state ON images (state);
CREATE INDEX images_by_owner ON images (owner_id);
CREATE INDEX images_by_visibility ON images (visibility);
CREATE INDEX images_by_name ON images (name);
CREATE INDEX images_to_purge ON images (purge_after) WHERE purge_after IS NOT NULL;

CREATE TABLE image_labels (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    key      TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (image_id, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX image_labels_by_key ON image_labels (key, value);

CREATE TABLE image_keywords (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    keyword  TEXT NOT NULL,
    PRIMARY KEY (image_id, keyword)
) STRICT, WITHOUT ROWID;

CREATE INDEX image_keywords_by_keyword ON image_keywords (keyword);

-- One namespace for images, aliases and the names running operations hold: its primary key
-- decides every race for a name.
CREATE TABLE names (
    name         TEXT    NOT NULL PRIMARY KEY,
    kind         TEXT    NOT NULL CHECK (kind IN ('image', 'alias', 'reservation')),
    image_id     TEXT REFERENCES images (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    operation_id TEXT,
    target       TEXT,
    created_at   INTEGER NOT NULL,
    CHECK ((kind = 'image') = (image_id IS NOT NULL)),
    CHECK ((kind = 'reservation') = (operation_id IS NOT NULL)),
    CHECK ((kind = 'alias') = (target IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX names_by_image ON names (image_id) WHERE image_id IS NOT NULL;
CREATE INDEX names_by_operation ON names (operation_id) WHERE operation_id IS NOT NULL;
CREATE INDEX names_by_target ON names (target) WHERE target IS NOT NULL;

CREATE TABLE versions (
    seq               INTEGER PRIMARY KEY AUTOINCREMENT,
    id                TEXT    NOT NULL UNIQUE,
    image_id          TEXT    NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    major             INTEGER NOT NULL,
    minor             INTEGER NOT NULL,
    patch             INTEGER NOT NULL,
    architecture      TEXT    NOT NULL,
    kind              TEXT    NOT NULL,
    source_kind       TEXT    NOT NULL,
    source_reference  TEXT,                    -- canonical, where it came from a registry
    manifest_digest   TEXT,
    config_digest     TEXT,
    derivation        TEXT,
    rootfs_size_bytes INTEGER NOT NULL,
    rootfs_sha256     TEXT,                    -- computed after publication
    kernel_sha256     TEXT,
    initrd_sha256     TEXT,
    has_modules       INTEGER NOT NULL CHECK (has_modules IN (0, 1)),
    kernel_name       TEXT,                    -- what it was called in the catalogue then
    image_config      TEXT,                    -- JSON
    created_at        INTEGER NOT NULL,
    created_by        INTEGER NOT NULL REFERENCES users (uid),
    UNIQUE (image_id, major, minor, patch, architecture)
) STRICT;

CREATE INDEX versions_by_image ON versions (image_id, architecture);
CREATE INDEX versions_by_derivation ON versions (derivation) WHERE derivation IS NOT NULL;
CREATE INDEX versions_by_manifest ON versions (manifest_digest) WHERE manifest_digest IS NOT NULL;
CREATE INDEX versions_by_source ON versions (source_reference) WHERE source_reference IS NOT NULL;

CREATE TABLE tags (
    image_id     TEXT    NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    tag          TEXT    NOT NULL,
    architecture TEXT    NOT NULL,
    version_id   TEXT    NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
    moved_at     INTEGER NOT NULL,
    PRIMARY KEY (image_id, tag, architecture)
) STRICT, WITHOUT ROWID;

CREATE INDEX tags_by_version ON tags (version_id);

-- Which blobs a version was made of: answers quota, dedupe, difference, collection and "why".
CREATE TABLE version_blobs (
    version_id TEXT    NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
    role       TEXT    NOT NULL,
    position   INTEGER NOT NULL,               -- among its role; layers bottom first
    digest     TEXT    NOT NULL,
    size_bytes INTEGER NOT NULL,
    diff_id    TEXT,                           -- layers only
    PRIMARY KEY (version_id, role, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX version_blobs_by_digest ON version_blobs (digest);

-- Who needs an object to stay: "in use" is one query.
CREATE TABLE holders (
    object_kind TEXT    NOT NULL,
    object_id   TEXT    NOT NULL,
    holder_kind TEXT    NOT NULL,
    holder_id   TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    PRIMARY KEY (object_kind, object_id, holder_kind, holder_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX holders_by_holder ON holders (holder_kind, holder_id);
CREATE INDEX holders_to_expire ON holders (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE operations (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    kind        TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    owner_uid   INTEGER NOT NULL REFERENCES users (uid),
    object_kind TEXT,
    object_id   TEXT,
    subject     TEXT    NOT NULL,              -- what it works on, for people
    params      TEXT    NOT NULL,              -- JSON, never a secret
    progress    TEXT,                          -- JSON
    result      TEXT,                          -- JSON
    error       TEXT,                          -- JSON
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    finished_at INTEGER,
    CHECK ((object_kind IS NULL) = (object_id IS NULL)),
    CHECK ((state = 'running') = (finished_at IS NULL))
) STRICT;

CREATE INDEX operations_by_state ON operations (state);
CREATE INDEX operations_by_object ON operations (object_kind, object_id);
CREATE INDEX operations_by_owner ON operations (owner_uid);
CREATE INDEX operations_by_finish ON operations (finished_at) WHERE finished_at IS NOT NULL;

-- Written in the transaction of the change it tells of; never changed.
CREATE TABLE events (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    actor       TEXT    NOT NULL,              -- 'unix:<uid>' or 'daemon'
    kind        TEXT    NOT NULL,              -- '<noun>.<what happened>'
    object_kind TEXT    NOT NULL,
    object_id   TEXT    NOT NULL,
    data        TEXT    NOT NULL               -- JSON
) STRICT;

CREATE INDEX events_by_object ON events (object_kind, object_id);
CREATE INDEX events_by_actor ON events (actor);

-- Work to be done at a time; the clock that drives it is not here.
CREATE TABLE jobs (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    due_at   INTEGER NOT NULL,
    payload  TEXT    NOT NULL,                 -- JSON
    attempts INTEGER NOT NULL DEFAULT 0,
    UNIQUE (kind, key)
) STRICT;

CREATE INDEX jobs_by_due ON jobs (due_at);

-- Effects outside the store, decided in a transaction and carried out after it.
CREATE TABLE outbox (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT    NOT NULL,
    payload    TEXT    NOT NULL,               -- JSON
    created_at INTEGER NOT NULL,
    done_at    INTEGER
) STRICT;

CREATE INDEX outbox_pending ON outbox (seq) WHERE done_at IS NULL;

CREATE TABLE kernels (
    name          TEXT    NOT NULL PRIMARY KEY,
    architecture  TEXT    NOT NULL,
    format        TEXT    NOT NULL,
    version       TEXT,
    sha256        TEXT    NOT NULL,
    size_bytes    INTEGER NOT NULL,
    initrd_sha256 TEXT,
    has_modules   INTEGER NOT NULL CHECK (has_modules IN (0, 1)),
    has_elf       INTEGER NOT NULL CHECK (has_elf IN (0, 1)),
    source        TEXT    NOT NULL,
    owner_id      INTEGER NOT NULL REFERENCES users (uid),
    created_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
