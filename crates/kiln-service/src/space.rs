//! Whether the disks have room for a pull, asked before it is fetched and before it is built.
//!
//! Nothing here reserves anything: two pulls may both be told that they fit, and the second then
//! finds the disk full. What is asked for is a lower bound, so that no pull is refused that would have
//! fitted; only of blobs, and of the data of a root filesystem that comes built, it is assumed that no
//! file system compresses them.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_cache::PartialName;
use kiln_domain::{ByteSize, Digest};
use rustix::fs::{StatFs, StatVfs};

/// What stays free, in bytes: the database folds its log back every 1,000 pages of 4 KiB, and must
/// be able to record how a pull ended.
pub(crate) const RESERVE_BYTES: u64 = 4 << 20;

/// What a directory's file system had free at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// The directory, for messages.
    pub directory: PathBuf,
    /// Bytes that the daemon may still write.
    pub free_bytes: u64,
    /// Which file system it is.
    pub device: u64,
    /// How it stores what is written.
    pub storing: Storing,
}

/// How a file system stores what is written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storing {
    /// Every byte, as often as it is written: the ext family and tmpfs.
    Everything,
    /// Every byte, but copies within it may share one: XFS.
    SharesCopies,
    /// It may compress, share, or be the face of another: nothing can be said ahead.
    Unknown,
}

/// What a fetch will write at least: the blobs that are not there.
///
/// Of what they unpack to nothing is certain: zeros become holes, and a compressed stream may hold
/// less than its own length, in stored blocks, empty members and headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchNeeds {
    /// Where the cache is; `None` says that nothing is known.
    pub cache: Option<Space>,
    /// Bytes of blobs that are not there.
    pub blob_bytes: u64,
    /// What earlier downloads may have left of them: removing it would make no room.
    pub partials: Vec<PartialName>,
}

/// A disk has less room than a pull needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} needs at least {needed_bytes} bytes ({}) and has {free_bytes} ({}) free",
    directory.display(), ByteSize(*needed_bytes), ByteSize(*free_bytes)
)]
pub struct NoRoom {
    /// Where.
    pub directory: PathBuf,
    /// What is needed at least, the reserve included.
    pub needed_bytes: u64,
    /// What there is.
    pub free_bytes: u64,
}

impl Space {
    /// Measures the file system of a directory; `None` where it does not tell. It blocks.
    pub(crate) fn of_directory(directory: &Path) -> Option<Self> {
        let volume = rustix::fs::statvfs(directory).ok()?;
        let kind = rustix::fs::statfs(directory).ok()?;
        let found = rustix::fs::stat(directory).ok()?;
        Self::new(directory, &volume, &kind, found.st_dev)
    }

    /// Measures the file system of an open file that lies in `directory`. It blocks.
    pub(crate) fn of_file(file: impl AsFd, directory: &Path) -> Option<Self> {
        let volume = rustix::fs::fstatvfs(&file).ok()?;
        let kind = rustix::fs::fstatfs(&file).ok()?;
        let found = rustix::fs::fstat(&file).ok()?;
        Self::new(directory, &volume, &kind, found.st_dev)
    }

    fn new(directory: &Path, volume: &StatVfs, kind: &StatFs, device: u64) -> Option<Self> {
        // Some file systems of the user space have no size at all.
        if volume.f_blocks == 0 {
            return None;
        }
        // Blocks kept back for root are the daemon's, too, where it is root.
        let blocks = if rustix::process::geteuid().is_root() {
            volume.f_bfree
        } else {
            volume.f_bavail
        };
        Some(Self {
            directory: directory.to_owned(),
            free_bytes: blocks.saturating_mul(volume.f_frsize),
            device,
            storing: storing(kind),
        })
    }

    /// Fails unless `bytes` and the reserve fit.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), NoRoom> {
        let needed_bytes = bytes.saturating_add(RESERVE_BYTES);
        if needed_bytes <= self.free_bytes {
            return Ok(());
        }
        Err(NoRoom {
            directory: self.directory.clone(),
            needed_bytes,
            free_bytes: self.free_bytes,
        })
    }

    /// Tells whether a copy from a file of `device` takes room of its own.
    pub(crate) fn keeps_copies_from(&self, device: u64) -> bool {
        match self.storing {
            Storing::Everything => true,
            Storing::SharesCopies => self.device != device,
            Storing::Unknown => false,
        }
    }
}

