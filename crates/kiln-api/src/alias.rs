//! Aliases: other names of images, `image.alias`, `image.dealias` and `alias.list`.

use kiln_domain::{ImageId, ImageName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::method::method;
use crate::page::Page;

method! {
    /// See [`AliasParams`].
    Add = "image.alias",
    "Gives an image another name, by which every method takes it.",
    (AliasParams) -> Alias, Make,
    [
        codes::alias::CIRCULAR, codes::alias::ALREADY_EXISTS, codes::alias::TARGET_NOT_FOUND,
        codes::image::ALREADY_EXISTS, codes::image::NAME_RESERVED, codes::image::NAME_INVALID,
        codes::image::AMBIGUOUS, codes::source::INVALID_PLATFORM, codes::request::DENIED,
    ]
}

method! {
    /// See [`Removed`].
    Remove = "image.dealias",
    "Takes an alias away; the image and its other aliases stay.",
    (DealiasParams) -> Removed, Change,
    [codes::alias::NOT_FOUND, codes::image::NAME_INVALID, codes::request::DENIED]
}

method! {
    /// See [`Alias`].
    List = "alias.list",
    "Lists aliases in the order of their making.",
    (ListParams) -> Page<Alias>, Read,
    [codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::DENIED]
}

/// Which image to give which other name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AliasParams {
    /// The new name. It follows the grammar of image names, and no image and no alias may have it.
    pub alias: String,
    /// What it is to lead to: an id, a name with an optional tag or version, another alias, or a
    /// source reference.
    pub target: String,
    /// The architecture for which the target must be there; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
}

/// Which alias to take away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DealiasParams {
    /// The alias.
    pub alias: String,
}

/// Which aliases to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// Only those of this image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// An alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Alias {
    /// The name.
    #[schemars(with = "String")]
    pub alias: ImageName,
    /// What it leads to, as it was given.
    pub target: String,
    /// The image it leads the caller to now; where it leads to none, the one it led to.
    #[schemars(with = "String")]
    pub image_id: ImageId,
    /// The uid of who made it.
    pub owner_uid: u32,
    /// When it was made.
    pub created_at: String,
}

/// What came of taking an alias away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// The alias as it was.
    pub alias: Alias,
    /// Aliases that led to it, and lead on to what it led to.
    #[schemars(with = "Vec<String>")]
    pub retargeted: Vec<ImageName>,
}
