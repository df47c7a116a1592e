//! Files of the host that callers name: passed descriptors, and paths from those who share the
//! daemon's rights.
//!
//! A descriptor was opened with its caller's rights, so nobody makes the daemon read what they
//! could not. How descriptors travel is not here.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kiln_api::{HandleId, HostFile};
use kiln_domain::access::Actor;
use rustix::fs::{FileType, Mode, OFlags};
use tokio::time::Instant;

/// How long a handle waits to be used.
const HANDLE_LIFE: Duration = Duration::from_secs(60);

/// Most handles one user may have waiting: eight images of the most layers Kiln takes.
const HANDLES_PER_USER: usize = 8_192;

/// Descriptors that were passed and not used yet.
#[derive(Debug, Default)]
pub struct HostFiles {
    passed: Mutex<HashMap<HandleId, Passed>>,
}

#[derive(Debug)]
struct Passed {
    file: File,
    uid: u32,
    at: Instant,
}

/// What a call's file turned out to be.
#[derive(Debug)]
pub enum Opened {
    /// A regular file, read-only.
    File(File),
    /// The read end of a pipe: a directory as a tar stream.
    Pipe(File),
    /// A directory that the daemon itself may walk, named by root or the daemon's own user.
    Directory(PathBuf),
}

/// Why a file could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum HostFileError {
    /// It does not exist.
    #[error("there is no {}", path.display())]
    NotFound {
        /// The path named.
        path: PathBuf,
    },
    /// It is of the wrong kind.
    #[error("{name} is {found}, not {wanted}")]
    WrongKind {
        /// The path or handle named.
        name: String,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// Opening it failed.
    #[error("cannot open {}", path.display())]
    Unreadable {
        /// The path named.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The caller may not name paths.
    #[error("user {uid} may not name {} by its path", path.display())]
    PathNotAllowed {
        /// Who called.
        uid: u32,
        /// The path named.
        path: PathBuf,
    },
    /// The handle means nothing, or nothing any more.
    #[error("the descriptor handle is not known")]
    HandleUnknown,
    /// The descriptor was opened for writing, or cannot be read.
    #[error("the descriptor is not open for reading alone")]
    NotReadOnly,
    /// The user has too many descriptors waiting.
    #[error("user {uid} has {HANDLES_PER_USER} descriptors waiting to be used")]
    TooMany {
        /// Who passed them.
        uid: u32,
    },
}

impl HostFiles {
    /// Takes a descriptor into keeping and returns its handle, which serves once, for one minute,
    /// for the same user.
    ///
    /// Only regular files open for reading alone and read ends of pipes are taken. A directory
    /// would be walked with the daemon's rights, a socket or device could do anything.
    pub fn keep(&self, uid: u32, file: File) -> Result<HandleId, HostFileError> {
        check_passed(&file)?;
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.retain(|_, kept| kept.at.elapsed() < HANDLE_LIFE);
        if passed.values().filter(|kept| kept.uid == uid).count() >= HANDLES_PER_USER {
            return Err(HostFileError::TooMany { uid });
        }
        let handle = HandleId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
        passed.insert(
            handle,
            Passed {
                file,
                uid,
                at: Instant::now(),
            },
        );
        Ok(handle)
    }

    /// Closes descriptors whose handles were not used in time.
    pub fn sweep(&self) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.retain(|_, kept| kept.at.elapsed() < HANDLE_LIFE);
    }

    /// Takes what a call names, at once and without touching the file system: a handle lives a
    /// minute, and opening a path can take as long as its file system wants.
    pub fn claim(&self, actor: &Actor, named: &HostFile) -> Result<Claim, HostFileError> {
        match named {
            HostFile::Handle(handle) => self.take(actor, *handle).map(Claim::Passed),
            HostFile::Path(path) if actor.may_name_host_paths() => Ok(Claim::Path(path.clone())),
            HostFile::Path(path) => Err(HostFileError::PathNotAllowed {
                uid: actor.uid,
                path: path.clone(),
            }),
        }
    }

    fn take(&self, actor: &Actor, handle: HandleId) -> Result<File, HostFileError> {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.retain(|_, kept| kept.at.elapsed() < HANDLE_LIFE);
        // Another user's handle stays where it is: guessing must not destroy it either.
        let is_own = passed
            .get(&handle)
            .is_some_and(|kept| kept.uid == actor.uid);
        let kept = if is_own { passed.remove(&handle) } else { None };
        kept.map(|kept| kept.file)
            .ok_or(HostFileError::HandleUnknown)
    }
}

