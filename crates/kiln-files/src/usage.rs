//! What files take on the disk, told from their inodes alone: nothing is opened but directories.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::directory::{Directory, MAX_DEPTH};
use crate::error::{FileError, at};

/// Bytes of one unit in which the kernel counts allocated space, whatever the file system's blocks
/// are (`stat(2)`).
const STAT_BLOCK_BYTES: u64 = 512;

/// What some files take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Regular files.
    pub files: u64,
    /// How long they are, holes included, in bytes.
    pub apparent_bytes: u64,
    /// What they, and the directories they are in, take on the disk, in bytes of whole blocks. Blocks
    /// that a file system shares between files count for each of them: nothing else is told.
    pub disk_bytes: u64,
}

impl Usage {
    /// Adds what others take.
    pub fn add(&mut self, other: Self) {
        self.files = self.files.saturating_add(other.files);
        self.apparent_bytes = self.apparent_bytes.saturating_add(other.apparent_bytes);
        self.disk_bytes = self.disk_bytes.saturating_add(other.disk_bytes);
    }
}

/// Files with several names that were counted: each takes its room once.
#[derive(Clone, Debug, Default)]
pub struct Counted(HashSet<(u64, u64)>);

impl Counted {
    /// Counts what an inode takes; nothing where it was counted under another name.
    pub fn usage_of(&mut self, stat: &Stat) -> Usage {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let has_names = !is_directory && stat.st_nlink > 1;
        if has_names && !self.0.insert((stat.st_dev, stat.st_ino)) {
            return Usage::default();
        }
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let apparent_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Usage {
            files: u64::from(is_file),
            apparent_bytes: if is_file { apparent_bytes } else { 0 },
            disk_bytes: disk_bytes(stat),
        }
    }
}

/// Names that are to go, one after the other: what has several goes with the last of them.
#[derive(Clone, Debug, Default)]
pub struct Going(HashMap<(u64, u64), u128>);

impl Going {
    /// Tells how many bytes go with one name more.
    fn freed_by(&mut self, stat: &Stat) -> u64 {
        let bytes = disk_bytes(stat);
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory || stat.st_nlink <= 1 {
            return bytes;
        }
        let gone = self.0.entry((stat.st_dev, stat.st_ino)).or_default();
        *gone += 1;
        if *gone >= u128::from(stat.st_nlink) {
            bytes
        } else {
            0
        }
    }
}

fn disk_bytes(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(STAT_BLOCK_BYTES)
}

impl Directory {
    /// Tells how many bytes of the disk a name and everything below it free when they go, in whole
    /// blocks, after what is in `going` already; none where the name is not there.
    pub fn freed_bytes(&self, name: &OsStr, going: &mut Going) -> Result<u64, FileError> {
        self.freed_bytes_at(name, going, 0)
    }

