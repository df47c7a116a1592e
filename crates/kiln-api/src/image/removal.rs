//! How images go and come back: `image.forget_by_id`, `image.restore` and `image.purge_by_id`.

use kiln_domain::ImageName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Forgotten, Image};
use crate::codes;
use crate::method::method;

method! {
    /// See [`Forgotten`].
    ForgetById = "image.forget_by_id",
    "Hides the image with this id and frees its name; it can be restored until its retention ends.",
    (ForgetByIdParams) -> Forgotten, Change,
    [
        codes::request::INVALID_ID, codes::image::NOT_FOUND, codes::image::IN_USE,
        codes::request::DENIED,
    ]
}

method! {
    /// See [`Restored`].
    Restore = "image.restore",
    "Makes a forgotten or inactive image active again.",
    (RestoreParams) -> Restored, Change,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::image::ALREADY_EXISTS,
        codes::image::NAME_RESERVED, codes::image::NAME_INVALID, codes::request::DENIED,
    ]
}

method! {
    /// See [`Purged`].
    PurgeById = "image.purge_by_id",
    "Removes an image for good: its record, versions, tags, aliases and files.",
    (PurgeByIdParams) -> Purged, Change,
    [
        codes::request::INVALID_ID, codes::image::NOT_FOUND, codes::image::IN_USE,
        codes::image::CONFIRMATION_NEEDED, codes::request::DENIED, codes::storage::FAILED,
    ]
}

/// Which image to forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForgetByIdParams {
    /// The image's UUID.
    pub image_id: String,
    /// Only tell what would happen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Hide it also while it is in use; machines go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Which image to restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreParams {
    /// An id, a name or a source reference. A name that several forgotten images had means the one
    /// that was forgotten last; one that an active image has by now means that one.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The name it is to have; the one it had when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only tell what would happen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What came of restoring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Restored {
    /// The image as it is now.
    pub image: Image,
    /// It was active before, and nothing was changed.
    pub already_active: bool,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// Which image to remove for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeByIdParams {
    /// The image's UUID. It may be active, inactive or forgotten.
    pub image_id: String,
    /// Remove it also while it is in use. It needs `confirm_token`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// What the same caller's dry run answered, at most five minutes ago, since when the image has
    /// not changed. It serves once, and does not outlive the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_token: Option<String>,
    /// Only tell what would happen. With `force` the answer has a token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What came of removing an image for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Purged {
    /// The image as it was.
    pub image: Image,
    /// How many versions went.
    pub versions: u64,
    /// Aliases that went with it. One whose target is another image by now stays.
    #[schemars(with = "Vec<String>")]
    pub aliases: Vec<ImageName>,
    /// Bytes on the disk that its files took, whole blocks, as far as they are gone. What an open
    /// file of a running machine takes is free when that has ended.
    pub freed_bytes: u64,
    /// Machines, leases and operations that used it.
    pub in_use: u64,
    /// Nothing was changed.
    pub dry_run: bool,
    /// What removes it in spite of its users: answered to a dry run with `force`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_token: Option<String>,
}
