//! Effects outside the store, decided in a transaction and carried out after it.
//!
//! Carrying them out is not here. An effect may happen twice, when the daemon ends between doing
//! it and saying so; whoever does it must bear that.

use kiln_domain::Timestamp;
use rusqlite::Row;
use serde_json::Value;

use crate::columns::{Columns, Micros, Text};
use crate::{ReadTransaction, StoreError, WriteTransaction};

/// An effect that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxRow {
    /// Its place in the order of all effects.
    pub seq: i64,
    /// What to do.
    pub kind: String,
    /// What doing it needs to know; never a secret.
    pub payload: Value,
    /// When it was decided.
    pub created_at: Timestamp,
}

/// Decides an effect and returns its place in the order.
pub fn put(
    tx: &WriteTransaction<'_>,
    kind: &str,
    payload: &Value,
    at: Timestamp,
) -> Result<i64, StoreError> {
    let sql = "INSERT INTO outbox (kind, payload, created_at) VALUES (?1, ?2, ?3)";
    tx.execute("decide an effect", sql, (kind, Text(payload), Micros(at)))?;
    Ok(tx.last_seq())
}

/// Returns the effects that wait, in the order they were decided, at most `limit` of them.
pub fn pending(tx: &ReadTransaction<'_>, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
    let sql = "SELECT seq, kind, payload, created_at FROM outbox \
               WHERE done_at IS NULL ORDER BY seq LIMIT ?1";
    tx.all("list waiting effects", sql, [limit], read)
}

/// Records that an effect happened; tells whether it was waiting.
pub fn mark_done(tx: &WriteTransaction<'_>, seq: i64, at: Timestamp) -> Result<bool, StoreError> {
    let sql = "UPDATE outbox SET done_at = ?2 WHERE seq = ?1 AND done_at IS NULL";
    Ok(tx.execute("mark an effect as done", sql, (seq, Micros(at)))? == 1)
}

/// Removes the effects that happened before a time and returns how many there were.
pub fn prune(tx: &WriteTransaction<'_>, older_than: Timestamp) -> Result<usize, StoreError> {
    let sql = "DELETE FROM outbox WHERE done_at < ?1";
    tx.execute("prune effects", sql, [Micros(older_than)])
}

fn read(row: &Row<'_>) -> Result<OutboxRow, StoreError> {
    let columns = Columns::of("outbox", "seq", row);
    Ok(OutboxRow {
        seq: columns.raw("seq")?,
        kind: columns.raw("kind")?,
        payload: columns.json("payload")?,
        created_at: columns.time("created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Database, time};

    #[test]
    fn effects_wait_in_order_until_they_are_done_once() {
        let mut db = Database::new();
        for n in 1..=3 {
            db.write(|tx| put(tx, "webhook", &json!(n), time(n)))
                .unwrap();
        }

        assert!(db.write(|tx| mark_done(tx, 2, time(10))).unwrap());
        assert!(!db.write(|tx| mark_done(tx, 2, time(11))).unwrap());

        let waiting = db.read(|tx| pending(tx, 10)).unwrap();
        let payloads: Vec<_> = waiting.into_iter().map(|row| row.payload).collect();
        assert_eq!(payloads, [json!(1), json!(3)]);
    }

    #[test]
    fn pruning_takes_only_what_is_done_and_old() {
        let mut db = Database::new();
        for n in 1..=3 {
            db.write(|tx| put(tx, "webhook", &json!(n), time(n)))
                .unwrap();
        }
        for (seq, at) in [(1, 10), (2, 20)] {
            db.write(|tx| mark_done(tx, seq, time(at))).unwrap();
        }

        assert_eq!(db.write(|tx| prune(tx, time(20))).unwrap(), 1);

        assert_eq!(db.read(|tx| pending(tx, 10)).unwrap().len(), 1);
        assert!(!db.write(|tx| mark_done(tx, 1, time(30))).unwrap());
    }
}
