//! What the store and running operations know of what lies on the disk, and what becomes of it.

use std::collections::{HashMap, HashSet};

use kiln_cache::EntryKind;
use kiln_domain::storage::{CacheFacts, Fate, ImageFacts, KeptBy, PruneScope, StorageKind};
use kiln_domain::{Digest, ImageId, ImageState, Timestamp, VersionId};
use kiln_store::disk::{self, DirectoryRow, Uses};
use kiln_store::images::Custody;
use kiln_store::{ReadTransaction, StoreError};

use super::survey::{CacheFile, Thing, What};
use crate::needs::{Needed, Needs};

/// What is known at one moment.
#[derive(Debug)]
pub(super) struct Known {
    scope: PruneScope,
    directories: HashMap<VersionId, DirectoryRow>,
    fates: HashMap<ImageId, Fate>,
    /// What was made of the blobs and layers that were asked about, without the images that go.
    uses: Uses,
}

/// An image that goes.
#[derive(Clone, Debug)]
pub(super) struct GoingImage {
    pub(super) row: DirectoryRow,
    pub(super) versions: Vec<VersionId>,
}

impl Known {
    /// Asks the store, and decides about images. `cached` is what the files of the cache hold that
    /// will be judged.
    pub(super) fn read(
        tx: &ReadTransaction<'_>,
        scope: PruneScope,
        needs: &Needs,
        cached: &HashSet<Digest>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let held = disk::held_images(tx, now)?;
        let rows = disk::directories(tx)?;
        let needed: HashSet<ImageId> = rows
            .iter()
            .filter(|row| needs.has(Needed::Version(row.version_id)))
            .map(|row| row.image_id)
            .collect();
        let fates: HashMap<ImageId, Fate> = rows
            .iter()
            .map(|row| {
                let facts = ImageFacts {
                    state: row.state,
                    forgotten_at: row.deleted_at,
                    is_managed: row.custody == Custody::Managed,
                    is_held: held.contains(&row.image_id),
                    is_needed: needed.contains(&row.image_id),
                };
                (row.image_id, facts.fate(scope))
            })
            .collect();
        let mut uses = disk::uses(tx, cached)?;
        for row in &rows {
            if fates.get(&row.image_id).is_some_and(|fate| fate.goes()) {
                uses.without(tx, row.version_id)?;
            }
        }
        let directories = rows.into_iter().map(|row| (row.version_id, row)).collect();
        Ok(Self {
            scope,
            directories,
            fates,
            uses,
        })
    }

    /// Returns whose directory a thing is.
    pub(super) fn owner_of(&self, thing: &Thing) -> Option<&DirectoryRow> {
        match &thing.what {
            What::Version(id) => self.directories.get(id),
            _ => None,
        }
    }

    /// Lists the images that go, the one that was forgotten first ahead.
    pub(super) fn going(&self) -> Vec<GoingImage> {
        let mut going: HashMap<ImageId, GoingImage> = HashMap::new();
        for row in self.directories.values() {
            if self
                .fates
                .get(&row.image_id)
                .is_some_and(|fate| fate.goes())
            {
                let image = going.entry(row.image_id).or_insert_with(|| GoingImage {
                    row: row.clone(),
                    versions: Vec::new(),
                });
                image.versions.push(row.version_id);
            }
        }
        let mut going: Vec<GoingImage> = going.into_values().collect();
        going.sort_by_key(|image| (image.row.deleted_at, image.row.image_id));
        going
    }

    /// Tells what kind a thing is, and what becomes of it.
    pub(super) fn judge(&self, thing: &Thing, needs: &Needs) -> (StorageKind, Fate) {
        let kept = Fate::Stays(KeptBy::Rule);
        match &thing.what {
            What::Version(id) => match self.directories.get(id) {
                Some(row) => {
                    let kind = if row.state == ImageState::Deleted {
                        StorageKind::ForgottenImage
                    } else {
                        StorageKind::Image
                    };
                    (kind, self.fates.get(&row.image_id).copied().unwrap_or(kept))
                }
                // Published a moment ago, or adopted by the next start.
                None => (StorageKind::Staging, Fate::Stays(KeptBy::Operation)),
            },
            What::Unfinished => (StorageKind::Staging, Fate::Stays(KeptBy::Operation)),
            What::Kernel => (StorageKind::Kernel, kept),
            What::Database => (StorageKind::Database, kept),
            What::Foreign => (StorageKind::Foreign, kept),
            What::Base => {
                let facts = CacheFacts {
                    is_useful: true,
                    ..CacheFacts::default()
                };
                (StorageKind::Initrd, facts.fate(self.scope))
            }
            What::Entry(file) => self.judge_entry(file, needs),
        }
    }

    fn judge_entry(&self, file: &CacheFile, needs: &Needs) -> (StorageKind, Fate) {
        let (kind, is_of_image) = match &file.entry.kind {
            EntryKind::Blob(digest) => (StorageKind::Blob, self.uses.has_blob(digest)),
            EntryKind::Link(digest) => (StorageKind::Link, self.uses.has_blob(digest)),
            EntryKind::Pack(diff_id) => (StorageKind::Pack, self.uses.has_layer(diff_id)),
            EntryKind::Partial(_) => (StorageKind::Partial, false),
            EntryKind::Incoming => (StorageKind::Incoming, false),
            EntryKind::Foreign => return (StorageKind::Foreign, Fate::Stays(KeptBy::Rule)),
        };
        let is_needed = file
            .digest()
            .is_some_and(|digest| needs.has(Needed::Content(digest)));
        let facts = CacheFacts {
            is_needed: is_needed || file.is_being_written,
            is_of_image,
            is_useful: kind == StorageKind::Partial && !file.is_stale,
        };
        (kind, facts.fate(self.scope))
    }
}
