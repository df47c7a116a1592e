//! What can go wrong with the files of the cache: what can go wrong with any file of ours.

pub use kiln_files::FileError as CacheError;
pub(crate) use kiln_files::at;
