//! Removing images for good on other daemons: `image.purge`.

use kiln_domain::{AgentName, ImageId, ImageName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Started;
use crate::codes;
use crate::failure::Failure;
use crate::method::method;

method! {
    /// See [`PurgeParams`].
    Purge = "image.purge",
    "Removes images for good on other daemons: many images on many agents, side by side.",
    (PurgeParams) -> PurgeOutcome, Administer,
    [
        codes::agent::NOT_FOUND, codes::image::IN_USE, codes::image::AMBIGUOUS,
        codes::source::INVALID_PLATFORM, codes::request::DENIED, codes::operation::CANCELLED,
        codes::daemon::BUSY, codes::daemon::STOPPING,
    ] + codes::REACHING_AN_AGENT
}

/// Most images that one call names, over all agents.
pub const MAX_IMAGES: usize = 10_000;

/// Which images to remove on which agents, and how. Either `keys`, or `image_names` with
/// `agent_ids`, which means each of these images on each of these agents.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the wire"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeParams {
    /// Agents, each with images of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<PurgeKey>,
    /// Images to remove on each of `agent_ids`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_names: Vec<String>,
    /// The agents' names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub agent_ids: Vec<AgentName>,
    /// One architecture of `image_names`; each agent's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Also while machines run an image or leases keep it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Keep what the agents' caches have and nothing there needs any more: blobs and packs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub noprune: bool,
    /// Only tell what would happen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Answer with the operation at once and go on in the background.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
}

/// An agent with the images to remove there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeKey {
    /// The agent's name.
    #[schemars(with = "String")]
    pub agent_id: AgentName,
    /// The images.
    pub images: Vec<PurgeImage>,
}

/// An image, or several by a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeImage {
    /// An id, a name with an optional tag or version, or a source reference, as the agent reads it.
    /// With `*` (any characters) or `?` (one) a pattern of `NAME:TAG`: it chooses by the image's
    /// name and tags, and by the repository and tag it was pulled from, forgotten images too.
    pub name: String,
    /// One architecture of it; the agent's own when left out, of a pattern any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
}

/// What a purge answers: what came of it, or with `detach` the operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PurgeOutcome {
    /// It is done.
    Purged(Box<PurgedOnAgents>),
    /// It goes on in the background.
    Started(Box<Started>),
}

/// What came of a purge on agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurgedOnAgents {
    /// What is gone, or would be: one entry for each agent that was reached, in the order of the
    /// call.
    pub purged_images: Vec<PurgedOnAgent>,
    /// What went wrong, each with its agent.
    pub errors: Vec<PurgeError>,
    /// Images that went, over all agents.
    pub purged: u64,
    /// Images that were not there, such as those that an earlier call has removed.
    pub already_purged: u64,
    /// Bytes that were freed on the agents' disks, as they count them.
    pub freed_bytes: u64,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// What went on one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurgedOnAgent {
    /// The agent's name.
    #[schemars(with = "String")]
    pub agent_id: AgentName,
    /// The images, in the order of the call.
    pub images: Vec<PurgedImage>,
    /// Bytes that they took on its disk.
    pub freed_bytes: u64,
    /// Bytes that its cache gave up besides; absent where it was not asked, as in a dry run, cannot do
    /// that, or does not let this daemon's user do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned_bytes: Option<u64>,
}

/// An image that is gone, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurgedImage {
    /// What the call named it by: words, or a pattern.
    pub item: String,
    /// The architecture the call named, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Its id on the agent; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub image_id: Option<ImageId>,
    /// Its name there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub name: Option<ImageName>,
    /// Bytes that it took on the agent's disk.
    pub freed_bytes: u64,
    /// It was not there any more, or never: nothing had to be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already_purged: bool,
}

/// What went wrong on one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurgeError {
    /// The agent's name.
    #[schemars(with = "String")]
    pub agent_id: AgentName,
    /// What the call named the image by; absent where the whole agent is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// The architecture the call named, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The image's id there, where a pattern chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub image_id: Option<ImageId>,
    /// What it was.
    pub error: Failure,
}
