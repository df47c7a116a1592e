//! Who needs an object to stay: whether something is in use is one query here.
//!
//! Refusing to remove what is in use is not here; the caller asks and decides, in the transaction
//! of the removal.

use kiln_domain::{ImageId, InstanceId, Timestamp};
use rusqlite::Row;

use crate::columns::{Columns, Micros, Text};
use crate::words::words;
use crate::{Object, ReadTransaction, StoreError, WriteTransaction};

words! {
    /// What holds an object.
    HolderKind, "a kind of holder" {
        /// A running operation.
        Operation = "operation",
        /// A virtual machine.
        Instance = "instance",
        /// Somebody's promise to be back before it expires.
        Lease = "lease",
        /// A template made of the object.
        Template = "template",
        /// An image derived from the object.
        Child = "child",
    }
}

/// One thing that holds objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// What it is.
    pub kind: HolderKind,
    /// Its key among its kind.
    pub id: String,
}

impl Holder {
    /// Names a virtual machine.
    pub fn instance(id: InstanceId) -> Self {
        Self {
            kind: HolderKind::Instance,
            id: id.to_string(),
        }
    }
}

/// One hold on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderRow {
    /// What is held.
    pub object: Object,
    /// What holds it.
    pub holder: Holder,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when, unless removed before; `None` is until removed.
    pub expires_at: Option<Timestamp>,
}

macro_rules! columns {
    () => {
        "object_kind, object_id, holder_kind, holder_id, created_at, expires_at"
    };
}

/// Holds an object. A hold that exists keeps its beginning and takes the new end, so that leases
/// are renewed by asking again.
pub fn add(tx: &WriteTransaction<'_>, hold: &HolderRow) -> Result<(), StoreError> {
    let sql = concat!(
        "INSERT INTO holders (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (object_kind, object_id, holder_kind, holder_id) \
         DO UPDATE SET expires_at = excluded.expires_at"
    );
    let params = (
        hold.object.kind.as_str(),
        &hold.object.id,
        hold.holder.kind.as_str(),
        &hold.holder.id,
        Micros(hold.created_at),
        hold.expires_at.map(Micros),
    );
    tx.execute("hold an object", sql, params).map(|_| ())
}

/// Lets go of an object and tells whether it was held so.
pub fn remove(
    tx: &WriteTransaction<'_>,
    object: &Object,
    holder: &Holder,
) -> Result<bool, StoreError> {
    let sql = "DELETE FROM holders WHERE object_kind = ?1 AND object_id = ?2 \
               AND holder_kind = ?3 AND holder_id = ?4";
    let params = (
        object.kind.as_str(),
        &object.id,
        holder.kind.as_str(),
        &holder.id,
    );
    Ok(tx.execute("let go of an object", sql, params)? == 1)
}

/// Lets go of everything one holder holds and returns how many objects there were.
pub fn remove_all_of(tx: &WriteTransaction<'_>, holder: &Holder) -> Result<usize, StoreError> {
    let sql = "DELETE FROM holders WHERE holder_kind = ?1 AND holder_id = ?2";
    let params = (holder.kind.as_str(), &holder.id);
    tx.execute("let go of objects", sql, params)
}

/// Returns who holds an object at a time; it is in use when there is one.
pub fn of_object(
    tx: &ReadTransaction<'_>,
    object: &Object,
    now: Timestamp,
) -> Result<Vec<HolderRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM holders WHERE object_kind = ?1 AND object_id = ?2 \
         AND (expires_at IS NULL OR expires_at > ?3) ORDER BY holder_kind, holder_id"
    );
    let params = (object.kind.as_str(), &object.id, Micros(now));
    tx.all("list holders", sql, params, read)
}

/// Returns who holds any version of an image at a time, oldest hold first.
pub fn of_versions_of(
    tx: &ReadTransaction<'_>,
    image: ImageId,
    now: Timestamp,
) -> Result<Vec<HolderRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM holders WHERE object_kind = 'version' \
         AND object_id IN (SELECT id FROM versions WHERE image_id = ?1) \
         AND (expires_at IS NULL OR expires_at > ?2) ORDER BY created_at, holder_kind, holder_id"
    );
    let params = (Text(image), Micros(now));
    tx.all("list holders of an image", sql, params, read)
}

/// Counts the holds on any version of an image at a time.
pub fn count_of_versions_of(
    tx: &ReadTransaction<'_>,
    image: ImageId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM holders WHERE object_kind = 'version' \
               AND object_id IN (SELECT id FROM versions WHERE image_id = ?1) \
               AND (expires_at IS NULL OR expires_at > ?2)";
    let params = (Text(image), Micros(now));
    let count: Option<u32> = tx.value("count holders of an image", sql, params)?;
    Ok(count.unwrap_or(0).into())
}

