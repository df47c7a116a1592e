//! Opens the database file: its mode, its pragmas, its health, and whether it is ours at all.
//!
//! Bringing the schema up to date is in [`crate::migrations`], replacing a damaged database by a
//! snapshot in [`crate::recovery`].
//!
//! ```text
//! kiln.db                 the database, mode 0600; beside it SQLite keeps kiln.db-wal, kiln.db-shm
//! kiln.db.before-<n>      what it was before migration <n>
//! kiln.db.snapshot-<..>   what it was when somebody asked for a copy
//! kiln.db.damaged-<n>     a database that was replaced, kept as evidence, with its log
//! ```

use std::ffi::c_int;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

use crate::error::at;
use crate::migrations;
use crate::{SnapshotError, StoreError};

/// Says in the file's header that it is a Kiln database: `KILN` in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x4b49_4c4e;

/// Prepared statements kept per connection: the queries of a busy daemon, with room to spare.
const CACHED_STATEMENTS: usize = 64;

/// Size the write-ahead log is cut back to after a checkpoint, in bytes: one burst of writes must
/// not keep its disk space for ever.
const LOG_SIZE_LIMIT_BYTES: i64 = 16 << 20;

/// How the store is run.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How many reads may run side by side, each on a connection of its own.
    pub readers: NonZeroU32,
    /// How long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            readers: NonZeroU32::MIN.saturating_add(3),
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer Kiln wrote it; this one would not understand it.
    #[error(
        "{} has schema {found}; this build knows schemas up to {known}",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The schema's number in the file.
        found: i64,
        /// The newest schema this build knows.
        known: i64,
    },
    /// It is an SQLite database of another program.
    #[error("{} is not a Kiln database", path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
    },
    /// It is damaged; its newest snapshot must take its place.
    #[error("{} is damaged: {finding}", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What the check found first.
        finding: String,
    },
    /// The file could not be reached.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The snapshot that goes before a migration failed; the database is unchanged.
    #[error("cannot keep a copy of {} before its migration", path.display())]
    Snapshot {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: Box<SnapshotError>,
    },
    /// A thread of the store could not be started.
    #[error("cannot start the writer of {}", path.display())]
    Thread {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite refused for another reason.
    #[error("cannot open the database {}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
}

/// What opening found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was no database; an empty one was made.
    Fresh,
    /// There was a healthy one.
    Existing {
        /// The schema it had before it was brought up to date.
        schema: i64,
    },
}

/// Opens the writing connection, checks the database and brings its schema up to date.
pub(crate) fn open_writer(
    path: &Path,
    options: &StoreOptions,
) -> Result<(Connection, Opened), OpenError> {
    create_private(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)
        .map_err(at("open the database"))
        .map_err(|error| opening(path, error))?;
    configure(&connection, options).map_err(|error| opening(path, error))?;
    let opened = identify(path, &connection)?;
    prepare_for_writing(&connection).map_err(|error| opening(path, error))?;
    if opened != Opened::Fresh {
        check_health(path, &connection)?;
        check_schema(path, &connection)?;
    }
    migrations::bring_up_to_date(path, &mut connection)?;
    connection
        .pragma_update(None, "foreign_keys", true)
        .map_err(at("enforce foreign keys"))
        .map_err(|error| opening(path, error))?;
    Ok((connection, opened))
}

/// Opens a connection that cannot change anything.
pub(crate) fn open_reader(path: &Path, options: &StoreOptions) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)
        .map_err(at("open the database for reading"))
        .map_err(|error| opening(path, error))?;
    configure(&connection, options).map_err(|error| opening(path, error))?;
    // SQLite opens the log with the first read: by its name, which may be gone by then.
    connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        .map_err(at("read the database's header"))
        .map_err(|error| opening(path, error))?;
    Ok(connection)
}

/// Checks that a database file is ours, of a schema we know, and undamaged; changes nothing.
pub(crate) fn check(path: &Path) -> Result<Connection, OpenError> {
    let connection = open_reader(path, &StoreOptions::default())?;
    match identify(path, &connection)? {
        Opened::Fresh => Err(OpenError::Foreign {
            path: path.to_owned(),
        }),
        Opened::Existing { .. } => {
            check_health(path, &connection)?;
            check_schema(path, &connection)?;
            Ok(connection)
        }
    }
}

/// Tells whether a database file is sound and holds nothing at all; changes nothing.
pub(crate) fn is_empty(path: &Path) -> bool {
    let found = open_reader(path, &StoreOptions::default())
        .and_then(|connection| identify(path, &connection));
    matches!(found, Ok(Opened::Fresh))
}

