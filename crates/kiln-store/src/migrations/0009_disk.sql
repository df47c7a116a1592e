-- Schema 9: which versions a decoded layer is of, for who asks why it is on the disk.

CREATE INDEX version_blobs_by_diff_id ON version_blobs (diff_id) WHERE diff_id IS NOT NULL;
