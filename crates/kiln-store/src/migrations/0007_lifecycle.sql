-- Schema 7: aliases have owners and remember their images; leases hold images.

-- What an alias has beyond its row in `names`, with which it goes.
CREATE TABLE aliases (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    name     TEXT    NOT NULL UNIQUE REFERENCES names (name) ON DELETE CASCADE,
    owner_id INTEGER NOT NULL REFERENCES users (uid),
    image_id TEXT    NOT NULL                  -- what it led to; no reference: see aliases.rs
) STRICT;

CREATE INDEX aliases_by_image ON aliases (image_id);
CREATE INDEX aliases_by_owner ON aliases (owner_id);

-- What a lease has beyond its row in `holders`, which is what counts.
CREATE TABLE leases (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    image_id   TEXT    NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    version_id TEXT    NOT NULL,
    owner_uid  INTEGER NOT NULL REFERENCES users (uid),
    purpose    TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX leases_by_image ON leases (image_id);
CREATE INDEX leases_by_owner ON leases (owner_uid, expires_at);
CREATE INDEX leases_to_expire ON leases (expires_at);
