//! Versions: immutable built artifacts, one per image, number and architecture.
//!
//! Which blobs they were made of is in [`crate::version_blobs`], which tags point at them in
//! [`crate::tags`]. Nothing here changes a version but its checksum, computed after publication.

use std::collections::HashMap;

use kiln_domain::{
    Digest, ImageId, KernelName, TagName, Timestamp, VersionId, VersionKind, VersionNumber,
};
use rusqlite::{Row, named_params};
use serde_json::Value;

use crate::columns::{Columns, Micros, Text, Unsigned};
use crate::{ReadTransaction, StoreError, WriteTransaction, users};

/// Most versions of one artifact that are looked at: one that may be used is among the newest.
const MAX_EQUAL: u32 = 64;

/// A version to be inserted. Digests of files are those of the artifact directory.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// Its id, and the name of its directory.
    pub id: VersionId,
    /// The image it belongs to.
    pub image_id: ImageId,
    /// Its number; unique with image and architecture.
    pub number: VersionNumber,
    /// What it runs on, such as `amd64`.
    pub architecture: String,
    /// What it is.
    pub kind: VersionKind,
    /// What kind of place it came from, such as `registry`.
    pub source_kind: String,
    /// The canonical reference it was pulled from, if it was.
    pub source_reference: Option<String>,
    /// Digest of the manifest that was chosen.
    pub manifest_digest: Option<Digest>,
    /// Digest of the OCI config.
    pub config_digest: Option<Digest>,
    /// What the root filesystem's bytes follow from, if Kiln built it.
    pub derivation: Option<Digest>,
    /// Length of the root filesystem's file.
    pub rootfs_size_bytes: u64,
    /// Checksum of the root filesystem, where it is known by now.
    pub rootfs_sha256: Option<Digest>,
    /// Checksum of the kernel, if there is one.
    pub kernel_sha256: Option<Digest>,
    /// Checksum of the initial ramdisk, if there is one.
    pub initrd_sha256: Option<Digest>,
    /// Whether there are kernel modules.
    pub has_modules: bool,
    /// What the kernel was called in the catalogue, if it came from there.
    pub kernel_name: Option<KernelName>,
    /// The OCI image config, as far as it says how to run the image.
    pub image_config: Option<Value>,
    /// How it boots and why.
    pub boot: Option<Value>,
    /// The image it was built from, where that is not what it was pulled from.
    pub original: Option<Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The user who had it made.
    pub created_by: u32,
}

/// A version as the store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionRow {
    /// Its place in the order of all versions.
    pub seq: i64,
    /// Its id, and the name of its directory.
    pub id: VersionId,
    /// The image it belongs to.
    pub image_id: ImageId,
    /// Its number.
    pub number: VersionNumber,
    /// What it runs on.
    pub architecture: String,
    /// What it is.
    pub kind: VersionKind,
    /// What kind of place it came from.
    pub source_kind: String,
    /// The canonical reference it was pulled from, if it was.
    pub source_reference: Option<String>,
    /// Digest of the manifest that was chosen.
    pub manifest_digest: Option<Digest>,
    /// Digest of the OCI config.
    pub config_digest: Option<Digest>,
    /// What the root filesystem's bytes follow from, if Kiln built it.
    pub derivation: Option<Digest>,
    /// Length of the root filesystem's file.
    pub rootfs_size_bytes: u64,
    /// Checksum of the root filesystem, once computed.
    pub rootfs_sha256: Option<Digest>,
    /// Checksum of the kernel, if there is one.
    pub kernel_sha256: Option<Digest>,
    /// Checksum of the initial ramdisk, if there is one.
    pub initrd_sha256: Option<Digest>,
    /// Whether there are kernel modules.
    pub has_modules: bool,
    /// What the kernel was called in the catalogue then.
    pub kernel_name: Option<KernelName>,
    /// The OCI image config, as far as it was kept.
    pub image_config: Option<Value>,
    /// How it boots and why; nothing is known of what an older Kiln made.
    pub boot: Option<Value>,
    /// The image it was built from, where that is not what it was pulled from.
    pub original: Option<Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The user who had it made.
    pub created_by: u32,
}

macro_rules! columns {
    () => {
        "versions.seq, versions.id, versions.image_id, major, minor, patch, architecture, \
         versions.kind, source_kind, source_reference, manifest_digest, config_digest, \
         derivation, rootfs_size_bytes, rootfs_sha256, kernel_sha256, initrd_sha256, \
         has_modules, kernel_name, image_config, boot, original, versions.created_at, \
         created_by"
    };
}

