//! The directory of all artifact directories.
//!
//! Not here: what happens to one directory between its staging and its publication.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_files::{Counted, Directory, FileError, Going, Usage};
use rustix::fs::FileType;

use crate::error::ArtifactError;
use crate::names::{self, REMOVING_SUFFIX, STAGING_SUFFIX, UNANSWERED_SUFFIX};
use crate::staging::{Staging, check_name, unanswered_name};

/// The directory `<images>`, open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Artifacts {
    images: Arc<Directory>,
}

/// What a removal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The directory was there and is gone.
    Removed,
    /// There was none.
    Absent,
}

/// What stands in the directory of artifact directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it is.
    pub kind: StandingKind,
    /// Its name.
    pub name: OsString,
    /// What it takes, with all below it.
    pub usage: Usage,
}

/// What something there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandingKind {
    /// A complete directory of this id.
    Complete(String),
    /// One in the making, or on its way out.
    Unfinished,
    /// None of ours.
    Foreign,
}

/// What a sweep found and did. Each list is sorted.
#[derive(Debug, Default)]
pub struct Swept {
    /// Ids whose unfinished directories were removed.
    pub staging: Vec<String>,
    /// Ids whose removal was finished.
    pub removing: Vec<String>,
    /// Ids of complete directories the caller does not know; untouched, for the caller to decide.
    pub unknown: Vec<String>,
    /// Those of the unknown that nobody was told of: their maker never came to settle them.
    pub unanswered: Vec<String>,
    /// Names that are none of ours; untouched.
    pub foreign: Vec<OsString>,
    /// Leftovers that could not be removed; the next sweep tries again.
    pub failures: Vec<FileError>,
}

impl Artifacts {
    /// Opens `images`, and creates it first, for its owner only, when there is none.
    ///
    /// A directory of another user, or one that others may write, is refused.
    pub fn open(images: &Path) -> Result<Self, ArtifactError> {
        Ok(Self {
            images: Arc::new(Directory::open_or_create_private(images)?),
        })
    }

    /// Begins a new artifact directory. Two at once for one id are refused.
    pub fn stage(&self, id: &str) -> Result<Staging, ArtifactError> {
        check_id(id)?;
        if self.images.kind_of(id.as_ref())?.is_some() {
            let path = self.images.child_path(id);
            return Err(FileError::AlreadyExists { path }.into());
        }
        Staging::begin(self.clone(), id)
    }

    /// Returns where the published directory of `id` is, or would be.
    pub fn path(&self, id: &str) -> Result<PathBuf, ArtifactError> {
        check_id(id)?;
        Ok(self.images.child_path(id))
    }

    /// Opens the file `name` of a published directory for reading; `None` when the directory or
    /// the file is not there.
    pub fn open_file(&self, id: &str, name: &str) -> Result<Option<File>, ArtifactError> {
        check_id(id)?;
        check_name(name)?;
        if self.images.kind_of(id.as_ref())?.is_none() {
            return Ok(None);
        }
        let directory = self.images.open_child(id.as_ref())?;
        Ok(directory.open_file(name.as_ref())?)
    }

    /// Makes a file without a name on the disk of the images, for what is on its way out. It goes
    /// when it is closed.
    pub fn scratch(&self) -> Result<File, ArtifactError> {
        Ok(self.images.create_unnamed()?)
    }

    /// Tells whether a published directory of `id` is there.
    pub fn is_published(&self, id: &str) -> Result<bool, ArtifactError> {
        check_id(id)?;
        Ok(self.images.kind_of(id.as_ref())? == Some(FileType::Directory))
    }

    /// Tells whether `name` is a directory inside the published directory of `id`.
    pub fn has_directory(&self, id: &str, name: &str) -> Result<bool, ArtifactError> {
        check_name(name)?;
        if !self.is_published(id)? {
            return Ok(false);
        }
        let kind = self
            .images
            .open_child(id.as_ref())?
            .kind_of(name.as_ref())?;
        Ok(kind == Some(FileType::Directory))
    }

