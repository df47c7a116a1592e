//! Makes the Unix socket: right directory, right mode, never over a living one.
//!
//! The caller holds the lock on the state directory, so a socket that nobody answers on is a
//! leftover and a socket that somebody answers on belongs to a daemon of another directory.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::sys::stat::{Mode, umask};
use tokio::net::UnixListener;

/// Longest path a Unix socket can be bound to, in bytes: `sun_path` is 108 bytes with its closing
/// NUL (unix(7)).
const PATH_MAX: usize = 107;

/// Who may open the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketAccess {
    /// The daemon's own user: mode 0600.
    Owner,
    /// The daemon's own user and its group: mode 0660.
    Group,
}

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path does not fit into a socket address.
    #[error("the socket path {} is {} bytes long; a Unix socket's path has at most {PATH_MAX}", path.display(), path.as_os_str().len())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Somebody answers on the socket.
    #[error("another daemon answers on {}", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a socket stands there.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Held while the process has the umask of a socket in the making.
static UMASK: Mutex<()> = Mutex::new(());

/// A listening socket that is unlinked when dropped.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl BoundSocket {
    /// Borrows the listener.
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Borrows the path it listens at.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // A socket file left behind is replaced by the next start, so nobody needs to be told.
        fs::remove_file(&self.path).ok();
    }
}

/// Binds a listening socket at `path` and makes its directory when it is missing.
///
/// A stale socket is replaced; a live one, or anything else, never. The mode is right from the
/// first moment: the umask is set around the bind, for a chmod after it would leave a gap. Call it
/// before other threads make files, since the umask belongs to the whole process.
pub fn bind(path: &Path, access: SocketAccess) -> Result<BoundSocket, BindError> {
    if path.as_os_str().len() > PATH_MAX {
        return Err(BindError::PathTooLong {
            path: path.to_owned(),
        });
    }
    let at = |step| {
        let path = path.to_owned();
        move |source| BindError::Io { step, path, source }
    };
    // Two at once would each restore what the other set. Nothing is kept in the lock, so a panic
    // beside it has broken nothing.
    let _umask = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(directory_mode(access))
            .create(directory)
            .map_err(at("make the directory of"))?;
    }
    clear_leftover(path)?;
    let before = umask(Mode::from_bits_truncate(match access {
        SocketAccess::Owner => 0o177,
        SocketAccess::Group => 0o117,
    }));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(at("bind"))?;
    Ok(BoundSocket {
        listener,
        path: path.to_owned(),
    })
}

fn directory_mode(access: SocketAccess) -> u32 {
    match access {
        SocketAccess::Owner => 0o700,
        SocketAccess::Group => 0o750,
    }
}

fn clear_leftover(path: &Path) -> Result<(), BindError> {
    let at = |step| {
        let path = path.to_owned();
        move |source| BindError::Io { step, path, source }
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at("look at")(error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(at("remove the leftover"))
        }
        Err(error) => Err(at("try")(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_socket_is_made_with_its_final_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/kiln.sock");

        let bound = bind(&path, SocketAccess::Owner).unwrap();

        assert_eq!(mode_of(bound.path()), 0o600);
        assert_eq!(mode_of(path.parent().unwrap()), 0o700);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

        let bound = bind(&path, SocketAccess::Owner).unwrap();
        let second = bind(&path, SocketAccess::Owner);

        assert!(matches!(second, Err(BindError::InUse { .. })));
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.sock");
        fs::write(&path, "precious").unwrap();

        let bound = bind(&path, SocketAccess::Owner);

        assert!(matches!(bound, Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_refused_with_the_limit() {
        let path = Path::new("/tmp").join("x".repeat(120));

        let error = bind(&path, SocketAccess::Owner).unwrap_err();

        assert!(error.to_string().contains("at most 107"), "{error}");
    }
}