/// Inserts a version, enters who had it made, and returns its place in the order.
///
/// The number must be free; [`newest_number`] read in the same transaction tells what is.
pub fn insert(tx: &WriteTransaction<'_>, version: &NewVersion) -> Result<i64, StoreError> {
    users::see(tx, version.created_by, version.created_at)?;
    let sql = "INSERT INTO versions (id, image_id, major, minor, patch, architecture, kind, \
               source_kind, source_reference, manifest_digest, config_digest, derivation, \
               rootfs_size_bytes, rootfs_sha256, kernel_sha256, initrd_sha256, has_modules, \
               kernel_name, image_config, boot, original, created_at, created_by) \
               VALUES (:id, :image_id, :major, :minor, :patch, :architecture, :kind, \
               :source_kind, :source_reference, :manifest_digest, :config_digest, :derivation, \
               :rootfs_size_bytes, :rootfs_sha256, :kernel_sha256, :initrd_sha256, \
               :has_modules, :kernel_name, :image_config, :boot, :original, :created_at, \
               :created_by)";
    let params = named_params! {
        ":id": Text(version.id),
        ":image_id": Text(version.image_id),
        ":major": version.number.major,
        ":minor": version.number.minor,
        ":patch": version.number.patch,
        ":architecture": version.architecture,
        ":kind": version.kind.as_str(),
        ":source_kind": version.source_kind,
        ":source_reference": version.source_reference,
        ":manifest_digest": version.manifest_digest.map(Text),
        ":config_digest": version.config_digest.map(Text),
        ":derivation": version.derivation.map(Text),
        ":rootfs_size_bytes": Unsigned(version.rootfs_size_bytes),
        ":rootfs_sha256": version.rootfs_sha256.map(Text),
        ":kernel_sha256": version.kernel_sha256.map(Text),
        ":initrd_sha256": version.initrd_sha256.map(Text),
        ":has_modules": version.has_modules,
        ":kernel_name": version.kernel_name.as_ref().map(KernelName::as_str),
        ":image_config": version.image_config.as_ref().map(Text),
        ":boot": version.boot.as_ref().map(Text),
        ":original": version.original.as_ref().map(Text),
        ":created_at": Micros(version.created_at),
        ":created_by": version.created_by,
    };
    tx.execute("insert a version", sql, params)?;
    Ok(tx.last_seq())
}

/// Returns a version, also one of a forgotten image.
pub fn get(tx: &ReadTransaction<'_>, id: VersionId) -> Result<Option<VersionRow>, StoreError> {
    let sql = concat!("SELECT ", columns!(), " FROM versions WHERE id = ?1");
    tx.first("read a version", sql, [Text(id)], read)
}

/// Returns an image's versions, oldest first.
pub fn of_image(
    tx: &ReadTransaction<'_>,
    image_id: ImageId,
) -> Result<Vec<VersionRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM versions WHERE image_id = ?1 ORDER BY seq"
    );
    tx.all("list versions", sql, [Text(image_id)], read)
}

/// Returns the version of an image that was made last for an architecture.
pub fn newest_of_image(
    tx: &ReadTransaction<'_>,
    image_id: ImageId,
    architecture: &str,
) -> Result<Option<VersionRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM versions WHERE image_id = ?1 AND architecture = ?2 ORDER BY seq DESC LIMIT 1"
    );
    let params = (Text(image_id), architecture);
    tx.first("read the newest version", sql, params, read)
}

/// Returns the version that stands for each of these images where no other is named: the one that a tag
/// points at for an architecture, else the newest of all. One query for a whole page; their image
/// configs are left out, which would be megabytes.
pub fn standing_for(
    tx: &ReadTransaction<'_>,
    images: &[ImageId],
    tag: &TagName,
    architecture: &str,
) -> Result<HashMap<ImageId, VersionRow>, StoreError> {
    const STANDING: &str = "coalesce( \
        (SELECT version_id FROM tags WHERE image_id = wanted.value AND tag = ?2 \
         AND tags.architecture = ?3), \
        (SELECT id FROM versions WHERE image_id = wanted.value ORDER BY seq DESC LIMIT 1))";
    let columns = columns!().replace("image_config", "NULL AS image_config");
    let sql = format!(
        "SELECT {columns} FROM json_each(?1) AS wanted \
         CROSS JOIN versions ON versions.id = {STANDING}"
    );
    let wanted = serde_json::json!(images).to_string();
    let params = (wanted, tag.as_str(), architecture);
    let rows = tx.all("list the versions of images", &sql, params, read)?;
    Ok(rows.into_iter().map(|row| (row.image_id, row)).collect())
}

/// Returns the version of an image with a number, for an architecture.
pub fn by_number(
    tx: &ReadTransaction<'_>,
    image_id: ImageId,
    number: VersionNumber,
    architecture: &str,
) -> Result<Option<VersionRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM versions WHERE image_id = ?1 AND major = ?2 AND minor = ?3 AND patch = ?4 \
         AND architecture = ?5"
    );
    let VersionNumber {
        major,
        minor,
        patch,
    } = number;
    let params = (Text(image_id), major, minor, patch, architecture);
    tx.first("read a version by its number", sql, params, read)
}

