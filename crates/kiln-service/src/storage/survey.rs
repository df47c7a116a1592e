//! Everything on the disk that Kiln looks after, thing by thing. It blocks.
//!
//! Files come and go meanwhile, which is no error; what keeps a thing is not asked here.

use std::collections::HashMap;
use std::path::PathBuf;

use kiln_artifacts::{ArtifactError, Artifacts, StandingKind};
use kiln_cache::{Cache, Entry, EntryKind};
use kiln_domain::{Digest, Timestamp, VersionId};
use kiln_files::{Counted, Directory, Going, Usage};
use kiln_kernel::{BaseInitrds, Catalogue, CatalogueError, FileError};

use crate::blocking::Pool;

/// What the database and its copies are called begins so.
const DATABASE: &str = "kiln.db";

/// The directories that the daemon keeps things in, and the threads that look into them.
#[derive(Clone, Debug)]
pub struct StorageFiles {
    /// Where the database is.
    pub state: PathBuf,
    /// Versions of images.
    pub artifacts: Artifacts,
    /// Kernels.
    pub catalogue: Catalogue,
    /// Blobs and packs.
    pub cache: Cache,
    /// Bases of initrds.
    pub bases: BaseInitrds,
    /// What looks and removes.
    pub pool: Pool,
}

/// One thing on the disk.
#[derive(Clone, Debug)]
pub(super) struct Thing {
    pub(super) what: What,
    /// What it is called.
    pub(super) item: String,
    /// Where it lies.
    pub(super) path: PathBuf,
    pub(super) usage: Usage,
    /// How many bytes go with it; for a version see [`StorageFiles::freed_by`].
    pub(super) frees_bytes: u64,
}

/// What a thing is.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// The directory of a version; nobody but the store knows whose.
    Version(VersionId),
    /// A directory on its way in or out.
    Unfinished,
    Kernel,
    /// The base of initrds with this name.
    Base,
    Entry(CacheFile),
    Database,
    /// None of ours.
    Foreign,
}

/// A file of the cache, and what its neighbours say of it.
#[derive(Clone, Debug)]
pub(super) struct CacheFile {
    pub(super) entry: Entry,
    pub(super) is_being_written: bool,
    pub(super) is_stale: bool,
}

/// Why the disk could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum SurveyError {
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    #[error(transparent)]
    Kernels(#[from] CatalogueError),
    /// Of the cache, the bases or the state directory.
    #[error(transparent)]
    Files(#[from] FileError),
}

impl StorageFiles {
    /// Returns where versions are.
    fn versions(&self) -> PathBuf {
        self.state.join("images")
    }

    /// Looks at everything.
    pub(super) fn survey(&self, now: Timestamp) -> Result<Vec<Thing>, SurveyError> {
        let mut counted = Counted::default();
        let mut things = Vec::new();
        // Modules that images share with a kernel count for the kernel.
        for standing in self.catalogue.survey(&mut counted)? {
            let item = standing.name.to_string_lossy().into_owned();
            let what = match (standing.is_kernel, item.starts_with('.')) {
                (true, _) => What::Kernel,
                (false, true) => What::Unfinished,
                (false, false) => What::Foreign,
            };
            let path = self.catalogue.path().join(&item);
            things.push(Thing::new(what, item, path, standing.usage));
        }
        for standing in self.artifacts.survey(&mut counted)? {
            let what = match standing.kind {
                StandingKind::Complete(id) => id.parse().map_or(What::Foreign, What::Version),
                StandingKind::Unfinished => What::Unfinished,
                StandingKind::Foreign => What::Foreign,
            };
            let item = standing.name.to_string_lossy().into_owned();
            let path = self.versions().join(&item);
            things.push(Thing::new(what, item, path, standing.usage));
        }
        for (item, usage) in self.bases.survey()? {
            let path = self.bases.path().join(&item);
            things.push(Thing::new(What::Base, item, path, usage));
        }
        let entries = self.cache.survey()?.into_iter();
        things.extend(entries.map(|entry| self.cached(entry, now)));
        self.add_database(&mut things, &mut counted)?;
        Ok(things)
    }

    /// Tells how many bytes go with each of these directories when they go one after the other: what
    /// several of them have goes with the last.
    pub(super) fn freed_by(
        &self,
        versions: impl IntoIterator<Item = VersionId>,
    ) -> Result<HashMap<VersionId, u64>, SurveyError> {
        let mut going = Going::default();
        let freed = versions.into_iter().map(|id| {
            let bytes = self.artifacts.freed_bytes(&id.to_string(), &mut going)?;
            Ok((id, bytes))
        });
        freed.collect()
    }

    /// Looks at a file of the cache.
    pub(super) fn cached(&self, entry: Entry, now: Timestamp) -> Thing {
        let file = entry.path.file_name().unwrap_or_default();
        let item = match entry.kind {
            EntryKind::Blob(digest) | EntryKind::Pack(digest) | EntryKind::Link(digest) => {
                digest.to_string()
            }
            EntryKind::Partial(_) | EntryKind::Incoming | EntryKind::Foreign => {
                file.to_string_lossy().into_owned()
            }
        };
        Thing {
            item,
            path: entry.path.clone(),
            usage: entry.usage,
            frees_bytes: entry.frees_bytes(),
            what: What::Entry(CacheFile {
                is_being_written: self.cache.is_being_written(&entry),
                is_stale: self.cache.is_stale(&entry, now),
                entry,
            }),
        }
    }

    /// Adds the database, whose files nobody else may open, and its copies.
    fn add_database(
        &self,
        things: &mut Vec<Thing>,
        counted: &mut Counted,
    ) -> Result<(), SurveyError> {
        let state = Directory::open_through_links(&self.state)?;
        for name in state.names()? {
            let item = name.to_string_lossy().into_owned();
            if item.starts_with(DATABASE) {
                let usage = state.usage_of(&name, counted)?;
                let path = self.state.join(&item);
                things.push(Thing::new(What::Database, item, path, usage));
            }
        }
        Ok(())
    }
}

impl Thing {
    fn new(what: What, item: String, path: PathBuf, usage: Usage) -> Self {
        Self {
            what,
            item,
            path,
            usage,
            frees_bytes: usage.disk_bytes,
        }
    }

    /// What the store knows a file of the cache by.
    pub(super) fn digest(&self) -> Option<Digest> {
        match &self.what {
            What::Entry(file) => file.digest(),
            _ => None,
        }
    }
}

impl CacheFile {
    /// What the store and running operations know it by.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self.entry.kind {
            EntryKind::Blob(digest) | EntryKind::Pack(digest) | EntryKind::Link(digest) => {
                Some(digest)
            }
            EntryKind::Partial(digest) => digest,
            EntryKind::Incoming | EntryKind::Foreign => None,
        }
    }
}
