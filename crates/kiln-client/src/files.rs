//! Files of the host that a call names: opened here, with the caller's rights, and passed to the
//! daemon as descriptors; and files of images, taken from it.
//!
//! A daemon without a second socket gets absolute paths instead, which it takes from root and its
//! own user only. What the files hold is the daemon's to judge.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use kiln_api::{Failure, HandleId, HostFile, codes};
use kiln_domain::{Platform, Source};
use rustix::fs::OFlags;

use crate::ClientError;
use crate::exchange::{Exchange, Tap};
use crate::layout::{self, Beside};
use crate::passing::{BATCH, Connection, PassingError};
use crate::tar_stream::{self, Directory};

/// What the file of an archive is called in a pull.
const ARCHIVE: &str = "archive";

/// Why a file could not be passed or taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It does not exist.
    #[error("there is no file {}", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// It is a directory, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be read with the caller's rights.
    #[error("cannot open {}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon's second socket failed.
    #[error("cannot {step} {}", socket.display())]
    NotPassed {
        /// What was tried.
        step: &'static str,
        /// The second socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FileError {
    pub(crate) fn to_failure(&self) -> Failure {
        let code = match self {
            Self::NotFound { .. } => codes::file::NOT_FOUND,
            Self::WrongKind { .. } => codes::file::WRONG_KIND,
            Self::Unreadable { .. } => codes::file::UNREADABLE,
            Self::NotPassed { .. } => codes::daemon::UNREACHABLE,
        };
        Failure::from_error(code, self)
    }
}

/// The way by which files of the host reach one daemon, and files of its images their callers.
///
/// Handles serve one call and a minute: pass files right before the call that names them.
#[derive(Clone, Debug)]
pub struct HostFiles {
    socket: PathBuf,
    tap: Option<Tap>,
}

/// The source of a pull as the call names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedSource {
    /// The `ref` of the call; a path in it is absolute.
    pub reference: String,
    /// The `source_files` of the call; absent for a registry, and for a daemon without a second
    /// socket.
    pub files: Option<BTreeMap<String, HostFile>>,
}

impl HostFiles {
    pub(crate) fn new(socket: PathBuf, tap: Option<Tap>) -> Self {
        Self { socket, tap }
    }

    /// Passes a regular file by its path.
    pub async fn file(&self, path: &Path) -> Result<HostFile, ClientError> {
        let path = path.to_owned();
        self.blocking(move |files| {
            let file = open_regular(&path)?;
            let Some(mut connection) = files.connect()? else {
                return named(&path);
            };
            let handles = files.pass_batch(&mut connection, &[file])?;
            first(&files.socket, handles).map(HostFile::Handle)
        })
        .await
    }

    /// Passes an open file. Fails where the daemon has no second socket: a descriptor has no
    /// other way.
    pub async fn pass_file(&self, file: &File) -> Result<HandleId, ClientError> {
        let copy = file
            .try_clone()
            .map_err(|source| self.failed("copy a descriptor for", source))?;
        self.blocking(move |files| {
            let connection = files.connect()?;
            let absent = || files.failed("connect to", io::ErrorKind::NotFound.into());
            let handles = files.pass_batch(&mut connection.ok_or_else(absent)?, &[copy])?;
            first(&files.socket, handles)
        })
        .await
    }

    /// Takes the descriptors behind handles that a call answered, in their order: all or none.
    /// They are open for reading alone.
    pub async fn take(&self, handles: &[HandleId]) -> Result<Vec<File>, ClientError> {
        let handles = handles.to_vec();
        self.blocking(move |files| {
            let absent = || files.failed("connect to", io::ErrorKind::NotFound.into());
            let mut connection = files.connect()?.ok_or_else(absent)?;
            let mut taken = Vec::with_capacity(handles.len());
            for batch in handles.chunks(BATCH) {
                taken.extend(connection.take(batch).map_err(not_passed)?);
            }
            if let Some(tap) = &files.tap {
                let descriptors = taken.len();
                tap.show(Exchange::Taken { descriptors });
            }
            Ok(taken)
        })
        .await
    }

