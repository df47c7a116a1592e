//! The users this daemon knows: entered on first sight, or by an administrator.
//!
//! What a user may do is not here.

use kiln_domain::access::Role;
use kiln_domain::{Timestamp, UserName};
use rusqlite::Row;

use crate::columns::{Columns, Micros};
use crate::error::{is_foreign_key_violation, is_unique_violation};
use crate::page::probe_limit;
use crate::{Page, ReadTransaction, StoreError, WriteTransaction};

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// The user id on this host.
    pub uid: u32,
    /// What to call the user, where somebody said so.
    pub name: Option<UserName>,
    /// The role an administrator gave, where one did.
    pub role: Option<Role>,
    /// When the user first called, or was entered.
    pub first_seen_at: Timestamp,
}

/// Why a user could not be named so.
#[derive(Debug, thiserror::Error)]
pub enum RenameUserError {
    /// Another user is called so.
    #[error("another user is called {name}")]
    Taken {
        /// The name.
        name: UserName,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a user could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveUserError {
    /// Something is recorded as the user's.
    #[error("user {uid} has images, kernels, machines, logins or operations on record")]
    Owns {
        /// The user.
        uid: u32,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const COLUMNS: &str = "uid, name, role, first_seen_at";

/// Enters a user on first sight; does nothing for one that is known.
pub fn see(tx: &WriteTransaction<'_>, uid: u32, at: Timestamp) -> Result<(), StoreError> {
    enter(tx, uid, at).map(drop)
}

/// Enters a user; tells whether the user was not known before.
pub fn enter(tx: &WriteTransaction<'_>, uid: u32, at: Timestamp) -> Result<bool, StoreError> {
    let sql = "INSERT INTO users (uid, first_seen_at) VALUES (?1, ?2) ON CONFLICT (uid) DO NOTHING";
    Ok(tx.execute("enter a user", sql, (uid, Micros(at)))? == 1)
}

/// Returns a user that is known.
pub fn get(tx: &ReadTransaction<'_>, uid: u32) -> Result<Option<UserRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM users WHERE uid = ?1");
    tx.first("read a user", &sql, [uid], read)
}

/// Returns the user who is called so.
pub fn named(tx: &ReadTransaction<'_>, name: &UserName) -> Result<Option<UserRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM users WHERE name = ?1");
    tx.first("read a user", &sql, [name.as_str()], read)
}

/// Returns the users whose uid is above `after`, in the order of their uids; -1 is before all.
pub fn page(tx: &ReadTransaction<'_>, after: i64, limit: u32) -> Result<Page<UserRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM users WHERE uid > ?1 ORDER BY uid LIMIT ?2");
    let rows = tx.all("list users", &sql, (after, probe_limit(limit)), read)?;
    Ok(Page::cut(rows, limit, |user| user.uid.into()))
}

/// Names a user, or takes the name away.
pub fn rename(
    tx: &WriteTransaction<'_>,
    uid: u32,
    name: Option<&UserName>,
) -> Result<(), RenameUserError> {
    let sql = "UPDATE users SET name = ?2 WHERE uid = ?1";
    let changed = tx.execute("name a user", sql, (uid, name.map(UserName::as_str)));
    match (changed, name) {
        (Err(error), Some(name)) if is_unique_violation(&error) => {
            Err(RenameUserError::Taken { name: name.clone() })
        }
        (changed, _) => Ok(changed.map(drop)?),
    }
}

/// Gives a user a role, or with `None` the one of everybody.
pub fn set_role(tx: &WriteTransaction<'_>, uid: u32, role: Option<Role>) -> Result<(), StoreError> {
    let sql = "UPDATE users SET role = ?2 WHERE uid = ?1";
    tx.execute("give a user a role", sql, (uid, role.map(Role::as_str)))
        .map(drop)
}

/// Removes a user with the memberships, unless something is on record as the user's; tells whether
/// there was one.
pub fn delete(tx: &WriteTransaction<'_>, uid: u32) -> Result<bool, RemoveUserError> {
    match tx.execute("remove a user", "DELETE FROM users WHERE uid = ?1", [uid]) {
        Ok(count) => Ok(count == 1),
        Err(error) if is_foreign_key_violation(&error) => Err(RemoveUserError::Owns { uid }),
        Err(error) => Err(error.into()),
    }
}

fn read(row: &Row<'_>) -> Result<UserRow, StoreError> {
    let columns = Columns::of("users", "uid", row);
    Ok(UserRow {
        uid: columns.integer("uid")?,
        name: columns.parsed_option("name")?,
        role: columns.parsed_option("role")?,
        first_seen_at: columns.time("first_seen_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Database, OWNER, time};

    fn name(text: &str) -> UserName {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_sight_counts() {
        let mut db = Database::new();

        assert!(db.write(|tx| enter(tx, u32::MAX, time(1))).unwrap());
        assert!(!db.write(|tx| enter(tx, u32::MAX, time(2))).unwrap());
        db.write(|tx| see(tx, u32::MAX, time(3))).unwrap();

        let user = db.read(|tx| get(tx, u32::MAX)).unwrap().unwrap();
        assert_eq!((user.uid, user.first_seen_at), (u32::MAX, time(1)));
        assert_eq!((user.name, user.role), (None, None));
    }

    #[test]
    fn a_name_is_one_users_and_can_be_given_up() {
        let mut db = Database::new();
        for uid in [7, 8] {
            db.write(|tx| see(tx, uid, time(1))).unwrap();
        }
        db.write(|tx| rename(tx, 7, Some(&name("alice")))).unwrap();

        let taken = db.write(|tx| rename(tx, 8, Some(&name("alice"))));
        assert!(
            matches!(taken, Err(RenameUserError::Taken { .. })),
            "{taken:?}"
        );
        let found = db.read(|tx| named(tx, &name("alice"))).unwrap().unwrap();
        assert_eq!(found.uid, 7);
        db.write(|tx| rename(tx, 7, None)).unwrap();
        db.write(|tx| rename(tx, 8, Some(&name("alice")))).unwrap();
        let found = db.read(|tx| named(tx, &name("alice"))).unwrap().unwrap();
        assert_eq!(found.uid, 8);
    }

    #[test]
    fn roles_are_given_and_taken() {
        let mut db = Database::new();
        db.write(|tx| see(tx, 7, time(1))).unwrap();
        for role in [Some(Role::Agent), Some(Role::Superadmin), None] {
            db.write(|tx| set_role(tx, 7, role)).unwrap();

            let user = db.read(|tx| get(tx, 7)).unwrap().unwrap();
            assert_eq!(user.role, role);
        }
    }

    #[test]
    fn pages_go_by_uid_and_begin_with_root() {
        let mut db = Database::new();
        for uid in [7, u32::MAX, 0] {
            db.write(|tx| see(tx, uid, time(1))).unwrap();
        }

        let first = db.read(|tx| page(tx, -1, 2)).unwrap();
        let uids: Vec<_> = first.rows.iter().map(|user| user.uid).collect();
        assert_eq!((uids, first.next_after), (vec![0, 7], Some(7)));
        let last = db.read(|tx| page(tx, 7, 2)).unwrap();
        assert_eq!((last.rows[0].uid, last.next_after), (u32::MAX, None));
    }

    #[test]
    fn who_owns_something_stays() {
        let mut db = Database::new();
        db.add_image(1, "web");
        db.write(|tx| see(tx, 7, time(1))).unwrap();

        let owns = db.write(|tx| delete(tx, OWNER));
        assert!(
            matches!(owns, Err(RemoveUserError::Owns { uid: OWNER })),
            "{owns:?}"
        );
        assert!(db.write(|tx| delete(tx, 7)).unwrap());
        assert!(!db.write(|tx| delete(tx, 7)).unwrap());
    }
}