/// Opens a database that nobody else knows of, with everything in its one file at each commit.
pub(crate) fn alone(path: &Path) -> Result<Connection, StoreError> {
    const STEP: &str = "open the database alone";
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(at(STEP))?;
    configure(&connection, &StoreOptions::default())?;
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "delete", |row| row.get(0))
        .map_err(at(STEP))?;
    if mode != "delete" {
        // Somebody has it open: what is written would stay in a log that nobody moves along.
        return Err(at(STEP)(rusqlite::Error::InvalidQuery));
    }
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(at(STEP))?;
    Ok(connection)
}

/// Sorts an error met while opening.
pub(crate) fn opening(path: &Path, error: StoreError) -> OpenError {
    let path = path.to_owned();
    match error {
        StoreError::Corrupt { source, .. } => OpenError::Corrupt {
            path,
            finding: source.to_string(),
        },
        source => OpenError::Database { path, source },
    }
}

/// Creates the file for its owner alone, or takes the rights of others away.
///
/// SQLite gives its log and its index the mode of the database.
fn create_private(path: &Path) -> Result<(), OpenError> {
    let at = |step| {
        move |source| OpenError::File {
            step,
            path: path.to_owned(),
            source,
        }
    };
    let mut create = OpenOptions::new();
    match create.write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        // Not opened here: closing any descriptor of the file would drop SQLite's locks on it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path).map_err(at("read"))?.permissions().mode();
            let of_others = mode & 0o077;
            if of_others == 0 {
                return Ok(());
            }
            fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(at("protect"))
        }
        Err(error) => Err(at("create")(error)),
    }
}

fn configure(connection: &Connection, options: &StoreOptions) -> Result<(), StoreError> {
    const STEP: &str = "set up a connection";
    connection
        .busy_timeout(options.busy_timeout)
        .map_err(at(STEP))?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // A damaged or planted schema must not run code, and a misspelt column must not become text.
    for (option, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
    ] {
        connection.set_db_config(option, value).map_err(at(STEP))?;
    }
    connection
        .pragma_update(None, "cell_size_check", true)
        .map_err(at(STEP))
}

/// Tells a new file from ours, and ours from another program's, without changing anything.
fn identify(path: &Path, connection: &Connection) -> Result<Opened, OpenError> {
    let integer = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(at("read the database's header"))
            .map_err(|error| opening(path, error))
    };
    let application = integer("PRAGMA application_id")?;
    let found = integer("PRAGMA user_version")?;
    let objects = integer("SELECT count(*) FROM sqlite_schema")?;
    if application == 0 && found == 0 && objects == 0 {
        return Ok(Opened::Fresh);
    }
    if application != i64::from(APPLICATION_ID) {
        let path = path.to_owned();
        return Err(OpenError::Foreign { path });
    }
    let known = migrations::newest();
    if found > known {
        let path = path.to_owned();
        return Err(OpenError::Newer { path, found, known });
    }
    Ok(Opened::Existing { schema: found })
}

fn prepare_for_writing(connection: &Connection) -> Result<(), StoreError> {
    const STEP: &str = "switch to the write-ahead log";
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(at(STEP))?;
    if mode != "wal" {
        // Some network file systems cannot share memory, which the log needs.
        return Err(at(STEP)(rusqlite::Error::InvalidQuery));
    }
    // NORMAL may lose the last commits when the power goes, and a reply follows each commit.
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(at("make commits durable"))?;
    connection
        .pragma_update_and_check(None, "journal_size_limit", LOG_SIZE_LIMIT_BYTES, |_| Ok(()))
        .map_err(at("bound the write-ahead log"))
}

fn check_health(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let finding: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(at("check the database"))
        .map_err(|error| opening(path, error))?;
    if finding == "ok" {
        return Ok(());
    }
    if let Some(code) = unreadable_page(&finding) {
        let failure = ffi::Error::new(code);
        let source = rusqlite::Error::SqliteFailure(failure, Some(finding));
        return Err(opening(path, at("check the database")(source)));
    }
    let path = path.to_owned();
    Err(OpenError::Corrupt { path, finding })
}

/// Checks that a database of the newest schema has all of it.
fn check_schema(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let missing = migrations::first_missing(connection).map_err(|error| opening(path, error))?;
    missing.map_or(Ok(()), |name| {
        let (path, finding) = (path.to_owned(), format!("its schema lacks the {name}"));
        Err(OpenError::Corrupt { path, finding })
    })
}

/// Returns the code of an input error that a check reports among its findings (`btree.c`,
/// `checkAppendMsg`): a page that cannot be read today is no damaged page.
fn unreadable_page(finding: &str) -> Option<c_int> {
    let (_, rest) = finding.split_once("error code=")?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    let code: c_int = rest[..end.unwrap_or(rest.len())].parse().ok()?;
    let is_transient = matches!(code & 0xff, ffi::SQLITE_IOERR | ffi::SQLITE_NOMEM);
    is_transient.then_some(code)
}

#[cfg(test)]
mod tests;