    /// Passes a directory as a tar stream through a pipe.
    pub async fn directory(&self, path: &Path) -> Result<Directory, ClientError> {
        let path = path.to_owned();
        self.blocking(move |files| {
            // Listed first: the daemon does not wait long for a connection's first word.
            let (reader, stream) = tar_stream::start(&path)?;
            let Some(mut connection) = files.connect()? else {
                return named(&path).map(Directory::named);
            };
            let reader = File::from(std::os::fd::OwnedFd::from(reader));
            let handles = files.pass_batch(&mut connection, &[reader])?;
            let handle = first(&files.socket, handles)?;
            Ok(Directory::streamed(HostFile::Handle(handle), stream))
        })
        .await
    }

    /// Passes what a pull of `source` for `wanted` reads from the host: nothing for a registry,
    /// the archive, or the files of a layout that the platform needs.
    pub async fn source(
        &self,
        source: &Source,
        wanted: Platform,
    ) -> Result<PassedSource, ClientError> {
        let source = source.clone();
        self.blocking(move |files| files.pass_source(&source, Some(wanted), Beside::Nothing))
            .await
    }

    /// Does what [`source`](Self::source) does for all platforms of the source.
    pub async fn whole_source(&self, source: &Source) -> Result<PassedSource, ClientError> {
        let source = source.clone();
        self.blocking(move |files| files.pass_source(&source, None, Beside::Nothing))
            .await
    }

    /// Does what the others do, for one platform or all of them, and passes what refers to the image
    /// besides.
    pub async fn source_with_referrers(
        &self,
        source: &Source,
        wanted: Option<Platform>,
    ) -> Result<PassedSource, ClientError> {
        let source = source.clone();
        self.blocking(move |files| files.pass_source(&source, wanted, Beside::Referrers))
            .await
    }

    fn pass_source(
        &self,
        source: &Source,
        wanted: Option<Platform>,
        beside: Beside,
    ) -> Result<PassedSource, ClientError> {
        let source = with_absolute_path(source)?;
        let paths: Vec<(String, PathBuf)> = match &source {
            Source::Registry(_) => Vec::new(),
            Source::OciLayout { path, tag } => {
                let directory = Path::new(path);
                layout::needed_files(directory, tag.as_deref(), wanted, beside)?
                    .into_iter()
                    .map(|name| (name.clone(), directory.join(name)))
                    .collect()
            }
            Source::OciArchive { path, .. } | Source::DockerArchive { path, .. } => {
                vec![(ARCHIVE.to_owned(), path.into())]
            }
            Source::Directory { path } => layout::flat_files(Path::new(path))?,
        };
        Ok(PassedSource {
            reference: source.to_string(),
            files: self.pass_named(&paths)?,
        })
    }

    /// Opens and passes four files at a time, so that a layout of many layers needs few
    /// descriptors here.
    fn pass_named(
        &self,
        paths: &[(String, PathBuf)],
    ) -> Result<Option<BTreeMap<String, HostFile>>, ClientError> {
        if paths.is_empty() {
            return Ok(None);
        }
        let mut connection = self.connect()?;
        let mut passed = BTreeMap::new();
        for batch in paths.chunks(BATCH) {
            let opened: Vec<File> = batch
                .iter()
                .map(|(_, path)| open_regular(path))
                .collect::<Result<_, _>>()?;
            let Some(connection) = &mut connection else {
                continue;
            };
            let handles = self.pass_batch(connection, &opened)?;
            let names = batch.iter().map(|(name, _)| name.clone());
            passed.extend(names.zip(handles.into_iter().map(HostFile::Handle)));
        }
        Ok(connection.is_some().then_some(passed))
    }

    fn connect(&self) -> Result<Option<Connection>, ClientError> {
        Connection::open(&self.socket).map_err(not_passed)
    }

    fn pass_batch(
        &self,
        connection: &mut Connection,
        files: &[File],
    ) -> Result<Vec<HandleId>, ClientError> {
        if let Some(tap) = &self.tap {
            tap.show(Exchange::Passed {
                descriptors: files.len(),
            });
        }
        let descriptors: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        connection.pass(&descriptors).map_err(not_passed)
    }