/// A file that a caller may have, and that is looked at later. What opens it blocks.
#[derive(Debug)]
pub enum Claim {
    /// A descriptor the caller passed.
    Passed(File),
    /// A path of a caller who may name paths.
    Path(PathBuf),
}

impl Claim {
    /// Opens a regular file.
    pub fn file(self) -> Result<File, HostFileError> {
        let name = self.name();
        match self.open()? {
            Opened::File(file) => Ok(file),
            Opened::Pipe(_) => Err(wrong_kind(name, "a pipe", "a regular file")),
            Opened::Directory(_) => Err(wrong_kind(name, "a directory", "a regular file")),
        }
    }

    /// Opens a directory: by path, or as a tar stream.
    pub fn directory(self) -> Result<Opened, HostFileError> {
        let name = self.name();
        match self.open()? {
            Opened::File(_) => Err(wrong_kind(name, "a regular file", "a directory")),
            opened => Ok(opened),
        }
    }

    fn open(self) -> Result<Opened, HostFileError> {
        match self {
            Self::Passed(file) => match file_type(&file) {
                Some(FileType::Fifo) => Ok(Opened::Pipe(file)),
                _ => Ok(Opened::File(file)),
            },
            Self::Path(path) => open_path(&path),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Passed(_) => "the descriptor".to_owned(),
            Self::Path(path) => path.display().to_string(),
        }
    }
}

fn check_passed(file: &File) -> Result<(), HostFileError> {
    let flags = rustix::fs::fcntl_getfl(file).map_err(|_| HostFileError::NotReadOnly)?;
    if flags.contains(OFlags::PATH) || (flags & OFlags::RWMODE) != OFlags::RDONLY {
        return Err(HostFileError::NotReadOnly);
    }
    let found = match file_type(file) {
        Some(FileType::RegularFile | FileType::Fifo) => return Ok(()),
        Some(FileType::Directory) => "a directory",
        Some(FileType::Socket) => "a socket",
        _ => "a special file",
    };
    let name = "the descriptor".to_owned();
    Err(HostFileError::WrongKind {
        name,
        found,
        wanted: "a regular file or the read end of a pipe",
    })
}

fn file_type(file: impl AsFd) -> Option<FileType> {
    rustix::fs::fstat(file)
        .ok()
        .map(|found| FileType::from_raw_mode(found.st_mode))
}

/// Opens a path without ever blocking on it or making a terminal the daemon's own, and judges
/// what was opened, not what the path says.
fn open_path(path: &std::path::Path) -> Result<Opened, HostFileError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => HostFileError::NotFound {
            path: path.to_owned(),
        },
        error => HostFileError::Unreadable {
            path: path.to_owned(),
            source: error.into(),
        },
    })?;
    let wrong = |found| HostFileError::WrongKind {
        name: path.display().to_string(),
        found,
        wanted: "a regular file or a directory",
    };
    match file_type(&file) {
        Some(FileType::RegularFile) => Ok(Opened::File(File::from(file))),
        Some(FileType::Directory) => Ok(Opened::Directory(path.to_owned())),
        Some(FileType::Fifo) => Err(wrong("a pipe")),
        Some(FileType::Socket) => Err(wrong("a socket")),
        _ => Err(wrong("a device")),
    }
}

