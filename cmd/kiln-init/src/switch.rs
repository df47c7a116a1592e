//! Leaves the initrd: its memory is freed, and the root filesystem becomes the root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::console;
use crate::error::{Failure, at};

/// Filesystems an initrd is unpacked into, by their magic numbers: ramfs and tmpfs.
const INITRD_FILESYSTEMS: [u64; 2] = [0x8584_58f6, 0x0102_1994];

/// Mounts that are taken along.
const EARLY_MOUNTS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Makes `root`, a mount point in the initrd, the root of this process and all that follow.
pub(crate) fn enter(root: &str) -> Result<(), Failure> {
    for path in EARLY_MOUNTS {
        let target = format!("{root}{path}");
        if let Err(error) = rustix::mount::mount_move(path, &target) {
            console::say(format_args!("cannot move {path} to {target}: {error}"));
        }
    }
    free_initrd();
    rustix::process::chdir(root).map_err(at("enter", root))?;
    rustix::mount::mount_move(".", "/").map_err(at("make the root", root))?;
    rustix::process::chroot(".").map_err(at("make the root", root))?;
    rustix::process::chdir("/").map_err(at("enter", "/"))
}

/// Deletes what the initrd holds. Running programs keep their file until they end.
fn free_initrd() {
    let Ok(statistics) = rustix::fs::statfs("/") else {
        return;
    };
    // Anything else than memory is somebody's disk.
    let is_initrd =
        u64::try_from(statistics.f_type).is_ok_and(|kind| INITRD_FILESYSTEMS.contains(&kind));
    if let (true, Ok(top)) = (is_initrd, fs::metadata("/")) {
        empty(Path::new("/"), top.dev());
    }
}

/// Deletes everything below `folder` that lies on `device`; what is mounted there stays.
fn empty(folder: &Path, device: u64) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.dev() != device {
            continue;
        }
        // What cannot be deleted keeps its memory, and nothing else depends on it.
        if metadata.is_dir() {
            empty(&path, device);
            drop(fs::remove_dir(&path));
        } else {
            drop(fs::remove_file(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptying_stays_on_its_device_and_follows_no_link() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let kept = tempfile::tempdir()?;
        fs::write(kept.path().join("file"), "")?;
        fs::create_dir_all(folder.path().join("a/b"))?;
        fs::write(folder.path().join("a/b/file"), "")?;
        std::os::unix::fs::symlink(kept.path(), folder.path().join("a/link"))?;
        let device = fs::metadata(folder.path())?.dev();

        empty(folder.path(), device + 1);
        assert!(folder.path().join("a/b/file").exists());

        empty(folder.path(), device);
        assert_eq!(fs::read_dir(folder.path())?.count(), 0);
        assert!(kept.path().join("file").exists());
        Ok(())
    }
}
