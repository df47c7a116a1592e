-- Schema 5: logins to registries for work that has no caller.

CREATE TABLE logins (
    scope      TEXT    NOT NULL PRIMARY KEY,  -- a registry, or a namespace in it
    username   TEXT    NOT NULL,
    sealed     BLOB    NOT NULL,              -- the secret; its key is not in this database
    created_by INTEGER NOT NULL REFERENCES users (uid),
    created_at INTEGER NOT NULL
) STRICT;
