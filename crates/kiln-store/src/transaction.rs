//! What a closure inside the store is given: a transaction to read in, or one to write in too.
//!
//! Beginning, committing and undoing are not here: no query can commit by itself, so whatever one
//! closure does happens as a whole or not at all.

use std::cell::RefCell;
use std::ops::Deref;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, ffi};

use crate::error::at;
use crate::{Object, StoreError};

/// A transaction that sees one unchanging state of the store.
#[derive(Debug)]
pub struct ReadTransaction<'connection> {
    connection: &'connection Connection,
}

/// A transaction that also changes the store; at most one exists at a time.
///
/// It can do whatever a [`ReadTransaction`] can, and sees its own changes.
#[derive(Debug)]
pub struct WriteTransaction<'connection> {
    read: ReadTransaction<'connection>,
    /// What its events are about.
    told_of: RefCell<Vec<Object>>,
}

impl<'connection> Deref for WriteTransaction<'connection> {
    type Target = ReadTransaction<'connection>;

    fn deref(&self) -> &Self::Target {
        &self.read
    }
}

impl<'connection> ReadTransaction<'connection> {
    /// Wraps a connection on which a transaction has begun.
    pub(crate) fn over(connection: &'connection Connection) -> Self {
        Self { connection }
    }

    /// Returns the first row of a query, if there is one.
    pub(crate) fn first<T>(
        &self,
        step: &'static str,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let mut statement = self.prepare(step, sql)?;
        let mut rows = statement.query(params).map_err(at(step))?;
        rows.next().map_err(at(step))?.map(read).transpose()
    }

    /// Returns every row of a query.
    pub(crate) fn all<T>(
        &self,
        step: &'static str,
        sql: &str,
        params: impl Params,
        read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.prepare(step, sql)?;
        let mut rows = statement.query(params).map_err(at(step))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(at(step))? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// Returns the one value a query always has, such as a count.
    pub(crate) fn value<T: rusqlite::types::FromSql>(
        &self,
        step: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<Option<T>, StoreError> {
        let mut statement = self.prepare(step, sql)?;
        statement
            .query_row(params, |row| row.get(0))
            .optional()
            .map_err(at(step))
    }

    fn prepare(
        &self,
        step: &'static str,
        sql: &str,
    ) -> Result<CachedStatement<'connection>, StoreError> {
        #[cfg(test)]
        crate::testing::note_query(sql);
        self.connection.prepare_cached(sql).map_err(at(step))
    }
}

impl<'connection> WriteTransaction<'connection> {
    /// Wraps the writing connection, on which an immediate transaction has begun.
    pub(crate) fn over(connection: &'connection Connection) -> Self {
        Self {
            read: ReadTransaction::over(connection),
            told_of: RefCell::default(),
        }
    }

    /// Remembers what an event is about.
    pub(crate) fn tell_of(&self, object: &Object) {
        self.told_of.borrow_mut().push(object.clone());
    }

    /// Returns what its events so far are about.
    pub(crate) fn told_of(&self) -> Vec<Object> {
        self.told_of.borrow().clone()
    }

    /// Runs a statement and returns how many rows it changed.
    pub(crate) fn execute(
        &self,
        step: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<usize, StoreError> {
        self.require_open(step)?;
        let mut statement = self.prepare(step, sql)?;
        statement.execute(params).map_err(at(step))
    }

    /// Runs a statement that changes rows and returns what it says of each.
    pub(crate) fn execute_returning<T>(
        &self,
        step: &'static str,
        sql: &str,
        params: impl Params,
        read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.require_open(step)?;
        self.all(step, sql, params, read)
    }

    /// Returns the sequence number of the row inserted last.
    pub(crate) fn last_seq(&self) -> i64 {
        self.read.connection.last_insert_rowid()
    }

    /// Refuses to go on once SQLite has rolled back by itself, as it may when the disk is full:
    /// each further statement would commit alone (SQLite manual, "Response To Errors Within A
    /// Transaction").
    fn require_open(&self, step: &'static str) -> Result<(), StoreError> {
        if !self.read.connection.is_autocommit() {
            return Ok(());
        }
        let gone = ffi::Error::new(ffi::SQLITE_ABORT_ROLLBACK);
        Err(at(step)(rusqlite::Error::SqliteFailure(gone, None)))
    }
}
