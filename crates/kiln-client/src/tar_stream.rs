//! Sends a directory as a tar stream through a pipe, because a directory descriptor would be
//! walked with the daemon's rights.
//!
//! The same directory gives the same bytes: names are relative and sorted, times and owners are
//! zero. Only directories, regular files and symbolic links are sent. Passing the pipe's end is
//! not here.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread::{self, JoinHandle};

use kiln_api::{Failure, HostFile, codes};
use rustix::fs::{Access, access};

/// Most entries that are sent; a full set of a distribution's modules has about 7,000.
const MAX_ENTRIES: usize = 100_000;

/// A directory on its way to the daemon. The stream goes on by itself for as long as the daemon
/// reads; dropping this does not stop it.
#[derive(Debug)]
pub struct Directory {
    file: HostFile,
    thread: Option<JoinHandle<Result<(), DirectoryError>>>,
}

/// Why a directory could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Something in it could not be read.
    #[error("cannot {step} {}", path.display())]
    Read {
        /// What was tried.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something in it cannot be sent, or the path is no directory.
    #[error("{} is {what}", path.display())]
    WrongKind {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is too much in it.
    #[error("{} has more than {MAX_ENTRIES} entries", path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
    /// The pipe to the daemon failed.
    #[error("cannot send the directory {}", path.display())]
    Pipe {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// Relative to the directory.
    name: PathBuf,
    kind: Kind,
    mode: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Link(PathBuf),
}

impl DirectoryError {
    pub(crate) fn to_failure(&self) -> Failure {
        let code = match self {
            Self::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => codes::file::NOT_FOUND,
                _ => codes::file::UNREADABLE,
            },
            Self::WrongKind { .. } => codes::file::WRONG_KIND,
            Self::TooMany { .. } => codes::file::TOO_LARGE,
            Self::Pipe { .. } => codes::storage::FAILED,
        };
        Failure::from_error(code, self)
    }
}

impl Directory {
    /// A directory that the daemon opens itself.
    pub(crate) fn named(file: HostFile) -> Self {
        Self { file, thread: None }
    }

    /// A directory that the daemon reads through a pipe.
    pub(crate) fn streamed(file: HostFile, stream: Stream) -> Self {
        Self {
            file,
            thread: Some(stream.thread),
        }
    }

    /// Returns what to name in the call.
    pub fn file(&self) -> &HostFile {
        &self.file
    }

    /// Returns why the stream broke off, when it did: after a failed call this is the cause that
    /// the daemon cannot know.
    pub fn failure(self) -> Option<DirectoryError> {
        let thread = self.thread.filter(JoinHandle::is_finished)?;
        // A panic in the thread is a bug that the panic hook has shown already.
        thread.join().ok()?.err()
    }
}

/// The thread that writes a directory into a pipe.
#[derive(Debug)]
pub(crate) struct Stream {
    thread: JoinHandle<Result<(), DirectoryError>>,
}

/// Lists the directory and starts to write it. Nothing is read before somebody reads the pipe,
/// beyond what the pipe holds.
pub(crate) fn start(root: &Path) -> Result<(PipeReader, Stream), DirectoryError> {
    let pipe = |source| DirectoryError::Pipe {
        path: root.to_owned(),
        source,
    };
    let entries = list(root)?;
    let (reader, writer) = io::pipe().map_err(pipe)?;
    let root_owned = root.to_owned();
    let thread = thread::Builder::new()
        .name("directory".to_owned())
        .spawn(move || match write(&root_owned, &entries, writer) {
            // The daemon stopped reading, and says itself why.
            Err(DirectoryError::Pipe { source, .. })
                if source.kind() == io::ErrorKind::BrokenPipe =>
            {
                Ok(())
            }
            result => result,
        })
        .map_err(pipe)?;
    Ok((reader, Stream { thread }))
}

/// Lists everything below the directory, parents first, in the order of the names' bytes.
fn list(root: &Path) -> Result<Vec<Entry>, DirectoryError> {
    let metadata = fs::metadata(root).map_err(at("open", root))?;
    if !metadata.is_dir() {
        return Err(DirectoryError::WrongKind {
            path: root.to_owned(),
            what: "not a directory",
        });
    }
    let mut entries = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        let path = root.join(&directory);
        for child in fs::read_dir(&path).map_err(at("list", &path))? {
            let child = child.map_err(at("list", &path))?;
            let entry = examine(&child.path(), directory.join(child.file_name()))?;
            if entry.kind == Kind::Directory {
                pending.push(entry.name.clone());
            }
            entries.push(entry);
            if entries.len() > MAX_ENTRIES {
                return Err(DirectoryError::TooMany {
                    path: root.to_owned(),
                });
            }
        }
    }
    entries.sort_by(|a, b| {
        a.name
            .as_os_str()
            .as_bytes()
            .cmp(b.name.as_os_str().as_bytes())
    });
    Ok(entries)
}

fn examine(path: &Path, name: PathBuf) -> Result<Entry, DirectoryError> {
    let metadata = fs::symlink_metadata(path).map_err(at("look at", path))?;
    let file_type = metadata.file_type();
    let kind = if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_file() {
        // Found now, it can still be told; found in the middle of the stream it breaks off.
        let readable = access(path, Access::READ_OK);
        readable.map_err(|error| at("open", path)(error.into()))?;
        Kind::File
    } else if file_type.is_symlink() {
        Kind::Link(fs::read_link(path).map_err(at("read the link", path))?)
    } else {
        return Err(DirectoryError::WrongKind {
            path: path.to_owned(),
            what: "neither a directory nor a regular file nor a symbolic link",
        });
    };
    Ok(Entry {
        name,
        kind,
        mode: metadata.mode() & 0o777,
    })
}

