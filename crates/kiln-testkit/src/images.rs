//! OCI images to build from: small ones made in Rust, and real Debian trees.

pub mod debian;
pub mod entry;
pub mod layout;
pub mod torture;
