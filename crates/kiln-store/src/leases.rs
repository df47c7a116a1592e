//! Leases: promises of other processes to be back before they end, which keep an image meanwhile.
//!
//! A lease is a row here, which says whose it is and what for, and a hold in [`crate::holders`],
//! which is what protects the version. Both end at the same time, and are written together. Nothing
//! has to run for a lease to end: every look names a time.

use kiln_domain::{ImageId, LeaseId, Timestamp, VersionId};
use rusqlite::Row;

use crate::columns::{Columns, Micros, Text};
use crate::holders::{self, Holder, HolderKind, HolderRow};
use crate::{Object, ReadTransaction, StoreError, WriteTransaction, users};

/// A lease as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// Its id.
    pub id: LeaseId,
    /// The image.
    pub image_id: ImageId,
    /// The version of it that is kept; with it the image is.
    pub version_id: VersionId,
    /// Whose it is.
    pub owner_uid: u32,
    /// What for, in the owner's words.
    pub purpose: String,
    /// When it was taken.
    pub created_at: Timestamp,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

impl LeaseRow {
    fn hold(&self) -> HolderRow {
        HolderRow {
            object: Object::version(self.version_id),
            holder: holder(self.id),
            created_at: self.created_at,
            expires_at: Some(self.expires_at),
        }
    }
}

macro_rules! columns {
    () => {
        "id, image_id, version_id, owner_uid, purpose, created_at, expires_at"
    };
}

/// Takes a lease, and enters its owner.
pub fn insert(tx: &WriteTransaction<'_>, lease: &LeaseRow) -> Result<(), StoreError> {
    users::see(tx, lease.owner_uid, lease.created_at)?;
    let sql = concat!(
        "INSERT INTO leases (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
    );
    let params = (
        Text(lease.id),
        Text(lease.image_id),
        Text(lease.version_id),
        lease.owner_uid,
        &lease.purpose,
        Micros(lease.created_at),
        Micros(lease.expires_at),
    );
    tx.execute("take a lease", sql, params)?;
    holders::add(tx, &lease.hold())
}

/// Returns a lease that has not ended.
pub fn get(
    tx: &ReadTransaction<'_>,
    id: LeaseId,
    now: Timestamp,
) -> Result<Option<LeaseRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM leases WHERE id = ?1 AND expires_at > ?2"
    );
    tx.first("read a lease", sql, (Text(id), Micros(now)), read)
}

/// Moves the end of a lease.
pub fn renew(
    tx: &WriteTransaction<'_>,
    lease: &LeaseRow,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    let sql = "UPDATE leases SET expires_at = ?2 WHERE id = ?1";
    tx.execute("renew a lease", sql, (Text(lease.id), Micros(expires_at)))?;
    let hold = HolderRow {
        expires_at: Some(expires_at),
        ..lease.hold()
    };
    holders::add(tx, &hold)
}

/// Ends a lease before its time.
pub fn remove(tx: &WriteTransaction<'_>, lease: &LeaseRow) -> Result<(), StoreError> {
    let sql = "DELETE FROM leases WHERE id = ?1";
    tx.execute("end a lease", sql, [Text(lease.id)])?;
    holders::remove_all_of(tx, &holder(lease.id)).map(|_| ())
}

/// Returns the leases of an image that have not ended, oldest first.
pub fn of_image(
    tx: &ReadTransaction<'_>,
    image: ImageId,
    now: Timestamp,
) -> Result<Vec<LeaseRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM leases WHERE image_id = ?1 AND expires_at > ?2 ORDER BY seq"
    );
    tx.all("list leases", sql, (Text(image), Micros(now)), read)
}

/// Counts the leases of a user that have not ended.
pub fn count_of(tx: &ReadTransaction<'_>, uid: u32, now: Timestamp) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM leases WHERE owner_uid = ?1 AND expires_at > ?2";
    let count: Option<u32> = tx.value("count leases", sql, (uid, Micros(now)))?;
    Ok(count.unwrap_or(0).into())
}

/// Removes what is left of leases that have ended, and returns how many there were.
pub fn drop_expired(tx: &WriteTransaction<'_>, now: Timestamp) -> Result<usize, StoreError> {
    let sql = "DELETE FROM leases WHERE expires_at <= ?1";
    tx.execute("drop ended leases", sql, [Micros(now)])
}

fn holder(id: LeaseId) -> Holder {
    Holder {
        kind: HolderKind::Lease,
        id: id.to_string(),
    }
}

fn read(row: &Row<'_>) -> Result<LeaseRow, StoreError> {
    let columns = Columns::of("leases", "id", row);
    Ok(LeaseRow {
        id: columns.parsed("id")?,
        image_id: columns.parsed("image_id")?,
        version_id: columns.parsed("version_id")?,
        owner_uid: columns.integer("owner_uid")?,
        purpose: columns.raw("purpose")?,
        created_at: columns.time("created_at")?,
        expires_at: columns.time("expires_at")?,
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::testing::{Database, OWNER, image_id, time, version, version_id};
    use crate::{images, versions};

    fn lease(n: u128, expires_at: i64) -> LeaseRow {
        LeaseRow {
            id: LeaseId::new(Uuid::from_u128(n)),
            image_id: image_id(1),
            version_id: version_id(1),
            owner_uid: OWNER,
            purpose: "backup".to_owned(),
            created_at: time(1),
            expires_at: time(expires_at),
        }
    }

    fn filled() -> Database {
        let mut db = Database::new();
        db.add_image(1, "web");
        db.write(|tx| {
            versions::insert(tx, &version(1, 1, "amd64"))?;
            insert(tx, &lease(1, 10))?;
            insert(tx, &lease(2, 20))
        })
        .unwrap();
        db
    }

    /// How many leases, holds and leases of the owner there are at a time.
    fn counts(db: &mut Database, now: i64) -> (usize, u64, u64) {
        db.read(|tx| {
            Ok((
                of_image(tx, image_id(1), time(now))?.len(),
                holders::count_of_versions_of(tx, image_id(1), time(now))?,
                count_of(tx, OWNER, time(now))?,
            ))
        })
        .unwrap()
    }

    #[test]
    fn a_lease_and_its_hold_end_together_by_the_clock() {
        let mut db = filled();
        for (now, want) in [(9, 2), (10, 1), (19, 1), (20, 0)] {
            let count = u64::try_from(want).unwrap();
            assert_eq!(counts(&mut db, now), (want, count, count), "at {now}");
        }
        let id = lease(1, 10).id;
        assert_eq!(db.read(|tx| get(tx, id, time(10))).unwrap(), None);
        assert_eq!(
            db.read(|tx| get(tx, id, time(9))).unwrap(),
            Some(lease(1, 10))
        );
        assert_eq!(db.write(|tx| drop_expired(tx, time(10))).unwrap(), 1);
    }

    #[test]
    fn renewing_moves_both_ends_and_removing_ends_both() {
        let mut db = filled();

        db.write(|tx| renew(tx, &lease(1, 10), time(30))).unwrap();
        assert_eq!(counts(&mut db, 25), (1, 1, 1));

        db.write(|tx| remove(tx, &lease(1, 30))).unwrap();
        assert_eq!(counts(&mut db, 15), (1, 1, 1));
    }

    #[test]
    fn leases_go_with_their_image() {
        let mut db = filled();

        assert!(db.write(|tx| images::purge(tx, image_id(1))).unwrap());

        assert_eq!(counts(&mut db, 5), (0, 0, 0));
        assert!(!db.write(|tx| images::purge(tx, image_id(1))).unwrap());
    }
}