fn wrong_kind(name: String, found: &'static str, wanted: &'static str) -> HostFileError {
    HostFileError::WrongKind {
        name,
        found,
        wanted,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn actor(uid: u32) -> Actor {
        Actor::from_peer(uid, uid, None, 500)
    }

    fn file(files: &HostFiles, uid: u32, named: &HostFile) -> Result<File, HostFileError> {
        files.claim(&actor(uid), named)?.file()
    }

    fn readable(folder: &Path) -> File {
        let path = folder.join("kernel");
        fs::write(&path, "kernel").unwrap();
        File::open(path).unwrap()
    }

    #[test]
    fn a_handle_serves_its_user_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = HostFiles::default();
        let handle = HostFile::Handle(files.keep(1000, readable(folder.path())).unwrap());

        let first = file(&files, 1000, &handle);
        let second = file(&files, 1000, &handle);

        assert_eq!(first.map(|_| ()).map_err(|error| error.to_string()), Ok(()));
        assert!(matches!(second, Err(HostFileError::HandleUnknown)));
    }

    #[test]
    fn another_users_handle_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let files = HostFiles::default();
        let handle = HostFile::Handle(files.keep(1000, readable(folder.path())).unwrap());

        let stolen = file(&files, 1001, &handle);

        assert!(matches!(stolen, Err(HostFileError::HandleUnknown)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handle_dies_after_a_minute_and_a_sweep_closes_its_descriptor() {
        let files = HostFiles::default();
        let (reading, writing) = rustix::pipe::pipe().unwrap();
        let handle = HostFile::Handle(files.keep(1000, File::from(reading)).unwrap());
        let write = || rustix::io::write(&writing, b"x");

        let last = Duration::from_millis(1);
        tokio::time::advance(HANDLE_LIFE.saturating_sub(last)).await;
        files.sweep();
        assert_eq!(write(), Ok(1), "closed too early");

        tokio::time::advance(last).await;
        files.sweep();
        assert_eq!(write(), Err(rustix::io::Errno::PIPE), "still open");
        let late = files.claim(&actor(1000), &handle);
        assert!(matches!(late, Err(HostFileError::HandleUnknown)));
    }

    #[test]
    fn writable_descriptors_directories_and_sockets_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = HostFiles::default();
        let writable = File::create(folder.path().join("w")).unwrap();
        let directory = File::open(folder.path()).unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = File::from(std::os::fd::OwnedFd::from(socket));

        assert!(matches!(
            files.keep(1, writable),
            Err(HostFileError::NotReadOnly)
        ));
        assert!(matches!(
            files.keep(1, directory),
            Err(HostFileError::WrongKind { .. })
        ));
        assert!(matches!(
            files.keep(1, socket),
            Err(HostFileError::WrongKind { .. } | HostFileError::NotReadOnly)
        ));
    }

    #[test]
    fn only_the_daemons_own_rights_open_paths() {
        let folder = tempfile::tempdir().unwrap();
        drop(readable(folder.path()));
        let files = HostFiles::default();
        let named = HostFile::Path(folder.path().join("kernel"));
        let missing = HostFile::Path(folder.path().join("missing"));

        drop(file(&files, 0, &named).unwrap());
        assert!(matches!(
            file(&files, 1000, &named),
            Err(HostFileError::PathNotAllowed { uid: 1000, .. })
        ));
        assert!(matches!(
            file(&files, 0, &missing),
            Err(HostFileError::NotFound { .. })
        ));
        let directory = HostFile::Path(folder.path().to_owned());
        assert!(matches!(
            file(&files, 0, &directory),
            Err(HostFileError::WrongKind {
                found: "a directory",
                ..
            })
        ));
        let device = HostFile::Path("/dev/zero".into());
        assert!(matches!(
            file(&files, 0, &device),
            Err(HostFileError::WrongKind {
                found: "a device",
                ..
            })
        ));
    }
}
