//! One open directory, and the steps below it that follow no symbolic link.
//!
//! Which names are used, and what they mean, is not here.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::error::{ArtifactError, at};

/// Deepest nesting that is walked. Module trees have about ten levels; the limit keeps the
/// recursion, and the open descriptors it holds, small.
const MAX_DEPTH: usize = 64;

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open directory together with the path it was opened by, which serves messages only.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self, ArtifactError> {
        let fd = rustix::fs::openat(CWD, path, OPEN_DIRECTORY, Mode::empty())
            .map_err(at("open", path))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn child_path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// Creates a directory, accessible to its owner only. It must not exist.
    pub(crate) fn create_child(&self, name: &str) -> Result<Self, ArtifactError> {
        let path = self.child_path(name);
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) => self.open_child(name.as_ref()).inspect_err(|_| {
                // Out of descriptors, for instance. An empty directory that nobody owns would
                // block the name; should this fail, too, the sweep removes it.
                let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
            }),
            Err(Errno::EXIST) => Err(ArtifactError::AlreadyExists { path }),
            Err(errno) => Err(at("create", path)(errno)),
        }
    }

    pub(crate) fn open_child(&self, name: &OsStr) -> Result<Self, ArtifactError> {
        let path = self.child_path(name);
        let fd = rustix::fs::openat(&self.fd, name, OPEN_DIRECTORY, Mode::empty())
            .map_err(at("open", &path))?;
        Ok(Self { fd, path })
    }

    /// Creates a file, for reading and writing by its owner only. It must not exist.
    pub(crate) fn create_file(&self, name: &str) -> Result<File, ArtifactError> {
        let path = self.child_path(name);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::EXIST) => Err(ArtifactError::AlreadyExists { path }),
            Err(errno) => Err(at("create", path)(errno)),
        }
    }

    /// Opens a regular file for reading; `None` when there is none.
    pub(crate) fn open_file(&self, name: &OsStr) -> Result<Option<File>, ArtifactError> {
        let path = self.child_path(name);
        // NONBLOCK: a pipe planted here must not hang us before its type is known.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(ArtifactError::NotRegular { path }),
            Err(errno) => return Err(at("open", path)(errno)),
        };
        let is_file = file.metadata().map_err(at("examine", &path))?.is_file();
        if is_file {
            Ok(Some(file))
        } else {
            Err(ArtifactError::NotRegular { path })
        }
    }

    /// Says what a name is, without following it; `None` when there is nothing.
    pub(crate) fn kind_of(&self, name: &OsStr) -> Result<Option<FileType>, ArtifactError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(at("examine", self.child_path(name))(errno)),
        }
    }

    pub(crate) fn stat(&self) -> Result<Stat, ArtifactError> {
        rustix::fs::fstat(&self.fd).map_err(at("examine", &self.path))
    }

    /// Renames within this directory; never replaces anything.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), ArtifactError> {
        match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(ArtifactError::AlreadyExists {
                path: self.child_path(to),
            }),
            Err(errno) => Err(at("rename to", self.child_path(to))(errno)),
        }
    }

    /// Makes the names in this directory durable.
    pub(crate) fn sync(&self) -> Result<(), ArtifactError> {
        rustix::fs::fsync(&self.fd).map_err(at("sync", &self.path))
    }

    /// Returns the names in this directory, sorted, without `.` and `..`.
    pub(crate) fn names(&self) -> Result<Vec<OsString>, ArtifactError> {
        let listing = Dir::read_from(&self.fd).map_err(at("list", &self.path))?;
        let mut names = Vec::new();
        for entry in listing {
            let entry = entry.map_err(at("list", &self.path))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes everything below durable and its files read-only: files first, then the directories
    /// from the inside out, this one last.
    pub(crate) fn seal(&self) -> Result<(), ArtifactError> {
        self.seal_at(0)
    }

    fn seal_at(&self, depth: usize) -> Result<(), ArtifactError> {
        self.check_depth(depth)?;
        for name in self.names()? {
            match self.kind_of(&name)? {
                Some(FileType::Directory) => self.open_child(&name)?.seal_at(depth + 1)?,
                // A link has no content of its own: syncing its directory is enough.
                Some(FileType::Symlink) => {}
                _ => self.seal_file(&name)?,
            }
        }
        self.sync()
    }

    fn seal_file(&self, name: &OsStr) -> Result<(), ArtifactError> {
        let path = self.child_path(name);
        let Some(file) = self.open_file(name)? else {
            return Err(at("open", path)(Errno::NOENT));
        };
        rustix::fs::fchmod(&file, Mode::RUSR).map_err(at("make read-only", &path))?;
        rustix::fs::fsync(&file).map_err(at("sync", &path))
    }

    /// Removes a name and everything below it; a name that is not there is fine.
    pub(crate) fn remove(&self, name: &OsStr) -> Result<(), ArtifactError> {
        self.remove_at(name, 0)
    }

    fn remove_at(&self, name: &OsStr, depth: usize) -> Result<(), ArtifactError> {
        self.check_depth(depth)?;
        let flags = match self.kind_of(name)? {
            None => return Ok(()),
            Some(FileType::Directory) => {
                let child = self.open_child(name)?;
                for inner in child.names()? {
                    child.remove_at(&inner, depth + 1)?;
                }
                AtFlags::REMOVEDIR
            }
            Some(_) => AtFlags::empty(),
        };
        rustix::fs::unlinkat(&self.fd, name, flags).map_err(at("remove", self.child_path(name)))
    }

    fn check_depth(&self, depth: usize) -> Result<(), ArtifactError> {
        if depth > MAX_DEPTH {
            return Err(at("descend into", &self.path)(Errno::LOOP));
        }
        Ok(())
    }
}
