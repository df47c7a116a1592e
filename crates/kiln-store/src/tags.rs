//! Tags: movable pointers from an image to its versions, one per architecture.

use kiln_domain::{ImageId, TagName, Timestamp, VersionId};
use rusqlite::Row;

use crate::columns::{Columns, Micros, Text};
use crate::{ReadTransaction, StoreError, WriteTransaction};

/// A tag as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRow {
    /// The image it belongs to.
    pub image_id: ImageId,
    /// Its name.
    pub tag: TagName,
    /// The architecture it is about.
    pub architecture: String,
    /// The version it points at.
    pub version_id: VersionId,
    /// When it was made or last moved.
    pub moved_at: Timestamp,
}

/// Points a tag at a version, for that version's architecture; tells whether there is such a
/// version of this image.
///
/// A tag that was set before moves.
pub fn set(
    tx: &WriteTransaction<'_>,
    image_id: ImageId,
    tag: &TagName,
    version_id: VersionId,
    at: Timestamp,
) -> Result<bool, StoreError> {
    // Taking image and architecture from the version keeps tags of one image or architecture
    // from pointing at versions of another.
    let sql = "INSERT INTO tags (image_id, tag, architecture, version_id, moved_at) \
               SELECT image_id, ?2, architecture, id, ?4 FROM versions \
               WHERE id = ?3 AND image_id = ?1 \
               ON CONFLICT (image_id, tag, architecture) \
               DO UPDATE SET version_id = excluded.version_id, moved_at = excluded.moved_at";
    let params = (Text(image_id), tag.as_str(), Text(version_id), Micros(at));
    Ok(tx.execute("set a tag", sql, params)? == 1)
}

/// Returns an image's tags, by name and architecture.
pub fn of_image(tx: &ReadTransaction<'_>, image_id: ImageId) -> Result<Vec<TagRow>, StoreError> {
    let sql = "SELECT image_id, tag, architecture, version_id, moved_at FROM tags \
               WHERE image_id = ?1 ORDER BY tag, architecture";
    tx.all("list tags", sql, [Text(image_id)], read)
}

/// Returns the tags that point at any of these versions with the version each points at, by name and
/// architecture: one query for a whole page, out of one index.
pub fn of_versions(
    tx: &ReadTransaction<'_>,
    versions: &[VersionId],
) -> Result<Vec<(VersionId, TagName)>, StoreError> {
    let sql = "SELECT version_id, tag FROM json_each(?1) AS wanted \
               CROSS JOIN tags ON tags.version_id = wanted.value \
               ORDER BY tag, architecture";
    let wanted = serde_json::json!(versions).to_string();
    tx.all("list tags of versions", sql, [wanted], |row| {
        let columns = Columns::of("tags", "tag", row);
        Ok((columns.parsed("version_id")?, columns.parsed("tag")?))
    })
}

/// Returns the version a tag points at for an architecture.
pub fn resolve(
    tx: &ReadTransaction<'_>,
    image_id: ImageId,
    tag: &TagName,
    architecture: &str,
) -> Result<Option<VersionId>, StoreError> {
    let sql = "SELECT image_id, tag, architecture, version_id, moved_at FROM tags \
               WHERE image_id = ?1 AND tag = ?2 AND architecture = ?3";
    let params = (Text(image_id), tag.as_str(), architecture);
    let found = tx.first("look a tag up", sql, params, read)?;
    Ok(found.map(|row| row.version_id))
}

fn read(row: &Row<'_>) -> Result<TagRow, StoreError> {
    let columns = Columns::of("tags", "tag", row);
    Ok(TagRow {
        image_id: columns.parsed("image_id")?,
        tag: columns.parsed("tag")?,
        architecture: columns.raw("architecture")?,
        version_id: columns.parsed("version_id")?,
        moved_at: columns.time("moved_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Database, image_id, time, version, version_id};
    use crate::versions;

    fn filled() -> Database {
        let mut db = Database::new();
        db.add_image(1, "web");
        db.add_image(2, "api");
        db.write(|tx| {
            versions::insert(tx, &version(1, 1, "amd64"))?;
            versions::insert(tx, &version(1, 2, "arm64"))?;
            versions::insert(tx, &version(1, 3, "amd64"))
        })
        .unwrap();
        db
    }

    #[test]
    fn a_tag_moves_within_its_architecture() {
        let mut db = filled();
        let latest = TagName::latest();

        for (version, at) in [(1, 5), (2, 6), (3, 7)] {
            let set = db.write(|tx| set(tx, image_id(1), &latest, version_id(version), time(at)));
            assert!(set.unwrap());
        }

        let resolve = |db: &mut Database, architecture: &str| {
            db.read(|tx| resolve(tx, image_id(1), &latest, architecture))
                .unwrap()
        };
        assert_eq!(resolve(&mut db, "amd64"), Some(version_id(3)));
        assert_eq!(resolve(&mut db, "arm64"), Some(version_id(2)));
        assert_eq!(resolve(&mut db, "riscv64"), None);
        let rows = db.read(|tx| of_image(tx, image_id(1))).unwrap();
        let moved: Vec<_> = rows.iter().map(|row| row.moved_at).collect();
        assert_eq!(moved, [time(7), time(6)]);
    }

    #[test]
    fn a_tag_never_points_at_another_images_version() {
        let mut db = filled();

        let set = db.write(|tx| set(tx, image_id(2), &TagName::latest(), version_id(1), time(1)));

        assert!(!set.unwrap());
        assert_eq!(db.read(|tx| of_image(tx, image_id(2))).unwrap(), []);
    }
}
