//! Instances: virtual machines that run images, `instance.*`.
//!
//! The daemon starts none. Whoever runs a machine registers it, says when it runs and how it
//! ended, and the daemon watches the process that registered.

use kiln_domain::{ImageId, ImageName, InstanceId, InstanceName, InstanceState, VersionId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::method::method;
use crate::page::Page;

method! {
    /// See [`RegisterParams`].
    Register = "instance.register",
    "Registers a machine that the calling process is about to run; its image is in use from now on.",
    (RegisterParams) -> Instance, Make,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::DENIED,
        codes::instance::NAME_TAKEN,
        codes::instance::NAME_INVALID, codes::instance::NO_PROCESS,
        codes::instance::ALREADY_EXISTS, codes::daemon::BUSY,
    ]
}

method! {
    /// See [`StartParams`].
    Start = "instance.start",
    "Notes that a registered machine runs, and under which monitor.",
    (StartParams) -> Instance, Change, [codes::instance::NOT_FOUND, codes::instance::ENDED]
}

method! {
    /// See [`FinishParams`].
    Finish = "instance.finish",
    "Notes how a machine ended; its image is no longer in use by it.",
    (FinishParams) -> Instance, Change, [codes::instance::NOT_FOUND]
}

method! {
    /// See [`Instance`].
    List = "instance.list",
    "Lists machines in the order of their registration.",
    (ListParams) -> Page<Instance>, Read, []
}

method! {
    /// See [`Instance`].
    Get = "instance.get",
    "Tells everything about one machine.",
    (InstanceParams) -> Instance, Read, [codes::instance::NOT_FOUND, codes::instance::AMBIGUOUS]
}

method! {
    /// See [`Instance`].
    Remove = "instance.remove",
    "Forgets a machine that has ended.",
    (InstanceParams) -> Instance, Change,
    [codes::instance::NOT_FOUND, codes::instance::AMBIGUOUS, codes::instance::RUNNING]
}

/// What to register. The process that calls is the one that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterParams {
    /// Its id, chosen at random by the caller.
    #[schemars(with = "String")]
    pub instance_id: InstanceId,
    /// Its name, unique among its owner's machines that run; derived from the image's when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The image: an id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The directory that the caller keeps for it.
    pub directory: String,
    /// The file its console is written to.
    pub console_path: String,
    /// How many processors it has.
    pub cpus: u32,
    /// How much memory it has, in bytes.
    pub memory_bytes: u64,
    /// Ports of the host that lead into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

/// That a machine runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartParams {
    /// Which machine.
    #[schemars(with = "String")]
    pub instance_id: InstanceId,
    /// The monitor: `qemu-microvm`, `qemu-q35`, `firecracker` or `cloud-hypervisor`.
    pub monitor: String,
    /// What executes its instructions: `kvm` or `tcg`.
    pub accelerator: String,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinishParams {
    /// Which machine.
    #[schemars(with = "String")]
    pub instance_id: InstanceId,
    /// The exit code of its program, as `kiln run` passes it on; missing where nobody heard it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// Why it ended, where there is more to say than the exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which machines to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Those that have ended too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// Which machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceParams {
    /// An id, the beginning of one, or a name.
    pub instance: String,
}

/// A port of the host that leads into a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Where the host listens, such as `127.0.0.1`.
    pub host_address: String,
    /// The host's port.
    pub host_port: u16,
    /// The machine's port.
    pub guest_port: u16,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Its id.
    #[schemars(with = "String")]
    pub id: InstanceId,
    /// Its name.
    #[schemars(with = "String")]
    pub name: InstanceName,
    /// `starting`, `running` or `ended`.
    #[schemars(with = "String")]
    pub state: InstanceState,
    /// Who runs it.
    pub owner_uid: u32,
    /// The image it runs.
    #[schemars(with = "String")]
    pub image_id: ImageId,
    /// The name the image had when the machine was registered.
    #[schemars(with = "String")]
    pub image_name: ImageName,
    /// The version it runs.
    #[schemars(with = "String")]
    pub version_id: VersionId,
    /// The process that runs it and is watched.
    pub pid: u32,
    /// When that process began, in clock ticks since the host booted, as `/proc/<pid>/stat` has
    /// it: with it a number that was given to another process is noticed.
    pub pid_started: u64,
    /// The monitor, once it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<String>,
    /// What executes its instructions, once it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// The directory that its owner keeps for it.
    pub directory: String,
    /// The file its console is written to.
    pub console_path: String,
    /// How many processors it has.
    pub cpus: u32,
    /// How much memory it has, in bytes.
    pub memory_bytes: u64,
    /// Ports of the host that lead into it.
    pub ports: Vec<Port>,
    /// The exit code of its program, once it has ended and where it was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// Why it ended, where there is more to say than the exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was registered.
    pub created_at: String,
    /// When it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}
