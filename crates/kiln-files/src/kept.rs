//! Small files that people keep: configurations, certificates, secrets, logins.
//!
//! Whoever may write such a file, or into its directory, may put something else there: a pipe
//! that nobody writes to would hold a daemon up for ever, an endless device would fill its memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstatfs};

/// The kernel's own file system of pipes without a name (`linux/magic.h`).
const PIPEFS_MAGIC: i64 = 0x5049_5045;

/// Why a file that somebody keeps was not read. Whoever knows the path says it.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It is a directory, a device, a socket or a pipe.
    #[error("it is not a regular file")]
    NotRegular,
    /// It is longer than any such file is.
    #[error("it has more than {limit_bytes} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// It is no text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// The operating system refused.
    #[error(transparent)]
    Io(io::Error),
}

impl KeptError {
    /// Says whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Opens a regular file for reading, through links too, and never waits for the other end of a
/// pipe.
pub fn open_kept(path: &Path) -> Result<File, KeptError> {
    let (file, kind) = open(path)?;
    if kind == Kind::Pipe {
        return Err(KeptError::NotRegular);
    }
    Ok(file)
}

/// Reads a regular file of at most `limit_bytes`, through links too, and never waits for the other
/// end of a named pipe.
///
/// A pipe without a name is read as well: a shell's `<(command)` is one, only a process that holds
/// it can name it, and it ends with its writers.
pub fn read_kept(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, KeptError> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(KeptError::Io)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(KeptError::TooLarge { limit_bytes });
    }
    Ok(bytes)
}

/// Does what [`read_kept`] does, for a text.
pub fn read_kept_text(path: &Path, limit_bytes: u64) -> Result<String, KeptError> {
    let bytes = read_kept(path, limit_bytes)?;
    String::from_utf8(bytes).map_err(|_| KeptError::NotText)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Regular,
    /// A pipe without a name.
    Pipe,
}

fn open(path: &Path) -> Result<(File, Kind), KeptError> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(KeptError::Io)?;
    let kind = file.metadata().map_err(KeptError::Io)?.file_type();
    if kind.is_file() {
        return Ok((file, Kind::Regular));
    }
    if kind.is_fifo() && is_nameless(&file) {
        let refused = |error: rustix::io::Errno| KeptError::Io(error.into());
        let flags = fcntl_getfl(&file).map_err(refused)?;
        fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK)).map_err(refused)?;
        return Ok((file, Kind::Pipe));
    }
    Err(KeptError::NotRegular)
}

fn is_nameless(pipe: &File) -> bool {
    // What cannot be told counts as named, and is refused.
    fstatfs(pipe).is_ok_and(|found| found.f_type == PIPEFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_regular_file_is_read_whole_also_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "four").unwrap();
        symlink("file", &link).unwrap();

        assert_eq!(read_kept(&file, 4).unwrap(), b"four");
        assert_eq!(read_kept_text(&link, 4).unwrap(), "four");
        let error = read_kept(&file, 3).unwrap_err();
        assert!(matches!(error, KeptError::TooLarge { limit_bytes: 3 }));
    }

    #[test]
    fn what_could_hold_the_reader_up_or_never_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let link = folder.path().join("link");
        symlink("pipe", &link).unwrap();

        for path in [&pipe, &link, folder.path(), Path::new("/dev/zero")] {
            let error = read_kept(path, 1 << 20).unwrap_err();
            assert!(matches!(error, KeptError::NotRegular), "{path:?}: {error}");
            open_kept(path).unwrap_err();
        }
    }

    #[test]
    fn what_a_shell_hands_over_as_a_pipe_is_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"A=1\n").unwrap();
        drop(writer);
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());

        assert_eq!(read_kept_text(Path::new(&path), 100).unwrap(), "A=1\n");
        open_kept(Path::new(&path)).unwrap_err();
    }

    #[test]
    fn what_is_absent_and_what_is_no_text_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, [0xff]).unwrap();

        assert!(matches!(
            read_kept_text(&file, 10).unwrap_err(),
            KeptError::NotText
        ));
        let absent = read_kept(&folder.path().join("none"), 10).unwrap_err();
        assert!(absent.is_not_found(), "{absent}");
    }
}
