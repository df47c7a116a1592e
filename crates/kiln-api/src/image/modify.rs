//! What is said of an image, and changing it: `image.modify`, `image.limits`, `image.clear_limits`,
//! `image.history`.

#![expect(
    clippy::option_option,
    reason = "a field that is absent, one that is null, and one with a value say three things"
)]

use std::collections::{BTreeMap, BTreeSet};

use kiln_domain::ImageId;
use kiln_domain::limits::{Origin, Quantity};
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Image;
use crate::codes;
use crate::method::method;
use crate::page::Page;

method! {
    /// See [`ModifyParams`].
    Modify = "image.modify",
    "Changes what is said of an image: all of it, or nothing.",
    (ModifyParams) -> Modified, Change,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::INVALID_ID, codes::image::IS_FORGOTTEN,
        codes::image::REVISION_CONFLICT, codes::image::ALREADY_EXISTS,
        codes::image::NAME_RESERVED, codes::image::NAME_INVALID, codes::image::LABEL_INVALID,
        codes::image::LIMIT_INVALID, codes::source::INVALID_PLATFORM, codes::request::DENIED,
    ]
}

method! {
    /// See [`EffectiveLimits`].
    GetLimits = "image.limits",
    "Tells what machines of an image get unless their caller says otherwise, and who says so.",
    (OneImageParams) -> EffectiveLimits, Read,
    [codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::INVALID_ID, codes::source::INVALID_PLATFORM]
}

method! {
    /// See [`Modified`].
    ClearLimits = "image.clear_limits",
    "Takes all custom limits off an image, so that its defaults hold again.",
    (OneImageParams) -> Modified, Change,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::INVALID_ID, codes::image::IS_FORGOTTEN,
        codes::source::INVALID_PLATFORM, codes::request::DENIED,
    ]
}

method! {
    /// See [`HistoryEntry`].
    GetHistory = "image.history",
    "Lists what happened to an image and what was changed about it, oldest first.",
    (HistoryParams) -> Page<HistoryEntry>, Read,
    [codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::INVALID_ID, codes::source::INVALID_PLATFORM]
}

/// Which image to change, and how. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModifyParams {
    /// An id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Change it only while it is at this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<u64>,
    /// Its new name. The old one becomes an alias of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is, for people; null takes it away.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub description: Option<Option<String>>,
    /// Labels to set and to take away.
    #[serde(
        default,
        deserialize_with = "an_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub labels: Option<LabelChanges>,
    /// Keywords, in the place of those there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keywords: Option<BTreeSet<String>>,
    /// Limits by slot, such as `{"cpu": 4, "memory": "8G"}`; null takes one away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Value>,
    /// What to call its size, for superadmins; null takes it away. What was measured stays.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub declared_size_bytes: Option<Option<u64>>,
    /// The same in other words. `props` is the same.
    #[serde(
        default,
        alias = "props",
        deserialize_with = "an_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub modifier: Option<Modifier>,
}

/// Reads an object. Derived readers take an array too, as the fields in their order, and an empty one
/// where every field may be left out: a call that changes nothing must not pass for one that does.
fn an_object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let given = Option::<serde_json::Map<String, Value>>::deserialize(deserializer)?;
    let read = given.map(|fields| serde_json::from_value(Value::Object(fields)));
    read.transpose().map_err(D::Error::custom)
}

/// Labels to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelChanges {
    /// Labels to set, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Keys of labels to take away; one that is not there does no harm.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unset: BTreeSet<String>,
}

/// Changes in other words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Modifier {
    /// As `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As `description`.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub description: Option<Option<String>>,
    /// As `limits`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resource_limits: BTreeMap<String, Value>,
    /// As `labels.set`; a label whose value is null is taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// As `keywords`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<String>>,
    /// As `declared_size_bytes`.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub size: Option<Option<u64>>,
}

/// Reads a field that is there: null is a word of its own.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// One image, by any of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneImageParams {
    /// An id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
}

/// An image after a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Modified {
    /// The image as it is now.
    pub image: Image,
    /// What changed; nothing where all was so before.
    pub changes: Vec<Change>,
}

/// One thing that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// What: `name`, `description`, `keywords`, `declared_size_bytes`, `labels.KEY` or
    /// `limits.SLOT`.
    pub field: String,
    /// What it was; null where there was nothing.
    pub from: Value,
    /// What it is; null where there is nothing.
    pub to: Value,
}

/// A limit that holds for machines of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limit {
    /// What is limited: `cpu`, `memory`, or what else a host hands out.
    pub slot: String,
    /// How much: a count, or a number of bytes.
    #[schemars(with = "f64")]
    pub value: Quantity,
    /// Who says so: `built-in`, `daemon`, `label` or `custom`.
    #[schemars(with = "String")]
    pub origin: Origin,
}

/// What machines of an image get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EffectiveLimits {
    /// The image.
    #[schemars(with = "String")]
    pub image_id: ImageId,
    /// Its name.
    pub name: String,
    /// The limits by slot, in the order of their names.
    pub limits: Vec<Limit>,
    /// Labels that should set a limit and say nothing that can be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_labels: Vec<String>,
}

/// Whose history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryParams {
    /// An id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Something that happened to an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// Its place in the order of all events.
    pub seq: u64,
    /// When it happened.
    pub at: String,
    /// Who made it happen: `unix:<uid>` or `daemon`.
    pub actor: String,
    /// What happened, such as `image.created` or `image.modified`.
    pub kind: String,
    /// What changed, where the event says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}
