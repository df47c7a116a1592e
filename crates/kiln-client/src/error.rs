//! Why a call failed, as the caller of the library sees it, and as the error object of the wire.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jsonrpsee::core::client::Error as RpcError;
use kiln_api::{Failure, codes, daemon::API_MAJOR};

use crate::files::FileError;
use crate::layout::LayoutError;
use crate::tar_stream::DirectoryError;

/// The exit code of a client that found no daemon.
const EXIT_UNREACHABLE: u8 = 7;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon answered with an error.
    #[error(transparent)]
    Failed(Box<Failure>),
    /// There is no daemon behind the socket, or it may not be opened. What listens there and is no
    /// daemon of ours gives `InvalidData`.
    #[error("cannot reach the kiln daemon at {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon speaks another major version of the API.
    #[error("the daemon speaks version {major} of the API, this client speaks version {API_MAJOR}")]
    Incompatible {
        /// The daemon's major version.
        major: u64,
    },
    /// The connection ended before the answer came. What the daemon was doing goes on.
    #[error("the connection to the daemon at {} was lost", path.display())]
    Disconnected {
        /// The socket.
        path: PathBuf,
        /// Why, as far as it is known.
        #[source]
        source: Option<RpcError>,
    },
    /// The answer is not one of this API.
    #[error("the daemon's answer to {method} is not understood")]
    Protocol {
        /// The method that was called.
        method: String,
        /// What is wrong with it.
        #[source]
        source: RpcError,
    },
    /// The request is larger than the daemon takes; it was not sent.
    #[error("the request {method} has {size_bytes} bytes, {limit_bytes} are allowed")]
    TooLarge {
        /// The method.
        method: String,
        /// The request's size in bytes.
        size_bytes: usize,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// The daemon did not answer within the time the caller gave.
    #[error("no answer to {method} came within {seconds} seconds")]
    TimedOut {
        /// The method.
        method: String,
        /// The time given.
        seconds: u64,
    },
    /// A file that the call names cannot be passed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A directory that the call names cannot be passed.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// An image layout that the call names cannot be passed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl ClientError {
    /// Returns the error object that says the same: the daemon's own, or one of the client's.
    pub fn to_failure(&self) -> Failure {
        match self {
            Self::Failed(failure) => (**failure).clone(),
            Self::Unreachable { path, source } => self.unreachable_failure(path, source.kind()),
            Self::Disconnected { .. } => unreachable_exit(
                Failure::from_error(codes::daemon::UNREACHABLE, self).with_hint(
                    "a daemon that runs goes on with what was started; one that ended has interrupted it, \
                     and says so after its next start:",
                    Some("kiln op ls".to_owned()),
                ),
            ),
            Self::Incompatible { .. } => Failure::from_error(codes::daemon::INCOMPATIBLE, self),
            Self::Protocol { .. } => Failure::from_error(codes::daemon::INTERNAL, self),
            Self::TooLarge { .. } => Failure::from_error(codes::request::TOO_LARGE, self),
            Self::TimedOut { .. } => Failure::from_error(codes::operation::STILL_RUNNING, self)
                .with_hint("the daemon may be busy: call again with more time", None),
            Self::File(error) => error.to_failure(),
            Self::Directory(error) => error.to_failure(),
            Self::Layout(error) => error.to_failure(),
        }
    }

    fn unreachable_failure(&self, socket: &Path, kind: io::ErrorKind) -> Failure {
        let failure = Failure::from_error(codes::daemon::UNREACHABLE, self);
        unreachable_exit(match kind {
            io::ErrorKind::PermissionDenied if is_open_to_group(socket) => failure.with_hint(
                "add yourself to the group that owns the socket, then log in again:",
                Some("sudo usermod -aG kiln $USER".to_owned()),
            ),
            io::ErrorKind::PermissionDenied => failure.with_hint(
                "call as the user it belongs to, or run a daemon of your own:",
                Some("kilnd --root DIR".to_owned()),
            ),
            io::ErrorKind::InvalidData => failure.with_hint(
                "what listens there is no kiln daemon: name the socket of one with --host or KILN_HOST",
                None,
            ),
            io::ErrorKind::TimedOut => failure.with_hint(
                "something listens there and does not answer: look at its process and its log",
                None,
            ),
            _ => failure.with_hint(
                "start a daemon with `kilnd --root DIR` and name its socket:",
                Some("KILN_HOST=unix:///DIR/kiln.sock kiln info".to_owned()),
            ),
        })
    }
}

/// Tells whether a group may connect. A socket that cannot be looked at lies in a directory
/// closed to the caller, which no group opens.
fn is_open_to_group(socket: &Path) -> bool {
    const GROUP_WRITE: u32 = 0o020;
    fs::metadata(socket).is_ok_and(|metadata| metadata.mode() & GROUP_WRITE != 0)
}

/// Class and HTTP status are those of the code; the exit code is the client's own.
fn unreachable_exit(failure: Failure) -> Failure {
    Failure {
        exit_code: EXIT_UNREACHABLE,
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn unreachable(kind: io::ErrorKind) -> Failure {
        let path = PathBuf::from("/d/kiln.sock");
        let source = io::Error::from(kind);
        ClientError::Unreachable { path, source }.to_failure()
    }

    #[test]
    fn an_absent_daemon_is_exit_7_with_a_way_to_start_one() {
        let failure = unreachable(io::ErrorKind::NotFound);

        assert_eq!(failure.exit_code, 7);
        assert_eq!(
            failure.message,
            "cannot reach the kiln daemon at /d/kiln.sock"
        );
        assert_eq!(failure.cause, ["entity not found"]);
        assert!(failure.hint.unwrap().text.contains("kilnd --root DIR"));
    }

    #[test]
    fn a_forbidden_socket_names_the_group_where_a_group_would_help() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kiln.sock");
        fs::write(&path, "").unwrap();
        let command_at = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let source = io::ErrorKind::PermissionDenied.into();
            let path = path.clone();
            let failure = ClientError::Unreachable { path, source }.to_failure();
            failure.hint.unwrap().command.unwrap()
        };

        assert_eq!(command_at(0o660), "sudo usermod -aG kiln $USER");
        assert_eq!(command_at(0o600), "kilnd --root DIR");
        assert!(!is_open_to_group(&directory.path().join("none")));
    }

    #[test]
    fn the_daemons_own_failure_passes_unchanged() {
        let failure = Failure::new(codes::image::NOT_FOUND, "no image answers to x");

        let passed = ClientError::Failed(Box::new(failure.clone())).to_failure();

        assert_eq!(passed, failure);
        assert_eq!(passed.exit_code, 3);
    }
}
