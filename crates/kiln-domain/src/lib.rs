//! The words and rules of Kiln: names, digests, references, versions and states.
//!
//! Not here: I/O, clocks, random numbers, and anything that knows where a value came from.

mod digest;
mod text;

pub use digest::{Digest, DigestError};
