//! What can go wrong with the files of the cache.

use std::io;
use std::path::{Path, PathBuf};

/// Why the cache could not read or write one of its files.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
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
        /// What was found.
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

impl CacheError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}

/// Says whether an operating system error means a full disk or an exceeded quota.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind())
}

/// Gives an operating system error the step and the path it happened at.
pub(crate) fn at<E: Into<io::Error>>(
    step: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> CacheError {
    move |source| CacheError::Io {
        step,
        path: path.as_ref().to_owned(),
        source: source.into(),
    }
}
