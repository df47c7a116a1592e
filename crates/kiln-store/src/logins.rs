//! Logins to registries for work that has no caller.
//!
//! Their secrets come here sealed and leave sealed; with what key is not known here.

use kiln_domain::{LoginScope, Timestamp};
use rusqlite::{Row, named_params};

use crate::columns::{Columns, Micros, Text};
use crate::{ReadTransaction, StoreError, WriteTransaction};

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRow {
    /// Where it counts.
    pub scope: LoginScope,
    /// Who it is of; `<token>` for an identity token.
    pub username: String,
    /// Its secret, sealed.
    pub sealed: Vec<u8>,
    /// Who made it.
    pub created_by: u32,
    /// When.
    pub created_at: Timestamp,
}

/// Keeps a login, in place of another of its scope.
pub fn put(tx: &WriteTransaction<'_>, login: &LoginRow) -> Result<(), StoreError> {
    let sql = "INSERT INTO logins (scope, username, sealed, created_by, created_at) \
               VALUES (:scope, :username, :sealed, :created_by, :created_at) \
               ON CONFLICT (scope) DO UPDATE SET username = excluded.username, \
               sealed = excluded.sealed, created_by = excluded.created_by, \
               created_at = excluded.created_at";
    let params = named_params! {
        ":scope": Text(&login.scope),
        ":username": login.username,
        ":sealed": login.sealed,
        ":created_by": login.created_by,
        ":created_at": Micros(login.created_at),
    };
    tx.execute("keep a login", sql, params).map(drop)
}

/// Returns the login of exactly this name.
pub fn get(tx: &ReadTransaction<'_>, scope: &str) -> Result<Option<LoginRow>, StoreError> {
    let sql = "SELECT scope, username, sealed, created_by, created_at FROM logins \
               WHERE scope = ?1";
    tx.first("read a login", sql, [scope], read)
}

/// Returns the login of the first of these names that has one.
pub fn first_of(
    tx: &ReadTransaction<'_>,
    scopes: &[String],
) -> Result<Option<LoginRow>, StoreError> {
    for scope in scopes {
        if let Some(login) = get(tx, scope)? {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

/// Returns every login, by scope.
pub fn list(tx: &ReadTransaction<'_>) -> Result<Vec<LoginRow>, StoreError> {
    let sql = "SELECT scope, username, sealed, created_by, created_at FROM logins ORDER BY scope";
    tx.all("list logins", sql, [], read)
}

/// Counts the logins.
pub fn count(tx: &ReadTransaction<'_>) -> Result<u64, StoreError> {
    let count: Option<i64> = tx.value("count logins", "SELECT count(*) FROM logins", [])?;
    Ok(count.and_then(|count| count.try_into().ok()).unwrap_or(0))
}

/// Forgets a login; tells whether there was one.
pub fn delete(tx: &WriteTransaction<'_>, scope: &LoginScope) -> Result<bool, StoreError> {
    let sql = "DELETE FROM logins WHERE scope = ?1";
    Ok(tx.execute("forget a login", sql, [Text(scope)])? == 1)
}

fn read(row: &Row<'_>) -> Result<LoginRow, StoreError> {
    let columns = Columns::of("logins", "scope", row);
    Ok(LoginRow {
        scope: columns.parsed("scope")?,
        username: columns.raw("username")?,
        sealed: columns.raw("sealed")?,
        created_by: columns.integer("created_by")?,
        created_at: columns.time("created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Database, time};
    use crate::users;

    fn login(scope: &str, username: &str) -> LoginRow {
        LoginRow {
            scope: scope.parse().unwrap(),
            username: username.to_owned(),
            sealed: vec![1, 2, 3],
            created_by: 0,
            created_at: time(5),
        }
    }

    #[test]
    fn the_first_name_that_has_one_wins_and_a_second_replaces() {
        let mut db = Database::new();
        db.write(|tx| users::see(tx, 0, time(1))).unwrap();
        for (scope, user) in [
            ("reg.io", "host"),
            ("reg.io/team", "old"),
            ("reg.io/team", "team"),
        ] {
            db.write(|tx| put(tx, &login(scope, user))).unwrap();
        }
        let user = |db: &mut Database, scope: &str| {
            let names = scope.parse::<LoginScope>().unwrap().names();
            let found = db.read(|tx| first_of(tx, &names)).unwrap();
            found.map(|login| login.username)
        };

        assert_eq!(user(&mut db, "reg.io/team/app").as_deref(), Some("team"));
        assert_eq!(user(&mut db, "reg.io/teams").as_deref(), Some("host"));
        assert_eq!(user(&mut db, "other.io/team"), None);
        assert_eq!(db.read(count).unwrap(), 2);
        let all = db.read(list).unwrap();
        assert_eq!(all, [login("reg.io", "host"), login("reg.io/team", "team")]);

        assert!(db.write(|tx| delete(tx, &all[0].scope)).unwrap());
        assert!(!db.write(|tx| delete(tx, &all[0].scope)).unwrap());
        assert_eq!(user(&mut db, "reg.io/teams"), None);
    }
}
