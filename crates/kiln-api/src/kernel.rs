//! The kernel catalogue: `kernel.*`.

use kiln_domain::KernelName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::host_file::HostFile;
use crate::image::{Credentials, Started};
use crate::method::method;
use crate::registry::RegistryCredentials;

method! {
    /// See [`ImportParams`].
    Import = "kernel.import",
    "Takes a kernel, and what belongs to it, into the catalogue under a name.",
    (ImportParams) -> Kernel, Make costly,
    [
        codes::kernel::NAME_INVALID, codes::kernel::ALREADY_EXISTS, codes::kernel::UNRECOGNISED,
        codes::kernel::BROKEN_PACKAGE, codes::kernel::BROKEN_MODULES, codes::kernel::BROKEN_CONFIG,
        codes::kernel::REQUIRED, codes::kernel::CHOICE_CONFLICT,
        codes::file::NOT_FOUND, codes::file::WRONG_KIND, codes::file::UNREADABLE,
        codes::file::PATH_NOT_ALLOWED, codes::file::HANDLE_UNKNOWN, codes::storage::FULL,
    ]
}

method! {
    /// See [`PullParams`].
    Pull = "kernel.pull",
    "Takes a kernel from a registry or a URL into the catalogue under a name.",
    (PullParams) -> PullOutcome, Make costly,
    [
        codes::kernel::NAME_INVALID, codes::kernel::ALREADY_EXISTS, codes::kernel::REQUIRED,
        codes::kernel::CHOICE_CONFLICT, codes::kernel::DIGEST_REQUIRED,
        codes::kernel::NOT_IN_SOURCE, codes::kernel::UNRECOGNISED, codes::kernel::BROKEN_PACKAGE,
        codes::kernel::BROKEN_MODULES, codes::kernel::BROKEN_CONFIG, codes::source::NOT_FOUND,
        codes::source::AMBIGUOUS, codes::source::INVALID_PLATFORM,
        codes::source::PLATFORM_NOT_FOUND, codes::source::MALFORMED_MANIFEST,
        codes::source::UNSUPPORTED, codes::source::DIGEST_MISMATCH, codes::source::SIZE_MISMATCH, codes::source::DAMAGED,
        codes::layer::BROKEN_COMPRESSION, codes::layer::MALFORMED, codes::layer::LIMIT_EXCEEDED,
        codes::layer::DIFF_ID_MISMATCH, codes::layer::CANNOT_BE_APPLIED, codes::file::TOO_LARGE,
        codes::operation::CANCELLED, codes::storage::FULL, codes::storage::FAILED,
        codes::daemon::BUSY, codes::daemon::STOPPING,
    ] + codes::REACHING_A_REGISTRY
}

method! {
    /// See [`Kernel`].
    List = "kernel.list",
    "Lists the kernels of the catalogue by name.",
    (ListParams) -> Kernels, Read, []
}

method! {
    /// See [`Kernel`].
    Get = "kernel.get",
    "Tells everything about one kernel of the catalogue.",
    (KernelParams) -> Kernel, Read, [codes::kernel::NOT_FOUND]
}

method! {
    /// See [`Kernel`].
    Remove = "kernel.remove",
    "Removes a kernel from the catalogue; images keep what they have of it.",
    (KernelParams) -> Kernel, Change, [codes::kernel::NOT_FOUND, codes::request::DENIED]
}

method! {
    /// See [`SetDefaultParams`].
    SetDefault = "kernel.set_default",
    "Chooses the kernel that calls mean by `default`, or none.",
    (SetDefaultParams) -> Default, Administer, [codes::kernel::NOT_FOUND, codes::request::DENIED]
}

method! {
    /// See [`struct@Default`].
    GetDefault = "kernel.get_default",
    "Tells which kernel calls mean by `default`.",
    (ListParams) -> Default, Read, []
}

method! {
    /// See [`Checked`].
    Check = "kernel.check",
    "Tells which virtual machine monitors boot a kernel, and why or why not.",
    (KernelParams) -> Checked, Read, [codes::kernel::NOT_FOUND, codes::kernel::BROKEN_MODULES]
}

