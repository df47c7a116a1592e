//! Where the daemon keeps things: space, staging beside the images, cloning.
//!
//! The state directory is closed to all but root and the daemon's own user; for others these
//! checks say that they cannot tell.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kiln_api::daemon::Places;
use rustix::fs::{StatVfs, ioctl_ficlone, statvfs};
use rustix::io::Errno;

use super::{Finding, Level};
use crate::text::size;

/// Below this much free space a pull of a usual image may not fit: its smallest root filesystem
/// is 1 GiB, with holes, and its layers are cached twice over.
const SCARCE_BYTES: u64 = 5 << 30;

/// Below this much not even an import of a kernel fits.
const FULL_BYTES: u64 = 64 << 20;

/// Below this many free inodes the file system ends before its space does.
const SCARCE_INODES: u64 = 1_000;

/// Bytes of the file that is cloned to try it: one block of every usual file system.
const SAMPLE: [u8; 4096] = [b'k'; 4096];

/// Checks the daemon's places.
pub(super) fn check(places: &Places) -> Vec<Finding> {
    let images = Path::new(&places.images);
    vec![
        space("space", Path::new(&places.state)),
        space("cache space", Path::new(&places.cache)),
        staging(images),
        cloning(images, Path::new(&places.cache)),
    ]
}

fn space(check: &'static str, path: &Path) -> Finding {
    match statvfs(path) {
        Ok(found) => judge_space(check, path, &found),
        Err(error) => unknown(check, path, &error.into()),
    }
}

fn judge_space(check: &'static str, path: &Path, found: &StatVfs) -> Finding {
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let place = path.display();
    let message = format!("{} free at {place}", size(free));
    // Some file systems count no inodes and say that there are none.
    let has_inodes = found.f_files == 0 || found.f_favail >= SCARCE_INODES;
    if !has_inodes {
        let message = format!("{message}, but only {} inodes", found.f_favail);
        return Finding::new(check, Level::Warn, message).with_command(format!("df -i {place}"));
    }
    let level = match free {
        0..FULL_BYTES => Level::Fail,
        FULL_BYTES..SCARCE_BYTES => Level::Warn,
        _ => return Finding::new(check, Level::Ok, message),
    };
    Finding::new(check, level, message).with_command(format!("df -h {place}"))
}

/// An image is staged in the directory it is published in, so a rename publishes it. That holds
/// unless something is mounted over a staging directory, which is what is looked for.
fn staging(images: &Path) -> Finding {
    const CHECK: &str = "staging";
    let device = match fs::metadata(images) {
        Ok(metadata) => metadata.dev(),
        Err(error) => return unknown(CHECK, images, &error),
    };
    let entries = match fs::read_dir(images) {
        Ok(entries) => entries,
        Err(error) => return unknown(CHECK, images, &error),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_staging = path
            .extension()
            .is_some_and(|extension| extension == "staging");
        let elsewhere = fs::metadata(&path).is_ok_and(|metadata| metadata.dev() != device);
        if is_staging && elsewhere {
            let message = format!("{} is on another file system", path.display());
            return Finding::new(CHECK, Level::Fail, message)
                .with_command(format!("umount {}", path.display()));
        }
    }
    let message = format!(
        "images are staged in {}, where they are published",
        images.display()
    );
    Finding::new(CHECK, Level::Ok, message)
}

fn cloning(images: &Path, cache: &Path) -> Finding {
    const CHECK: &str = "cloning";
    let tried = sample(cache).and_then(|source| Ok((source, tempfile::tempfile_in(images)?)));
    let (source, target) = match tried {
        Ok(files) => files,
        Err(error) => return unknown(CHECK, images, &error),
    };
    match ioctl_ficlone(&target, &source) {
        Ok(()) => Finding::new(
            CHECK,
            Level::Ok,
            "file bodies are cloned from the cache, not copied",
        ),
        Err(Errno::XDEV) => Finding::new(
            CHECK,
            Level::Warn,
            "cache and images are on different file systems: file bodies are copied",
        ),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Finding::new(
            CHECK,
            Level::Warn,
            "the file system cannot clone (XFS and Btrfs can): file bodies are copied",
        ),
        Err(error) => unknown(CHECK, images, &error.into()),
    }
}

/// Makes a file without a name, which nobody has to clean up.
fn sample(directory: &Path) -> io::Result<File> {
    let mut file = tempfile::tempfile_in(directory)?;
    file.write_all(&SAMPLE)?;
    file.sync_all()?;
    Ok(file)
}

fn unknown(check: &'static str, path: &Path, error: &io::Error) -> Finding {
    let message = format!("cannot tell: {}: {error}", path.display());
    let finding = Finding::new(check, Level::Warn, message);
    match error.kind() {
        io::ErrorKind::PermissionDenied => finding.with_command("sudo kiln doctor"),
        _ => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level_with(free_bytes: u64, inodes: u64, free_inodes: u64) -> Level {
        let mut found = statvfs("/").unwrap();
        found.f_frsize = 1;
        found.f_bavail = free_bytes;
        found.f_files = inodes;
        found.f_favail = free_inodes;
        judge_space("space", Path::new("/"), &found).level
    }

    #[test]
    fn scarce_space_is_doubtful_and_none_is_wrong() {
        assert_eq!(level_with(SCARCE_BYTES, 10_000, 5_000), Level::Ok);
        assert_eq!(level_with(SCARCE_BYTES - 1, 10_000, 5_000), Level::Warn);
        assert_eq!(level_with(FULL_BYTES - 1, 10_000, 5_000), Level::Fail);
        assert_eq!(level_with(SCARCE_BYTES, 10_000, 10), Level::Warn);
        assert_eq!(level_with(SCARCE_BYTES, 0, 0), Level::Ok);
    }

    #[test]
    fn staging_within_the_images_is_well_and_nothing_is_left_by_the_trial() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a.staging")).unwrap();

        assert_eq!(staging(directory.path()).level, Level::Ok);
        let finding = cloning(directory.path(), directory.path());

        assert!(!finding.message.starts_with("cannot tell"), "{finding:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_looked_at_is_doubtful() {
        let none = Path::new("/nonexistent/kiln");

        assert_eq!(staging(none).level, Level::Warn);
        assert_eq!(cloning(none, none).level, Level::Warn);
        assert_eq!(space("space", none).level, Level::Warn);
    }
}