fn write(root: &Path, entries: &[Entry], out: impl Write) -> Result<(), DirectoryError> {
    let pipe = |source| DirectoryError::Pipe {
        path: root.to_owned(),
        source,
    };
    let broken = Rc::new(Cell::new(false));
    let mut archive = tar::Builder::new(Breakable {
        out,
        broken: Rc::clone(&broken),
    });
    for entry in entries {
        let written = append(&mut archive, root, entry);
        if written.is_err() {
            broken.set(true);
        }
        written?;
    }
    archive.finish().map_err(pipe)
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    root: &Path,
    entry: &Entry,
) -> Result<(), DirectoryError> {
    let pipe = |source| DirectoryError::Pipe {
        path: root.to_owned(),
        source,
    };
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            archive
                .append_data(&mut header, &entry.name, io::empty())
                .map_err(pipe)
        }
        Kind::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            archive
                .append_link(&mut header, &entry.name, target)
                .map_err(pipe)
        }
        Kind::File => {
            let path = root.join(&entry.name);
            let file = File::open(&path).map_err(at("open", &path))?;
            let size_bytes = file.metadata().map_err(at("look at", &path))?.len();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(size_bytes);
            let mut body = Exact {
                file,
                left: size_bytes,
                failure: None,
            };
            let appended = archive.append_data(&mut header, &entry.name, &mut body);
            match body.failure {
                Some(source) => Err(at("read", &path)(source)),
                None => appended.map_err(pipe),
            }
        }
    }
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl Fn(io::Error) -> DirectoryError + 'a {
    move |source| DirectoryError::Read {
        step,
        path: path.to_owned(),
        source,
    }
}

/// Reads as many bytes as the header promised: a file that shrinks meanwhile is a failure, what
/// it grows by is left out.
struct Exact {
    file: File,
    left: u64,
    failure: Option<io::Error>,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = (&mut self.file).take(self.left).read(buffer);
        let result = match result {
            Ok(0) if self.left > 0 && !buffer.is_empty() => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter",
            )),
            other => other,
        };
        match result {
            Ok(count) => {
                self.left -= u64::try_from(count).unwrap_or(self.left).min(self.left);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// A writer that can be broken on purpose. `tar::Builder` ends the archive when it is dropped;
/// after a failure the archive must not look complete.
struct Breakable<W> {
    out: W,
    broken: Rc<Cell<bool>>,
}

impl<W: Write> Write for Breakable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory of modules with a name longer than a tar header holds.
    fn modules() -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let long = format!("kernel/{}", "long/".repeat(30));
        fs::create_dir_all(directory.path().join(&long)).unwrap();
        fs::write(directory.path().join("kernel/b.ko"), "bb").unwrap();
        fs::write(directory.path().join("kernel/a.ko"), "a".repeat(1000)).unwrap();
        fs::write(directory.path().join(&long).join("z.ko"), "z").unwrap();
        symlink("/usr/src/linux", directory.path().join("build")).unwrap();
        (directory, format!("{long}z.ko"))
    }

    fn stream(root: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(root, &list(root).unwrap(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn everything_arrives_sorted_and_without_times_or_owners() {
        let (directory, long) = modules();

        let bytes = stream(directory.path());

        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(
                (
                    header.mtime().unwrap(),
                    header.uid().unwrap(),
                    header.gid().unwrap()
                ),
                (0, 0, 0)
            );
            let name = entry.path().unwrap().display().to_string();
            let link = entry
                .link_name()
                .unwrap()
                .map(|link| link.display().to_string());
            let mut body = String::new();
            entry.read_to_string(&mut body).unwrap();
            seen.push((name, link, body));
        }
        let names: Vec<&str> = seen.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            &names[..4],
            ["build", "kernel", "kernel/a.ko", "kernel/b.ko"]
        );
        assert!(names.contains(&long.as_str()), "{names:?}");
        assert_eq!(seen[0].1.as_deref(), Some("/usr/src/linux"));
        assert_eq!((seen[2].2.len(), seen[3].2.as_str()), (1000, "bb"));
    }

    #[test]
    fn the_same_directory_gives_the_same_bytes() {
        let (one, _) = modules();
        let (two, _) = modules();

        assert_eq!(stream(one.path()), stream(two.path()));
    }

    #[test]
    fn a_file_that_became_shorter_leaves_no_complete_archive() {
        let (directory, _) = modules();
        let entries = list(directory.path()).unwrap();
        fs::remove_file(directory.path().join("kernel/b.ko")).unwrap();
        let mut bytes = Vec::new();

        let error = write(directory.path(), &entries, &mut bytes).unwrap_err();

        assert!(
            matches!(error, DirectoryError::Read { step: "open", .. }),
            "{error:?}"
        );
        assert_ne!(
            bytes[bytes.len() - 512..],
            [0; 512],
            "the archive looks complete"
        );
    }

    #[test]
    fn only_directories_with_ordinary_things_are_sent() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let check = |path: &Path| list(path).unwrap_err().to_failure().code;

        assert_eq!(check(&file), "file.wrong_kind");
        assert_eq!(check(&directory.path().join("none")), "file.not_found");
        let _listener = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
        assert_eq!(check(directory.path()), "file.wrong_kind");
    }

    #[test]
    fn nobody_reading_is_no_failure_of_ours() {
        let (directory, _) = modules();
        let (reader, stream) = start(directory.path()).unwrap();

        drop(reader);

        stream.thread.join().unwrap().unwrap();
    }
}