/// What to import. Either `kernel_path` or `deb_path`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportParams {
    /// The name in the catalogue.
    #[schemars(with = "String")]
    pub name: KernelName,
    /// A kernel file: ELF vmlinux, bzImage or arm64 Image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_path: Option<HostFile>,
    /// An initial ramdisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<HostFile>,
    /// A directory of modules: a path, or the read end of a pipe that gives it as a tar stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules_dir: Option<HostFile>,
    /// How the kernel was configured, such as `/boot/config-6.1.0` or `/proc/config.gz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_path: Option<HostFile>,
    /// A Debian kernel package, in place of `kernel_path`, `modules_dir` and `config_path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deb_path: Option<HostFile>,
}

/// What to pull. Either `ref` or `url`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PullParams {
    /// The name in the catalogue.
    #[schemars(with = "String")]
    pub name: KernelName,
    /// A reference to an artifact whose layer is a kernel, or to an image that has one at
    /// `/boot/vmlinux` or `/boot/vmlinuz`, and its modules in `/lib/modules`.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The `https` URL of a kernel file or a Debian kernel package, perhaps with `#sha256=…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The digest of what lies at `url`, unless it says so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Which platform of a multi-platform reference, such as `linux/arm64`; the host's when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Who to be at the registry. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Who to be at its mirrors, and where its names have been moved to; `registry.explain` tells
    /// which those are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror_credentials: Vec<RegistryCredentials>,
    /// Whether the registry that the reference names must have a certificate that can be trusted:
    /// with true it is spoken to in HTTPS alone, whatever is configured, and so are its mirrors;
    /// with false plain HTTP will do, and any certificate, for this call. As configured when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
    /// Answer with the operation at once and go on in the background.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
}

/// What a pull answers: the kernel, or with `detach` the operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PullOutcome {
    /// It is done.
    Kernel(Box<Kernel>),
    /// It goes on in the background.
    Started(Box<Started>),
}

/// Nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {}

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelParams {
    /// Its name in the catalogue.
    #[schemars(with = "String")]
    pub name: KernelName,
}

/// Which kernel is to be the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetDefaultParams {
    /// Its name in the catalogue; null for none.
    #[schemars(with = "Option<String>")]
    pub name: Option<KernelName>,
}

/// The kernel that is the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Default {
    /// The kernel, where one was chosen.
    pub kernel: Option<Kernel>,
}

/// What is known about booting a kernel. Nothing was started to find it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checked {
    /// The kernel.
    pub kernel: Kernel,
    /// Where its options were read: `file`, `embedded` or `none`.
    pub configuration: String,
    /// One for each monitor.
    pub verdicts: Vec<Verdict>,
    /// Drivers that guests want, and where this kernel has them.
    pub drivers: Vec<Driver>,
}

/// Whether a monitor boots a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// `qemu-microvm`, `qemu-q35`, `firecracker` or `cloud-hypervisor`.
    pub monitor: String,
    /// `yes`; `with_initrd`, which Kiln makes; `no`; or `unknown`.
    pub boots: String,
    /// Why, and what else to know; what decides comes first.
    pub reasons: Vec<Reason>,
    /// Modules that the initrd must have, without those they need.
    pub modules: Vec<String>,
}

/// One thing to know about a kernel and a monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// `blocks`, `unknown`, `needs_module` or `note`.
    pub weight: String,
    /// What it is.
    pub text: String,
}

/// A driver that guests want.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Driver {
    /// Its module.
    pub module: String,
    /// The option that builds it, without `CONFIG_`.
    pub option: String,
    /// `built_in`, `module`, `missing` or `unknown`.
    pub place: String,
    /// What happens without it.
    pub without: String,
}

/// The kernels of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kernels {
    /// By name.
    pub items: Vec<Kernel>,
}

/// One kernel of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kernel {
    /// Its name.
    #[schemars(with = "String")]
    pub name: KernelName,
    /// The kernel's own version, such as `6.1.0-56-cloud-amd64`, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it runs on: `amd64` or `arm64`.
    pub architecture: String,
    /// What kind of file it is: `elf`, `bzimage` or `arm64-image`.
    pub format: String,
    /// Digest of the kernel file.
    pub sha256: String,
    /// Size of the kernel file in bytes.
    pub size_bytes: u64,
    /// The kernel file.
    pub path: String,
    /// The ELF taken out of a bzImage, for monitors that want one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elf_path: Option<String>,
    /// The initial ramdisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
    /// The modules directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules_path: Option<String>,
    /// Whether it is what calls mean by `default`.
    pub is_default: bool,
    /// Who imported it.
    pub owner_uid: u32,
    /// When it was imported.
    pub created_at: String,
}
