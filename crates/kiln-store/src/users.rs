//! The user ids that have called, entered on first sight.
//!
//! What a user may do is not here.

use kiln_domain::Timestamp;
use rusqlite::Row;

use crate::columns::{Columns, Micros};
use crate::{ReadTransaction, StoreError, WriteTransaction};

/// One user id that has called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// The user id on this host.
    pub uid: u32,
    /// What to call the user, where somebody said so.
    pub name: Option<String>,
    /// The role an administrator gave, where one did.
    pub role: Option<String>,
    /// When the user first called.
    pub first_seen_at: Timestamp,
}

/// Enters a user on first sight; does nothing for one that is known.
pub fn see(tx: &WriteTransaction<'_>, uid: u32, at: Timestamp) -> Result<(), StoreError> {
    let sql = "INSERT INTO users (uid, first_seen_at) VALUES (?1, ?2) ON CONFLICT (uid) DO NOTHING";
    tx.execute("enter a user", sql, (uid, Micros(at)))
        .map(|_| ())
}

/// Returns a user that has called.
pub fn get(tx: &ReadTransaction<'_>, uid: u32) -> Result<Option<UserRow>, StoreError> {
    let sql = "SELECT uid, name, role, first_seen_at FROM users WHERE uid = ?1";
    tx.first("read a user", sql, [uid], read)
}

fn read(row: &Row<'_>) -> Result<UserRow, StoreError> {
    let columns = Columns::of("users", "uid", row);
    Ok(UserRow {
        uid: columns.integer("uid")?,
        name: columns.raw("name")?,
        role: columns.raw("role")?,
        first_seen_at: columns.time("first_seen_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Database, time};

    #[test]
    fn the_first_sight_counts() {
        let mut db = Database::new();

        db.write(|tx| see(tx, u32::MAX, time(1))).unwrap();
        db.write(|tx| see(tx, u32::MAX, time(2))).unwrap();

        let user = db.read(|tx| get(tx, u32::MAX)).unwrap().unwrap();
        assert_eq!((user.uid, user.first_seen_at), (u32::MAX, time(1)));
    }
}
