//! Which blobs a version was made of, and in which part.
//!
//! The blobs themselves are not here; the cache may have dropped them long ago.

use kiln_domain::{Digest, VersionId};
use rusqlite::Row;

use crate::columns::{Columns, Text, Unsigned};
use crate::words::words;
use crate::{ReadTransaction, StoreError, WriteTransaction};

words! {
    /// The part a blob has in a version.
    BlobRole, "a blob's role" {
        /// The index that was resolved, if there was one.
        Index = "index",
        /// The manifest for the version's architecture.
        Manifest = "manifest",
        /// The image config.
        Config = "config",
        /// A layer.
        Layer = "layer",
        /// The kernel.
        Kernel = "kernel",
        /// The initial ramdisk.
        Initrd = "initrd",
    }
}

/// One blob of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionBlob {
    /// Its digest, as the registry names it.
    pub digest: Digest,
    /// Its part.
    pub role: BlobRole,
    /// Its place among blobs of the same role; the bottom layer has 0.
    pub position: u32,
    /// Its length as stored, compressed or not.
    pub size_bytes: u64,
    /// Digest of a layer's uncompressed form.
    pub diff_id: Option<Digest>,
}

/// Records the blobs of a version.
pub fn insert_all(
    tx: &WriteTransaction<'_>,
    version_id: VersionId,
    blobs: &[VersionBlob],
) -> Result<(), StoreError> {
    let sql = "INSERT INTO version_blobs (version_id, role, position, digest, size_bytes, diff_id) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    for blob in blobs {
        let params = (
            Text(version_id),
            blob.role.as_str(),
            blob.position,
            Text(blob.digest),
            Unsigned(blob.size_bytes),
            blob.diff_id.map(Text),
        );
        tx.execute("record a version's blobs", sql, params)?;
    }
    Ok(())
}

/// Returns the blobs of a version, by role, layers bottom first.
pub fn of_version(
    tx: &ReadTransaction<'_>,
    version_id: VersionId,
) -> Result<Vec<VersionBlob>, StoreError> {
    let sql = "SELECT version_id, role, position, digest, size_bytes, diff_id \
               FROM version_blobs WHERE version_id = ?1 ORDER BY role, position";
    tx.all("list a version's blobs", sql, [Text(version_id)], read)
}

/// Returns the versions that were made of a blob, also those of forgotten images.
pub fn versions_with(
    tx: &ReadTransaction<'_>,
    digest: &Digest,
) -> Result<Vec<VersionId>, StoreError> {
    let sql = "SELECT DISTINCT version_id FROM version_blobs WHERE digest = ?1 ORDER BY version_id";
    tx.all("find who uses a blob", sql, [Text(digest)], |row| {
        Columns::of("version_blobs", "version_id", row).parsed("version_id")
    })
}

fn read(row: &Row<'_>) -> Result<VersionBlob, StoreError> {
    let columns = Columns::of("version_blobs", "version_id", row);
    Ok(VersionBlob {
        digest: columns.parsed("digest")?,
        role: columns.parsed("role")?,
        position: columns.integer("position")?,
        size_bytes: columns.integer("size_bytes")?,
        diff_id: columns.parsed_option("diff_id")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Database, version, version_id};
    use crate::versions;

    fn blob(role: BlobRole, position: u32, content: &str) -> VersionBlob {
        VersionBlob {
            digest: Digest::of(content.as_bytes()),
            role,
            position,
            size_bytes: 7,
            diff_id: (role == BlobRole::Layer).then(|| Digest::of(b"diff")),
        }
    }

    fn filled() -> Database {
        let mut db = Database::new();
        db.add_image(1, "web");
        db.write(|tx| {
            versions::insert(tx, &version(1, 1, "amd64"))?;
            versions::insert(tx, &version(1, 2, "amd64"))
        })
        .unwrap();
        db
    }

    #[test]
    fn layers_keep_their_order_and_may_repeat() {
        let mut db = filled();
        let manifest = blob(BlobRole::Manifest, 0, "m");
        let layers = [
            blob(BlobRole::Layer, 0, "a"),
            blob(BlobRole::Layer, 1, "b"),
            blob(BlobRole::Layer, 2, "a"),
        ];
        let mut given = vec![manifest.clone()];
        given.extend(layers.iter().rev().cloned());

        db.write(|tx| insert_all(tx, version_id(1), &given))
            .unwrap();

        let found = db.read(|tx| of_version(tx, version_id(1))).unwrap();
        assert_eq!(found[..3], layers);
        assert_eq!(found[3..], [manifest]);
        assert_eq!(db.read(|tx| of_version(tx, version_id(2))).unwrap(), []);
    }

    #[test]
    fn a_shared_blob_names_each_version_once() {
        let mut db = filled();
        let twice = [blob(BlobRole::Layer, 0, "a"), blob(BlobRole::Layer, 1, "a")];
        db.write(|tx| {
            insert_all(tx, version_id(1), &twice)?;
            insert_all(tx, version_id(2), &twice[..1])
        })
        .unwrap();

        let with = |db: &mut Database, content: &str| {
            db.read(|tx| versions_with(tx, &Digest::of(content.as_bytes())))
                .unwrap()
        };

        assert_eq!(with(&mut db, "a"), [version_id(1), version_id(2)]);
        assert_eq!(with(&mut db, "b"), []);
    }
}
