//! Artifact directories: stage, publish by rename, remove, sweep.
//!
//! ```text
//! <images>/<version id>/            published: complete, durable, and never changed again
//!   rootfs.ext4                     the root file system
//!   rootfs.sums                     its checksums, for a scrub
//!   kernel                          what boots it
//!   initrd.img                      optional
//!   modules/                        optional
//!   image.json                      where all of it came from
//! <images>/<version id>.staging/    work in progress; removed by a sweep at start-up
//! <images>/<version id>.removing/   on its way out; removed by a sweep at start-up
//! ```
//!
//! Not here: what the files hold, which versions exist (the store knows), and who may do what.
//! Every step works relative to an open directory and follows no symbolic link, so a link planted
//! below `<images>` is refused instead of followed.

mod artifacts;
mod error;
pub mod names;
mod staging;

pub use artifacts::{Artifacts, Removal, Standing, StandingKind, Swept};
pub use error::ArtifactError;
pub use kiln_files::{Copied, CopyMethod, FileError, read_only};
pub use staging::{Published, Staging};
