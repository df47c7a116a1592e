//! What lies in the cache, file by file, and how one of them goes.
//!
//! When something is to go is not decided here; what is seen is an inode, and another one that has
//! taken its name meanwhile stays.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kiln_domain::{Digest, Timestamp};
use kiln_files::Usage;

use crate::cache::{Cache, Discarded, STAT_BLOCK_BYTES};
use crate::error::{CacheError, at};
use crate::{files, partial};

/// What a file of the cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A blob.
    Blob(Digest),
    /// A decoded layer, by its diff id.
    Pack(Digest),
    /// The note of what a blob unpacks to.
    Link(Digest),
    /// What came of a blob before its download ended. The digest is its name's
    /// ([`PartialName::digest`](crate::PartialName::digest)).
    Partial(Option<Digest>),
    /// Something on its way in, which goes by itself.
    Incoming,
    /// None of ours.
    Foreign,
}

/// A file of the cache, as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Where it is.
    pub path: PathBuf,
    /// What it takes.
    pub usage: Usage,
    /// How many names it has: one that has another stays on the disk.
    names: u64,
    identity: Identity,
}

/// Tells a file from another one that has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: i128,
}

/// What came of removing an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It is gone, and so many bytes of the disk with it: none where the file has another name. Those
    /// of a file that somebody has open are free when it is closed.
    Freed(u64),
    /// Somebody is writing it, and it stays.
    InUse,
    /// It was gone before, or something else has its name and stays.
    Changed,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: partial::written_at(metadata),
        }
    }
}

impl Entry {
    fn new(kind: EntryKind, path: PathBuf, metadata: &Metadata) -> Self {
        Self {
            kind,
            path,
            usage: Usage {
                files: 1,
                apparent_bytes: metadata.len(),
                disk_bytes: metadata.blocks() * STAT_BLOCK_BYTES,
            },
            names: metadata.nlink(),
            identity: Identity::of(metadata),
        }
    }

    /// Tells how many bytes of the disk go with it.
    pub fn frees_bytes(&self) -> u64 {
        if self.names > 1 {
            0
        } else {
            self.usage.disk_bytes
        }
    }
}

impl Cache {
    /// Lists every file, each kind in the order of its names. It looks at all of them, so it is no call
    /// for every request.
    pub fn survey(&self) -> Result<Vec<Entry>, CacheError> {
        let mut entries = Vec::new();
        let blobs = self.blobs_directory();
        look(&mut entries, blobs, |name| named(name).map(EntryKind::Blob))?;
        for packs in self.pack_directories() {
            look(&mut entries, packs, |name| {
                let digest = name.strip_suffix(".pack").and_then(named);
                digest.map(EntryKind::Pack)
            })?;
        }
        let links = self.links_directory();
        look(&mut entries, links, |name| named(name).map(EntryKind::Link))?;
        look(&mut entries, self.ingest_directory(), |name| {
            let partial = partial::is_partial(OsStr::new(name));
            Some(if partial {
                EntryKind::Partial(name.split('.').next().and_then(named))
            } else {
                EntryKind::Incoming
            })
        })?;
        Ok(entries)
    }

    /// Looks at the blob with a digest; `None` when the cache does not hold it.
    pub fn find_blob(&self, digest: &Digest) -> Result<Option<Entry>, CacheError> {
        let path = self.blobs_directory().join(digest.to_hex());
        find(EntryKind::Blob(*digest), path)
    }

    /// Looks at the pack of a layer; `None` when the cache does not hold it.
    pub fn find_pack(&self, diff_id: &Digest) -> Result<Option<Entry>, CacheError> {
        for packs in self.pack_directories() {
            let path = packs.join(format!("{}.pack", diff_id.to_hex()));
            if let Some(entry) = find(EntryKind::Pack(*diff_id), path)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Tells whether somebody is writing what an entry is of. Nobody writes what has its name.
    pub fn is_being_written(&self, entry: &Entry) -> bool {
        match entry.kind {
            EntryKind::Partial(_) => partial::is_locked(&entry.path),
            EntryKind::Incoming => true,
            EntryKind::Blob(_) | EntryKind::Pack(_) | EntryKind::Link(_) | EntryKind::Foreign => {
                false
            }
        }
    }

    /// Tells whether a partial is one that nobody goes on with: a day old, hardly begun, or of a blob
    /// that has come another way. Nothing else gets stale.
    pub fn is_stale(&self, entry: &Entry, now: Timestamp) -> bool {
        let EntryKind::Partial(digest) = entry.kind else {
            return false;
        };
        let is_there = |digest: Digest| self.blobs_directory().join(digest.to_hex()).exists();
        match fs::symlink_metadata(&entry.path) {
            Ok(found) => {
                partial::is_little(&found)
                    || partial::is_old(&found, now)
                    || digest.is_some_and(is_there)
            }
            Err(_) => false,
        }
    }

    /// Removes what an entry is of, if it is still there and nobody is writing it. What is on its way
    /// in, and what is none of ours, stays.
    pub fn remove(&self, entry: &Entry) -> Result<Gone, CacheError> {
        let found = match fs::symlink_metadata(&entry.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Gone::Changed),
            Err(error) => return Err(at("examine", &entry.path)(error)),
        };
        if Identity::of(&found) != entry.identity {
            return Ok(Gone::Changed);
        }
        let removed = match entry.kind {
            EntryKind::Incoming | EntryKind::Foreign => return Ok(Gone::InUse),
            EntryKind::Partial(_) if !partial::remove_unused(&entry.path)? => {
                return Ok(Gone::InUse);
            }
            EntryKind::Partial(_) => Discarded::Removed,
            EntryKind::Blob(_) | EntryKind::Pack(_) | EntryKind::Link(_) => {
                files::remove_file(&entry.path)?
            }
        };
        Ok(match removed {
            Discarded::Absent => Gone::Changed,
            Discarded::Removed if found.nlink() > 1 => Gone::Freed(0),
            Discarded::Removed => Gone::Freed(found.blocks() * STAT_BLOCK_BYTES),
        })
    }
}

fn find(kind: EntryKind, path: PathBuf) -> Result<Option<Entry>, CacheError> {
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_file() => Ok(Some(Entry::new(kind, path, &found))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("examine", path)(error)),
    }
}

