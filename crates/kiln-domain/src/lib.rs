//! The words and rules of Kiln: names, digests, references, versions and states.
//!
//! Not here: I/O, clocks, random numbers, and anything that knows where a value came from.

mod credentials;
mod digest;
pub mod oci;
mod platform;
mod reference;
mod source;
mod text;

pub use credentials::{Credentials, Secret};
pub use digest::{Digest, DigestError};
pub use platform::{Architecture, Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
pub use source::{Source, SourceError};
