//! What can go wrong with files and directories of ours.

use std::io;
use std::path::{Path, PathBuf};

/// Why a file or directory of ours could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Somebody else has made, or is making, this file or directory.
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
        /// What was being written.
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

impl FileError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}

/// Gives an operating system error the step and the path it happened at.
pub fn at<E: Into<io::Error>>(
    step: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> FileError {
    move |source| FileError::Io {
        step,
        path: path.as_ref().to_owned(),
        source: source.into(),
    }
}

/// Says whether an operating system error means a full disk or an exceeded quota.
pub fn is_no_space(error: &io::Error) -> bool {
    [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_full_disk_is_recognised() {
        for (errno, want) in [
            (Errno::NOSPC, true),
            (Errno::DQUOT, true),
            (Errno::IO, false),
        ] {
            assert_eq!(at("write", "x")(errno).is_no_space(), want, "{errno}");
        }
    }
}
