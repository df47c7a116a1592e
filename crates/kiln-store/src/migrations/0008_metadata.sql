-- Schema 8: what people say of images, and what registries said of them when last asked.

ALTER TABLE images ADD COLUMN description TEXT;

ALTER TABLE images ADD COLUMN declared_size_bytes INTEGER; -- what its owner calls its size

-- One row for each architecture of an image that was asked about. The versions that were built stay
-- what they are, whatever stands here.
CREATE TABLE remote_states (
    image_id        TEXT    NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    architecture    TEXT    NOT NULL,
    reference       TEXT    NOT NULL,          -- canonical, what was asked about
    manifest_digest TEXT    NOT NULL,
    document        TEXT    NOT NULL,          -- JSON: layers, sizes, labels, created
    seen_at         INTEGER NOT NULL,
    PRIMARY KEY (image_id, architecture)
) STRICT, WITHOUT ROWID;
