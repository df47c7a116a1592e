//! The words and rules of Kiln: names, digests, references, versions and states.
//!
//! Not here: I/O, clocks, random numbers, and anything that knows where a value came from.

pub mod access;
mod agent;
mod credentials;
mod derivation;
mod digest;
mod id;
mod image_pattern;
mod keywords;
pub mod limits;
mod login_scope;
mod name;
pub mod oci;
mod platform;
mod process;
mod push_rule;
mod reference;
mod registry_name;
mod size;
mod source;
mod states;
pub mod storage;
mod tag_rules;
mod text;
mod timestamp;
mod version;

pub use agent::{AgentAddress, AgentAddressError, PlainPath, PlainPathError, SshPlace};
pub use credentials::{Credentials, Secret};
pub use derivation::Derivation;
pub use digest::{Digest, DigestError};
pub use id::{IdError, ImageId, InstanceId, LeaseId, OperationId, OrgId, VersionId, reads_as_id};
pub use image_pattern::{ImagePattern, ImagePatternError};
pub use keywords::{Description, Keyword, LabelKey, LabelValue, WordingError};
pub use login_scope::LoginScope;
pub use name::{
    AgentName, ImageName, InstanceName, KernelName, NameError, OrgName, TagName, UserName,
};
pub use platform::{Architecture, Platform, PlatformError};
pub use process::{ProcessStart, ProcessStartError};
pub use push_rule::{NameTemplate, PathPattern, PushAction, PushRule, PushRuleError, Pushed};
pub use reference::{Reference, ReferenceError, without_user_info};
pub use registry_name::RegistryName;
pub use size::{ByteSize, ByteSizeError};
pub use source::{Source, SourceError};
pub use states::{
    ImageState, InstanceState, OperationKind, OperationState, VersionKind, Visibility, WordError,
};
pub use tag_rules::{TagPattern, TagRuleError, TagVersion, VersionRange};
pub use timestamp::{Timestamp, TimestampError};
pub use version::{VersionNumber, VersionNumberError};
