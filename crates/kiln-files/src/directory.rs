//! One open directory, and the steps below it that follow no symbolic link.
//!
//! Which names are used, and what they mean, is not here.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::copy::{Copied, CopyError, copy};
use crate::error::{FileError, at};

/// Deepest nesting that is walked. Module trees have about ten levels; the limit keeps the
/// recursion, and the open descriptors it holds, small.
pub(crate) const MAX_DEPTH: usize = 64;

/// Permission bits that would let somebody other than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Syncs under way at a time while a directory is sealed.
const SYNCS_AT_A_TIME: usize = 16;

/// Files that had a name for a moment, so that no two have one name.
static UNNAMED: AtomicU64 = AtomicU64::new(0);

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What lies below a directory that is being sealed, by its path from there.
#[derive(Debug, Default)]
struct Below {
    files: Vec<PathBuf>,
    /// Inner ones before outer ones.
    directories: Vec<PathBuf>,
}

/// Opens a file without a name once more, for reading alone, and takes its owner's right to write:
/// who receives the descriptor cannot get more from it.
pub fn read_only(file: &File) -> Result<File, FileError> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    rustix::fs::fchmod(file, Mode::RUSR).map_err(at("make read-only", &path))?;
    File::open(&path).map_err(at("open", path))
}

/// An open directory together with the path it was opened by, which serves messages only.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory. A link in the last component is refused.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let fd = rustix::fs::openat(CWD, path, OPEN_DIRECTORY, Mode::empty())
            .map_err(at("open", path))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Opens a directory that its caller named for work of their own, through links too.
    pub fn open_through_links(path: &Path) -> Result<Self, FileError> {
        let flags = OPEN_DIRECTORY.difference(OFlags::NOFOLLOW);
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(at("open", path))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Opens the directory once more.
    pub fn reopen(&self) -> Result<Self, FileError> {
        let fd = self.fd.try_clone().map_err(at("open", &self.path))?;
        Ok(Self {
            fd,
            path: self.path.clone(),
        })
    }

    /// Opens a directory that is its owner's alone, and creates it and its missing parents first,
    /// durably, when there is none.
    ///
    /// A directory of another user, or one that others may write, is refused.
    pub fn open_or_create_private(path: &Path) -> Result<Self, FileError> {
        if !path.exists() {
            create_durably(path)?;
        }
        let directory = Self::open(path)?;
        let stat = rustix::fs::fstat(&directory.fd).map_err(at("examine", path))?;
        let own = rustix::process::geteuid().as_raw();
        if stat.st_uid != own || stat.st_mode & WRITABLE_BY_OTHERS != 0 {
            return Err(FileError::Unsafe {
                path: path.to_owned(),
            });
        }
        Ok(directory)
    }

    /// Returns the path the directory was opened by: for messages, and for those who ask where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where a name of this directory is.
    pub fn child_path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// Creates a directory, accessible to its owner only. It must not exist.
    pub fn create_child(&self, name: &str) -> Result<Self, FileError> {
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

    /// Opens a directory of this one.
    pub fn open_child(&self, name: &OsStr) -> Result<Self, FileError> {
        let path = self.child_path(name);
        let fd = rustix::fs::openat(&self.fd, name, OPEN_DIRECTORY, Mode::empty())
            .map_err(at("open", &path))?;
        Ok(Self { fd, path })
    }

    /// Creates a file, for reading and writing by its owner only. It must not exist.
    pub fn create_file(&self, name: &OsStr) -> Result<File, FileError> {
        let path = self.child_path(name);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::EXIST) => Err(FileError::AlreadyExists { path }),
            Err(errno) => Err(at("create", path)(errno)),
        }
    }

    /// Creates a file without a name, for reading and writing; it goes when it is closed.
    pub fn create_unnamed(&self) -> Result<File, FileError> {
        let path = self.child_path(".");
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(File::from(fd)),
            // Not every file system can: then it has a name for a moment.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let number = UNNAMED.fetch_add(1, Ordering::Relaxed);
                let name = format!(".kiln-{}-{number}.unnamed", std::process::id());
                let file = self.create_file(name.as_ref())?;
                self.remove(name.as_ref())?;
                Ok(file)
            }
            Err(errno) => Err(at("create a file in", path)(errno)),
        }
    }

    /// Copies all of an open regular file to the new file `name`: cloned where the file system
    /// can, else moved with its holes kept. The copy is open for reading and writing.
    pub fn copy_in(
        &self,
        source: &File,
        name: &OsStr,
        cancelled: &AtomicBool,
    ) -> Result<(File, Copied), FileError> {
        let target = self.create_file(name)?;
        let path = self.child_path(name);
        let copied = copy(source, &target, cancelled).map_err(|error| copy_error(error, path))?;
        Ok((target, copied))
    }

    /// Gives a regular file of `from` a second name here, so that both are one file: for files that
    /// nobody changes any more. Says whether it did; where files cannot have names in both places, or
    /// no more of them, nothing is done.
    pub fn share_in(&self, from: &Self, name: &OsStr, new_name: &OsStr) -> Result<bool, FileError> {
        let path = self.child_path(new_name);
        match rustix::fs::linkat(&from.fd, name, &self.fd, new_name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => Ok(false),
            Err(Errno::EXIST) => Err(FileError::AlreadyExists { path }),
            Err(errno) => Err(at("link", path)(errno)),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a regular file for reading; `None` when there is none.
    pub fn open_file(&self, name: &OsStr) -> Result<Option<File>, FileError> {
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
    pub fn kind_of(&self, name: &OsStr) -> Result<Option<FileType>, FileError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(at("examine", self.child_path(name))(errno)),
        }
    }

    /// Opens a directory, or creates it for its owner only when there is none.
    pub fn open_or_create_child(&self, name: &OsStr) -> Result<Self, FileError> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.open_child(name),
            Err(errno) => Err(at("create", self.child_path(name))(errno)),
        }
    }

    /// Creates a symbolic link. Nothing of its name may exist.
    pub fn create_link(&self, name: &OsStr, target: &OsStr) -> Result<(), FileError> {
        let path = self.child_path(name);
        match rustix::fs::symlinkat(target, &self.fd, name) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(FileError::AlreadyExists { path }),
            Err(errno) => Err(at("create", path)(errno)),
        }
    }

    /// Returns what a symbolic link points to.
    pub fn read_link(&self, name: &OsStr) -> Result<OsString, FileError> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map_err(at("read", self.child_path(name)))?;
        Ok(OsStr::from_bytes(target.to_bytes()).to_owned())
    }

    /// Renames within this directory; never replaces anything.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(FileError::AlreadyExists {
                path: self.child_path(to),
            }),
            Err(errno) => Err(at("rename to", self.child_path(to))(errno)),
        }
    }

    /// Makes the names in this directory durable.
    pub fn sync(&self) -> Result<(), FileError> {
        rustix::fs::fsync(&self.fd).map_err(at("sync", &self.path))
    }

    /// Returns the names in this directory, sorted, without `.` and `..`.
    pub fn names(&self) -> Result<Vec<OsString>, FileError> {
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
    /// below, this one last.
    ///
    /// Several syncs are under way at a time: a journal commits what many wait for at once, so a
    /// thousand kernel modules take a fraction of a thousand commits.
    pub fn seal(&self) -> Result<(), FileError> {
        let mut below = Below::default();
        self.make_read_only(Path::new(""), 0, &mut below)?;
        self.sync_all(&below.files)?;
        self.sync_all(&below.directories)?;
        self.sync()
    }

    /// Makes files read-only and lists what has to be synced.
    fn make_read_only(
        &self,
        at_path: &Path,
        depth: usize,
        below: &mut Below,
    ) -> Result<(), FileError> {
        self.check_depth(depth)?;
        for name in self.names()? {
            let relative = at_path.join(&name);
            match self.kind_of(&name)? {
                Some(FileType::Directory) => {
                    self.open_child(&name)?
                        .make_read_only(&relative, depth + 1, below)?;
                    below.directories.push(relative);
                }
                // A link has no content of its own: syncing its directory is enough.
                Some(FileType::Symlink) => {}
                _ => {
                    let path = self.child_path(&name);
                    let Some(file) = self.open_file(&name)? else {
                        return Err(at("open", path)(Errno::NOENT));
                    };
                    rustix::fs::fchmod(&file, Mode::RUSR).map_err(at("make read-only", &path))?;
                    below.files.push(relative);
                }
            }
        }
        Ok(())
    }

    fn sync_all(&self, paths: &[PathBuf]) -> Result<(), FileError> {
        let share = paths.len().div_ceil(SYNCS_AT_A_TIME).max(1);
        thread::scope(|scope| {
            let workers: Vec<_> = paths
                .chunks(share)
                .map(|paths| scope.spawn(|| paths.iter().try_for_each(|path| self.sync_at(path))))
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }

    /// Syncs a file or directory below, never through a link.
    fn sync_at(&self, relative: &Path) -> Result<(), FileError> {
        let path = self.path.join(relative);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = rustix::fs::openat2(&self.fd, relative, flags, Mode::empty(), resolve)
            .map_err(at("open", &path))?;
        rustix::fs::fsync(&fd).map_err(at("sync", &path))
    }

    /// Removes a name and everything below it; a name that is not there is fine.
    pub fn remove(&self, name: &OsStr) -> Result<(), FileError> {
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

    pub(crate) fn check_depth(&self, depth: usize) -> Result<(), FileError> {
        if depth > MAX_DEPTH {
            return Err(at("descend into", &self.path)(Errno::LOOP));
        }
        Ok(())
    }
}

/// Gives the end of a copy the path it was made at.
pub(crate) fn copy_error(error: CopyError, path: PathBuf) -> FileError {
    match error {
        CopyError::NotRegular => FileError::NotRegular { path },
        CopyError::Cancelled => FileError::Cancelled { path },
        CopyError::Io(source) => at("copy to", path)(source),
    }
}

/// Creates a directory and its missing parents for their owner only, outer ones first, and makes
/// each name durable.
fn create_durably(path: &Path) -> Result<(), FileError> {
    let missing: Vec<_> = path
        .ancestors()
        .take_while(|level| !level.as_os_str().is_empty() && !level.exists())
        .collect();
    for level in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(level) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(at("create", level)(error));
            }
            // Another may have been quicker; its name is made durable all the same.
            _ => {}
        }
        let parent = level
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        // A parent may be a link: somebody else made it.
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|parent| parent.sync_all())
            .map_err(at("sync the parent of", level))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
