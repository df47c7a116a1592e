//! The cache directory: what is in it, and how it is found, counted and deleted.
//!
//! Not here: how a blob or a pack gets in.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kiln_domain::Digest;

use crate::error::{CacheError, at};
use crate::files;
use crate::ingest::Ingest;
use crate::pack::PendingPack;

/// Bytes of one unit in which the kernel counts allocated space (`stat(2)`).
const STAT_BLOCK_BYTES: u64 = 512;

/// The cache directory. Cheap to clone; holds nothing open.
#[derive(Clone, Debug)]
pub struct Cache {
    blobs: PathBuf,
    packs: PathBuf,
    ingest: PathBuf,
}

/// A blob that was verified when it came in, open for reading from its start.
#[derive(Debug)]
pub struct Blob {
    /// The open file. It stays readable when the blob is discarded meanwhile.
    pub file: File,
    /// Its length in bytes.
    pub size_bytes: u64,
}

/// What the cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of blobs.
    pub blobs: u64,
    /// Length of all blobs, in bytes.
    pub blob_bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// Space that the packs take on the disk, holes not counted, in bytes.
    pub pack_bytes: u64,
}

/// Whether there was something to discard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// It was there and is gone.
    Removed,
    /// There was nothing.
    Absent,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Number of unfinished files.
    pub files: u64,
    /// Space that they took, in bytes.
    pub bytes: u64,
}

impl Cache {
    /// Opens the cache in `directory`, and creates what is missing, for its owner only.
    ///
    /// A directory of another user, or one that others may write, is refused: what is in the
    /// cache is believed by its name.
    pub fn open(directory: &Path) -> Result<Self, CacheError> {
        files::create_directory(directory)?;
        // The directory itself may be a link, to a larger disk for instance. Nothing below may.
        let directory = directory.canonicalize().map_err(at("open", directory))?;
        let cache = Self {
            blobs: directory.join("blobs").join("sha256"),
            packs: directory.join("packs"),
            ingest: directory.join("ingest"),
        };
        for path in [&cache.blobs, &cache.packs, &cache.ingest] {
            files::create_directory(path)?;
        }
        let blobs = directory.join("blobs");
        for path in [
            &directory,
            &blobs,
            &cache.blobs,
            &cache.packs,
            &cache.ingest,
        ] {
            files::check_owner(path)?;
        }
        Ok(cache)
    }

    /// Opens a blob; `None` when the cache does not hold it.
    ///
    /// The content was verified when it came in. Whoever reads it hashes it again, and calls
    /// [`Cache::discard_blob`] when the disk has lost it.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>, CacheError> {
        let opened = files::open_regular(&self.blob_path(digest))?;
        Ok(opened.map(|(file, metadata)| Blob {
            file,
            size_bytes: metadata.len(),
        }))
    }

    /// Begins to take in a blob that must turn out to be `digest` and `size_bytes` long.
    ///
    /// Several at once for one digest are fine: the first to commit gives the blob, the others
    /// are dropped.
    pub fn ingest(&self, digest: &Digest, size_bytes: u64) -> Result<Ingest, CacheError> {
        Ingest::begin(&self.ingest, self.blob_path(digest), digest, size_bytes)
    }

    /// Opens the pack of a layer for reading; `None` when the cache does not hold it.
    ///
    /// A pack is not synced, so after a power cut it may have a name and no content: its footer
    /// decides whether it is believed, and [`Cache::discard_pack`] is for one that is not.
    pub fn pack(&self, diff_id: &Digest) -> Result<Option<File>, CacheError> {
        let opened = files::open_regular(&self.pack_path(diff_id))?;
        Ok(opened.map(|(file, _)| file))
    }

    /// Begins a new pack, whose diff id need not be known yet.
    pub fn new_pack(&self) -> Result<PendingPack, CacheError> {
        PendingPack::begin(self)
    }

    /// Deletes a blob. Whoever has it open keeps it.
    pub fn discard_blob(&self, digest: &Digest) -> Result<Discarded, CacheError> {
        files::remove_file(&self.blob_path(digest))
    }

    /// Deletes a pack. Whoever has it open keeps it.
    pub fn discard_pack(&self, diff_id: &Digest) -> Result<Discarded, CacheError> {
        files::remove_file(&self.pack_path(diff_id))
    }

    /// Removes everything that is still on its way in.
    ///
    /// For start-up, by the holder of the lock on the state directory only: in a running daemon
    /// it would cut off downloads.
    pub fn sweep(&self) -> Result<Swept, CacheError> {
        let mut swept = Swept::default();
        files::for_each_file(&self.ingest, |name, metadata| {
            if files::remove_file(&self.ingest.join(name))? == Discarded::Removed {
                swept.files += 1;
                swept.bytes += metadata.blocks() * STAT_BLOCK_BYTES;
            }
            Ok(())
        })?;
        Ok(swept)
    }

    /// Counts what the cache holds. It looks at every file, so it is no call for every request.
    pub fn usage(&self) -> Result<Usage, CacheError> {
        let mut usage = Usage::default();
        files::for_each_file(&self.blobs, |_, metadata| {
            usage.blobs += 1;
            usage.blob_bytes += metadata.len();
            Ok(())
        })?;
        files::for_each_file(&self.packs, |_, metadata| {
            usage.packs += 1;
            usage.pack_bytes += metadata.blocks() * STAT_BLOCK_BYTES;
            Ok(())
        })?;
        Ok(usage)
    }

    pub(crate) fn ingest_directory(&self) -> &Path {
        &self.ingest
    }

    pub(crate) fn pack_path(&self, diff_id: &Digest) -> PathBuf {
        self.packs.join(format!("{}.pack", diff_id.to_hex()))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.to_hex())
    }
}

#[cfg(test)]
mod tests;
