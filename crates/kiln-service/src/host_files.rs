//! Descriptors between callers and the daemon: files of the host that callers name, and files of
//! images that callers get.
//!
//! A descriptor that came in was opened with its caller's rights, so nobody makes the daemon read
//! what they could not. One that waits to go out never counts as one that came in, nor the other
//! way round. How descriptors travel is not here.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_api::{HandleId, HostFile};
use kiln_domain::access::Actor;
use rustix::fs::{FileType, Mode, OFlags};
use tokio::time::Instant;

/// How long a handle waits to be used.
const HANDLE_LIFE: Duration = Duration::from_secs(60);

/// Most handles one user may have waiting: eight images of the most layers Kiln takes.
const HANDLES_PER_USER: usize = 8_192;

/// Descriptors that were passed, or are to be taken, and were not yet.
#[derive(Debug, Default)]
pub struct HostFiles {
    kept: Mutex<HashMap<HandleId, Kept>>,
}

#[derive(Debug)]
struct Kept {
    file: File,
    uid: u32,
    direction: Direction,
    at: Instant,
}

/// Where a descriptor is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// From a caller to a call.
    In,
    /// From the daemon to a caller.
    Out,
}

impl Kept {
    fn serves(&self, uid: u32, direction: Direction) -> bool {
        self.uid == uid && self.direction == direction
    }
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
        self.insert(uid, Direction::In, file)
    }

    /// Lays a file of the daemon out for one user and returns its handle, which serves once, for
    /// one minute.
    ///
    /// Only regular files open for reading alone go out. The receiver can make no more of it:
    /// opening it anew through `/proc/self/fd` takes the rights its mode gives, and files of
    /// images are the daemon's own with mode 0400. `file` must have been opened for this, since
    /// whoever takes it shares its position.
    pub fn lay_out(&self, uid: u32, file: File) -> Result<HandleId, HostFileError> {
        check_passed(&file)?;
        if file_type(&file) != Some(FileType::RegularFile) {
            let name = "the descriptor".to_owned();
            return Err(wrong_kind(name, "a pipe", "a regular file"));
        }
        self.insert(uid, Direction::Out, file)
    }

    /// Hands out what was laid out for a user: all of it, or nothing when a handle is not theirs,
    /// not one to go out, or named twice.
    pub fn hand_out(&self, uid: u32, handles: &[HandleId]) -> Result<Vec<File>, HostFileError> {
        let mut kept = self.fresh();
        let mut distinct = HashSet::new();
        let all_serve = handles.iter().all(|handle| {
            let found = kept.get(handle);
            distinct.insert(handle) && found.is_some_and(|kept| kept.serves(uid, Direction::Out))
        });
        if !all_serve {
            return Err(HostFileError::HandleUnknown);
        }
        let taken = handles.iter().filter_map(|handle| kept.remove(handle));
        Ok(taken.map(|kept| kept.file).collect())
    }

    /// Closes descriptors whose handles were not used in time.
    pub fn sweep(&self) {
        drop(self.fresh());
    }

    fn insert(
        &self,
        uid: u32,
        direction: Direction,
        file: File,
    ) -> Result<HandleId, HostFileError> {
        let mut kept = self.fresh();
        if kept.values().filter(|kept| kept.uid == uid).count() >= HANDLES_PER_USER {
            return Err(HostFileError::TooMany { uid });
        }
        let handle = HandleId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
        kept.insert(
            handle,
            Kept {
                file,
                uid,
                direction,
                at: Instant::now(),
            },
        );
        Ok(handle)
    }

    /// Locks what is kept and closes what was kept too long.
    fn fresh(&self) -> MutexGuard<'_, HashMap<HandleId, Kept>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.at.elapsed() < HANDLE_LIFE);
        kept
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
        let mut kept = self.fresh();
        // Another user's handle stays where it is: guessing must not destroy it either.
        let is_own = kept
            .get(&handle)
            .is_some_and(|kept| kept.serves(actor.uid, Direction::In));
        let taken = if is_own { kept.remove(&handle) } else { None };
        taken
            .map(|kept| kept.file)
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

    #[test]
    fn what_goes_out_goes_once_to_its_user_and_all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let files = HostFiles::default();
        let lay_out = || files.lay_out(1000, readable(folder.path())).unwrap();
        let (one, two) = (lay_out(), lay_out());
        let unknown = |uid, handles: &[HandleId]| {
            let got = files.hand_out(uid, handles);
            assert!(matches!(got, Err(HostFileError::HandleUnknown)), "{got:?}");
        };

        unknown(1001, &[one]);
        unknown(0, &[one]);
        unknown(1000, &[one, HandleId::from_bytes([0; 16])]);
        unknown(1000, &[one, one]);
        assert_eq!(files.hand_out(1000, &[one, two]).unwrap().len(), 2);
        unknown(1000, &[one]);
        unknown(1000, &[two]);
    }

    #[test]
    fn a_handle_serves_in_its_own_direction_alone() {
        let folder = tempfile::tempdir().unwrap();
        let files = HostFiles::default();
        let going_in = files.keep(1000, readable(folder.path())).unwrap();
        let going_out = files.lay_out(1000, readable(folder.path())).unwrap();

        let taken = files.hand_out(1000, &[going_in]);
        let claimed = file(&files, 1000, &HostFile::Handle(going_out));

        assert!(matches!(taken, Err(HostFileError::HandleUnknown)));
        assert!(matches!(claimed, Err(HostFileError::HandleUnknown)));
        // Trying the wrong way used neither up.
        drop(file(&files, 1000, &HostFile::Handle(going_in)).unwrap());
        assert_eq!(files.hand_out(1000, &[going_out]).unwrap().len(), 1);
    }

    #[test]
    fn only_regular_files_open_for_reading_go_out() {
        let folder = tempfile::tempdir().unwrap();
        let files = HostFiles::default();
        let writable = File::create(folder.path().join("w")).unwrap();
        let (reading, _writing) = rustix::pipe::pipe().unwrap();

        let written = files.lay_out(1000, writable);
        let piped = files.lay_out(1000, File::from(reading));

        assert!(matches!(written, Err(HostFileError::NotReadOnly)));
        assert!(matches!(
            piped,
            Err(HostFileError::WrongKind {
                found: "a pipe",
                ..
            })
        ));
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
