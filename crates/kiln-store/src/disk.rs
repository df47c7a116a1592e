//! What the store knows of what lies on the disk: whose directories there are, and what images were
//! made of.
//!
//! Some look at whole tables, so they are for who asks about the whole disk; what of it may go is not
//! decided here.

use std::collections::{HashMap, HashSet};

use kiln_domain::{Digest, ImageId, ImageName, ImageState, Timestamp, VersionId};

use crate::columns::{Columns, Micros, Text};
use crate::images::Custody;
use crate::{ReadTransaction, StoreError};

/// The directory of a version, and what its image says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryRow {
    /// The version, and the name of its directory.
    pub version_id: VersionId,
    /// The image.
    pub image_id: ImageId,
    /// What the image is called, or was.
    pub image_name: ImageName,
    /// Whose it is.
    pub owner_id: u32,
    /// Where the image stands.
    pub state: ImageState,
    /// Who removes its directories.
    pub custody: Custody,
    /// When it was forgotten, if it was.
    pub deleted_at: Option<Timestamp>,
}

/// Returns every version with what its image says of it.
pub fn directories(tx: &ReadTransaction<'_>) -> Result<Vec<DirectoryRow>, StoreError> {
    let sql = "SELECT versions.id AS version_id, images.id AS image_id, images.name AS name, \
               owner_id, state, managed, deleted_at \
               FROM versions JOIN images ON images.id = versions.image_id";
    tx.all("list all versions", sql, [], |row| {
        let columns = Columns::of("versions", "version_id", row);
        let is_managed: bool = columns.raw("managed")?;
        Ok(DirectoryRow {
            version_id: columns.parsed("version_id")?,
            image_id: columns.parsed("image_id")?,
            image_name: columns.parsed("name")?,
            owner_id: columns.integer("owner_id")?,
            state: columns.parsed("state")?,
            custody: if is_managed {
                Custody::Managed
            } else {
                Custody::Unmanaged
            },
            deleted_at: columns.time_option("deleted_at")?,
        })
    })
}

/// Returns the images of which something holds a version at a time.
pub fn held_images(
    tx: &ReadTransaction<'_>,
    now: Timestamp,
) -> Result<HashSet<ImageId>, StoreError> {
    let sql = "SELECT DISTINCT image_id FROM versions WHERE id IN \
               (SELECT object_id FROM holders WHERE object_kind = 'version' \
                AND (expires_at IS NULL OR expires_at > ?1))";
    let held = tx.all("list images in use", sql, [Micros(now)], |row| {
        Columns::of("versions", "image_id", row).parsed("image_id")
    })?;
    Ok(held.into_iter().collect())
}

/// How many versions were made of each of some blobs and decoded layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// By the blob's digest.
    pub blobs: HashMap<Digest, u64>,
    /// By the layer's diff id.
    pub layers: HashMap<Digest, u64>,
}

/// Counts the versions that were made of each of these blobs or layers, those of forgotten images
/// too. What is asked about is what lies on the disk: far less than all that images were made of.
pub fn uses<'d>(
    tx: &ReadTransaction<'_>,
    digests: impl IntoIterator<Item = &'d Digest>,
) -> Result<Uses, StoreError> {
    const STEP: &str = "count who uses what";
    const OF_BLOB: &str = "SELECT count(DISTINCT version_id) FROM version_blobs WHERE digest = ?1";
    const OF_LAYER: &str =
        "SELECT count(DISTINCT version_id) FROM version_blobs WHERE diff_id = ?1";
    let mut uses = Uses::default();
    for digest in digests {
        for (counts, sql) in [(&mut uses.blobs, OF_BLOB), (&mut uses.layers, OF_LAYER)] {
            let count: Option<i64> = tx.value(STEP, sql, [Text(digest)])?;
            let count = count.and_then(|count| u64::try_from(count).ok());
            if let Some(count) = count.filter(|count| *count > 0) {
                counts.insert(*digest, count);
            }
        }
    }
    Ok(uses)
}

