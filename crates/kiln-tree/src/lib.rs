//! The file tree of an OCI image: what one layer holds, and what a stack of layers shows.
//!
//! An [`Index`] lists the entries of one layer in archive order, as flat checked bytes. A
//! [`Tree`] is the result of applying a stack of indexes, bottom first, by the rules of the OCI
//! image specification ("Image Layer Filesystem Changeset").
//!
//! Not here: reading archives, file bodies, writing images, I/O of any kind, clocks.

mod cancel;
mod diff_id;
mod entry;
mod index;
mod limits;
mod merge;
mod path;
mod record;
mod resolve;
mod tree;
mod whiteout;

pub use cancel::{CancelCheck, Cancelled};
pub use diff_id::{DiffId, DiffIdError};
pub use entry::{
    BLOCK_SIZE, Body, Device, Entry, Kind, Segment, Segments, Timestamp, Xattr, Xattrs,
};
pub use index::{FORMAT, Index, IndexBuilder, IndexError};
pub use limits::Limits;
pub use merge::MergeError;
pub use path::{MAX_COMPONENT_BYTES, MAX_PATH_BYTES, MAX_SYMLINK_BYTES, ShownPath};
pub use record::Defect;
pub use tree::{Inode, InodeId, InodeKind, NodeId, Tree};
pub use whiteout::{Name, WhiteoutError, classify};