    /// Tells whether anything is published at all.
    pub fn is_empty(&self) -> Result<bool, ArtifactError> {
        for name in self.images.names()? {
            if let Some(Leftover::Complete(id)) = Leftover::of(&name)
                && self.is_published(id)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells how many bytes of the disk a published directory frees when it goes, in whole blocks, after
    /// what is in `going` already; none where there is no such directory.
    pub fn freed_bytes(&self, id: &str, going: &mut Going) -> Result<u64, ArtifactError> {
        check_id(id)?;
        Ok(self.images.freed_bytes(id.as_ref(), going)?)
    }

    /// Tells what everything here takes, in the order of names. What `counted` has seen under another
    /// name takes nothing more.
    pub fn survey(&self, counted: &mut Counted) -> Result<Vec<Standing>, ArtifactError> {
        let mut standing = Vec::new();
        for name in self.images.names()? {
            let kind = match Leftover::of(&name) {
                Some(Leftover::Complete(id)) => StandingKind::Complete(id.to_owned()),
                Some(Leftover::Staging(_) | Leftover::Removing(_) | Leftover::Unanswered(_)) => {
                    StandingKind::Unfinished
                }
                None => StandingKind::Foreign,
            };
            let usage = self.images.usage_of(&name, counted)?;
            standing.push(Standing { kind, name, usage });
        }
        Ok(standing)
    }

    /// Tells what a published directory takes; nothing where there is none.
    pub fn usage_of(&self, id: &str, counted: &mut Counted) -> Result<Usage, ArtifactError> {
        check_id(id)?;
        Ok(self.images.usage_of(id.as_ref(), counted)?)
    }

    /// Removes a published directory. It is gone under its name, durably, before its files are
    /// deleted; a crash in between is finished by the sweep.
    pub fn remove(&self, id: &str) -> Result<Removal, ArtifactError> {
        check_id(id)?;
        let aside = format!("{id}{REMOVING_SUFFIX}");
        if self.images.kind_of(id.as_ref())?.is_none() {
            return Ok(Removal::Absent);
        }
        // An earlier removal of the same id may have been cut short.
        self.images.remove(aside.as_ref())?;
        self.images.rename(id, &aside)?;
        self.images.sync()?;
        self.images.remove(aside.as_ref())?;
        self.images.remove(unanswered_name(id).as_ref())?;
        Ok(Removal::Removed)
    }

    /// Notes, durably, that somebody may know of a published directory: from here on no sweep
    /// calls it unanswered.
    pub fn settle(&self, id: &str) -> Result<(), ArtifactError> {
        check_id(id)?;
        self.images.remove(unanswered_name(id).as_ref())?;
        Ok(self.images.sync()?)
    }

    /// Removes what a crash left, for use at start-up before anything is staged.
    ///
    /// `is_known` says whether the store has a version with this id. Only the holder of the lock
    /// on the state directory may call this: it would eat the staging areas of a live daemon.
    pub fn sweep(&self, is_known: &dyn Fn(&str) -> bool) -> Result<Swept, ArtifactError> {
        let mut swept = Swept::default();
        let mut notes = Vec::new();
        for name in self.images.names()? {
            let kind = self.images.kind_of(&name)?;
            match Leftover::of(&name) {
                Some(Leftover::Staging(id)) => self
                    .clear(&name, id, &mut swept.failures)
                    .map_or((), |id| swept.staging.push(id)),
                Some(Leftover::Removing(id)) => self
                    .clear(&name, id, &mut swept.failures)
                    .map_or((), |id| swept.removing.push(id)),
                Some(Leftover::Unanswered(id)) => notes.push(id.to_owned()),
                Some(Leftover::Complete(id)) if kind == Some(FileType::Directory) => {
                    if !is_known(id) {
                        swept.unknown.push(id.to_owned());
                    }
                }
                _ => swept.foreign.push(name),
            }
        }
        for id in notes {
            // `unknown` is sorted, for the names are.
            if swept.unknown.binary_search(&id).is_ok() {
                swept.unanswered.push(id);
            } else {
                // Settled by its row, or its directory is gone: the note says nothing any more.
                self.clear(unanswered_name(&id).as_ref(), &id, &mut swept.failures);
            }
        }
        self.images.sync()?;
        Ok(swept)
    }

    /// Removes one leftover and returns its id, or notes why it stayed.
    fn clear(&self, name: &OsStr, id: &str, failures: &mut Vec<FileError>) -> Option<String> {
        match self.images.remove(name) {
            Ok(()) => Some(id.to_owned()),
            Err(error) => {
                failures.push(error);
                None
            }
        }
    }

    pub(crate) fn images(&self) -> &Directory {
        &self.images
    }
}

/// What a name below `<images>` says about itself.
enum Leftover<'a> {
    Staging(&'a str),
    Removing(&'a str),
    Unanswered(&'a str),
    Complete(&'a str),
}

impl<'a> Leftover<'a> {
    fn of(name: &'a OsStr) -> Option<Self> {
        let name = name.to_str()?;
        let (id, make): (&str, fn(&'a str) -> Self) =
            if let Some(id) = name.strip_suffix(STAGING_SUFFIX) {
                (id, Self::Staging)
            } else if let Some(id) = name.strip_suffix(REMOVING_SUFFIX) {
                (id, Self::Removing)
            } else if let Some(id) = name.strip_suffix(UNANSWERED_SUFFIX) {
                (id, Self::Unanswered)
            } else {
                (name, Self::Complete)
            };
        names::is_version_id(id).then(|| make(id))
    }
}

fn check_id(id: &str) -> Result<(), ArtifactError> {
    if names::is_version_id(id) {
        Ok(())
    } else {
        Err(ArtifactError::InvalidId { id: id.to_owned() })
    }
}

#[cfg(test)]
mod tests;