/// Adds the files of one directory; what `kind_of` does not know is none of ours.
fn look(
    entries: &mut Vec<Entry>,
    directory: &Path,
    kind_of: impl Fn(&str) -> Option<EntryKind>,
) -> Result<(), CacheError> {
    let begin = entries.len();
    files::for_each_file(directory, |name, metadata| {
        let kind = name.to_str().and_then(&kind_of);
        let kind = kind.unwrap_or(EntryKind::Foreign);
        entries.push(Entry::new(kind, directory.join(name), &metadata));
        Ok(())
    })?;
    entries[begin..].sort_by(|one, other| one.path.cmp(&other.path));
    Ok(())
}

fn named(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn with_blob(content: &[u8]) -> (tempfile::TempDir, Cache, Digest) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let digest = Digest::of(content);
        let mut ingest = cache.ingest(&digest, content.len() as u64).unwrap();
        ingest.write_all(content).unwrap();
        ingest.commit().unwrap();
        (folder, cache, digest)
    }

    #[test]
    fn every_file_is_listed_as_what_it_is() {
        let (folder, cache, blob) = with_blob(b"blob");
        let diff_id = Digest::of(b"layer");
        let pending = cache.new_pack().unwrap();
        pending.file().set_len(1 << 20).unwrap();
        pending.keep_as(&diff_id).unwrap();
        cache.link(&blob, &diff_id).unwrap();
        let partial = Digest::of(b"partial");
        let mut left = cache.resume(&partial, 1 << 20).unwrap();
        left.write_all(&vec![1; 128 << 10]).unwrap();
        fs::write(folder.path().join("packs/notes.txt"), "mine").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.path().join("blobs/sha256/pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();

        let entries = cache.survey().unwrap();
        let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();

        let want = [
            EntryKind::Blob(blob),
            EntryKind::Pack(diff_id),
            EntryKind::Foreign,
            EntryKind::Link(blob),
            EntryKind::Partial(Some(partial)),
        ];
        assert_eq!(kinds.len(), want.len(), "{kinds:?}");
        assert!(want.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
        let pack = cache.find_pack(&diff_id).unwrap().unwrap();
        assert_eq!(
            (pack.usage.apparent_bytes, pack.usage.disk_bytes),
            (1 << 20, 0)
        );
        let being_written = |entries: &[Entry]| {
            let written = entries.iter().filter(|entry| cache.is_being_written(entry));
            written.count()
        };
        assert_eq!(being_written(&entries), 1);
        assert_eq!(cache.remove(entries.last().unwrap()).unwrap(), Gone::InUse);
        drop(left);
        let entries = cache.survey().unwrap();
        assert_eq!(being_written(&entries), 0);
        let freed = cache.remove(entries.last().unwrap()).unwrap();
        assert_eq!(freed, Gone::Freed(128 << 10));
        let foreign = entries
            .iter()
            .find(|entry| entry.kind == EntryKind::Foreign);
        assert_eq!(cache.remove(foreign.unwrap()).unwrap(), Gone::InUse);
    }

    #[test]
    fn only_the_file_that_was_seen_is_removed() {
        let (folder, cache, blob) = with_blob(&[7; 5_000]);
        let seen = cache.find_blob(&blob).unwrap().unwrap();
        let path = seen.path.clone();

        fs::remove_file(&path).unwrap();
        assert_eq!(cache.remove(&seen).unwrap(), Gone::Changed);
        fs::write(folder.path().join("other"), [7; 5_000]).unwrap();
        fs::rename(folder.path().join("other"), &path).unwrap();
        assert_eq!(cache.remove(&seen).unwrap(), Gone::Changed);
        assert!(path.exists());

        let seen = cache.find_blob(&blob).unwrap().unwrap();
        fs::hard_link(&path, folder.path().join("kept")).unwrap();
        assert_eq!(cache.remove(&seen).unwrap(), Gone::Freed(0));
        assert!(!path.exists());
        assert_eq!(
            cache.find_blob(&blob).unwrap().map(|entry| entry.path),
            None
        );
    }
}
