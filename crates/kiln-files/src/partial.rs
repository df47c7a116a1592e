//! The names under which new files grow, and what killed processes left under such.
//!
//! Whoever writes one holds a lock (`flock`) on the open file, which ends with its process however
//! that ends. So what can be locked belongs to nobody any more, whichever number stands in its
//! name: numbers of processes are used again, and mean nothing in another namespace.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::Errno;

use crate::directory::Directory;
use crate::error::FileError;

/// Names that are tried for one file: leftovers that nobody can remove may have this process's
/// number.
const NAMES: u32 = 64;

/// A file that grows, and its name.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) file: File,
    pub(crate) name: String,
}

impl Partial {
    /// Makes an empty one, locked where the file system has locks.
    pub(crate) fn create(directory: &Directory) -> Result<Self, FileError> {
        let process = std::process::id();
        let mut number = 0;
        loop {
            let name = format!(".kiln-{process}-{number}.partial");
            match directory.create_file(name.as_ref()) {
                Ok(file) if is_kept(&file) => return Ok(Self { file, name }),
                // Somebody swept it before it was locked.
                Ok(_) => number += 1,
                Err(FileError::AlreadyExists { .. }) if number < NAMES => number += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Locks a file that was just made; says whether it is still there.
fn is_kept(file: &File) -> bool {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => false,
        // A file system without locks has none for those who sweep either.
        Ok(()) | Err(_) => file.metadata().is_ok_and(|found| found.nlink() > 0),
    }
}

/// Removes what killed processes of this user left in a directory. What cannot be looked at or
/// removed stays: the file that is to be made does not need its room.
pub(crate) fn sweep(directory: &Directory) {
    for name in directory.names().unwrap_or_default() {
        if is_partial(&name) {
            remove_if_left(directory, &name);
        }
    }
}

fn remove_if_left(directory: &Directory, name: &OsStr) {
    let Ok(Some(file)) = directory.open_file(name) else {
        return;
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    let Ok(found) = file.metadata() else {
        return;
    };
    // The name may have passed to another file, which is being written, before this one was locked.
    let named = rustix::fs::statat(directory.fd(), name, AtFlags::SYMLINK_NOFOLLOW);
    let is_the_same =
        named.is_ok_and(|named| (named.st_dev, named.st_ino) == (found.dev(), found.ino()));
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    if is_the_same && is_ours {
        // What stays is tried again next time.
        let _ = rustix::fs::unlinkat(directory.fd(), name, AtFlags::empty());
    }
}

/// Says whether a name is one that [`Partial::create`] gives.
fn is_partial(name: &OsStr) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name
        .to_str()
        .and_then(|name| name.strip_prefix(".kiln-")?.strip_suffix(".partial"))
        .and_then(|middle| middle.split_once('-'));
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_nobody_writes_any_more_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let directory = Directory::open(folder.path()).unwrap();
        let growing = Partial::create(&directory).unwrap();
        // As left by processes with numbers of the living and of the dead.
        let own = format!(".kiln-{}-7.partial", std::process::id());
        for name in [
            own.as_str(),
            ".kiln-1-0.partial",
            ".kiln-4194305-12.partial",
        ] {
            fs::write(at(name), "left").unwrap();
        }
        let others = [
            ".kiln--0.partial",
            ".kiln-1-.partial",
            ".kiln-1-0.partial.gz",
            ".kiln-1.partial",
            ".kiln-x-0.partial",
            "kiln-1-0.partial",
        ];
        for name in others {
            fs::write(at(name), "somebody's").unwrap();
        }
        fs::create_dir(at(".kiln-2-0.partial")).unwrap();
        symlink(at(others[0]), at(".kiln-3-0.partial")).unwrap();
        let mut kept = others.map(std::ffi::OsString::from).to_vec();
        kept.extend([".kiln-2-0.partial".into(), ".kiln-3-0.partial".into()]);
        kept.push(growing.name.clone().into());
        kept.sort();

        sweep(&directory);

        assert_eq!(directory.names().unwrap(), kept);
        assert_eq!(fs::read(at(others[0])).unwrap(), b"somebody's");
    }

    #[test]
    fn a_name_that_passed_to_a_growing_file_is_not_taken_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        let first = Partial::create(&directory).unwrap();
        let placed = folder.path().join("placed");
        fs::rename(folder.path().join(&first.name), &placed).unwrap();
        let second = Partial::create(&directory).unwrap();
        assert_eq!(first.name, second.name);
        drop(first);

        sweep(&directory);

        assert!(folder.path().join(&second.name).exists());
        assert!(placed.exists());
    }
}