/// Removes the holds that have ended by a time and returns how many there were.
pub fn drop_expired(tx: &WriteTransaction<'_>, now: Timestamp) -> Result<usize, StoreError> {
    let sql = "DELETE FROM holders WHERE expires_at <= ?1";
    tx.execute("drop expired holds", sql, [Micros(now)])
}

fn read(row: &Row<'_>) -> Result<HolderRow, StoreError> {
    let columns = Columns::of("holders", "object_id", row);
    Ok(HolderRow {
        object: Object {
            kind: columns.parsed("object_kind")?,
            id: columns.raw("object_id")?,
        },
        holder: Holder {
            kind: columns.parsed("holder_kind")?,
            id: columns.raw("holder_id")?,
        },
        created_at: columns.time("created_at")?,
        expires_at: columns.time_option("expires_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Database, image_id, time, version, version_id};
    use crate::versions;

    fn lease(id: &str, expires_at: Option<i64>) -> HolderRow {
        HolderRow {
            object: Object::version(version_id(1)),
            holder: Holder {
                kind: HolderKind::Lease,
                id: id.to_owned(),
            },
            created_at: time(1),
            expires_at: expires_at.map(time),
        }
    }

    fn holders(db: &mut Database, now: i64) -> Vec<String> {
        let object = Object::version(version_id(1));
        let rows = db.read(|tx| of_object(tx, &object, time(now))).unwrap();
        rows.into_iter().map(|row| row.holder.id).collect()
    }

    #[test]
    fn a_hold_counts_until_it_ends() {
        let mut db = Database::new();
        for hold in [lease("a", Some(10)), lease("b", Some(20)), lease("c", None)] {
            db.write(|tx| add(tx, &hold)).unwrap();
        }
        let cases = [(9, "abc", 0), (10, "bc", 1), (19, "bc", 0), (99, "c", 1)];
        for (now, want, dropped) in cases {
            assert_eq!(holders(&mut db, now).concat(), want, "at {now}");
            let count = db.write(|tx| drop_expired(tx, time(now))).unwrap();
            assert_eq!(count, dropped, "at {now}");
        }
    }

    #[test]
    fn asking_again_renews() {
        let mut db = Database::new();
        db.write(|tx| add(tx, &lease("a", Some(10)))).unwrap();

        let renewed = HolderRow {
            created_at: time(9),
            ..lease("a", Some(30))
        };
        db.write(|tx| add(tx, &renewed)).unwrap();

        let object = Object::version(version_id(1));
        let rows = db.read(|tx| of_object(tx, &object, time(20))).unwrap();
        assert_eq!(rows, [lease("a", Some(30))]);
    }

    #[test]
    fn an_image_is_held_by_who_holds_any_of_its_versions() {
        let mut db = Database::new();
        db.add_image(1, "web");
        db.add_image(2, "other");
        db.write(|tx| {
            for (image, n) in [(1, 1), (1, 2), (2, 3)] {
                versions::insert(tx, &version(image, n, "amd64"))?;
            }
            for (n, created_at, holder) in [(2, 5, "b"), (1, 9, "a"), (3, 1, "c")] {
                let hold = HolderRow {
                    object: Object::version(version_id(n)),
                    created_at: time(created_at),
                    ..lease(holder, Some(20))
                };
                add(tx, &hold)?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();

        for (now, want) in [(19, "ba"), (20, "")] {
            let rows = db.read(|tx| of_versions_of(tx, image_id(1), time(now)));
            let rows = rows.unwrap();
            let ids: String = rows.into_iter().map(|row| row.holder.id).collect();
            assert_eq!(ids, want, "at {now}");
            let count = db.read(|tx| count_of_versions_of(tx, image_id(1), time(now)));
            assert_eq!(count.unwrap(), want.len() as u64, "at {now}");
        }
    }

    #[test]
    fn letting_go_takes_one_hold_or_all_of_one_holder() {
        let mut db = Database::new();
        let other = HolderRow {
            object: Object::version(version_id(2)),
            ..lease("a", None)
        };
        for hold in [lease("a", None), lease("b", None), other.clone()] {
            db.write(|tx| add(tx, &hold)).unwrap();
        }
        let [a, b] = [lease("a", None), lease("b", None)];

        assert!(db.write(|tx| remove(tx, &b.object, &b.holder)).unwrap());
        assert!(!db.write(|tx| remove(tx, &b.object, &b.holder)).unwrap());
        assert_eq!(holders(&mut db, 0), ["a"]);
        assert_eq!(db.write(|tx| remove_all_of(tx, &a.holder)).unwrap(), 2);
        assert_eq!(holders(&mut db, 0), Vec::<String>::new());
    }
}
