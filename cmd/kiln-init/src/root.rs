//! Mounts the root filesystem in the initrd, ready to be switched to.
//!
//! ```text
//! rw       /sysroot   the device
//! ro       /sysroot   the device, read-only; if places are missing in the image:
//!          /merged    an overlay of /sysroot over /places, without a layer to write to
//! overlay  /lower     the device, read-only
//!          /upper     the second device, or memory
//!          /merged    an overlay of /lower and /upper/upper
//! ```

use std::ffi::CStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use kiln_boot::{Boot, RootMount};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::console;
use crate::device;
use crate::error::{Failure, at};
use crate::mounts;
use crate::places::{self, Place};

/// Filesystem of the device that takes what is written over a read-only root.
const UPPER_FILESYSTEM: &str = "ext4";

/// A mounted root filesystem.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// Where it is, in the initrd.
    pub(crate) path: &'static str,
    /// Top of the filesystem on the second device, which has to be closed at the end, too.
    pub(crate) upper: Option<OwnedFd>,
}

/// Waits for the root device and mounts what `boot` asks for.
pub(crate) fn mount(boot: &Boot) -> Result<Mounted, Failure> {
    let root = &boot.root;
    device::wait(&root.device, root.wait_seconds)?;
    match &root.mount {
        RootMount::Rw => {
            mount_device(
                &root.device,
                "/sysroot",
                &root.filesystem,
                MountFlags::empty(),
            )?;
            Ok(Mounted {
                path: "/sysroot",
                upper: None,
            })
        }
        RootMount::Ro => {
            mount_device(
                &root.device,
                "/sysroot",
                &root.filesystem,
                MountFlags::RDONLY,
            )?;
            let path = with_missing_places(boot)?;
            Ok(Mounted { path, upper: None })
        }
        RootMount::Overlay { upper } => {
            mount_device(&root.device, "/lower", &root.filesystem, MountFlags::RDONLY)?;
            let upper = mount_upper(upper.as_deref(), root.wait_seconds)?;
            let options = c"lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work";
            mount_overlay(options)?;
            Ok(Mounted {
                path: "/merged",
                upper,
            })
        }
    }
}

/// Returns where the read-only root stands, once it has every place something is mounted on.
fn with_missing_places(boot: &Boot) -> Result<&'static str, Failure> {
    let missing = places::missing(Path::new("/sysroot"), places::needed(boot));
    if missing.is_empty() {
        return Ok("/sysroot");
    }
    if !mounts::kernel_has("overlay") {
        let names: Vec<String> = missing.iter().map(shown).collect();
        console::say(format_args!(
            "the read-only image has no {}, and the kernel no overlayfs to add it",
            names.join(", ")
        ));
        return Ok("/sysroot");
    }
    fs::create_dir_all("/places").map_err(at("make", "/places"))?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount("tmpfs", "/places", "tmpfs", flags, c"mode=0755,size=1m")
        .map_err(at("mount", "/places"))?;
    places::make_in_empty_tree(Path::new("/places"), &missing).map_err(at("fill", "/places"))?;
    mount_overlay(c"lowerdir=/sysroot:/places")?;
    Ok("/merged")
}

fn shown(place: &Place) -> String {
    place.path().display().to_string()
}

/// Mounts what takes the writes of an overlay, and readies its two directories.
fn mount_upper(device: Option<&str>, wait_seconds: u32) -> Result<Option<OwnedFd>, Failure> {
    let disk = if let Some(device) = device {
        device::wait(device, wait_seconds)?;
        mount_device(device, "/upper", UPPER_FILESYSTEM, MountFlags::empty())?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open("/upper", flags, Mode::empty()).map_err(at("open", "/upper"))?;
        Some(top)
    } else {
        mount_device("tmpfs", "/upper", "tmpfs", MountFlags::empty())?;
        None
    };
    let is_new = !Path::new("/upper/upper").exists();
    for path in ["/upper/upper", "/upper/work"] {
        fs::create_dir_all(path).map_err(at("make", path))?;
    }
    if is_new {
        // The top of an overlay has the owner and mode of its upper layer.
        let top = fs::metadata("/lower").map_err(at("read", "/lower"))?;
        std::os::unix::fs::chown("/upper/upper", Some(top.uid()), Some(top.gid()))
            .map_err(at("own", "/upper/upper"))?;
        let mode = fs::Permissions::from_mode(top.mode() & 0o7777);
        fs::set_permissions("/upper/upper", mode).map_err(at("permit", "/upper/upper"))?;
    }
    Ok(disk)
}

fn mount_device(
    device: &str,
    target: &'static str,
    filesystem: &str,
    flags: MountFlags,
) -> Result<(), Failure> {
    fs::create_dir_all(target).map_err(at("make", target))?;
    rustix::mount::mount(device, target, filesystem, flags, None).map_err(at("mount", device))
}

fn mount_overlay(options: &CStr) -> Result<(), Failure> {
    fs::create_dir_all("/merged").map_err(at("make", "/merged"))?;
    let flags = MountFlags::empty();
    rustix::mount::mount("overlay", "/merged", "overlay", flags, options)
        .map_err(at("mount the overlay", "/merged"))
}
