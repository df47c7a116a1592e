//! Brings a database's schema up to date: forward only, one transaction each, a copy first.
//!
//! The schema's number is SQLite's `user_version`. What was released is never edited; a change is
//! a new file at the end of the list.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use crate::OpenError;
use crate::StoreError;
use crate::error::at;
use crate::open::{APPLICATION_ID, opening};
use crate::snapshot;

/// Migration n, counted from one, makes schema n of schema n - 1.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_frame.sql"),
    include_str!("migrations/0002_boot.sql"),
    include_str!("migrations/0003_instances.sql"),
    include_str!("migrations/0004_original.sql"),
    include_str!("migrations/0005_logins.sql"),
    include_str!("migrations/0006_people.sql"),
    include_str!("migrations/0007_lifecycle.sql"),
    include_str!("migrations/0008_metadata.sql"),
    include_str!("migrations/0009_disk.sql"),
    include_str!("migrations/0010_agents.sql"),
    include_str!("migrations/0011_ends.sql"),
];

/// Returns the number of the newest schema this build knows.
pub(crate) fn newest() -> i64 {
    number_of(MIGRATIONS)
}

/// Runs the migrations a database lacks; does nothing when it lacks none.
///
/// An existing database is first copied to `<path>.before-<n>`. When a migration fails, those
/// before it stay and the database is a whole one of an older schema.
pub(crate) fn bring_up_to_date(path: &Path, connection: &mut Connection) -> Result<(), OpenError> {
    run(path, connection, MIGRATIONS)
}

fn run(path: &Path, connection: &mut Connection, list: &[&str]) -> Result<(), OpenError> {
    let current = schema(connection).map_err(|error| opening(path, error))?;
    if current >= number_of(list) {
        return Ok(());
    }
    if current > 0 {
        snapshot::write(connection, &copy_path(path, current + 1)).map_err(|source| {
            let path = path.to_owned();
            let source = Box::new(source);
            OpenError::Snapshot { path, source }
        })?;
    }
    // Rebuilding a table, the only way to change some things in SQLite, must not cascade
    // (SQLite manual, "Making Other Kinds Of Table Schema Changes").
    connection
        .pragma_update(None, "foreign_keys", false)
        .map_err(at("prepare the migration"))
        .map_err(|error| opening(path, error))?;
    for (number, sql) in (1..).zip(list) {
        apply(connection, number, sql).map_err(|error| opening(path, error))?;
    }
    Ok(())
}

/// Runs one migration unless the database has it by now.
fn apply(connection: &mut Connection, number: i64, sql: &str) -> Result<(), StoreError> {
    const STEP: &str = "migrate the schema";
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(at(STEP))?;
    // Read under the lock: another process may have migrated meanwhile.
    if schema(&transaction)? >= number {
        return Ok(());
    }
    transaction.execute_batch(sql).map_err(at(STEP))?;
    let broken: Option<String> = transaction
        .prepare("PRAGMA foreign_key_check")
        .and_then(|mut check| check.query_map([], |row| row.get(0))?.next().transpose())
        .map_err(at(STEP))?;
    if let Some(table) = broken {
        let source = format!("migration {number} leaves a reference that leads nowhere");
        return Err(StoreError::row_invalid(
            "sqlite_schema",
            table,
            "foreign key",
            source,
        ));
    }
    transaction
        .pragma_update(None, "user_version", number)
        .and_then(|()| transaction.pragma_update(None, "application_id", APPLICATION_ID))
        .map_err(at(STEP))?;
    transaction.commit().map_err(at(STEP))
}

/// Names the first table, column or index of the newest schema that a database of that schema
/// lacks: the text of a schema can be damaged where no check of SQLite looks.
///
/// Names are compared, not texts, which differ between releases of SQLite.
pub(crate) fn first_missing(connection: &Connection) -> Result<Option<String>, StoreError> {
    if schema(connection)? != newest() {
        return Ok(None);
    }
    let mut model = Connection::open_in_memory().map_err(at("make a model of the schema"))?;
    for (number, sql) in (1..).zip(MIGRATIONS) {
        apply(&mut model, number, sql)?;
    }
    let found = names(connection)?;
    let wanted = names(&model)?;
    Ok(wanted.into_iter().find(|name| !found.contains(name)))
}

fn names(connection: &Connection) -> Result<BTreeSet<String>, StoreError> {
    const SQL: &str = "SELECT 'column ' || tables.name || '.' || columns.name \
         FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns \
         WHERE tables.type = 'table' \
         UNION ALL SELECT 'index ' || name FROM sqlite_schema \
         WHERE type = 'index' AND sql IS NOT NULL";
    connection
        .prepare(SQL)
        .and_then(|mut names| names.query_map([], |row| row.get(0))?.collect())
        .map_err(at("read the schema"))
}

fn schema(connection: &Connection) -> Result<i64, StoreError> {
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(at("read the schema's number"))
}

fn number_of(list: &[&str]) -> i64 {
    i64::try_from(list.len()).unwrap_or(i64::MAX)
}

fn copy_path(path: &Path, number: i64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::StoreOptions;
    use crate::open::{open_reader, open_writer};

    const FURTHER: &str = "ALTER TABLE users ADD COLUMN shell TEXT;
        INSERT INTO users (uid, first_seen_at, shell) VALUES (7, 0, 'sh');";

    fn opened(path: &Path) -> Connection {
        open_writer(path, &StoreOptions::default()).unwrap().0
    }

    /// All there are, and one more.
    fn followed_by(migration: &'static str) -> Vec<&'static str> {
        [MIGRATIONS, &[migration]].concat()
    }

    fn count_users(connection: &Connection) -> i64 {
        connection
            .query_row("SELECT count(*) FROM users", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn a_new_database_gets_every_migration_and_no_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");

        let connection = opened(&path);

        assert_eq!(schema(&connection).unwrap(), newest());
        assert!(!copy_path(&path, 1).exists());
    }

    #[test]
    fn migrating_twice_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        let mut connection = opened(&path);
        let list = followed_by(FURTHER);

        run(&path, &mut connection, &list).unwrap();
        run(&path, &mut connection, &list).unwrap();

        assert_eq!(schema(&connection).unwrap(), newest() + 1);
        assert_eq!(count_users(&connection), 1);
    }

    #[test]
    fn an_existing_database_is_copied_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        let mut connection = opened(&path);

        run(&path, &mut connection, &followed_by(FURTHER)).unwrap();

        let copy = copy_path(&path, newest() + 1);
        let copy = open_reader(&copy, &StoreOptions::default()).unwrap();
        assert_eq!(schema(&copy).unwrap(), newest());
        assert_eq!(count_users(&copy), 0);
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().contains("partial"))
            .collect();
        assert_eq!(names, Vec::<std::ffi::OsString>::new());
    }

    #[test]
    fn a_failing_migration_leaves_the_schema_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        let mut connection = opened(&path);
        let bad = "CREATE TABLE half (x INTEGER) STRICT; CREATE TABLE users (x INTEGER);";

        let error = run(&path, &mut connection, &followed_by(bad)).unwrap_err();

        assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
        assert_eq!(schema(&connection).unwrap(), newest());
        connection.prepare("SELECT * FROM half").unwrap_err();
    }
}