    fn failed(&self, step: &'static str, source: io::Error) -> ClientError {
        ClientError::File(FileError::NotPassed {
            step,
            socket: self.socket.clone(),
            source,
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let files = self.clone();
        let joined = tokio::task::spawn_blocking(move || work(&files)).await;
        // The runtime is shutting down, or the work panicked; either way nothing was passed.
        joined.map_err(|error| self.failed("pass files to", io::Error::other(error)))?
    }
}

/// Opens a regular file for reading, without waiting for the other end of a pipe.
pub(crate) fn open_regular(path: &Path) -> Result<File, FileError> {
    let unreadable = |source| FileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Err(FileError::NotFound {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(unreadable(error)),
    };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(FileError::WrongKind {
            path: path.to_owned(),
        });
    }
    Ok(file)
}

/// Names a file by its absolute path.
fn named(path: &Path) -> Result<HostFile, ClientError> {
    let absolute = std::path::absolute(path).map_err(|source| FileError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(HostFile::Path(absolute))
}

/// Makes the path of a source absolute: the daemon works elsewhere, and the image's record
/// should mean the same tomorrow.
fn with_absolute_path(source: &Source) -> Result<Source, ClientError> {
    let mut source = source.clone();
    match &mut source {
        Source::Registry(_) => {}
        Source::OciLayout { path, .. }
        | Source::OciArchive { path, .. }
        | Source::DockerArchive { path, .. }
        | Source::Directory { path } => {
            if let HostFile::Path(absolute) = named(Path::new(path))? {
                *path = absolute.display().to_string();
            }
        }
    }
    Ok(source)
}

fn first(socket: &Path, handles: Vec<HandleId>) -> Result<HandleId, ClientError> {
    let missing = || FileError::NotPassed {
        step: "read the handles of",
        socket: socket.to_owned(),
        source: io::ErrorKind::InvalidData.into(),
    };
    Ok(handles.into_iter().next().ok_or_else(missing)?)
}

fn not_passed(error: PassingError) -> ClientError {
    match error {
        PassingError::Refused(failure) => ClientError::Failed(failure),
        PassingError::Socket {
            step,
            socket,
            source,
        } => FileError::NotPassed {
            step,
            socket,
            source,
        }
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A host whose daemon has no second socket.
    fn without_socket(directory: &Path) -> HostFiles {
        HostFiles::new(directory.join("kiln-files.sock"), None)
    }

    async fn code_of(files: &HostFiles, path: &Path) -> String {
        files.file(path).await.unwrap_err().to_failure().code
    }

    #[tokio::test]
    async fn what_cannot_be_passed_has_a_code_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let files = without_socket(directory.path());
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();

        assert_eq!(
            code_of(&files, &directory.path().join("none")).await,
            "file.not_found"
        );
        assert_eq!(code_of(&files, directory.path()).await, "file.wrong_kind");
        assert_eq!(code_of(&files, &fifo).await, "file.wrong_kind");
    }

    #[tokio::test]
    async fn without_a_second_socket_paths_go_as_they_are_but_absolute() {
        let directory = tempfile::tempdir().unwrap();
        let files = without_socket(directory.path());
        let kernel = directory.path().join("vmlinux");
        fs::write(&kernel, "k").unwrap();

        assert_eq!(files.file(&kernel).await.unwrap(), HostFile::Path(kernel));
        let modules = files.directory(directory.path()).await.unwrap();
        assert_eq!(*modules.file(), HostFile::Path(directory.path().to_owned()));
        let open = File::open("/dev/null").unwrap();
        let error = files.pass_file(&open).await.unwrap_err();
        assert!(matches!(
            error,
            ClientError::File(FileError::NotPassed { .. })
        ));
    }

    #[tokio::test]
    async fn a_source_of_the_host_gets_an_absolute_path_and_a_registry_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let files = without_socket(directory.path());
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let archive = directory.path().join("a.tar");
        fs::write(&archive, "").unwrap();

        let text = format!("oci-archive:{}:v1", archive.display());
        let passed = files.source(&text.parse().unwrap(), amd64).await.unwrap();
        assert_eq!((passed.reference, passed.files), (text, None));
        let passed = files
            .source(&"debian:12".parse().unwrap(), amd64)
            .await
            .unwrap();
        assert_eq!(passed.reference, "docker.io/library/debian:12");
        let relative = with_absolute_path(&"oci:lay:v1".parse().unwrap())
            .unwrap()
            .to_string();
        assert!(
            relative.starts_with("oci:/") && relative.ends_with("/lay:v1"),
            "{relative}"
        );
    }
}