    fn freed_bytes_at(
        &self,
        name: &OsStr,
        going: &mut Going,
        depth: usize,
    ) -> Result<u64, FileError> {
        self.check_depth(depth)?;
        let Some(stat) = self.stat(name)? else {
            return Ok(0);
        };
        let mut bytes = going.freed_by(&stat);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let child = self.open_child(name)?;
            for inner in child.names()? {
                bytes = bytes.saturating_add(child.freed_bytes_at(&inner, going, depth + 1)?);
            }
        }
        Ok(bytes)
    }

    /// Returns what is known of a name without opening it or following it; `None` when there is
    /// nothing.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Stat>, FileError> {
        match rustix::fs::statat(self.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(at("look at", self.child_path(name))(error)),
        }
    }

    /// Tells what a name and everything below it take. What goes away meanwhile, and what cannot be
    /// looked into, counts as far as it was seen.
    pub fn usage_of(&self, name: &OsStr, counted: &mut Counted) -> Result<Usage, FileError> {
        match self.stat(name)? {
            Some(stat) => Ok(self.usage_below(name, &stat, counted, 0)),
            None => Ok(Usage::default()),
        }
    }

    fn usage_below(&self, name: &OsStr, stat: &Stat, counted: &mut Counted, depth: usize) -> Usage {
        let mut usage = counted.usage_of(stat);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || depth >= MAX_DEPTH {
            return usage;
        }
        let Ok(child) = self.open_child(name) else {
            return usage;
        };
        for inner in child.names().unwrap_or_default() {
            if let Ok(Some(stat)) = child.stat(&inner) {
                usage.add(child.usage_below(&inner, &stat, counted, depth + 1));
            }
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use rustix::fs::{CWD, Mode, mknodat};

    use super::*;

    #[test]
    fn an_inode_counts_once_and_holes_take_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("image/modules");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("one"), vec![1; 10_000]).unwrap();
        fs::hard_link(inner.join("one"), folder.path().join("image/other")).unwrap();
        let holes = File::create(folder.path().join("image/holes")).unwrap();
        holes.set_len(1 << 30).unwrap();
        let blocks = |path: &str| {
            fs::symlink_metadata(folder.path().join(path))
                .unwrap()
                .blocks()
        };
        let paths = ["image", "image/modules", "image/modules/one", "image/holes"];
        let want: u64 = paths.into_iter().map(|path| blocks(path) * 512).sum();

        let directory = Directory::open(folder.path()).unwrap();
        let mut counted = Counted::default();
        let usage = directory.usage_of("image".as_ref(), &mut counted).unwrap();
        let again = directory.usage_of("image".as_ref(), &mut counted).unwrap();

        assert_eq!(usage.files, 2);
        assert_eq!(usage.apparent_bytes, (1 << 30) + 10_000);
        assert_eq!(usage.disk_bytes, want);
        assert_eq!(again.files, 1, "a file with two names is not counted again");
    }

    #[test]
    fn what_has_several_names_goes_with_the_last() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kernel", "one", "other"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let module = folder.path().join("kernel/module");
        fs::write(&module, vec![1; 10_000]).unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        let child = |name: &str| directory.open_child(name.as_ref()).unwrap();
        for name in ["one", "other"] {
            let shared = child(name).share_in(&child("kernel"), "module".as_ref(), "m".as_ref());
            assert!(shared.unwrap());
        }
        let blocks = |path: &Path| fs::symlink_metadata(path).unwrap().blocks() * 512;
        let own = blocks(&folder.path().join("one"));
        let content = blocks(&module);
        let frees = |names: &[&str]| {
            let mut going = Going::default();
            let bytes = names
                .iter()
                .map(|name| directory.freed_bytes(name.as_ref(), &mut going).unwrap());
            bytes.collect::<Vec<u64>>()
        };

        assert_eq!(frees(&["one", "other"]), [own, own]);
        assert_eq!(frees(&["nothing"]), [0]);
        fs::remove_file(module).unwrap();
        assert_eq!(frees(&["one", "other"]), [own, own + content]);
        assert_eq!(frees(&["other"]), [own]);
    }

    #[test]
    fn where_files_cannot_be_shared_nothing_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        fs::write(folder.path().join("module"), b"m").unwrap();
        let elsewhere = Directory::open(Path::new("/proc/sys/kernel")).unwrap();

        let shared = directory.share_in(&elsewhere, "ostype".as_ref(), "new".as_ref());
        let taken = directory.share_in(&directory, "module".as_ref(), "module".as_ref());

        assert!(!shared.unwrap());
        assert!(matches!(taken, Err(FileError::AlreadyExists { .. })));
        assert_eq!(directory.names().unwrap(), ["module"]);
    }

    #[test]
    fn a_pipe_hangs_nobody_and_what_is_not_there_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        mknodat(
            CWD,
            folder.path().join("pipe"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let directory = Directory::open(folder.path()).unwrap();

        let mut counted = Counted::default();
        let pipe = directory.usage_of("pipe".as_ref(), &mut counted).unwrap();
        let nothing = directory.usage_of("gone".as_ref(), &mut counted).unwrap();

        assert_eq!((pipe.files, pipe.apparent_bytes), (0, 0));
        assert_eq!(nothing, Usage::default());
    }
}
