//! The stock of base initrds: each is made once, and shared by all images of its kernel.
//!
//! ```text
//! <initrds>/<address>          0400: the base, then SHA-256 of it, 32 bytes
//! <initrds>/.<random>.partial  on the way in; removed by a sweep
//! ```
//!
//! The address names everything a base is made of (see [`BaseInitrd::address`]), so another init,
//! another set of modules or another compression is another base. All of it may be deleted at any
//! time: what is missing or damaged is made again. What a base is made of is not decided here.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use kiln_domain::Digest;
use kiln_files::{Counted, Directory, FileError, Usage, at};
use rustix::fs::FileType;

use crate::initrd::{BaseInitrd, InitrdError};

/// Largest base that is read back, in bytes: init and modules are limited to less, unpacked.
const MAX_BASE_BYTES: u64 = 256 << 20;
/// Length of the checksum behind a base.
const SUM_BYTES: usize = 32;
/// Most bases that a sweep leaves, the newest. Every kernel leaves one behind with each new init.
const KEPT: usize = 64;
const PARTIAL_SUFFIX: &str = ".partial";

/// Where the bases are kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BaseInitrds {
    path: Arc<Path>,
}

impl BaseInitrds {
    /// Keeps bases in the directory `initrds`, which is made, for its owner only, whenever there is
    /// none.
    pub fn at(initrds: &Path) -> Self {
        Self {
            path: initrds.into(),
        }
    }

    /// Returns the base of these inputs: the one that was made before, else a new one.
    ///
    /// One that cannot be kept is made again the next time, and is as good.
    pub fn obtain(&self, base: &BaseInitrd<'_>) -> Result<Vec<u8>, InitrdError> {
        let name = base.address().to_hex();
        let directory = self.directory().ok();
        if let Some(directory) = &directory
            && let Ok(Some(kept)) = read(directory, &name)
        {
            return Ok(kept);
        }
        let made = base.build()?;
        if let Some(directory) = &directory {
            drop(keep(directory, &name, &made));
        }
        Ok(made)
    }

    /// Removes what a crash left and all but the newest bases; for use at start-up.
    pub fn sweep(&self) -> Result<(), FileError> {
        let directory = self.directory()?;
        let mut bases = Vec::new();
        for name in directory.names()? {
            if name.to_string_lossy().ends_with(PARTIAL_SUFFIX) {
                directory.remove(&name)?;
            } else if let Some(file) = directory.open_file(&name)? {
                let modified = file.metadata().and_then(|about| about.modified());
                bases.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), name));
            }
        }
        bases.sort();
        let surplus = bases.len().saturating_sub(KEPT);
        for (_, name) in bases.drain(..surplus) {
            directory.remove(&name)?;
        }
        Ok(())
    }

    /// Tells what each base takes, by its name. What is on its way in is none yet.
    pub fn survey(&self) -> Result<Vec<(String, Usage)>, FileError> {
        let directory = self.directory()?;
        let mut counted = Counted::default();
        let mut bases = Vec::new();
        for name in directory.names()? {
            let Some(text) = name.to_str().filter(|name| !name.ends_with(PARTIAL_SUFFIX)) else {
                continue;
            };
            bases.push((text.to_owned(), directory.usage_of(&name, &mut counted)?));
        }
        Ok(bases)
    }

    /// Removes a base, and tells how many bytes of the disk went with it; `None` when there is none.
    /// Whoever needs it makes it again.
    pub fn discard(&self, name: &str) -> Result<Option<u64>, FileError> {
        let directory = self.directory()?;
        let Some(stat) = directory.stat(name.as_ref())? else {
            return Ok(None);
        };
        let mut counted = Counted::default();
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file {
            return Ok(None);
        }
        directory.remove(name.as_ref())?;
        let frees = counted.usage_of(&stat).disk_bytes;
        Ok(Some(if stat.st_nlink > 1 { 0 } else { frees }))
    }

    /// Tells where the bases are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the directory, which may have been deleted since it was made.
    fn directory(&self) -> Result<Directory, FileError> {
        if let Some(parent) = self.path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(at("create", parent))?;
        }
        Directory::open_or_create_private(&self.path)
    }
}

