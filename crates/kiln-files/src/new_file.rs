//! A file of a caller's that appears whole or not at all.
//!
//! It grows under a name of its own beside the place it is meant for, and takes that place when it
//! is complete and durable. What a killed process left of one goes when the next is begun in its
//! directory. What is written into it is not here.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use crate::copy::{Copied, copy};
use crate::directory::{Directory, copy_error};
use crate::error::{FileError, at};
use crate::partial::{self, Partial};

/// What happens to a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new one is not made.
    Refused,
    /// The new one takes its place in one step. Only a regular file is replaced, never what a
    /// link points to.
    Replaced,
}

/// A file that is being made, for its owner only. Dropped before [`place`](Self::place), it goes.
#[derive(Debug)]
pub struct NewFile {
    partial: Partial,
    directory: Directory,
    name: OsString,
    existing: Existing,
    is_placed: bool,
}

impl NewFile {
    /// Begins the file that is to be at `path`.
    pub fn create(path: &Path, existing: Existing) -> Result<Self, FileError> {
        // A path that ends in a separator or in dots names a directory.
        let names_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let name = path.file_name().filter(|_| !names_directory);
        let name = name.ok_or(Errno::ISDIR).map_err(at("create", path))?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = Directory::open_through_links(parent.unwrap_or(Path::new(".")))?;
        match (directory.kind_of(name)?, existing) {
            (None, _) | (Some(FileType::RegularFile), Existing::Replaced) => {}
            (Some(_), Existing::Refused) => {
                let path = path.to_owned();
                return Err(FileError::AlreadyExists { path });
            }
            (Some(_), Existing::Replaced) => {
                let path = path.to_owned();
                return Err(FileError::NotRegular { path });
            }
        }
        partial::sweep(&directory);
        Ok(Self {
            partial: Partial::create(&directory)?,
            directory,
            name: name.to_owned(),
            existing,
            is_placed: false,
        })
    }

    /// Returns the open file.
    pub fn file(&self) -> &File {
        &self.partial.file
    }

    /// Copies all of an open regular file into this empty one: cloned where the file system can,
    /// else moved with its holes kept.
    pub fn copy_from(&self, source: &File, cancelled: &AtomicBool) -> Result<Copied, FileError> {
        copy(source, self.file(), cancelled).map_err(|error| copy_error(error, self.path()))
    }

    /// Makes the file at least `size_bytes` long; what is added is a hole.
    pub fn grow(&self, size_bytes: u64) -> Result<(), FileError> {
        let grown = self.file().metadata().and_then(|found| {
            let length = found.len().max(size_bytes);
            self.file().set_len(length)
        });
        grown.map_err(at("grow", self.path()))
    }

    /// Makes the file durable and gives it its name, durably too.
    pub fn place(mut self) -> Result<(), FileError> {
        self.file().sync_all().map_err(at("sync", self.path()))?;
        match self.existing {
            Existing::Refused => self.rename_without_replacing()?,
            Existing::Replaced => {
                let fd = self.directory.fd();
                rustix::fs::renameat(fd, &self.partial.name, fd, &self.name)
                    .map_err(at("rename to", self.path()))?;
            }
        }
        self.is_placed = true;
        self.directory.sync()
    }

    fn rename_without_replacing(&self) -> Result<(), FileError> {
        let (fd, flags) = (self.directory.fd(), RenameFlags::NOREPLACE);
        let partial = self.partial.name.as_str();
        let renamed = match rustix::fs::renameat_with(fd, partial, fd, &self.name, flags) {
            // Network file systems and older FUSE ones do not know the flag; linking never
            // replaces either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(fd, partial, fd, &self.name, AtFlags::empty())
                    .and_then(|()| rustix::fs::unlinkat(fd, partial, AtFlags::empty()))
            }
            renamed => renamed,
        };
        renamed.map_err(|errno| match errno {
            Errno::EXIST => FileError::AlreadyExists { path: self.path() },
            errno => at("rename to", self.path())(errno),
        })
    }

    fn path(&self) -> PathBuf {
        self.directory.child_path(&self.name)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_placed {
            // Nobody can be told; whoever begins a file here next removes it.
            let name = self.partial.name.as_str();
            let _ = rustix::fs::unlinkat(self.directory.fd(), name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    fn written(path: &Path, existing: Existing) -> Result<(), FileError> {
        let new = NewFile::create(path, existing)?;
        new.file().write_all_at(b"new", 0).unwrap();
        new.place()
    }

    #[test]
    fn a_file_appears_when_it_is_complete_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let new = NewFile::create(&path, Existing::Refused).unwrap();
        let source = tempfile::tempfile().unwrap();
        source.write_all_at(b"content", 0).unwrap();

        let copied = new.copy_from(&source, &AtomicBool::new(false)).unwrap();
        new.grow(4096).unwrap();
        new.grow(10).unwrap();
        assert!(!path.exists());
        new.place().unwrap();

        assert_eq!(copied.size_bytes, 7);
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 4096);
        assert_eq!(content[..8], *b"content\0");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["disk.img"]);
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let new = NewFile::create(&folder.path().join("disk.img"), Existing::Refused).unwrap();
        let source = tempfile::tempfile().unwrap();

        let error = new.copy_from(&source, &AtomicBool::new(true)).unwrap_err();
        drop(new);

        assert!(matches!(error, FileError::Cancelled { .. }), "{error:?}");
        assert_eq!(names(folder.path()), Vec::<OsString>::new());
    }

    #[test]
    fn nothing_is_replaced_unless_asked_and_then_regular_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "old").unwrap();
        fs::write(at("far"), "far").unwrap();
        symlink(at("far"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();

        for name in ["file", "link", "dangling", "folder"] {
            let error = written(&at(name), Existing::Refused).unwrap_err();
            assert!(matches!(error, FileError::AlreadyExists { .. }), "{name}");
        }
        for name in ["link", "dangling", "folder"] {
            let error = written(&at(name), Existing::Replaced).unwrap_err();
            assert!(matches!(error, FileError::NotRegular { .. }), "{name}");
        }
        written(&at("file"), Existing::Replaced).unwrap();

        assert_eq!(fs::read(at("file")).unwrap(), b"new");
        assert_eq!(fs::read(at("far")).unwrap(), b"far");
        let left = ["dangling", "far", "file", "folder", "link"];
        assert_eq!(names(folder.path()), left);
    }

    #[test]
    fn who_comes_first_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let new = NewFile::create(&path, Existing::Refused).unwrap();
        fs::write(&path, "other").unwrap();

        let error = new.place().unwrap_err();

        assert!(matches!(error, FileError::AlreadyExists { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(names(folder.path()), ["disk.img"]);
    }

    #[test]
    fn two_at_once_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);

        let one = NewFile::create(&at("one"), Existing::Refused).unwrap();
        let two = NewFile::create(&at("two"), Existing::Refused).unwrap();
        one.place().unwrap();
        two.place().unwrap();

        assert_eq!(names(folder.path()), ["one", "two"]);
    }

    #[test]
    fn a_path_that_names_a_directory_or_lies_in_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for below in ["", "x/", "..", "none/x"] {
            let error = NewFile::create(&folder.path().join(below), Existing::Refused);
            assert!(error.is_err(), "{below}");
        }
        assert_eq!(names(folder.path()), Vec::<OsString>::new());
    }
}