impl Uses {
    /// Takes a version's away.
    pub fn without(
        &mut self,
        tx: &ReadTransaction<'_>,
        version: VersionId,
    ) -> Result<(), StoreError> {
        let blobs = crate::version_blobs::of_version(tx, version)?;
        let digests: HashSet<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let layers: HashSet<Digest> = blobs.iter().filter_map(|blob| blob.diff_id).collect();
        for (counts, gone) in [(&mut self.blobs, digests), (&mut self.layers, layers)] {
            for digest in gone {
                if let Some(count) = counts.get_mut(&digest) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// Tells whether a version was made of the blob.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.get(digest).is_some_and(|count| *count > 0)
    }

    /// Tells whether a version was made of the layer.
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layers.get(diff_id).is_some_and(|count| *count > 0)
    }
}

/// A version that was made of something, and the part that has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UseRow {
    /// The version.
    pub version_id: VersionId,
    /// Its image.
    pub image_id: ImageId,
    /// The first part that it has: a layer may be there twice.
    pub role: String,
    /// What it unpacks to, where it is a layer.
    pub diff_id: Option<Digest>,
    /// How long it is as its source sent it.
    pub size_bytes: u64,
}

/// Returns the versions that were made of a blob, or of a layer with this diff id, oldest first, at
/// most `limit` of them.
pub fn users_of(
    tx: &ReadTransaction<'_>,
    digest: &Digest,
    limit: u32,
) -> Result<Vec<UseRow>, StoreError> {
    // Two ranges of two indexes: one OR over both columns would walk the whole table.
    let sql = "SELECT version_id, image_id, min(role) AS role, min(used.diff_id) AS diff_id, \
               max(size_bytes) AS size_bytes \
               FROM (SELECT version_id, role, diff_id, size_bytes FROM version_blobs \
                     WHERE digest = ?1 \
                     UNION ALL SELECT version_id, role, diff_id, size_bytes FROM version_blobs \
                     WHERE diff_id = ?1) AS used \
               JOIN versions ON versions.id = used.version_id \
               GROUP BY versions.seq ORDER BY versions.seq LIMIT ?2";
    tx.all("find who uses a blob", sql, (Text(digest), limit), |row| {
        let columns = Columns::of("version_blobs", "version_id", row);
        Ok(UseRow {
            version_id: columns.parsed("version_id")?,
            image_id: columns.parsed("image_id")?,
            role: columns.raw("role")?,
            diff_id: columns.parsed_option("diff_id")?,
            size_bytes: columns.integer("size_bytes")?,
        })
    })
}

/// Returns the digests of blobs and layers of images that begin with a text, at most `limit` of them.
pub fn digests_beginning(
    tx: &ReadTransaction<'_>,
    beginning: &str,
    limit: u32,
) -> Result<Vec<Digest>, StoreError> {
    // 'g' is behind every digit.
    let sql = "SELECT digest FROM version_blobs WHERE digest >= ?1 AND digest < ?1 || 'g' \
               UNION SELECT diff_id FROM version_blobs WHERE diff_id >= ?1 AND diff_id < ?1 || 'g' \
               ORDER BY 1 LIMIT ?2";
    let params = (beginning, limit);
    tx.all("find the beginning of a digest", sql, params, |row| {
        Columns::of("version_blobs", "digest", row).parsed("digest")
    })
}