/// Returns the highest number an image's versions have for an architecture.
pub fn newest_number(
    tx: &ReadTransaction<'_>,
    image_id: ImageId,
    architecture: &str,
) -> Result<Option<VersionNumber>, StoreError> {
    let sql = "SELECT id, major, minor, patch FROM versions \
               WHERE image_id = ?1 AND architecture = ?2 \
               ORDER BY major DESC, minor DESC, patch DESC LIMIT 1";
    let params = (Text(image_id), architecture);
    tx.first("read the newest version number", sql, params, |row| {
        number(&Columns::of("versions", "id", row))
    })
}

/// Returns the newest version of an active image with this derivation: one whose root
/// filesystem has the same bytes.
pub fn by_derivation(
    tx: &ReadTransaction<'_>,
    derivation: &Digest,
) -> Result<Option<VersionRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM versions JOIN images ON images.id = versions.image_id \
         WHERE derivation = ?1 AND images.state = 'available' ORDER BY versions.seq DESC LIMIT 1"
    );
    tx.first("find a derivation", sql, [Text(derivation)], read)
}

/// Returns the versions of active images that were built elsewhere and came as the artifact with
/// this manifest, newest first, 64 at most: their root filesystems have the same bytes.
pub fn by_artifact(
    tx: &ReadTransaction<'_>,
    manifest_digest: &Digest,
) -> Result<Vec<VersionRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM versions JOIN images ON images.id = versions.image_id \
         WHERE manifest_digest = ?1 AND derivation IS NULL AND images.state = 'available' \
         ORDER BY versions.seq DESC LIMIT ?2"
    );
    let params = (Text(manifest_digest), MAX_EQUAL);
    tx.all("find an artifact's versions", sql, params, read)
}

/// Returns the versions of active images that came from a canonical reference, newest first.
pub fn by_source_reference(
    tx: &ReadTransaction<'_>,
    reference: &str,
) -> Result<Vec<VersionRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM versions JOIN images ON images.id = versions.image_id \
         WHERE source_reference = ?1 AND images.state = 'available' ORDER BY versions.seq DESC"
    );
    tx.all("find a source reference", sql, [reference], read)
}

/// Returns every version's id, also those of forgotten images: directories that may stay.
pub fn known_ids(tx: &ReadTransaction<'_>) -> Result<Vec<VersionId>, StoreError> {
    tx.all("list version ids", "SELECT id FROM versions", [], |row| {
        Columns::of("versions", "id", row).parsed("id")
    })
}

/// Returns the ids of the versions whose image is not forgotten: their directories must be there.
pub fn ids_in_use(tx: &ReadTransaction<'_>) -> Result<Vec<VersionId>, StoreError> {
    let sql = "SELECT versions.id AS id FROM versions \
               JOIN images ON images.id = versions.image_id WHERE images.deleted_at IS NULL";
    tx.all("list version ids in use", sql, [], |row| {
        Columns::of("versions", "id", row).parsed("id")
    })
}

/// Records the root filesystem's checksum and tells whether there is such a version.
pub fn set_rootfs_sha256(
    tx: &WriteTransaction<'_>,
    id: VersionId,
    sha256: &Digest,
) -> Result<bool, StoreError> {
    let sql = "UPDATE versions SET rootfs_sha256 = ?2 WHERE id = ?1";
    Ok(tx.execute("record a checksum", sql, (Text(id), Text(sha256)))? == 1)
}

fn number(columns: &Columns<'_>) -> Result<VersionNumber, StoreError> {
    Ok(VersionNumber {
        major: columns.integer("major")?,
        minor: columns.integer("minor")?,
        patch: columns.integer("patch")?,
    })
}

fn read(row: &Row<'_>) -> Result<VersionRow, StoreError> {
    let columns = Columns::of("versions", "id", row);
    Ok(VersionRow {
        seq: columns.raw("seq")?,
        id: columns.parsed("id")?,
        image_id: columns.parsed("image_id")?,
        number: number(&columns)?,
        architecture: columns.raw("architecture")?,
        kind: columns.parsed("kind")?,
        source_kind: columns.raw("source_kind")?,
        source_reference: columns.raw("source_reference")?,
        manifest_digest: columns.parsed_option("manifest_digest")?,
        config_digest: columns.parsed_option("config_digest")?,
        derivation: columns.parsed_option("derivation")?,
        rootfs_size_bytes: columns.integer("rootfs_size_bytes")?,
        rootfs_sha256: columns.parsed_option("rootfs_sha256")?,
        kernel_sha256: columns.parsed_option("kernel_sha256")?,
        initrd_sha256: columns.parsed_option("initrd_sha256")?,
        has_modules: columns.raw("has_modules")?,
        kernel_name: columns.parsed_option("kernel_name")?,
        image_config: columns.json_option("image_config")?,
        boot: columns.json_option("boot")?,
        original: columns.json_option("original")?,
        created_at: columns.time("created_at")?,
        created_by: columns.integer("created_by")?,
    })
}

#[cfg(test)]
mod tests;