/// Reads a base; `None` when there is none, or one that is damaged, which goes.
fn read(directory: &Directory, name: &str) -> Result<Option<Vec<u8>>, FileError> {
    let Some(file) = directory.open_file(name.as_ref())? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(MAX_BASE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(at("read", directory.child_path(name)))?;
    if let Some((base, sum)) = bytes.split_last_chunk::<SUM_BYTES>()
        && Digest::of(base).as_bytes() == sum
    {
        bytes.truncate(bytes.len() - SUM_BYTES);
        return Ok(Some(bytes));
    }
    directory.remove(name.as_ref())?;
    Ok(None)
}

fn keep(directory: &Directory, name: &str, base: &[u8]) -> Result<(), FileError> {
    let partial = format!(".{name}.{}{PARTIAL_SUFFIX}", unique());
    let written = write(directory, &partial, base);
    let kept = written.and_then(|()| match directory.rename(&partial, name) {
        // Somebody else made the same one meanwhile.
        Err(FileError::AlreadyExists { .. }) => directory.remove(partial.as_ref()),
        renamed => renamed,
    });
    if kept.is_err() {
        // What stays is removed by the next sweep.
        drop(directory.remove(partial.as_ref()));
    }
    kept
}

/// Nothing is synced: after a crash the checksum tells what can be believed.
fn write(directory: &Directory, partial: &str, base: &[u8]) -> Result<(), FileError> {
    let path = directory.child_path(partial);
    let mut file: File = directory.create_file(partial.as_ref())?;
    file.write_all(base)
        .and_then(|()| file.write_all(Digest::of(base).as_bytes()))
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o400)))
        .map_err(at("write", path))
}

/// Tells files of one process apart that are made at the same time.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::initrd::InitrdCompression;

    fn base(init: &[u8]) -> BaseInitrd<'_> {
        BaseInitrd::without_modules(init, InitrdCompression::Zstd)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_base_is_made_once_and_is_what_would_be_made() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("initrds");
        let bases = BaseInitrds::at(&folder);
        let want = base(b"init").build().unwrap();

        assert_eq!(bases.obtain(&base(b"init")).unwrap(), want);
        let name = base(b"init").address().to_hex();
        assert_eq!(names(&folder), [name.as_str()]);
        let made = fs::metadata(folder.join(&name))
            .unwrap()
            .modified()
            .unwrap();
        assert_eq!(bases.obtain(&base(b"init")).unwrap(), want);
        let again = fs::metadata(folder.join(&name))
            .unwrap()
            .modified()
            .unwrap();
        assert_eq!(made, again);
        bases.obtain(&base(b"other")).unwrap();
        assert_eq!(names(&folder).len(), 2);
    }

    #[test]
    fn the_stock_may_go_at_any_time_and_need_not_be_kept() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("cache/initrds");
        let bases = BaseInitrds::at(&folder);
        let want = bases.obtain(&base(b"init")).unwrap();

        fs::remove_dir_all(state.path().join("cache")).unwrap();
        assert_eq!(bases.obtain(&base(b"init")).unwrap(), want);
        assert_eq!(names(&folder).len(), 1);
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "a file in its place").unwrap();
        assert_eq!(bases.obtain(&base(b"init")).unwrap(), want);
    }

    #[test]
    fn a_damaged_base_is_made_again() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("initrds");
        let bases = BaseInitrds::at(&folder);
        let want = bases.obtain(&base(b"init")).unwrap();
        let path = folder.join(base(b"init").address().to_hex());
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[5] ^= 1;
        for damaged in [&b""[..], &good[..good.len() - 1], &flipped] {
            fs::remove_file(&path).unwrap();
            fs::write(&path, damaged).unwrap();

            assert_eq!(bases.obtain(&base(b"init")).unwrap(), want);
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }

    #[test]
    fn a_sweep_leaves_the_newest_and_nothing_half_made() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("initrds");
        let bases = BaseInitrds::at(&folder);
        bases.sweep().unwrap();
        fs::write(folder.join(".x.1-2.partial"), "half").unwrap();
        for number in 0..KEPT + 3 {
            let file = File::create(folder.join(format!("{number:03}"))).unwrap();
            let age = std::time::Duration::from_secs(1000 + number as u64);
            file.set_modified(SystemTime::UNIX_EPOCH + age).unwrap();
        }

        bases.sweep().unwrap();

        let left = names(&folder);
        assert_eq!(left.len(), KEPT);
        assert_eq!(left[0], "003");
    }
}
