//! The words and rules of Kiln: names, digests, references, versions and states.
//!
//! Not here: I/O, clocks, random numbers, and anything that knows where a value came from.

pub mod access;
mod derivation;
mod digest;
mod id;
mod name;
mod size;
mod states;
mod text;
mod timestamp;
mod version;

pub use derivation::Derivation;
pub use digest::{Digest, DigestError};
pub use id::{IdError, ImageId, OperationId, VersionId};
pub use name::{ImageName, KernelName, NameError, TagName};
pub use size::{ByteSize, ByteSizeError};
pub use states::{ImageState, OperationKind, OperationState, VersionKind, Visibility, WordError};
pub use timestamp::{Timestamp, TimestampError};
pub use version::{VersionNumber, VersionNumberError};
