//! Long work that the daemon owns: `operation.*`.

use kiln_domain::{AgentName, OperationId, OperationKind, OperationState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::failure::Failure;
use crate::image::Image;
use crate::image::purge::PurgedOnAgents;
use crate::kernel::Kernel;
use crate::method::{Subscription, method};
use crate::page::Page;
use crate::registry::sync::Synced;
use crate::transfer::Transfer;

method! {
    /// See [`Operation`].
    List = "operation.list",
    "Lists operations in the order of their making: the caller's own, or all for a superadmin.",
    (ListParams) -> Page<Operation>, Read, []
}

method! {
    /// See [`Operation`].
    Get = "operation.get",
    "Tells how one operation stands.",
    (OperationParams) -> Operation, Read, [codes::operation::NOT_FOUND]
}

method! {
    /// See [`Operation`].
    Wait = "operation.wait",
    "Waits until an operation has ended and tells how.",
    (WaitParams) -> Operation, Read, [codes::operation::NOT_FOUND, codes::operation::STILL_RUNNING]
}

method! {
    /// See [`Operation`].
    Cancel = "operation.cancel",
    "Stops a running operation; what it had half made disappears.",
    (CancelParams) -> Operation, Change,
    [codes::operation::NOT_FOUND, codes::operation::ALREADY_FINISHED, codes::request::DENIED]
}

method! {
    /// See [`Operation`].
    Watch = "operation.watch",
    "Subscribes to an operation's progress; the last item is the operation in a final state.",
    (OperationParams) -> Operation, Read, [codes::operation::NOT_FOUND, codes::request::NEEDS_WEBSOCKET]
}

/// The other names of the [`Watch`] subscription.
pub const WATCH: Subscription = Subscription {
    notification: "operation.progress",
    unsubscribe: "operation.unwatch",
};

/// Which operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperationParams {
    /// Its id.
    #[schemars(with = "String")]
    pub operation_id: OperationId,
}

/// Which operation to stop, and when not to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelParams {
    /// Its id.
    #[schemars(with = "String")]
    pub operation_id: OperationId,
    /// Leave it alone when it has watchers besides this connection: the answer is then the
    /// operation, still running.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unless_watched: bool,
}

/// Which operation, and how long to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitParams {
    /// Its id.
    #[schemars(with = "String")]
    pub operation_id: OperationId,
    /// Answer `operation.still_running` after so many milliseconds; wait for ever without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Which operations to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// Only operations in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub state: Option<OperationState>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Operation {
    /// Its id.
    #[schemars(with = "String")]
    pub id: OperationId,
    /// What kind of work it is.
    #[schemars(with = "String")]
    pub kind: OperationKind,
    /// How it stands.
    #[schemars(with = "String")]
    pub state: OperationState,
    /// What it works on, for people.
    pub subject: String,
    /// Who started it.
    pub owner_uid: u32,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How many connections watch it or wait for its end, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchers: Option<u64>,
    /// What came of it, when it made an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<Image>>,
    /// What came of it, when it took a kernel in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Box<Kernel>>,
    /// What came of it, when it sent something to a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Box<Transfer>>,
    /// What came of it, when it copied by rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced: Option<Box<Synced>>,
    /// What came of it, when it removed images on other daemons; of one that was cancelled what was
    /// done by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<Box<PurgedOnAgents>>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// When it was started.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
}

/// The steps of a pull, a registration, a push or a purge on agents, in their order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Finding out what the reference means.
    #[default]
    Resolve,
    /// Fetching layers and decoding them as they come.
    Fetch,
    /// Sending blobs to a registry, and fetching those that are not at hand.
    Send,
    /// Removing images on other daemons.
    Purge,
    /// Merging the layers into one tree.
    Merge,
    /// Writing the root filesystem.
    Build,
    /// Copying the kernel and what belongs to it.
    Stage,
    /// Making it durable and visible.
    Publish,
}

impl Stage {
    /// Returns the word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Fetch => "fetch",
            Self::Send => "send",
            Self::Purge => "purge",
            Self::Merge => "merge",
            Self::Build => "build",
            Self::Stage => "stage",
            Self::Publish => "publish",
        }
    }
}

/// How far an operation is. The same type stands in `operation.get`, in the subscription and in
/// the client's `--progress json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// The step it is at.
    pub stage: Stage,
    /// Bytes done in this step.
    pub bytes_done: u64,
    /// Bytes of this step in all, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Items done in this step: layers while fetching, files while building, agents while purging.
    pub items_done: u64,
    /// Items of this step in all, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_total: Option<u64>,
    /// Bytes fetched from the network or the source by this operation, over all steps.
    pub fetched_bytes: u64,
    /// Bytes of blobs sent to a registry by this operation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sent_bytes: u64,
    /// The layers, bottom first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerProgress>,
    /// The agents, in the order of the call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentProgress>,
}

/// How far the work on one agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentProgress {
    /// The agent's name.
    #[schemars(with = "String")]
    pub agent_id: AgentName,
    /// Where it stands.
    pub state: AgentWork,
    /// Images that are dealt with, well or not.
    pub items_done: u64,
    /// Images in all, when known: a pattern is looked up first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_total: Option<u64>,
}

/// Where the work on one agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentWork {
    /// Its turn has not come.
    Waiting,
    /// It is being reached.
    Reaching,
    /// Images are being looked up and removed.
    Purging,
    /// All of it went well.
    Done,
    /// Some of it did not, or the agent was not reached.
    Failed,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How far one layer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LayerProgress {
    /// The blob's digest.
    pub digest: String,
    /// Where it stands.
    pub state: LayerState,
    /// Bytes of the blob read so far.
    pub bytes_done: u64,
    /// The blob's size in bytes.
    pub bytes_total: u64,
}

/// Where one layer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerState {
    /// Its turn has not come, or another operation is at it.
    Waiting,
    /// It is being fetched and decoded.
    Fetching,
    /// It is being decoded from the blob in the cache.
    Decoding,
    /// It is being sent to a registry.
    Sending,
    /// It was fetched and decoded, or sent, by this operation.
    Done,
    /// It was where it had to be, decoded or in the registry: nothing had to be done.
    Cached,
}
