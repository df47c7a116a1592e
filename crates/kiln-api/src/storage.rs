//! What lies on the disk, and why: `storage.usage`, `storage.prune` and `image.why`.

use kiln_domain::storage::{KeptBy, StorageKind};
use kiln_domain::{ImageId, ImageName, ImageState, TagName, VersionId, VersionNumber};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::failure::Failure;
use crate::method::method;

method! {
    /// See [`Usage`].
    GetUsage = "storage.usage",
    "Tells what takes room on the disk, by kind, and what of it a prune would free.",
    (UsageParams) -> Usage, Read costly, [codes::storage::FAILED]
}

method! {
    /// See [`Pruned`].
    Prune = "storage.prune",
    "Removes what nothing needs: of the cache, and images that were forgotten long enough ago.",
    (PruneParams) -> Pruned, Administer costly, [codes::storage::FAILED, codes::request::INVALID_PARAMS]
}

method! {
    /// See [`Why`].
    GetWhy = "image.why",
    "Tells what a blob, a layer, a directory, an image or a kernel is, and what keeps it on the disk.",
    (WhyParams) -> Why, Read costly,
    [
        codes::storage::NOT_FOUND, codes::image::AMBIGUOUS, codes::storage::FAILED,
        codes::request::DENIED,
    ]
}

/// Most things that one answer lists, the largest first.
pub const ITEMS_MAX: usize = 10_000;

/// Most images that one answer to "why" lists, the oldest first.
pub const WHY_IMAGES_MAX: u32 = 1_000;

/// Longest word of what is asked about, in bytes.
pub const OBJECT_MAX: usize = 4_096;

/// How much to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageParams {
    /// Also each thing with what keeps it. Others than superadmins see the directories of their own
    /// images there: what is in the cache tells what others have pulled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verbose: bool,
}

/// What takes room on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Each kind, those that have nothing too.
    pub kinds: Vec<KindUsage>,
    /// All of them together; `kind` is `total`.
    pub total: KindUsage,
    /// Each thing, with `verbose`, the largest first, at most 10,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<UsageItem>,
    /// How many things are not in `items` although they were asked for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items_left_out: u64,
}

/// What the things of one kind take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KindUsage {
    /// The kind.
    pub kind: String,
    /// How many there are: directories, or files.
    pub count: u64,
    /// How long their files are, holes included, in bytes.
    pub apparent_bytes: u64,
    /// What they take on the disk, in bytes of whole blocks; a file with several names counts once.
    /// Blocks that a file system shares between files count for each.
    pub disk_bytes: u64,
    /// How many of them a prune would remove now that is asked for all it can.
    pub reclaimable_count: u64,
    /// What that would free.
    pub reclaimable_bytes: u64,
}

/// One thing on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageItem {
    /// Its kind.
    #[schemars(with = "String")]
    pub kind: StorageKind,
    /// What it is called: a digest, a version's id, the name of a kernel or of a file.
    pub item: String,
    /// The image, for its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub image: Option<ImageName>,
    /// How long its files are, holes included, in bytes.
    pub apparent_bytes: u64,
    /// What it takes on the disk, in bytes of whole blocks.
    pub disk_bytes: u64,
    /// What keeps it from a prune that is asked for all it can; nothing where that would remove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub kept_by: Option<KeptBy>,
}

/// What to remove. Without any, what of the cache no image was made of and nobody would look for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneParams {
    /// Also images that were forgotten so long ago, in seconds, whose retention has not ended. 0 is all
    /// of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_older_than_seconds: Option<u64>,
    /// Also all of the cache that no running operation needs. It is fetched and made again when it is
    /// needed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cache: bool,
    /// Only tell what would happen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What came of a prune.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    /// What went of each kind of which something did.
    pub kinds: Vec<PrunedKind>,
    /// Each thing, the largest first, at most 10,000; those that failed come first.
    pub items: Vec<PrunedItem>,
    /// How many things are not in `items`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items_left_out: u64,
    /// How many things could not be removed.
    pub failed: u64,
    /// What came into use, went away or was replaced since it was looked at, and was left alone.
    pub left_alone: u64,
    /// Bytes on the disk that are free now, whole blocks. What an open file takes is free when it is
    /// closed.
    pub freed_bytes: u64,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// What went of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrunedKind {
    /// The kind.
    #[schemars(with = "String")]
    pub kind: StorageKind,
    /// How many.
    pub count: u64,
    /// What that freed, in bytes.
    pub freed_bytes: u64,
}

/// What came of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrunedItem {
    /// Its kind.
    #[schemars(with = "String")]
    pub kind: StorageKind,
    /// What it is called: a digest, an image's id, or the name of a file.
    pub item: String,
    /// What an image was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub image: Option<ImageName>,
    /// It is gone, or would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<Freed>,
    /// It could not be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What went with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Freed {
    /// Bytes on the disk.
    pub freed_bytes: u64,
}

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhyParams {
    /// A digest of a blob, a diff id of a layer, or six digits and more that either begins with; a
    /// version's id, an image as other methods name it, a kernel's name; for superadmins whatever
    /// `storage.usage` calls a thing. Or the path of any of them: absolute, or below the daemon's
    /// directories.
    pub object: String,
}

/// What something is, and what keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// Its kind.
    #[schemars(with = "String")]
    pub kind: StorageKind,
    /// What it is called: a digest, a version's id, or a kernel's name.
    pub item: String,
    /// Where it lies; nothing where it is not on the disk any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How long its files are, holes included, in bytes.
    pub apparent_bytes: u64,
    /// What it takes on the disk, in bytes of whole blocks.
    pub disk_bytes: u64,
    /// Versions that were made of it, or that it is, oldest first, at most 1,000.
    pub images: Vec<WhyImage>,
    /// How many versions there are beside those: of images that the caller may not see, or one too many.
    pub other_images: u64,
    /// What uses it now.
    pub uses: Vec<WhyUse>,
    /// How many uses there are beside those, which the caller may not see.
    pub other_uses: u64,
    /// What keeps it from a prune that is asked for nothing special.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub kept_by: Option<KeptBy>,
    /// The command that frees it, where one does now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed_by: Option<String>,
}

/// A version that has to do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhyImage {
    /// The image.
    #[schemars(with = "String")]
    pub image_id: ImageId,
    /// What it is called, or was.
    #[schemars(with = "String")]
    pub name: ImageName,
    /// Where it stands.
    #[schemars(with = "String")]
    pub state: ImageState,
    /// The version.
    #[schemars(with = "String")]
    pub version_id: VersionId,
    /// Its number.
    #[schemars(with = "String")]
    pub number: VersionNumber,
    /// What it runs on.
    pub architecture: String,
    /// Tags that point to it.
    #[schemars(with = "Vec<String>")]
    pub tags: Vec<TagName>,
    /// The part that this has in it, such as `layer`; nothing where this is the version itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// When a forgotten image goes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_after: Option<String>,
}

/// What uses it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhyUse {
    /// `instance`, `lease` or `operation`.
    pub kind: String,
    /// Its id; nothing of operations that the caller did not begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A machine's name, or what a lease is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
