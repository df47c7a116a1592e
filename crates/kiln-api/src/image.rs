//! Images: `image.*`.

pub mod modify;
pub mod purge;
pub mod push;
pub mod remote;
pub mod removal;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kiln_domain::{
    ImageId, ImageName, ImageState, KernelName, OperationId, OrgId, TagName, VersionId,
    VersionKind, VersionNumber, Visibility,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::host_file::{HandleId, HostFile};
use crate::lease::Lease;
use crate::method::method;
use crate::operation::Operation;
use crate::page::Page;
use crate::registry::RegistryCredentials;

method! {
    /// See [`PullParams`].
    Pull = "image.pull",
    "Pulls an OCI image and builds a bootable image from it.",
    (PullParams) -> Outcome, Make costly,
    [
        codes::source::NOT_FOUND, codes::source::AMBIGUOUS, codes::source::UNREADABLE,
        codes::source::INVALID_PLATFORM, codes::source::PLATFORM_NOT_FOUND,
        codes::source::MALFORMED_MANIFEST, codes::source::UNSUPPORTED,
        codes::source::DIGEST_MISMATCH, codes::source::SIZE_MISMATCH, codes::source::CHANGED, codes::source::DAMAGED,
        codes::image::ALREADY_EXISTS, codes::image::NAME_RESERVED, codes::image::NAME_INVALID,
        codes::kernel::REQUIRED, codes::kernel::CHOICE_CONFLICT, codes::kernel::NOT_FOUND,
        codes::kernel::UNRECOGNISED, codes::kernel::BROKEN_MODULES, codes::file::NOT_FOUND,
        codes::file::WRONG_KIND, codes::file::UNREADABLE, codes::file::PATH_NOT_ALLOWED,
        codes::file::HANDLE_UNKNOWN, codes::file::TOO_LARGE, codes::layer::BROKEN_COMPRESSION,
        codes::layer::MALFORMED, codes::layer::LIMIT_EXCEEDED, codes::layer::DIFF_ID_MISMATCH,
        codes::layer::CANNOT_BE_APPLIED, codes::rootfs::TOO_SMALL, codes::rootfs::CANNOT_HOLD,
        codes::rootfs::NOT_EXT4, codes::boot::NOTHING_TO_RUN, codes::boot::INVALID_CONFIG,
        codes::boot::NO_INIT, codes::boot::NO_INITRD, codes::kernel::NO_DEFAULT, codes::kernel::CANNOT_BOOT,
        codes::org::NOT_FOUND, codes::request::DENIED,
        codes::operation::CANCELLED, codes::storage::FULL, codes::storage::FAILED,
        codes::daemon::BUSY, codes::daemon::STOPPING,
    ] + codes::REACHING_A_REGISTRY
}

method! {
    /// See [`RegisterParams`].
    Register = "image.register",
    "Takes an existing root filesystem and a kernel into Kiln's care as an image.",
    (RegisterParams) -> Outcome, Make costly,
    [
        codes::image::ALREADY_EXISTS, codes::image::NAME_RESERVED, codes::rootfs::NOT_EXT4,
        codes::kernel::REQUIRED, codes::kernel::CHOICE_CONFLICT, codes::kernel::NOT_FOUND,
        codes::kernel::UNRECOGNISED, codes::kernel::BROKEN_MODULES,
        codes::source::INVALID_PLATFORM,
        codes::boot::NOTHING_TO_RUN, codes::boot::NO_INIT,
        codes::kernel::NO_DEFAULT, codes::kernel::CANNOT_BOOT,
        codes::file::NOT_FOUND, codes::file::WRONG_KIND, codes::file::UNREADABLE,
        codes::file::PATH_NOT_ALLOWED, codes::file::HANDLE_UNKNOWN, codes::file::TOO_LARGE,
        codes::operation::CANCELLED, codes::storage::FULL, codes::storage::FAILED,
        codes::daemon::BUSY, codes::daemon::STOPPING,
    ]
}

method! {
    /// See [`Image`].
    List = "image.list",
    "Lists images in the order of their making.",
    (ListParams) -> Page<Image>, Read, [codes::image::LABEL_INVALID]
}

method! {
    /// See [`Image`].
    Get = "image.get",
    "Tells everything about one image.",
    (GetParams) -> Image, Read,
    [codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::DENIED]
}

method! {
    /// See [`OpenedImage`].
    Open = "image.open",
    "Opens files of an image for reading; their descriptors wait at the second socket.",
    (OpenParams) -> OpenedImage, Read,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::source::INVALID_PLATFORM,
        codes::request::DENIED, codes::storage::FAILED, codes::daemon::BUSY,
    ]
}

method! {
    /// See [`Forgotten`].
    Forget = "image.forget",
    "Hides an image and frees its name; it can be restored until its retention ends.",
    (ForgetParams) -> Forgotten, Change,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::image::IN_USE,
        codes::source::INVALID_PLATFORM, codes::request::DENIED,
    ]
}

