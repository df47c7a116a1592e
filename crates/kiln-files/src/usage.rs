//! What files take on the disk, told from their inodes alone: nothing is opened but directories.

use std::collections::HashSet;
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
            disk_bytes: u64::try_from(stat.st_blocks)
                .unwrap_or(0)
                .saturating_mul(STAT_BLOCK_BYTES),
        }
    }
}

impl Directory {
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
