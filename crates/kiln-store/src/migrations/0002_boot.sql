-- Schema 2: how versions boot, and which kernel is used where none is named.

ALTER TABLE versions ADD COLUMN boot TEXT;     -- JSON; versions made before have none

ALTER TABLE kernels ADD COLUMN is_default INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1));

CREATE UNIQUE INDEX kernels_default ON kernels (is_default) WHERE is_default = 1;