/// Returns the images that were forgotten by a time and that nothing holds at another, the one that
/// was forgotten first ahead.
pub fn forgotten_by(tx: &ReadTransaction<'_>, by: Timestamp) -> Result<Vec<ImageId>, StoreError> {
    let sql = "SELECT id FROM images WHERE state = 'deleted' AND deleted_at <= ?1 \
               ORDER BY deleted_at, seq";
    tx.all("list forgotten images", sql, [Micros(by)], |row| {
        Columns::of("images", "id", row).parsed("id")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::{self, Holder, HolderKind, HolderRow};
    use crate::testing::{Database, image_id, time, version, version_id};
    use crate::version_blobs::{self, BlobRole, VersionBlob};
    use crate::{Object, images, versions};

    fn layer(position: u32, content: &str) -> VersionBlob {
        VersionBlob {
            digest: Digest::of(content.as_bytes()),
            role: BlobRole::Layer,
            position,
            size_bytes: 7,
            diff_id: Some(Digest::of(format!("{content} unpacked").as_bytes())),
        }
    }

    #[test]
    fn a_digest_is_found_by_its_beginning() {
        let mut db = filled();
        let beginning = |db: &mut Database, text: &str, limit| {
            db.read(|tx| digests_beginning(tx, text, limit)).unwrap()
        };
        let blob = Digest::of(b"a");
        let diff_id = Digest::of(b"b unpacked");

        for wanted in [blob, diff_id] {
            let found = beginning(&mut db, &wanted.to_string()[..19], 9);
            assert_eq!(found, [wanted]);
        }
        assert_eq!(beginning(&mut db, "sha256:", 2).len(), 2);
        assert_eq!(beginning(&mut db, "sha256:", 9).len(), 4);
        assert_eq!(beginning(&mut db, "sha256:zz", 9), []);
    }

    /// Two images that share the layer `a`; the second, forgotten at 50, has `b` too, twice.
    fn filled() -> Database {
        let mut db = Database::new();
        db.add_image(1, "web");
        db.add_image(2, "other");
        db.write(|tx| {
            versions::insert(tx, &version(1, 1, "amd64"))?;
            versions::insert(tx, &version(2, 2, "amd64"))?;
            version_blobs::insert_all(tx, version_id(1), &[layer(0, "a")])?;
            let layers = [layer(0, "a"), layer(1, "b"), layer(2, "b")];
            version_blobs::insert_all(tx, version_id(2), &layers)?;
            images::mark_deleted(tx, image_id(2), time(50), time(90))
        })
        .unwrap();
        db
    }

    #[test]
    fn what_images_were_made_of_is_counted_once_for_each() {
        let mut db = filled();
        let [a, b] = ["a", "b"].map(|content| Digest::of(content.as_bytes()));
        let unpacked = Digest::of(b"b unpacked");

        let asked = HashSet::from([a, b, unpacked, Digest::of(b"unknown")]);
        let mut found = db.read(|tx| uses(tx, &asked)).unwrap();

        assert_eq!(found.blobs, HashMap::from([(a, 2), (b, 1)]));
        assert_eq!(found.layers, HashMap::from([(unpacked, 1)]));
        db.read(|tx| found.without(tx, version_id(2))).unwrap();
        assert!(found.has_blob(&a) && !found.has_blob(&b) && !found.has_layer(&unpacked));
    }

    #[test]
    fn who_uses_a_blob_is_found_by_either_digest() {
        let mut db = filled();
        let mut of = |content: &str, limit| {
            let digest = Digest::of(content.as_bytes());
            let rows = db.read(|tx| users_of(tx, &digest, limit)).unwrap();
            rows.into_iter().map(|row| row.image_id).collect::<Vec<_>>()
        };

        assert_eq!(of("a", 9), [image_id(1), image_id(2)]);
        assert_eq!(of("a", 1), [image_id(1)]);
        assert_eq!(of("b", 9), [image_id(2)]);
        assert_eq!(of("a unpacked", 9), [image_id(1), image_id(2)]);
        assert_eq!(of("c", 9), []);
    }

    #[test]
    fn directories_know_their_images_and_who_holds_them() {
        let mut db = filled();
        db.write(|tx| {
            let hold = HolderRow {
                object: Object::version(version_id(2)),
                holder: Holder {
                    kind: HolderKind::Lease,
                    id: "l".to_owned(),
                },
                created_at: time(1),
                expires_at: Some(time(60)),
            };
            holders::add(tx, &hold)
        })
        .unwrap();

        let mut rows = db.read(directories).unwrap();
        rows.sort_by_key(|row| row.version_id);
        let held = |db: &mut Database, now| db.read(|tx| held_images(tx, time(now))).unwrap();
        let forgotten = |db: &mut Database, by| db.read(|tx| forgotten_by(tx, time(by))).unwrap();

        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.image_id, row.deleted_at))
            .collect();
        assert_eq!(told, [(image_id(1), None), (image_id(2), Some(time(50)))]);
        assert_eq!(held(&mut db, 59), HashSet::from([image_id(2)]));
        assert_eq!(held(&mut db, 60), HashSet::new());
        assert_eq!(forgotten(&mut db, 49), []);
        assert_eq!(forgotten(&mut db, 50), [image_id(2)]);
    }
}
