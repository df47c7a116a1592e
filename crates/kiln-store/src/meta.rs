//! Facts about the database itself, by key.
//!
//! The schema's number is not here; SQLite keeps it in the file's header.

use crate::{ReadTransaction, StoreError};

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
}
