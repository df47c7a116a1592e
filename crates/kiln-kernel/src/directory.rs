//! One open directory, and the steps below it that follow no symbolic link.
//!
//! Which names are used, and what they mean, is not here.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::is_no_space;

/// Why a file or directory of ours could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Somebody else has made, or is making, this file or directory.
    #[error("{} exists already", path.display())]
    AlreadyExists {
        /// What exists.
        path: PathBuf,
    },
    /// The directory belongs to somebody else or can be written by others, so what is in it
    /// cannot be trusted.
    #[error("{} must belong to the daemon and be writable by it alone", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
    },
    /// Something that must be a regular file is a directory, a device, a pipe or a link.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// What it was to be copied to, or where it was found.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("cancelled while writing {}", path.display())]
    Cancelled {
        /// What was being written.
        path: PathBuf,
    },
    /// The operating system refused a step.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl FileError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}

/// Gives an operating system error the step and the path it happened at.
pub(crate) fn at<E: Into<io::Error>>(
    step: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> FileError {
    move |source| FileError::Io {
        step,
        path: path.as_ref().to_owned(),
        source: source.into(),
    }
}

/// Deepest nesting that is walked. Module trees have about ten levels; the limit keeps the
/// recursion, and the open descriptors it holds, small.
const MAX_DEPTH: usize = 64;

/// Permission bits that would let somebody other than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

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
    /// Opens a directory. A link in the last component is refused.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let fd = rustix::fs::openat(CWD, path, OPEN_DIRECTORY, Mode::empty())
            .map_err(at("open", path))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    pub(crate) fn reopen(&self) -> Result<Self, FileError> {
        let fd = self.fd.try_clone().map_err(at("open", &self.path))?;
        Ok(Self {
            fd,
            path: self.path.clone(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn child_path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// Creates a directory, accessible to its owner only. It must not exist.
    pub(crate) fn create_child(&self, name: &str) -> Result<Self, FileError> {
        let path = self.child_path(name);
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) => self.open_child(name.as_ref()).inspect_err(|_| {
                // Out of descriptors, for instance. An empty directory that nobody owns would
                // block the name; should this fail, too, the sweep removes it.
                let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
            }),
            Err(Errno::EXIST) => Err(FileError::AlreadyExists { path }),
            Err(errno) => Err(at("create", path)(errno)),
        }
    }

    pub(crate) fn open_child(&self, name: &OsStr) -> Result<Self, FileError> {
        let path = self.child_path(name);
        let fd = rustix::fs::openat(&self.fd, name, OPEN_DIRECTORY, Mode::empty())
            .map_err(at("open", &path))?;
        Ok(Self { fd, path })
    }

    /// Creates a file, for reading and writing by its owner only. It must not exist.
    pub(crate) fn create_file(&self, name: &OsStr) -> Result<File, FileError> {
        let path = self.child_path(name);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::EXIST) => Err(FileError::AlreadyExists { path }),
            Err(errno) => Err(at("create", path)(errno)),
        }
    }

    /// Opens a regular file for reading; `None` when there is none.
    pub(crate) fn open_file(&self, name: &OsStr) -> Result<Option<File>, FileError> {
        let path = self.child_path(name);
        // NONBLOCK: a pipe planted here must not hang us before its type is known.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(FileError::NotRegular { path }),
            Err(errno) => return Err(at("open", path)(errno)),
        };
        let is_file = file.metadata().map_err(at("examine", &path))?.is_file();
        if is_file {
            Ok(Some(file))
        } else {
            Err(FileError::NotRegular { path })
        }
    }

    /// Says what a name is, without following it; `None` when there is nothing.
    pub(crate) fn kind_of(&self, name: &OsStr) -> Result<Option<FileType>, FileError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(at("examine", self.child_path(name))(errno)),
        }
    }

    /// Refuses a directory that is not ours alone.
    pub(crate) fn check_owner(&self) -> Result<(), FileError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(at("examine", &self.path))?;
        let own = rustix::process::geteuid().as_raw();
        if stat.st_uid != own || stat.st_mode & WRITABLE_BY_OTHERS != 0 {
            return Err(FileError::Unsafe {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// Opens a directory, or creates it for its owner only when there is none.
    pub(crate) fn open_or_create_child(&self, name: &OsStr) -> Result<Self, FileError> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.open_child(name),
            Err(errno) => Err(at("create", self.child_path(name))(errno)),
        }
    }

    /// Creates a symbolic link. Nothing of its name may exist.
    pub(crate) fn create_link(&self, name: &OsStr, target: &OsStr) -> Result<(), FileError> {
        let path = self.child_path(name);
        match rustix::fs::symlinkat(target, &self.fd, name) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(FileError::AlreadyExists { path }),
            Err(errno) => Err(at("create", path)(errno)),
        }
    }

    /// Returns what a symbolic link points to.
    pub(crate) fn read_link(&self, name: &OsStr) -> Result<OsString, FileError> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map_err(at("read", self.child_path(name)))?;
        Ok(OsStr::from_bytes(target.to_bytes()).to_owned())
    }

    /// Renames within this directory; never replaces anything.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(FileError::AlreadyExists {
                path: self.child_path(to),
            }),
            Err(errno) => Err(at("rename to", self.child_path(to))(errno)),
        }
    }

    /// Makes the names in this directory durable.
    pub(crate) fn sync(&self) -> Result<(), FileError> {
        rustix::fs::fsync(&self.fd).map_err(at("sync", &self.path))
    }

    /// Returns the names in this directory, sorted, without `.` and `..`.
    pub(crate) fn names(&self) -> Result<Vec<OsString>, FileError> {
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
    pub(crate) fn seal(&self) -> Result<(), FileError> {
        self.seal_at(0)
    }

    fn seal_at(&self, depth: usize) -> Result<(), FileError> {
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

    fn seal_file(&self, name: &OsStr) -> Result<(), FileError> {
        let path = self.child_path(name);
        let Some(file) = self.open_file(name)? else {
            return Err(at("open", path)(Errno::NOENT));
        };
        rustix::fs::fchmod(&file, Mode::RUSR).map_err(at("make read-only", &path))?;
        rustix::fs::fsync(&file).map_err(at("sync", &path))
    }

    /// Removes a name and everything below it; a name that is not there is fine.
    pub(crate) fn remove(&self, name: &OsStr) -> Result<(), FileError> {
        self.remove_at(name, 0)
    }

    fn remove_at(&self, name: &OsStr, depth: usize) -> Result<(), FileError> {
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

    fn check_depth(&self, depth: usize) -> Result<(), FileError> {
        if depth > MAX_DEPTH {
            return Err(at("descend into", &self.path)(Errno::LOOP));
        }
        Ok(())
    }
}
