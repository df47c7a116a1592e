//! What makes way when a disk has too little room: partial downloads that nobody is writing.
//!
//! They are kept for who tries again within a day (`kiln-cache`), and are worth less than a pull
//! that would be refused.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kiln_cache::{Cache, CacheError, PartialName, Swept};

use crate::space::NoRoom;

/// Partial downloads take at most one part in so many of the disk that they lie on.
const SHARE: u64 = 10;

/// Removes partial downloads where their room is needed.
#[derive(Clone, Debug)]
pub struct Spare {
    cache: Cache,
}

impl Spare {
    /// Removes them from this cache.
    pub fn new(cache: Cache) -> Self {
        Self { cache }
    }

    /// Asks for room. Where there is too little, partial downloads make way, the oldest first, and
    /// it is asked once more. It blocks.
    pub(crate) fn room_for(&self, check: impl Fn() -> Result<(), NoRoom>) -> Result<(), NoRoom> {
        self.room_beside(&[], check)
    }

    /// Asks for room as [`Spare::room_for`] does; `wanted` stay.
    pub(crate) fn room_beside(
        &self,
        wanted: &[PartialName],
        check: impl Fn() -> Result<(), NoRoom>,
    ) -> Result<(), NoRoom> {
        let Err(lacking) = check() else { return Ok(()) };
        if self.make_way(&lacking, wanted) {
            check()
        } else {
            Err(lacking)
        }
    }

    /// Removes what is enough of the partial downloads, and tells whether it removed any: nothing goes
    /// where all of them would not be enough. It blocks.
    pub(crate) fn make_way(&self, lacking: &NoRoom, wanted: &[PartialName]) -> bool {
        let bytes = lacking.needed_bytes.saturating_sub(lacking.free_bytes);
        let evictable = || self.cache.evictable_bytes(wanted).unwrap_or_default();
        self.is_on_disk_of(&lacking.directory) && evictable() >= bytes && self.evict(bytes, wanted)
    }

    /// Removes partial downloads up to what lacks, also where all of them are not enough: for room
    /// that will probably be needed. It blocks.
    pub(crate) fn make_some_way(&self, lacking: &NoRoom, wanted: &[PartialName]) -> bool {
        let bytes = lacking.needed_bytes.saturating_sub(lacking.free_bytes);
        self.is_on_disk_of(&lacking.directory) && self.evict(bytes, wanted)
    }

    fn evict(&self, bytes: u64, wanted: &[PartialName]) -> bool {
        told(self.cache.evict_partials(bytes, wanted)).files > 0
    }

    fn is_on_disk_of(&self, directory: &Path) -> bool {
        let device = |path: &Path| path.metadata().map(|found| found.dev());
        match (device(directory), device(self.cache.directory())) {
            (Ok(lacking), Ok(cache)) => lacking == cache,
            _ => false,
        }
    }

    /// Removes the oldest partial downloads where all of them take more than their share of the
    /// disk. It blocks.
    pub(crate) fn trim(&self) {
        let Ok(volume) = rustix::fs::statvfs(self.cache.directory()) else {
            return;
        };
        // Some file systems of the user space have no size at all.
        if volume.f_blocks > 0 {
            let size_bytes = volume.f_blocks.saturating_mul(volume.f_frsize);
            told(self.cache.trim_partials(size_bytes / SHARE));
        }
    }
}

/// Notes what was removed, or why nothing could be: then whoever needs the room says so.
fn told(swept: Result<Swept, CacheError>) -> Swept {
    match swept {
        Ok(swept) => {
            if swept != Swept::default() {
                tracing::info!(?swept, "partial downloads made way");
            }
            swept
        }
        Err(error) => {
            tracing::warn!(%error, "partial downloads could not be removed");
            Swept::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use kiln_domain::Digest;

    use super::*;

    const LEFT_BYTES: u64 = 1 << 20;

    #[test]
    fn who_lacks_room_on_the_disk_of_the_cache_gets_that_of_partial_downloads() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let digest = Digest::of(b"broken off");
        let mut ingest = cache.resume(&digest, 2 * LEFT_BYTES).unwrap();
        ingest.write_all(&vec![7; 1 << 20]).unwrap();
        drop(ingest);
        let name = PartialName::of_blob(&digest);
        let spare = Spare::new(cache.clone());
        let lacking = |directory: &Path, bytes| NoRoom {
            directory: directory.to_owned(),
            needed_bytes: 100 * LEFT_BYTES + bytes,
            free_bytes: 100 * LEFT_BYTES,
        };
        let ask = |directory: &Path, bytes, wanted: &[PartialName]| {
            let asked = Cell::new(0);
            let check = || match asked.replace(asked.get() + 1) {
                0 => Err(lacking(directory, bytes)),
                _ => Ok(()),
            };
            spare.room_beside(wanted, check).is_ok()
        };

        let elsewhere = Path::new("/proc");
        assert!(!ask(elsewhere, 1, &[]));
        assert!(!ask(folder.path(), 1, std::slice::from_ref(&name)));
        assert!(!ask(folder.path(), 2 * LEFT_BYTES, &[]));
        assert_eq!(cache.partial_bytes(&name), LEFT_BYTES);
        assert!(ask(folder.path(), 1, &[]));

        assert_eq!(cache.partial_bytes(&name), 0);
    }
}
