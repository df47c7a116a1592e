//! A directory of modules as a tar: what travels with an image.
//!
//! The same modules give the same bytes: entries are in the order of their names, with no times and
//! no owners, as they are not kept when modules are taken in. Reading such a tar is in `modules`.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_files::{Directory, FileError, at};
use rustix::fs::FileType;
use tar::{Builder, EntryType, Header};

use crate::modules::{MAX_DEPTH, ModulesError};

/// Writes the modules below `from`, a directory of ours, as a tar whose entries are relative to it.
///
/// `cancelled` is looked at for every entry and every read.
pub fn write_modules_tar(
    from: &Path,
    output: impl Write,
    cancelled: &AtomicBool,
) -> Result<(), ModulesError> {
    let mut archive = Builder::new(output);
    let top = Directory::open(from)?;
    add_below(&top, &mut PathBuf::new(), 0, &mut archive, cancelled)?;
    let ended = archive.finish();
    ended.map_err(at("write", "the archive of modules"))?;
    Ok(())
}

fn add_below(
    directory: &Directory,
    path: &mut PathBuf,
    depth: usize,
    archive: &mut Builder<impl Write>,
    cancelled: &AtomicBool,
) -> Result<(), ModulesError> {
    let refused = |path: &Path, what| ModulesError::Refused {
        path: path.to_owned(),
        what,
    };
    if depth > MAX_DEPTH {
        return Err(refused(path, "it lies too deep"));
    }
    let mut names: Vec<OsString> = directory.names()?;
    names.sort();
    for name in names {
        if cancelled.load(Ordering::Relaxed) {
            let path = directory.child_path(&name);
            return Err(FileError::Cancelled { path }.into());
        }
        path.push(&name);
        let whole = directory.child_path(&name);
        match directory.kind_of(&name)? {
            Some(FileType::Directory) => {
                let mut header = header(EntryType::Directory, 0);
                archive
                    .append_data(&mut header, &*path, io::empty())
                    .map_err(at("archive", whole))?;
                let child = directory.open_child(&name)?;
                add_below(&child, path, depth + 1, archive, cancelled)?;
            }
            Some(FileType::Symlink) => {
                let target = directory.read_link(&name)?;
                let mut header = header(EntryType::Symlink, 0);
                archive
                    .append_link(&mut header, &*path, target)
                    .map_err(at("archive", whole))?;
            }
            Some(FileType::RegularFile) => {
                let Some(file) = directory.open_file(&name)? else {
                    return Err(refused(path, "it vanished"));
                };
                let size = file.metadata().map_err(at("examine", &whole))?.len();
                let mut header = header(EntryType::Regular, size);
                let body = Cancellable { file, cancelled };
                archive
                    .append_data(&mut header, &*path, body.take(size))
                    .map_err(at("archive", whole))?;
            }
            _ => return Err(refused(path, "it is no directory, file or link")),
        }
        path.pop();
    }
    Ok(())
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(match kind {
        EntryType::Directory => 0o755,
        _ => 0o644,
    });
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A file whose reading ends when nobody wants it any more.
struct Cancellable<'c> {
    file: std::fs::File,
    cancelled: &'c AtomicBool,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("the work was cancelled"));
        }
        self.file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::modules::{ModulesLimits, stage_modules_from_tar};

    fn tar_of(from: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_modules_tar(from, &mut bytes, &AtomicBool::new(false)).unwrap();
        bytes
    }

    #[test]
    fn modules_come_back_from_their_tar_and_give_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let deep = "one/kernel/drivers/net/ethernet/a-vendor-with-a-long-name/and-a-longer-one/\
                    of-the-family-that-nobody-remembers";
        fs::create_dir_all(at(deep)).unwrap();
        fs::write(at(deep).join("driver-with-a-very-long-name.ko.xz"), "ko").unwrap();
        fs::write(at("one/modules.dep"), vec![b'x'; 100_000]).unwrap();
        fs::write(at("one/empty"), "").unwrap();
        symlink("modules.dep", at("one/link")).unwrap();
        let again = tempfile::tempdir().unwrap();

        let tar = tar_of(&at("one"));

        let limits = ModulesLimits::default();
        let running = AtomicBool::new(false);
        let staged = stage_modules_from_tar(&tar[..], again.path(), limits, &running).unwrap();
        assert_eq!((staged.files, staged.bytes), (3, 100_002));
        assert!(tar_of(again.path()) == tar);
        let link = fs::read_link(again.path().join("link")).unwrap();
        assert_eq!(link, Path::new("modules.dep"));
    }

    #[test]
    fn what_no_image_has_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(socket).unwrap();

        let told = write_modules_tar(folder.path(), Vec::new(), &AtomicBool::new(false));

        assert!(
            matches!(told, Err(ModulesError::Refused { .. })),
            "{told:?}"
        );
    }
}
