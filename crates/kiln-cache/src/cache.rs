//! The cache directory: what is in it, and how it is found, counted and deleted.
//!
//! Not here: how a blob or a pack gets in.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kiln_domain::{Digest, Timestamp};

use crate::error::{CacheError, at};
use crate::files;
use crate::ingest::Ingest;
use crate::pack::PendingPack;
use crate::partial::{self, Partial, PartialName};

/// Longest content of a link, in bytes: a digest's text and something that would make it none.
const MAX_LINK_BYTES: u64 = 80;

/// Bytes of one unit in which the kernel counts allocated space (`stat(2)`).
pub(crate) const STAT_BLOCK_BYTES: u64 = 512;

/// The cache directory. Cheap to clone; holds nothing open.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
    blobs: PathBuf,
    packs: PathBuf,
    /// Packs of an earlier boot: a power cut may have torn them.
    unverified: PathBuf,
    /// Holds the boot that the packs were written or verified in.
    boot_id: PathBuf,
    /// `<blob's hex>` holding the diff id that the blob was seen to unpack to.
    links: PathBuf,
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

/// A pack of the cache, open for reading.
#[derive(Debug)]
pub enum CachedPack {
    /// Written, or verified, since this machine booted: what the footer says holds.
    Verified(File),
    /// Written before this machine booted. Packs are not synced, so its bodies have to be compared
    /// with its sums once; then [`Cache::trust_pack`] is for it, or [`Cache::discard_pack`].
    Unverified(File),
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

impl Swept {
    fn count(&mut self, metadata: &Metadata) {
        self.files += 1;
        self.bytes += metadata.blocks() * STAT_BLOCK_BYTES;
    }
}

/// A partial blob that was found.
struct Left {
    name: OsString,
    metadata: Metadata,
}

impl Left {
    fn disk_bytes(&self) -> u64 {
        self.metadata.blocks() * STAT_BLOCK_BYTES
    }
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
            unverified: directory.join("unverified"),
            boot_id: directory.join("boot-id"),
            links: directory.join("links"),
            ingest: directory.join("ingest"),
            directory,
        };
        for path in [
            &cache.blobs,
            &cache.packs,
            &cache.unverified,
            &cache.links,
            &cache.ingest,
        ] {
            files::create_directory(path)?;
        }
        let blobs = cache.directory.join("blobs");
        for path in [
            &cache.directory,
            &blobs,
            &cache.blobs,
            &cache.packs,
            &cache.unverified,
            &cache.links,
            &cache.ingest,
        ] {
            files::check_owner(path)?;
        }
        cache.distrust_packs_of_other_boots()?;
        Ok(cache)
    }

    /// Returns where the cache is, links resolved.
    pub fn directory(&self) -> &Path {
        &self.directory
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

    /// Begins to take in a blob as [`Cache::ingest`] does, and goes on from what an earlier
    /// download left of it. What this one leaves is kept for a day, unless it is little, turned
    /// out to be wrong, or could not be written.
    ///
    /// Where somebody else is writing what was left, it begins from nothing, and leaves nothing.
    pub fn resume(&self, digest: &Digest, size_bytes: u64) -> Result<Ingest, CacheError> {
        self.resume_as(&PartialName::of_blob(digest), digest, size_bytes)
    }

    /// Begins as [`Cache::resume`] does, from what has another name.
    pub fn resume_as(
        &self,
        name: &PartialName,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<Ingest, CacheError> {
        match Partial::open(&self.partial_path(name), size_bytes)? {
            Some(partial) => Ingest::go_on(partial, self.blob_path(digest), digest, size_bytes),
            None => self.ingest(digest, size_bytes),
        }
    }

    /// Returns how many bytes of a blob an earlier download left, or a running one has.
    pub fn partial_bytes(&self, name: &PartialName) -> u64 {
        partial::length_at(&self.partial_path(name))
    }

    /// Removes what an earlier download left, unless somebody is writing it.
    pub fn discard_partial(&self, name: &PartialName) -> Result<Discarded, CacheError> {
        let path = self.partial_path(name);
        // Opening one that is not there would make it.
        if path.exists() && partial::remove_unused(&path)? {
            return Ok(Discarded::Removed);
        }
        Ok(Discarded::Absent)
    }

    /// Makes a file without a name on the disk of the cache, for what is on its way through. It
    /// goes when it is closed.
    pub fn scratch(&self) -> Result<File, CacheError> {
        files::create_directory(&self.ingest)?;
        tempfile::tempfile_in(&self.ingest).map_err(at("create a file in", &self.ingest))
    }

    /// Opens the pack of a layer for reading; `None` when the cache does not hold it.
    ///
    /// A pack is not synced, so after a power cut it may have a name and no content: its footer
    /// decides whether it is believed, for one of an earlier boot its bodies do too, and
    /// [`Cache::discard_pack`] is for one that is not.
    pub fn pack(&self, diff_id: &Digest) -> Result<Option<CachedPack>, CacheError> {
        if let Some((file, _)) = files::open_regular(&self.pack_path(diff_id))? {
            return Ok(Some(CachedPack::Verified(file)));
        }
        let opened = files::open_regular(&self.unverified_path(diff_id))?;
        Ok(opened.map(|(file, _)| CachedPack::Unverified(file)))
    }

    /// Remembers that a blob, whose digest was checked, unpacked to a layer whose diff id was.
    ///
    /// Nothing is synced: a torn link is none, and the blob is decoded again.
    pub fn link(&self, blob: &Digest, diff_id: &Digest) -> Result<(), CacheError> {
        let target = self.links.join(blob.to_hex());
        let mut file = files::create_temporary(&self.ingest, "link.")?;
        file.write_all(diff_id.to_string().as_bytes())
            .map_err(at("write", &target))?;
        files::create_directory(&self.links)?;
        let kept = file.persist(&target).map_err(|lost| lost.error);
        kept.map(drop).map_err(at("rename to", &target))
    }

    /// Returns what a blob was seen to unpack to; `None` when this cache has not seen it.
    ///
    /// Whoever asks for a pack by a blob's digest and a diff id must have this say so: a manifest
    /// may claim any pair, and would have another user's layer for a digest of its own.
    pub fn linked(&self, blob: &Digest) -> Result<Option<Digest>, CacheError> {
        let path = self.links.join(blob.to_hex());
        let Some((file, _)) = files::open_regular(&path)? else {
            return Ok(None);
        };
        let mut text = String::new();
        match file.take(MAX_LINK_BYTES).read_to_string(&mut text) {
            Ok(_) => Ok(text.parse().ok()),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(at("read", &path)(error)),
        }
    }

    /// Takes a pack of an earlier boot for good, after its bodies were compared with its sums.
    pub fn trust_pack(&self, diff_id: &Digest) -> Result<(), CacheError> {
        let from = self.unverified_path(diff_id);
        match std::fs::rename(&from, self.pack_path(diff_id)) {
            // Discarded, or trusted by somebody else, meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(at("rename", from)),
        }
    }

    /// Moves every pack aside that was written before this machine booted.
    ///
    /// As long as the machine runs, what was written is read back from memory or disk as it was,
    /// however a daemon ended; only a boot in between may have lost it.
    fn distrust_packs_of_other_boots(&self) -> Result<(), CacheError> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(BOOT_ID).map_err(at("read", BOOT_ID))?;
        let marker = &self.boot_id;
        match std::fs::read_to_string(marker) {
            Ok(seen) if seen == boot => return Ok(()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("read", marker)(error));
            }
            _ => {}
        }
        files::for_each_file(&self.packs, |name, _| {
            let from = self.packs.join(&name);
            if from
                .extension()
                .is_some_and(|extension| extension == "pack")
            {
                std::fs::rename(&from, self.unverified.join(&name)).map_err(at("rename", from))?;
            }
            Ok(())
        })?;
        // Last: cut short before, the next start does it all again.
        std::fs::write(marker, boot).map_err(at("write", marker))
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
        let aside = files::remove_file(&self.unverified_path(diff_id))?;
        match files::remove_file(&self.pack_path(diff_id))? {
            Discarded::Absent => Ok(aside),
            Discarded::Removed => Ok(Discarded::Removed),
        }
    }

    /// Removes what is still on its way in, but for partial blobs that may be resumed.
    ///
    /// For start-up, by the holder of the lock on the state directory only: in a running daemon
    /// it would cut off downloads.
    pub fn sweep(&self, now: Timestamp) -> Result<Swept, CacheError> {
        let mut swept = self.sweep_partials(now)?;
        files::for_each_file(&self.ingest, |name, metadata| {
            if !partial::is_partial(&name)
                && files::remove_file(&self.ingest.join(name))? == Discarded::Removed
            {
                swept.count(&metadata);
            }
            Ok(())
        })?;
        Ok(swept)
    }

    /// Removes partial blobs that nobody has gone on with for a day, those whose blob has come
    /// another way, and those that are hardly begun. Those being written stay, so it may be called at any time.
    pub fn sweep_partials(&self, now: Timestamp) -> Result<Swept, CacheError> {
        let mut swept = Swept::default();
        files::for_each_file(&self.ingest, |name, metadata| {
            if !partial::is_partial(&name) {
                return Ok(());
            }
            let blob = self.blobs.join(Path::new(&name).with_extension(""));
            let is_useless =
                partial::is_little(&metadata) || partial::is_old(&metadata, now) || blob.exists();
            if is_useless && partial::remove_unused(&self.ingest.join(name))? {
                swept.count(&metadata);
            }
            Ok(())
        })?;
        Ok(swept)
    }

    /// Tells how many bytes [`Cache::evict_partials`] can free at most.
    pub fn evictable_bytes(&self, wanted: &[PartialName]) -> Result<u64, CacheError> {
        let left = self.partials_beside(wanted)?;
        Ok(left.iter().map(Left::disk_bytes).sum())
    }

    /// Removes partial blobs that nobody is writing until `bytes` are free or none is left, those
    /// first whose last byte came longest ago. Of `wanted` it removes none.
    pub fn evict_partials(&self, bytes: u64, wanted: &[PartialName]) -> Result<Swept, CacheError> {
        let left = self.partials_beside(wanted)?;
        self.remove_until(&left, |swept| swept.bytes >= bytes)
    }

    /// Removes partial blobs that nobody is writing until the others take `limit_bytes` at most,
    /// those first whose last byte came longest ago.
    pub fn trim_partials(&self, limit_bytes: u64) -> Result<Swept, CacheError> {
        let left = self.partials()?;
        let all: u64 = left.iter().map(Left::disk_bytes).sum();
        self.remove_until(&left, |swept| all - swept.bytes <= limit_bytes)
    }

    fn remove_until(
        &self,
        left: &[Left],
        is_enough: impl Fn(&Swept) -> bool,
    ) -> Result<Swept, CacheError> {
        let mut swept = Swept::default();
        for left in left {
            if is_enough(&swept) {
                break;
            }
            if partial::remove_unused(&self.ingest.join(&left.name))? {
                swept.count(&left.metadata);
            }
        }
        Ok(swept)
    }

    fn partials_beside(&self, wanted: &[PartialName]) -> Result<Vec<Left>, CacheError> {
        let wanted: Vec<String> = wanted.iter().map(PartialName::file_name).collect();
        let mut left = self.partials()?;
        left.retain(|left| !wanted.iter().any(|name| left.name == **name));
        Ok(left)
    }

    /// Lists the partial blobs, oldest first.
    fn partials(&self) -> Result<Vec<Left>, CacheError> {
        let mut left = Vec::new();
        files::for_each_file(&self.ingest, |name, metadata| {
            if partial::is_partial(&name) {
                left.push(Left { name, metadata });
            }
            Ok(())
        })?;
        left.sort_by_key(|left| partial::written_at(&left.metadata));
        Ok(left)
    }

    /// Counts what the cache holds. It looks at every file, so it is no call for every request.
    pub fn usage(&self) -> Result<Usage, CacheError> {
        let mut usage = Usage::default();
        files::for_each_file(&self.blobs, |_, metadata| {
            usage.blobs += 1;
            usage.blob_bytes += metadata.len();
            Ok(())
        })?;
        for packs in [&self.packs, &self.unverified] {
            files::for_each_file(packs, |name, metadata| {
                if Path::new(&name)
                    .extension()
                    .is_some_and(|extension| extension == "pack")
                {
                    usage.packs += 1;
                    usage.pack_bytes += metadata.blocks() * STAT_BLOCK_BYTES;
                }
                Ok(())
            })?;
        }
        Ok(usage)
    }

    pub(crate) fn ingest_directory(&self) -> &Path {
        &self.ingest
    }

    pub(crate) fn blobs_directory(&self) -> &Path {
        &self.blobs
    }

    pub(crate) fn links_directory(&self) -> &Path {
        &self.links
    }

    /// Where packs are: those of this boot first.
    pub(crate) fn pack_directories(&self) -> [&Path; 2] {
        [&self.packs, &self.unverified]
    }

    pub(crate) fn pack_path(&self, diff_id: &Digest) -> PathBuf {
        self.packs.join(format!("{}.pack", diff_id.to_hex()))
    }

    fn unverified_path(&self, diff_id: &Digest) -> PathBuf {
        self.unverified.join(format!("{}.pack", diff_id.to_hex()))
    }

    fn partial_path(&self, name: &PartialName) -> PathBuf {
        self.ingest.join(name.file_name())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.to_hex())
    }
}

#[cfg(test)]
mod tests;
