//! Directories and copies that last: opened once, followed through no symbolic link, made durable.
//!
//! ```text
//! Directory::open ─▶ create_child, create_file, copy_in ─▶ seal ─▶ rename ─▶ sync
//!                                     │
//!                   clone → copy in the kernel → read and write
//! ```
//!
//! A caller's own file, in a directory of theirs, is made by [`NewFile`]; a small one
//! that people keep is read by [`read_kept`].
//!
//! Not here: which names are used and what they mean. The tools that keep images and kernels stand
//! on this room, since they may not stand on each other.

mod copy;
mod directory;
mod error;
mod kept;
mod new_file;
mod partial;
mod passing;
mod usage;

pub use copy::{Copied, CopyMethod};
pub use directory::{Directory, read_only};
pub use error::{FileError, at, is_no_space};
pub use kept::{KeptError, open_kept, read_kept, read_kept_text};
pub use new_file::{Existing, NewFile};
pub use passing::{Passing, kernel_copies_pay};
pub use usage::{Counted, Going, Usage};
