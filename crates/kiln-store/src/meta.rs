//! Facts about the database itself, by key: its name, and whether it took the place of another.
//!
//! The schema's number is not here; SQLite keeps it in the file's header.

use std::fmt;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::error::at;
use crate::{ReadTransaction, StoreError, WriteTransaction};

/// Key of a number that is counted up to see whether anything can be written.
const PROBE: &str = "probe";

/// Key of the [`Replacement`] that the directories have not been compared with yet.
const RECONCILIATION: &str = "reconciliation";

/// Key of the place of the last operation that ran under an earlier database.
pub(crate) const FOREIGN_OPERATIONS: &str = "foreign_operations";

/// Key of the place of the last event that happened under an earlier database.
const FOREIGN_EVENTS: &str = "foreign_events";

/// Why a database took the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There was none, or one without anything in it, where one must have been.
    Lost,
    /// It was damaged.
    Damaged {
        /// What the check found first.
        finding: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("lost"),
            Self::Damaged { finding } => write!(f, "damaged: {finding}"),
        }
    }
}

/// How this database took the place of another. Files are named as they stand beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Why.
    pub cause: Cause,
    /// What the former database is called now, if there was one.
    pub damaged: Option<String>,
    /// The snapshot this database began as a copy of; `None` when it began empty, for want of a
    /// healthy one.
    pub snapshot: Option<String>,
    /// Snapshots that are damaged, foreign or of a newer schema, and were passed over.
    pub unusable: Vec<String>,
}

/// Returns the random name the database got when it was created: 32 hexadecimal digits.
///
/// A copy keeps it, so it tells two daemons apart, not two copies of one database.
pub fn store_id(tx: &ReadTransaction<'_>) -> Result<String, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = 'store_id'";
    let id: Option<String> = tx.value("read the store's id", sql, [])?;
    id.ok_or_else(|| {
        StoreError::row_invalid("meta", "store_id".to_owned(), "value", "the row is missing")
    })
}

/// Returns how this database took the place of another, until somebody has compared its rows with
/// the directories; `None` when nothing is owed.
pub fn reconciliation_owed(tx: &ReadTransaction<'_>) -> Result<Option<Replacement>, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let text: Option<String> = tx.value("read what is owed", sql, [RECONCILIATION])?;
    text.map(|text| {
        decode(&text).ok_or_else(|| {
            let key = RECONCILIATION.to_owned();
            StoreError::row_invalid("meta", key, "value", "it does not tell a replacement")
        })
    })
    .transpose()
}

/// Returns the place of the last event that came from the database whose place this one took; 0
/// when there is none.
pub fn foreign_events(tx: &ReadTransaction<'_>) -> Result<i64, StoreError> {
    let sql = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = ?1";
    let last = tx.value("read the last event of before", sql, [FOREIGN_EVENTS])?;
    Ok(last.unwrap_or(0))
}

/// Writes something that nobody reads. It must differ each time: what is as it was before is not
/// written by SQLite.
pub(crate) fn probe(tx: &WriteTransaction<'_>) -> Result<(), StoreError> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, '1') ON CONFLICT (key) \
               DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)";
    tx.execute("write at all", sql, [PROBE]).map(drop)
}

/// Records that rows and directories agree again; tells whether it was owed.
pub fn settle_reconciliation(tx: &WriteTransaction<'_>) -> Result<bool, StoreError> {
    let sql = "DELETE FROM meta WHERE key = ?1";
    Ok(tx.execute("settle what is owed", sql, [RECONCILIATION])? == 1)
}

/// Records in a database of any schema, before it takes its place, that it takes another's: its
/// rows must be compared with the directories, and its operations tell nothing of them.
///
/// An operation that was running when a snapshot was made may have succeeded long since.
pub(crate) fn owe_reconciliation(
    connection: &Connection,
    replacement: &Replacement,
) -> Result<(), StoreError> {
    const STEP: &str = "record a replacement";
    let put = "INSERT INTO meta (key, value) VALUES (?1, ?2) \
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    let transaction = connection.unchecked_transaction().map_err(at(STEP))?;
    transaction
        .execute(put, (RECONCILIATION, encode(replacement)))
        .map_err(at(STEP))?;
    for (key, newest) in [
        (
            FOREIGN_OPERATIONS,
            "SELECT coalesce(max(seq), 0) FROM operations",
        ),
        (FOREIGN_EVENTS, "SELECT coalesce(max(seq), 0) FROM events"),
    ] {
        let last: i64 = transaction
            .query_row(newest, [], |row| row.get(0))
            .map_err(at(STEP))?;
        transaction
            .execute(put, (key, last.to_string()))
            .map_err(at(STEP))?;
    }
    transaction.commit().map_err(at(STEP))
}

fn encode(replacement: &Replacement) -> String {
    let finding = match &replacement.cause {
        Cause::Lost => None,
        Cause::Damaged { finding } => Some(finding),
    };
    let Replacement {
        damaged,
        snapshot,
        unusable,
        ..
    } = replacement;
    json!({"finding": finding, "damaged": damaged, "snapshot": snapshot, "unusable": unusable})
        .to_string()
}

fn decode(text: &str) -> Option<Replacement> {
    let value: Value = serde_json::from_str(text).ok()?;
    let optional = |key: &str| match value.get(key)? {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(text.clone())),
        _ => None,
    };
    let unusable = value.get("unusable")?.as_array()?.iter();
    Some(Replacement {
        cause: match optional("finding")? {
            None => Cause::Lost,
            Some(finding) => Cause::Damaged { finding },
        },
        damaged: optional("damaged")?,
        snapshot: optional("snapshot")?,
        unusable: unusable
            .map(|name| name.as_str().map(str::to_owned))
            .collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Database;

    #[test]
    fn two_databases_have_two_names() {
        let ids = [Database::new(), Database::new()].map(|mut db| db.read(store_id).unwrap());

        assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn a_replacement_is_owed_until_it_is_settled() {
        let replacements = [
            Replacement {
                cause: Cause::Lost,
                damaged: None,
                snapshot: None,
                unusable: vec![],
            },
            Replacement {
                cause: Cause::Damaged {
                    finding: "page 3".to_owned(),
                },
                damaged: Some("kiln.db.damaged-1".to_owned()),
                snapshot: Some("kiln.db.before-2".to_owned()),
                unusable: vec!["kiln.db.snapshot-x".to_owned()],
            },
        ];
        let mut db = Database::new();
        assert_eq!(db.read(reconciliation_owed).unwrap(), None);
        for replacement in replacements {
            owe_reconciliation(&db.connection, &replacement).unwrap();
            assert_eq!(db.read(reconciliation_owed).unwrap(), Some(replacement));
        }

        assert!(db.write(settle_reconciliation).unwrap());
        assert!(!db.write(settle_reconciliation).unwrap());
        assert_eq!(db.read(reconciliation_owed).unwrap(), None);
    }

    #[test]
    fn a_record_that_tells_nothing_is_an_error() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"finding":1,"damaged":null,"snapshot":null,"unusable":[]}"#,
        ] {
            let mut db = Database::new();
            db.damage(&format!(
                "INSERT INTO meta VALUES ('{RECONCILIATION}', '{text}')"
            ));

            let read = db.read(reconciliation_owed);

            assert!(matches!(read, Err(StoreError::RowInvalid { .. })), "{text}");
        }
    }
}