/// What to pull, and what to make of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PullParams {
    /// An OCI reference such as `debian:bookworm`, or `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
    /// `docker-archive:FILE[:TAG]`, `dir:DIR`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The image's name; derived from the reference when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub name: Option<ImageName>,
    /// A kernel of the catalogue to boot with; `default` is the one that was chosen for calls that
    /// name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub kernel_ref: Option<KernelName>,
    /// Boot with the kernel that comes along, where the source is a bootable artifact; the named
    /// one, which may then be left out, is for all other sources.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prefer_shipped_kernel: bool,
    /// A kernel file to boot with, in place of `kernel_ref`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_path: Option<HostFile>,
    /// An initial ramdisk to go with `kernel_path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<HostFile>,
    /// A modules directory to go with `kernel_path`: a path, or a pipe that gives it as tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules_dir: Option<HostFile>,
    /// How it boots; as its config suggests when left out.
    #[serde(default, skip_serializing_if = "BootChoice::is_auto")]
    pub boot: BootChoice,
    /// The size of the root filesystem, up to 16 TiB and what the daemon's disk takes as one file;
    /// the larger of 1.25 times the content and 1 GiB when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Which platform of a multi-platform image, such as `linux/arm64`; the host's when left out.
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
    /// Files of an `oci:` or archive source that the client opened: `index.json` and
    /// `blobs/sha256/<hex>`, or `archive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_files: Option<BTreeMap<String, HostFile>>,
    /// The organisation it is to belong to, by name or id: its members see it, its administrators
    /// look after it too. The caller must be in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Answer with the operation at once and go on in the background.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
}

/// What to register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterParams {
    /// The image's name.
    #[schemars(with = "String")]
    pub name: ImageName,
    /// The root filesystem: a raw ext4 image.
    pub rootfs_path: HostFile,
    /// A kernel of the catalogue to boot with; `default` is the one that was chosen for calls that
    /// name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub kernel_ref: Option<KernelName>,
    /// A kernel file to boot with, in place of `kernel_ref`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_path: Option<HostFile>,
    /// An initial ramdisk to go with `kernel_path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<HostFile>,
    /// A modules directory to go with `kernel_path`: a path, or a pipe that gives it as tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules_dir: Option<HostFile>,
    /// How it boots; as its config suggests when left out.
    #[serde(default, skip_serializing_if = "BootChoice::is_auto")]
    pub boot: BootChoice,
    /// What it runs on; the host's architecture when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Answer with the operation at once and go on in the background.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
}

/// Whose program a guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BootChoice {
    /// As the image's config suggests: its init where its command is one, else its entrypoint.
    #[default]
    Auto,
    /// The image's entrypoint, under Kiln's init.
    Entrypoint,
    /// The image's own init, after Kiln's has mounted its root.
    Init,
    /// Nothing of Kiln's: no initrd is made, and the kernel starts what the image has.
    None,
}

impl BootChoice {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde asks with a reference"
    )]
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// How a version boots, and why. It is decided when the version is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Boot {
    /// What was asked for.
    pub choice: BootChoice,
    /// What it came to; never `auto`. With `none` the initrd, if there is one, is the caller's.
    pub mode: BootChoice,
    /// The image's own init, where it is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_path: Option<String>,
    /// Why, for people.
    pub reason: String,
    /// Monitors that nothing is known to keep from booting it, by the kernel's format, options and
    /// modules. Empty where Kiln's init is not used: then nothing is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<String>,
    /// What the root filesystem was taken out of, where what came was more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<TakenDisk>,
}

/// The disk that a root filesystem was taken out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TakenDisk {
    /// How it was stored.
    pub format: DiskFormat,
    /// The number of the partition that the root filesystem was; all of the disk when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
}

/// How a disk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// Its bytes as they are.
    Raw,
    /// QEMU's format.
    Qcow2,
}

/// A user name and a password or token for a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The user name; `<token>` when the secret is an identity token.
    pub username: String,
    /// The password or token.
    pub secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What a pull or registration answers: the image, or with `detach` the operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Outcome {
    /// It is done.
    Image(Box<Image>),
    /// It goes on in the background.
    Started(Box<Started>),
}

/// The operation that a detached call started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// Its id.
    #[schemars(with = "String")]
    pub operation_id: OperationId,
    /// How it stands.
    pub operation: Operation,
}

/// Which images to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Inactive and forgotten images too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Only images whose name contains this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only images with all of these labels, each `KEY=VALUE`, or `KEY` for any value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Only images with all of these keywords.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keywords: Vec<String>,
}

/// Which image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetParams {
    /// An id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
}

/// Which files of which image to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenParams {
    /// An id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Which files; root filesystem, kernel and initrd when left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub files: BTreeSet<ImageFile>,
}

/// A file of an image that can be opened.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ImageFile {
    /// The root filesystem.
    Rootfs,
    /// The kernel.
    Kernel,
    /// The initial ramdisk, which not every image has.
    Initrd,
    /// The checksums of the root filesystem's blocks, which an image that was registered lacks.
    Sums,
    /// The modules as a plain tar, which not every image has. It is made for the call.
    Modules,
}

