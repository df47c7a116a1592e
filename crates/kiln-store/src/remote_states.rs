//! What registries said of images when they were last asked: one row for each architecture.
//!
//! What was built is in [`crate::versions`], and nothing here changes it.

use kiln_domain::{Digest, ImageId, Timestamp};
use rusqlite::Row;
use serde_json::Value;

use crate::columns::{Columns, Micros, Text};
use crate::{ReadTransaction, StoreError, WriteTransaction};

/// What a registry said of one architecture of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteStateRow {
    /// The image.
    pub image_id: ImageId,
    /// Which architecture was asked about.
    pub architecture: String,
    /// The canonical reference that was asked about.
    pub reference: String,
    /// Digest of the platform's manifest.
    pub manifest_digest: Digest,
    /// Layers, sizes, labels and the rest, as they are shown.
    pub document: Value,
    /// When the registry said so.
    pub seen_at: Timestamp,
}

/// Keeps what a registry said, in the place of what it said before. Other architectures stay.
pub fn set(tx: &WriteTransaction<'_>, row: &RemoteStateRow) -> Result<(), StoreError> {
    let sql = "INSERT INTO remote_states (image_id, architecture, reference, manifest_digest, \
               document, seen_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
               ON CONFLICT (image_id, architecture) DO UPDATE SET \
               reference = excluded.reference, manifest_digest = excluded.manifest_digest, \
               document = excluded.document, seen_at = excluded.seen_at";
    let params = (
        Text(row.image_id),
        &row.architecture,
        &row.reference,
        Text(&row.manifest_digest),
        Text(&row.document),
        Micros(row.seen_at),
    );
    tx.execute("keep what a registry said", sql, params)?;
    Ok(())
}

/// Returns what a registry last said of one architecture of an image.
pub fn get(
    tx: &ReadTransaction<'_>,
    image_id: ImageId,
    architecture: &str,
) -> Result<Option<RemoteStateRow>, StoreError> {
    let sql = "SELECT image_id, architecture, reference, manifest_digest, document, seen_at \
               FROM remote_states WHERE image_id = ?1 AND architecture = ?2";
    let params = (Text(image_id), architecture);
    tx.first("read what a registry said", sql, params, read)
}

fn read(row: &Row<'_>) -> Result<RemoteStateRow, StoreError> {
    let columns = Columns::of("remote_states", "image_id", row);
    Ok(RemoteStateRow {
        image_id: columns.parsed("image_id")?,
        architecture: columns.raw("architecture")?,
        reference: columns.raw("reference")?,
        manifest_digest: columns.parsed("manifest_digest")?,
        document: columns.json("document")?,
        seen_at: columns.time("seen_at")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Database, image_id, time};

    fn said(architecture: &str, word: &str, at: i64) -> RemoteStateRow {
        RemoteStateRow {
            image_id: image_id(1),
            architecture: architecture.to_owned(),
            reference: "docker.io/library/alpine:latest".to_owned(),
            manifest_digest: Digest::of(word.as_bytes()),
            document: json!({"word": word}),
            seen_at: time(at),
        }
    }

    #[test]
    fn the_last_word_counts_and_other_architectures_stay() {
        let mut db = Database::new();
        db.add_image(1, "alpine");
        let other = said("amd64", "one", 1);
        db.write(|tx| {
            set(tx, &other)?;
            set(tx, &said("arm64", "one", 2))?;
            set(tx, &said("arm64", "two", 3))
        })
        .unwrap();

        let found = |db: &mut Database, architecture: &str| {
            db.read(|tx| get(tx, image_id(1), architecture)).unwrap()
        };
        assert_eq!(found(&mut db, "arm64"), Some(said("arm64", "two", 3)));
        assert_eq!(found(&mut db, "amd64"), Some(other));
        assert_eq!(found(&mut db, "riscv64"), None);
    }
}
