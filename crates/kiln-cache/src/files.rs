//! The few file operations of the cache, none of which follows a link in the last component.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use crate::cache::Discarded;
use crate::error::{CacheError, at};

/// Permission bits that would let somebody other than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Creates a directory and its missing parents for their owner only, and makes its name durable.
/// One that is there already is fine.
pub(crate) fn create_directory(path: &Path) -> Result<(), CacheError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(at("create", path))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => Ok(()),
    }
}

/// Refuses a directory that is not ours alone.
pub(crate) fn check_owner(path: &Path) -> Result<(), CacheError> {
    let metadata = fs::symlink_metadata(path).map_err(at("examine", path))?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.is_dir() && metadata.uid() == own && metadata.mode() & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(CacheError::Unsafe {
        path: path.to_owned(),
    })
}

/// Opens a regular file for reading; `None` when there is none.
pub(crate) fn open_regular(path: &Path) -> Result<Option<(File, Metadata)>, CacheError> {
    // NONBLOCK: a pipe planted here must not hang us before its type is known.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let not_regular = || CacheError::NotRegular {
        path: path.to_owned(),
    };
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(not_regular());
        }
        Err(error) => return Err(at("open", path)(error)),
    };
    let metadata = file.metadata().map_err(at("examine", path))?;
    if metadata.is_file() {
        Ok(Some((file, metadata)))
    } else {
        Err(not_regular())
    }
}

/// Creates a file of our own, 0600, that is removed when it is dropped before it got a name.
pub(crate) fn create_temporary(
    directory: &Path,
    prefix: &str,
) -> Result<NamedTempFile, CacheError> {
    // Somebody may have emptied the cache meanwhile.
    create_directory(directory)?;
    tempfile::Builder::new()
        .prefix(prefix)
        .suffix("")
        .tempfile_in(directory)
        .map_err(at("create a file in", directory))
}

pub(crate) fn remove_file(path: &Path) -> Result<Discarded, CacheError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(Discarded::Removed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Discarded::Absent),
        Err(error) => Err(at("remove", path)(error)),
    }
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), CacheError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(at("sync", path))
}

/// Calls `visit` for every regular file in a directory. A directory that is not there is empty,
/// and a file that vanishes meanwhile is passed over.
pub(crate) fn for_each_file(
    directory: &Path,
    mut visit: impl FnMut(OsString, Metadata) -> Result<(), CacheError>,
) -> Result<(), CacheError> {
    let listing = match fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at("list", directory)(error)),
    };
    for entry in listing {
        let entry = entry.map_err(at("list", directory))?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => visit(entry.file_name(), metadata)?,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at("examine", entry.path())(error)),
        }
    }
    Ok(())
}
