//! Where large bytes wait for a moment, in files without names.
//!
//! Not in `/tmp`, which is memory on many hosts: beside what is made of them, or where the user keeps
//! caches. `TMPDIR` is the user's word and comes first.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use kiln_domain::ByteSize;

use crate::surroundings::Surroundings;

/// Where they wait when there is no home.
const WITHOUT_HOME: &str = "/var/tmp";

/// A directory with room for them.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    /// What helps where there is too little room.
    remedy: &'static str,
}

/// There is less room than is needed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} needs up to {} and has {} free: {remedy}",
    folder.display(), ByteSize(*needed_bytes), ByteSize(*free_bytes)
)]
struct NoRoom {
    folder: PathBuf,
    remedy: &'static str,
    needed_bytes: u64,
    free_bytes: u64,
}

impl Scratch {
    /// Returns the user's, made if need be.
    pub(crate) fn of_user(surroundings: &Surroundings) -> io::Result<Self> {
        let at = |folder| Self {
            folder,
            remedy: "name another directory with TMPDIR",
        };
        if let Some(folder) = surroundings.tmpdir.clone() {
            return Ok(at(folder));
        }
        let home = surroundings.home.as_ref().map(|home| home.join(".cache"));
        let Some(caches) = surroundings.xdg_cache_home.clone().or(home) else {
            return Ok(at(WITHOUT_HOME.into()));
        };
        let folder = caches.join("kiln");
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder)?;
        Ok(at(folder))
    }

    /// Returns the directory that a file is to be made in.
    pub(crate) fn beside(path: &Path) -> Self {
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        Self {
            folder,
            remedy: "free some, or make the file elsewhere",
        }
    }

    /// Makes a file that may get so long; one that would not fit is refused.
    pub(crate) fn file(&self, needed_bytes: u64) -> io::Result<File> {
        let volume = rustix::fs::statvfs(&self.folder)?;
        let free_bytes = volume.f_bavail.saturating_mul(volume.f_frsize);
        // Some file systems of the user space have no size at all.
        if volume.f_blocks > 0 && free_bytes < needed_bytes {
            let no_room = NoRoom {
                folder: self.folder.clone(),
                remedy: self.remedy,
                needed_bytes,
                free_bytes,
            };
            return Err(io::Error::new(io::ErrorKind::StorageFull, no_room));
        }
        tempfile::tempfile_in(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_of_the_user_are_the_place_and_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            home: Some(folder.path().to_owned()),
            ..Surroundings::default()
        };

        let scratch = Scratch::of_user(&surroundings).unwrap();

        assert_eq!(scratch.folder, folder.path().join(".cache/kiln"));
        assert!(scratch.folder.is_dir());
        let named = Surroundings {
            tmpdir: Some("/named".into()),
            ..surroundings
        };
        let scratch = Scratch::of_user(&named).unwrap();
        assert_eq!(scratch.folder, Path::new("/named"));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_said_where() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::beside(&folder.path().join("image.tar"));

        drop(scratch.file(1).unwrap());
        let refused = scratch.file(u64::MAX).unwrap_err();

        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        let text = refused.to_string();
        assert!(
            text.contains(&folder.path().display().to_string()),
            "{text}"
        );
        assert!(text.contains("free"), "{text}");
    }
}
