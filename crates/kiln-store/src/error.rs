//! Why the store could not do its work, by what the caller can do about it.
//!
//! Errors of one noun's rules, such as a taken name, are not here; they stand beside the function
//! that returns them.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why a read or a write failed. Nothing of a failed write stays.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process held the database longer than the busy timeout; trying again may help.
    #[error("the database was busy while the store was to {step}")]
    Busy {
        /// What was being done, as an infinitive.
        step: &'static str,
        /// What SQLite said.
        source: Box<rusqlite::Error>,
    },
    /// The file system has no room left; freeing some helps.
    #[error("no space was left to {step}")]
    Full {
        /// What was being done, as an infinitive.
        step: &'static str,
        /// What SQLite said.
        source: Box<rusqlite::Error>,
    },
    /// The database file is damaged; a snapshot must take its place.
    #[error("the database is damaged; the store could not {step}")]
    Corrupt {
        /// What was being done, as an infinitive.
        step: &'static str,
        /// What SQLite said.
        source: Box<rusqlite::Error>,
    },
    /// A file of the database is no longer where it was opened: it was removed, or another took its
    /// place. Nothing is written until it is back, or the store is opened anew.
    #[error("{} is not the file that was opened: it was removed or replaced", path.display())]
    Replaced {
        /// Where it was.
        path: PathBuf,
    },
    /// The store was closed, or is being closed.
    #[error("the store is closed")]
    Closed,
    /// A row holds a value that the rules of its column refuse.
    #[error("the row {key:?} of {table} holds a {column} that cannot be read")]
    RowInvalid {
        /// The table.
        table: &'static str,
        /// The row's key, as far as it could be read.
        key: String,
        /// The column.
        column: &'static str,
        /// Which rule it breaks.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The closure panicked: a bug. Its transaction was rolled back and the store lives on.
    #[error("work inside the store panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// SQLite refused for another reason: a bug, a broken rule of the schema, or a failing disk.
    #[error("the store could not {step}")]
    Sql {
        /// What was being done, as an infinitive.
        step: &'static str,
        /// What SQLite said.
        source: Box<rusqlite::Error>,
    },
}

impl StoreError {
    /// Tells whether the same call may succeed later without anybody repairing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// Makes an error for a row whose `column` broke a rule.
    pub(crate) fn row_invalid(
        table: &'static str,
        key: String,
        column: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::RowInvalid {
            table,
            key,
            column,
            source: source.into(),
        }
    }

    /// Makes the error of a closure that panicked with `payload`.
    pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Self::Panicked { message }
    }
}

/// Sorts what SQLite said by what can be done about it.
pub(crate) fn at(step: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| sort(step, Box::new(source))
}

fn sort(step: &'static str, source: Box<rusqlite::Error>) -> StoreError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Busy { step, source }
        }
        Some(ErrorCode::DiskFull) => StoreError::Full { step, source },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { step, source }
        }
        _ => StoreError::Sql { step, source },
    }
}

/// Tells whether `error` says that a unique index or primary key holds such a row already.
pub(crate) fn is_unique_violation(error: &StoreError) -> bool {
    let StoreError::Sql { source, .. } = error else {
        return false;
    };
    source.sqlite_error().is_some_and(|inner| {
        matches!(
            inner.extended_code,
            rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY | rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE
        )
    })
}

/// Tells whether `error` says that other rows refer to the one that was to go.
pub(crate) fn is_foreign_key_violation(error: &StoreError) -> bool {
    let StoreError::Sql { source, .. } = error else {
        return false;
    };
    source
        .sqlite_error()
        .is_some_and(|inner| inner.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY)
}
