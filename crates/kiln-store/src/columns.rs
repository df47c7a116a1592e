//! Reads a row's columns through the domain's parsers, so that a damaged row is an error with its
//! table, key and column, never a panic and never a wrong value.

use std::cell::Cell;
use std::error::Error;
use std::str::FromStr;

use kiln_domain::Timestamp;
use rusqlite::types::{FromSql, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Row, Statement};
use serde_json::Value;

use crate::StoreError;

/// One row of a known table, read by column names.
///
/// Finding a name among the columns is what a long list spends its time on, so readers take columns in
/// the order in which their query names them: the next one is looked at first.
pub(crate) struct Columns<'row> {
    table: &'static str,
    key: &'static str,
    row: &'row Row<'row>,
    /// The place behind the column that was read last.
    next: Cell<usize>,
}

impl<'row> Columns<'row> {
    /// Wraps a row of `table` whose column `key` tells people which row it is.
    pub(crate) fn of(table: &'static str, key: &'static str, row: &'row Row<'row>) -> Self {
        Self {
            table,
            key,
            row,
            next: Cell::new(0),
        }
    }

    /// Reads a column as SQLite stored it.
    pub(crate) fn raw<T: FromSql>(&self, column: &'static str) -> Result<T, StoreError> {
        self.place(column)
            .and_then(|place| {
                self.next.set(place + 1);
                self.row.get(place)
            })
            .map_err(|error| self.invalid(column, error))
    }

    fn place(&self, column: &str) -> rusqlite::Result<usize> {
        let statement: &Statement<'_> = self.row.as_ref();
        let next = self.next.get();
        match statement.column_name(next) {
            Ok(name) if name == column => Ok(next),
            _ => statement.column_index(column),
        }
    }

    /// Reads a text column through its parser.
    pub(crate) fn parsed<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: FromStr<Err: Error + Send + Sync + 'static>,
    {
        let text: String = self.raw(column)?;
        text.parse().map_err(|error| self.invalid(column, error))
    }

    /// Reads a text column that may be empty through its parser.
    pub(crate) fn parsed_option<T>(&self, column: &'static str) -> Result<Option<T>, StoreError>
    where
        T: FromStr<Err: Error + Send + Sync + 'static>,
    {
        let text: Option<String> = self.raw(column)?;
        text.map(|text| text.parse().map_err(|error| self.invalid(column, error)))
            .transpose()
    }

    /// Reads an integer column that must fit `T`.
    pub(crate) fn integer<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: TryFrom<i64, Error: Error + Send + Sync + 'static>,
    {
        let value: i64 = self.raw(column)?;
        T::try_from(value).map_err(|error| self.invalid(column, error))
    }

    /// Reads a point in time.
    pub(crate) fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        Timestamp::from_micros(self.raw(column)?).map_err(|error| self.invalid(column, error))
    }

    /// Reads a point in time that may be missing.
    pub(crate) fn time_option(
        &self,
        column: &'static str,
    ) -> Result<Option<Timestamp>, StoreError> {
        let micros: Option<i64> = self.raw(column)?;
        micros
            .map(|micros| {
                Timestamp::from_micros(micros).map_err(|error| self.invalid(column, error))
            })
            .transpose()
    }

    /// Reads a JSON column.
    pub(crate) fn json(&self, column: &'static str) -> Result<Value, StoreError> {
        let text: String = self.raw(column)?;
        serde_json::from_str(&text).map_err(|error| self.invalid(column, error))
    }

    /// Reads a JSON column that may be missing.
    pub(crate) fn json_option(&self, column: &'static str) -> Result<Option<Value>, StoreError> {
        let text: Option<String> = self.raw(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.invalid(column, error)))
            .transpose()
    }

    /// Makes the error that `column` of this row breaks a rule.
    pub(crate) fn invalid(
        &self,
        column: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> StoreError {
        StoreError::row_invalid(self.table, self.key_text(), column, source)
    }

    fn key_text(&self) -> String {
        match self.row.get_ref(self.key) {
            Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).chars().take(80).collect(),
            Ok(ValueRef::Integer(value)) => value.to_string(),
            _ => String::new(),
        }
    }
}

/// Binds a value by its text form, the one its parser reads back.
pub(crate) struct Text<T>(pub(crate) T);

impl<T: std::fmt::Display> ToSql for Text<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.to_string()))
    }
}

/// Binds a size; one above 2⁶³ − 1, which SQLite cannot hold, is refused.
pub(crate) struct Unsigned(pub(crate) u64);

impl ToSql for Unsigned {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        i64::try_from(self.0)
            .map(ToSqlOutput::from)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }
}

/// Binds a point in time as microseconds.
pub(crate) struct Micros(pub(crate) Timestamp);

impl ToSql for Micros {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.as_micros()))
    }
}
