//! What can go wrong with artifact directories.

use kiln_files::FileError;

/// Why an artifact directory could not be prepared, published or removed.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The id is not a version id: a mistake of the caller, nothing was touched.
    #[error("{id:?} is not a version id")]
    InvalidId {
        /// The id, as given.
        id: String,
    },
    /// The name may not name a file of an artifact directory: a mistake of the caller.
    #[error("{name:?} cannot name a file of an image")]
    InvalidName {
        /// The name, as given.
        name: String,
    },
    /// A file or directory could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ArtifactError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::File(error) if error.is_no_space())
    }
}