impl ImageFile {
    /// Those that a machine is started with.
    pub const OF_A_MACHINE: [Self; 3] = [Self::Rootfs, Self::Kernel, Self::Initrd];

    /// Tells whether every image has it.
    pub fn is_everywhere(self) -> bool {
        matches!(self, Self::Rootfs | Self::Kernel)
    }

    /// Returns the word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rootfs => "rootfs",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Sums => "sums",
            Self::Modules => "modules",
        }
    }
}

impl fmt::Display for ImageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An image with files of it that are open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OpenedImage {
    /// The image, with the version whose files they are.
    pub image: Image,
    /// A handle for each file: it is taken once, at the second socket, within a minute, by the
    /// user who called. What was asked for and the image has not is left out.
    pub handles: BTreeMap<ImageFile, HandleId>,
}

/// Which image to forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForgetParams {
    /// An id, a name with an optional tag or version, an alias, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out. The image goes with all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Only tell what would happen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Hide it also while it is in use; machines go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What came of forgetting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Forgotten {
    /// The image as it is now.
    pub image: Image,
    /// It had been forgotten before; its retention was not started anew.
    pub already_forgotten: bool,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// One image, with its current version for one architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    /// Its id.
    #[schemars(with = "String")]
    pub id: ImageId,
    /// Its name, or the one it had when it was forgotten.
    #[schemars(with = "String")]
    pub name: ImageName,
    /// How it stands.
    #[schemars(with = "String")]
    pub state: ImageState,
    /// Whether it can be used. One that was adopted or forgotten is not, and is found only by who
    /// asks for it.
    pub is_active: bool,
    /// Whether Kiln owns its files.
    pub managed: bool,
    /// Who owns it.
    pub owner_uid: u32,
    /// The organisation it belongs to, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub org_id: Option<OrgId>,
    /// Who may see it.
    #[schemars(with = "String")]
    pub visibility: Visibility,
    /// How often it was changed.
    pub revision: u64,
    /// What it is: `rootfs` or `disk`.
    #[schemars(with = "String")]
    pub kind: VersionKind,
    /// What it runs on: `amd64` or `arm64`.
    pub architecture: String,
    /// Its directory, complete and never changed.
    pub artifact_dir: String,
    /// The root filesystem.
    pub rootfs: Rootfs,
    /// The kernel.
    pub kernel: ImageKernel,
    /// How it boots, and why; absent for a version that an older Kiln made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// What to tell the kernel on its command line; it does no harm under any monitor. Some want
    /// more: `kiln image show --vmm` prints a whole configuration.
    pub kernel_arguments: String,
    /// Where it came from.
    pub source: Source,
    /// The version shown.
    pub version: Version,
    /// The tags that point to the version shown.
    #[schemars(with = "Vec<String>")]
    pub tags: Vec<TagName>,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Labels by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keywords: BTreeSet<String>,
    /// What somebody calls its size; `rootfs.size_bytes` is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_size_bytes: Option<u64>,
    /// What machines of it get unless their caller says otherwise; only where one image is asked
    /// for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<modify::Limit>,
    /// What its registry said of it when `image.scan` last asked; only where one image is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Box<remote::RemoteImage>>,
    /// How many machines run it and leases keep it; only where one image is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_use: Option<u64>,
    /// Its other names; only where one image is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub aliases: Vec<ImageName>,
    /// The leases that keep it; only where one image is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<Lease>,
    /// The OCI config's `config` object: entrypoint, environment, user, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// When it was made.
    pub created_at: String,
    /// When its record last changed.
    pub updated_at: String,
    /// When it was forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<String>,
}

/// An image's root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rootfs {
    /// The file.
    pub path: String,
    /// Its size in bytes; most of it may be holes.
    pub size_bytes: u64,
    /// Digest of everything its bytes are a function of; absent for a registered file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derivation: Option<String>,
    /// Digest of the file, once it has been computed; a file beyond 16 GiB gets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// An image's own copy of its kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageKernel {
    /// The kernel file.
    pub path: String,
    /// Its digest.
    pub sha256: String,
    /// The catalogue's name for it at the time, when it came from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The initial ramdisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
    /// The modules directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules_path: Option<String>,
}

/// Where an image came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// `registry`, `oci`, `oci-archive`, `docker-archive`, `dir` or `file`.
    pub kind: String,
    /// The reference, in full.
    pub reference: String,
    /// Digest of the platform's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// The OCI image it was built from elsewhere, where it came as a bootable artifact. It is what
    /// the artifact says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
}

/// The OCI image that somebody built a bootable artifact from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Original {
    /// Its reference, where it came from a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Digest of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
}

/// A version of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// Its id: the name of its directory.
    #[schemars(with = "String")]
    pub id: VersionId,
    /// Its number.
    #[schemars(with = "String")]
    pub number: VersionNumber,
}
