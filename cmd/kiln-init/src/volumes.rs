//! Directories that must be writable whatever the root is: the Volumes of an image.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use kiln_boot::{Boot, RootMount};
use rustix::mount::MountFlags;

use crate::console;
use crate::mounts;
use crate::places::Made;

/// Where the layers that take the writes are, in memory.
const FOLDER: &str = "/run/kiln/volumes";

/// Makes every volume a writable directory; one that cannot be is told in one line.
pub(crate) fn place(boot: &Boot, made: &mut Made) {
    for (number, volume) in boot.volumes.iter().enumerate() {
        let path = Path::new(volume);
        let placed = match boot.root.mount {
            RootMount::Ro => cover(path, number),
            RootMount::Rw | RootMount::Overlay { .. } => made.directory(path),
        };
        if let Err(error) = placed {
            console::say(format_args!(
                "cannot make the volume {volume} writable: {error}"
            ));
        }
    }
}

/// Lets memory take what is written below `path`; what the image has there stays visible where
/// the kernel has overlayfs.
fn cover(path: &Path, number: usize) -> io::Result<()> {
    // Below /run, and where a link leads there, it may have to be made first.
    fs::create_dir_all(path)?;
    let path = fs::canonicalize(path)?;
    let top = fs::metadata(&path)?;
    let is_empty = fs::read_dir(&path)?.next().is_none();
    let (mode, uid, gid) = (top.mode() & 0o7777, top.uid(), top.gid());
    let text = path.to_str().unwrap_or_default();
    if is_empty || !mounts::kernel_has("overlay") || !is_plain(text) {
        if !is_empty {
            console::say(format_args!(
                "what the image has in the volume {} is hidden: no overlayfs for it",
                path.display()
            ));
        }
        let options = CString::new(format!("mode={mode:04o},uid={uid},gid={gid}"))?;
        return tmpfs(&path, &options);
    }
    let folder = format!("{FOLDER}/{number}");
    fs::create_dir_all(&folder)?;
    tmpfs(Path::new(&folder), c"mode=0700")?;
    let upper = format!("{folder}/upper");
    fs::create_dir(&upper)?;
    fs::create_dir(format!("{folder}/work"))?;
    std::os::unix::fs::chown(&upper, Some(uid), Some(gid))?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(mode))?;
    let options = format!("lowerdir={text},upperdir={upper},workdir={folder}/work");
    let options = CString::new(options)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    Ok(rustix::mount::mount(
        "overlay",
        &path,
        "overlay",
        flags,
        options.as_c_str(),
    )?)
}

fn tmpfs(path: &Path, options: &CStr) -> io::Result<()> {
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    Ok(rustix::mount::mount(
        "tmpfs", path, "tmpfs", flags, options,
    )?)
}

/// Colons, commas and backslashes mean something in the options of an overlay.
fn is_plain(path: &str) -> bool {
    !path.is_empty() && !path.contains([':', ',', '\\'])
}
