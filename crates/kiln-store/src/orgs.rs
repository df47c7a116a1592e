//! Organisations and who is in them.
//!
//! What that lets anybody do is decided in `kiln_domain::access`.

use kiln_domain::access::Standing;
use kiln_domain::{OrgId, OrgName, Timestamp};
use rusqlite::Row;

use crate::columns::{Columns, Micros, Text};
use crate::error::is_unique_violation;
use crate::page::{Conditions, probe_limit};
use crate::{Page, ReadTransaction, StoreError, WriteTransaction, users};

/// Most organisations a user can be in: a list of images reads one range for each.
pub const MEMBERSHIPS_MAX: usize = 64;

/// An organisation as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgRow {
    /// Its place in the order of all organisations.
    pub seq: i64,
    /// Its id.
    pub id: OrgId,
    /// Its name.
    pub name: OrgName,
    /// When it was made.
    pub created_at: Timestamp,
    /// The user who made it.
    pub created_by: u32,
}

/// A user in an organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// The user.
    pub uid: u32,
    /// What the user is called, where somebody said so.
    pub name: Option<String>,
    /// How the user stands there.
    pub standing: Standing,
    /// Since when.
    pub added_at: Timestamp,
}

/// An organisation a user is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipRow {
    /// The organisation.
    pub id: OrgId,
    /// Its name.
    pub name: OrgName,
    /// How the user stands there.
    pub standing: Standing,
}

