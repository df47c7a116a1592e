//! What can go wrong with artifact directories.

use std::io;
use std::path::{Path, PathBuf};

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
    /// Somebody else has made, or is making, this directory or file.
    #[error("{} exists already", path.display())]
    AlreadyExists {
        /// What exists.
        path: PathBuf,
    },
    /// The directory belongs to somebody else or can be written by others, so what is in it
    /// cannot be trusted.
    #[error("{} must belong to the daemon and be writable by it alone", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
    },
    /// Something that must be a regular file is a directory, a device, a pipe or a link.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// What it was to be copied to, or where it was found.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("cancelled while writing {}", path.display())]
    Cancelled {
        /// What was being written; the staging area removes it.
        path: PathBuf,
    },
    /// The operating system refused a step.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ArtifactError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io { source, .. } if kinds.contains(&source.kind()))
    }
}

/// Gives an operating system error the step and the path it happened at.
pub(crate) fn at<E: Into<io::Error>>(
    step: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> ArtifactError {
    move |source| ArtifactError::Io {
        step,
        path: path.as_ref().to_owned(),
        source: source.into(),
    }
}