impl FetchNeeds {
    /// Fails unless the cache has room for the blobs that are fetched.
    pub(crate) fn check(&self) -> Result<(), NoRoom> {
        self.check_times(1)
    }

    /// Fails unless the cache has room for so many times the blobs.
    pub(crate) fn check_times(&self, times: u64) -> Result<(), NoRoom> {
        match &self.cache {
            Some(cache) => cache.check(self.blob_bytes.saturating_mul(times)),
            None => Ok(()),
        }
    }

    /// Fails unless `images` has room for `written_bytes`, and for the blobs where they are kept on
    /// the same disk.
    pub(crate) fn check_with(&self, images: &Space, written_bytes: u64) -> Result<(), NoRoom> {
        let shared = self
            .cache
            .as_ref()
            .filter(|cache| cache.device == images.device);
        let blob_bytes = shared.map_or(0, |_| self.blob_bytes);
        images.check(written_bytes.saturating_add(blob_bytes))
    }
}

/// Numbers of file systems in statfs(2).
fn storing(kind: &StatFs) -> Storing {
    const EXT: i64 = 0xEF53;
    const TMPFS: i64 = 0x0102_1994;
    const XFS: i64 = 0x5846_5342;
    match kind.f_type {
        EXT | TMPFS => Storing::Everything,
        XFS => Storing::SharesCopies,
        _ => Storing::Unknown,
    }
}

/// Layers that are being fetched or decoded: what they write is on the disk in part, and belongs
/// to all who wait for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    layers: Arc<Mutex<HashMap<Digest, u32>>>,
}

/// One layer in flight, until this is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    in_flight: InFlight,
    diff_id: Digest,
}

impl InFlight {
    pub(crate) fn begin(&self, diff_id: Digest) -> Flight {
        *self.lock().entry(diff_id).or_default() += 1;
        Flight {
            in_flight: self.clone(),
            diff_id,
        }
    }

    pub(crate) fn layers(&self) -> Vec<Digest> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, u32>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut layers = self.in_flight.lock();
        if let Some(count) = layers.get_mut(&self.diff_id) {
            *count -= 1;
            if *count == 0 {
                layers.remove(&self.diff_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn space(free_mib: u64, device: u64, storing: Storing) -> Space {
        Space {
            directory: format!("/disk-{device}").into(),
            free_bytes: free_mib * MIB,
            device,
            storing,
        }
    }

    #[test]
    fn a_copy_takes_room_where_nothing_is_shared() {
        use Storing::{Everything, SharesCopies, Unknown};
        for (storing, from_here, from_elsewhere) in [
            (Everything, true, true),
            (SharesCopies, false, true),
            (Unknown, false, false),
        ] {
            let state = space(1, 1, storing);

            let keeps = [1, 2].map(|device| state.keeps_copies_from(device));

            assert_eq!(keeps, [from_here, from_elsewhere], "{storing:?}");
        }
    }

    #[test]
    fn blobs_and_what_they_unpack_to_have_to_fit_together_on_one_disk() {
        let needs = |device| FetchNeeds {
            cache: Some(space(100, device, Storing::Everything)),
            blob_bytes: 50 * MIB,
            partials: Vec::new(),
        };
        let images = space(100, 1, Storing::Everything);

        assert_eq!(needs(2).check_with(&images, 96 * MIB), Ok(()));
        assert!(needs(2).check_with(&images, 97 * MIB).is_err());
        assert_eq!(needs(1).check_with(&images, 46 * MIB), Ok(()));
        assert!(needs(1).check_with(&images, 47 * MIB).is_err());
        assert!(FetchNeeds::default().check_with(&images, u64::MAX).is_err());
    }

    #[test]
    fn a_layer_is_in_flight_until_the_last_one_has_landed() {
        let in_flight = InFlight::default();
        let layer = Digest::of(b"layer");

        let first = in_flight.begin(layer);
        let second = in_flight.begin(layer);
        drop(first);
        assert_eq!(in_flight.layers(), [layer]);
        drop(second);

        assert_eq!(in_flight.layers(), []);
    }

    #[test]
    fn a_shortage_says_where_and_how_much() {
        let refused = space(1, 1, Storing::Everything).check(MIB).err();

        let text = refused.map(|no_room| no_room.to_string());
        let want = "/disk-1 needs at least 5242880 bytes (5.0 MiB) and has 1048576 (1.0 MiB) free";
        assert_eq!(text.as_deref(), Some(want));
    }
}
