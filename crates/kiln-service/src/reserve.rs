//! Room that is kept back beside the database: a disk that is full is freed by calls that need a little
//! of it themselves.
//!
//! ```text
//! plenty of room ──keep──▶ kept ──a call that frees finds the disk full──▶ given back
//!        ▲                                                                    │
//!        └────────────────── looked at after that call, and now and then ─────┘
//! ```

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::space::Space;

/// How much is kept back, in bytes: the records of many removals.
const KEPT_BYTES: u64 = 4 << 20;

/// How much must be free before so much of it is taken, in bytes.
const PLENTY_BYTES: u64 = 64 << 20;

/// The file that keeps the room.
#[derive(Clone, Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Names the file that belongs to a database; it is made by `keep`.
    pub fn beside(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push(".reserve");
        Self { path: name.into() }
    }

    /// Keeps the room back, where that is not done already and there is plenty. It blocks.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let is_kept = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.is_file() && found.len() == KEPT_BYTES);
        let has_plenty =
            Space::of_directory(folder).is_some_and(|space| space.free_bytes >= PLENTY_BYTES);
        if is_kept || !has_plenty {
            return Ok(());
        }
        self.give_back()?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)?;
        let taken = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, KEPT_BYTES);
        if let Err(error) = taken {
            // A file system that cannot promise room, or has none: then nothing is kept back.
            self.give_back()?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Gives the room back, and tells whether there was any. It blocks.
    pub(crate) fn give_back(&self) -> io::Result<bool> {
        match std::fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn room_is_kept_given_back_and_kept_again() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::beside(&folder.path().join("kiln.db"));
        let file = folder.path().join("kiln.db.reserve");

        for _ in 0..2 {
            reserve.keep().unwrap();
            reserve.keep().unwrap();

            let found = std::fs::metadata(&file).unwrap();
            assert!(found.blocks() * 512 >= KEPT_BYTES);
            assert_eq!(found.mode() & 0o777, 0o600);
            assert!(reserve.give_back().unwrap());
            assert!(!reserve.give_back().unwrap());
        }
    }
}
