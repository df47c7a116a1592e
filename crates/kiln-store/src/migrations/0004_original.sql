-- Schema 4: what was built elsewhere, from an image that is not the source it came from.

ALTER TABLE versions ADD COLUMN original TEXT; -- JSON; only of versions that came as an artifact