/// Why an organisation could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InsertOrgError {
    /// There is one of that name.
    #[error("there is an organisation {name} already")]
    Taken {
        /// The name.
        name: OrgName,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a user could not be put into an organisation.
#[derive(Debug, thiserror::Error)]
pub enum AddMemberError {
    /// The user is in as many as one may be in.
    #[error("user {uid} is in {MEMBERSHIPS_MAX} organisations, and nobody may be in more")]
    TooMany {
        /// The user.
        uid: u32,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const COLUMNS: &str = "seq, id, name, created_at, created_by";

/// Makes an organisation with nobody in it.
pub fn insert(
    tx: &WriteTransaction<'_>,
    id: OrgId,
    name: &OrgName,
    by: u32,
    at: Timestamp,
) -> Result<(), InsertOrgError> {
    let sql = "INSERT INTO orgs (id, name, created_at, created_by) VALUES (?1, ?2, ?3, ?4)";
    let params = (Text(id), name.as_str(), Micros(at), by);
    match tx.execute("make an organisation", sql, params) {
        Ok(_) => Ok(()),
        Err(error) if is_unique_violation(&error) => {
            Err(InsertOrgError::Taken { name: name.clone() })
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the organisation of an id.
pub fn get(tx: &ReadTransaction<'_>, id: OrgId) -> Result<Option<OrgRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM orgs WHERE id = ?1");
    tx.first("read an organisation", &sql, [Text(id)], read)
}

/// Returns the organisation of a name.
pub fn named(tx: &ReadTransaction<'_>, name: &OrgName) -> Result<Option<OrgRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM orgs WHERE name = ?1");
    tx.first("read an organisation", &sql, [name.as_str()], read)
}

/// Returns the organisations behind `after`, oldest first: all, or those that `member` is in.
pub fn page(
    tx: &ReadTransaction<'_>,
    after: i64,
    limit: u32,
    member: Option<u32>,
) -> Result<Page<OrgRow>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.bind("seq > :after", ":after", after);
    conditions.set(":limit", probe_limit(limit));
    if let Some(uid) = member {
        let clause = "id IN (SELECT org_id FROM org_members WHERE uid = :uid)";
        conditions.bind(clause, ":uid", uid);
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM orgs WHERE {} ORDER BY seq LIMIT :limit",
        conditions.to_sql()
    );
    let rows = tx.all("list organisations", &sql, &*conditions.params(), read)?;
    Ok(Page::cut(rows, limit, |org| org.seq))
}

/// Removes an organisation with its memberships; tells whether there was one. Whether it still
/// has images is asked first, with [`has_images`].
pub fn delete(tx: &WriteTransaction<'_>, id: OrgId) -> Result<bool, StoreError> {
    let sql = "DELETE FROM orgs WHERE id = ?1";
    Ok(tx.execute("remove an organisation", sql, [Text(id)])? == 1)
}

/// Tells whether an image belongs to the organisation, a forgotten one included.
pub fn has_images(tx: &ReadTransaction<'_>, id: OrgId) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM images WHERE org_id = ?1)";
    let has = tx.value("look for an organisation's images", sql, [Text(id)])?;
    Ok(has.unwrap_or(false))
}

/// Puts a user into an organisation, or changes how one stands there; enters the user on first
/// sight. Tells whether something changed.
pub fn set_member(
    tx: &WriteTransaction<'_>,
    id: OrgId,
    uid: u32,
    standing: Standing,
    at: Timestamp,
) -> Result<bool, AddMemberError> {
    users::see(tx, uid, at)?;
    match standing_of(tx, id, uid)? {
        Some(before) if before == standing => return Ok(false),
        None if memberships(tx, uid)?.len() >= MEMBERSHIPS_MAX => {
            return Err(AddMemberError::TooMany { uid });
        }
        Some(_) | None => {}
    }
    let sql = "INSERT INTO org_members (org_id, uid, standing, added_at) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (org_id, uid) DO UPDATE SET standing = excluded.standing";
    let params = (Text(id), uid, standing.as_str(), Micros(at));
    tx.execute("put a user into an organisation", sql, params)?;
    Ok(true)
}

/// Takes a user out of an organisation; tells whether the user was in it.
pub fn remove_member(tx: &WriteTransaction<'_>, id: OrgId, uid: u32) -> Result<bool, StoreError> {
    let sql = "DELETE FROM org_members WHERE org_id = ?1 AND uid = ?2";
    let step = "take a user out of an organisation";
    Ok(tx.execute(step, sql, (Text(id), uid))? == 1)
}

/// Returns how a user stands in an organisation; `None` when the user is not in it.
pub fn standing_of(
    tx: &ReadTransaction<'_>,
    id: OrgId,
    uid: u32,
) -> Result<Option<Standing>, StoreError> {
    let sql = "SELECT org_id, standing FROM org_members WHERE org_id = ?1 AND uid = ?2";
    tx.first("read a membership", sql, (Text(id), uid), |row| {
        Columns::of("org_members", "org_id", row).parsed("standing")
    })
}

/// Returns who is in an organisation, by uid.
pub fn members(tx: &ReadTransaction<'_>, id: OrgId) -> Result<Vec<MemberRow>, StoreError> {
    let sql = "SELECT org_members.uid, users.name, standing, added_at \
               FROM org_members JOIN users ON users.uid = org_members.uid \
               WHERE org_id = ?1 ORDER BY org_members.uid";
    tx.all("list an organisation's members", sql, [Text(id)], |row| {
        let columns = Columns::of("org_members", "uid", row);
        Ok(MemberRow {
            uid: columns.integer("uid")?,
            name: columns.raw("name")?,
            standing: columns.parsed("standing")?,
            added_at: columns.time("added_at")?,
        })
    })
}

/// Returns the organisations a user is in, by name; at most [`MEMBERSHIPS_MAX`].
pub fn memberships(tx: &ReadTransaction<'_>, uid: u32) -> Result<Vec<MembershipRow>, StoreError> {
    let sql = "SELECT orgs.id, orgs.name, standing \
               FROM org_members JOIN orgs ON orgs.id = org_members.org_id \
               WHERE org_members.uid = ?1 ORDER BY org_members.org_id";
    let mut rows = tx.all("list a user's organisations", sql, [uid], |row| {
        let columns = Columns::of("orgs", "id", row);
        Ok(MembershipRow {
            id: columns.parsed("id")?,
            name: columns.parsed("name")?,
            standing: columns.parsed("standing")?,
        })
    })?;
    rows.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(rows)
}

/// Counts the organisations a user is in.
pub(crate) fn count_of(tx: &ReadTransaction<'_>, uid: u32) -> Result<u32, StoreError> {
    let sql = "SELECT count(*) FROM org_members WHERE uid = ?1";
    let count = tx.value("count a user's organisations", sql, [uid])?;
    Ok(count.unwrap_or(0))
}

/// Tells whether a user administers an organisation at all.
pub fn administers_any(tx: &ReadTransaction<'_>, uid: u32) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM org_members WHERE uid = ?1 AND standing = 'admin')";
    let administers = tx.value("read a user's standing", sql, [uid])?;
    Ok(administers.unwrap_or(false))
}

fn read(row: &Row<'_>) -> Result<OrgRow, StoreError> {
    let columns = Columns::of("orgs", "id", row);
    Ok(OrgRow {
        seq: columns.raw("seq")?,
        id: columns.parsed("id")?,
        name: columns.parsed("name")?,
        created_at: columns.time("created_at")?,
        created_by: columns.integer("created_by")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images;
    use crate::testing::{Database, image, name, org_id, time};

    fn org(text: &str) -> OrgName {
        text.parse().unwrap()
    }

    fn filled() -> Database {
        let mut db = Database::new();
        db.write(|tx| {
            insert(tx, org_id(1), &org("web"), 0, time(1))?;
            insert(tx, org_id(2), &org("data"), 0, time(2))
        })
        .unwrap();
        db
    }

    #[test]
    fn a_name_is_one_organisations() {
        let mut db = filled();

        let taken = db.write(|tx| insert(tx, org_id(3), &org("web"), 0, time(3)));

        assert!(
            matches!(taken, Err(InsertOrgError::Taken { .. })),
            "{taken:?}"
        );
        let found = db.read(|tx| named(tx, &org("web"))).unwrap().unwrap();
        assert_eq!((found.id, found.created_at), (org_id(1), time(1)));
        assert_eq!(db.read(|tx| get(tx, org_id(1))).unwrap().unwrap(), found);
        assert_eq!(db.read(|tx| named(tx, &org("nobody"))).unwrap(), None);
    }

    #[test]
    fn members_come_change_and_go() {
        let mut db = filled();
        let set = |db: &mut Database, standing| {
            db.write(|tx| set_member(tx, org_id(1), 7, standing, time(5)))
                .unwrap()
        };

        assert!(set(&mut db, Standing::Member));
        assert!(!set(&mut db, Standing::Member));
        assert!(!db.read(|tx| administers_any(tx, 7)).unwrap());
        assert!(set(&mut db, Standing::Admin));

        assert!(db.read(|tx| administers_any(tx, 7)).unwrap());
        let standing = |db: &mut Database, n| db.read(|tx| standing_of(tx, org_id(n), 7)).unwrap();
        assert_eq!(standing(&mut db, 1), Some(Standing::Admin));
        assert_eq!(standing(&mut db, 2), None);
        let members_of_it = db.read(|tx| members(tx, org_id(1))).unwrap();
        let want = MemberRow {
            uid: 7,
            name: None,
            standing: Standing::Admin,
            added_at: time(5),
        };
        assert_eq!(members_of_it, [want]);
        assert!(db.write(|tx| remove_member(tx, org_id(1), 7)).unwrap());
        assert!(!db.write(|tx| remove_member(tx, org_id(1), 7)).unwrap());
        assert_eq!(db.read(|tx| memberships(tx, 7)).unwrap(), []);
    }

    #[test]
    fn nobody_is_in_more_than_a_list_can_read() {
        let mut db = Database::new();
        for n in 0..=MEMBERSHIPS_MAX {
            let id = org_id(u128::try_from(n).unwrap());
            db.write(|tx| insert(tx, id, &org(&format!("o{n}")), 0, time(1)))
                .unwrap();
            let added = db.write(|tx| set_member(tx, id, 7, Standing::Member, time(1)));

            assert_eq!(added.is_ok(), n < MEMBERSHIPS_MAX, "{n}");
        }
        // How one stands can still change.
        db.write(|tx| set_member(tx, org_id(0), 7, Standing::Admin, time(1)))
            .unwrap();
    }

    #[test]
    fn a_page_is_of_all_or_of_a_members_own() {
        let mut db = filled();
        db.write(|tx| set_member(tx, org_id(2), 7, Standing::Member, time(1)))
            .unwrap();
        let names = |db: &mut Database, member| -> Vec<String> {
            let page = db.read(|tx| page(tx, 0, 10, member)).unwrap();
            page.rows.iter().map(|org| org.name.to_string()).collect()
        };

        assert_eq!(names(&mut db, None), ["web", "data"]);
        assert_eq!(names(&mut db, Some(7)), ["data"]);
        assert_eq!(names(&mut db, Some(8)), Vec::<String>::new());
        let first = db.read(|tx| page(tx, 0, 1, None)).unwrap();
        assert_eq!((first.rows.len(), first.next_after), (1, Some(1)));
    }

    #[test]
    fn an_organisation_goes_with_its_memberships_and_tells_of_its_images() {
        let mut db = filled();
        db.write(|tx| set_member(tx, org_id(1), 7, Standing::Admin, time(1)))
            .unwrap();
        let mut owned = image(1, "web");
        owned.org_id = Some(org_id(1));
        db.write(|tx| {
            images::insert(tx, &owned)?;
            crate::names::give_to_image(tx, &name("web"), owned.id, time(1))
        })
        .unwrap();

        assert!(db.read(|tx| has_images(tx, org_id(1))).unwrap());
        assert!(!db.read(|tx| has_images(tx, org_id(2))).unwrap());
        assert!(db.write(|tx| delete(tx, org_id(1))).unwrap());
        assert!(!db.write(|tx| delete(tx, org_id(1))).unwrap());
        assert!(!db.read(|tx| administers_any(tx, 7)).unwrap());
    }
}
