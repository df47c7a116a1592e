//! The pseudo filesystems of a guest. Each is optional: what cannot be mounted is told in one
//! line, and the guest goes on.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use kiln_boot::{Boot, RootMount};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::console;
use crate::error::{Failure, at};

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);
const NO_DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Links that programs expect and the kernel does not make.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// One filesystem without a device.
struct Pseudo {
    filesystem: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static CStr,
}

/// Mounted in the initrd, where they are needed first; they move along with the root.
const EARLY: &[Pseudo] = &[
    pseudo("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
    pseudo("proc", "/proc", NO_PROGRAMS, c""),
    pseudo("sysfs", "/sys", NO_PROGRAMS, c""),
];

/// Mounted in every root, in this order.
const ALWAYS: &[Pseudo] = &[
    pseudo(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        c"gid=5,mode=0620,ptmxmode=0666",
    ),
    pseudo("tmpfs", "/dev/shm", NO_DEVICES, c"mode=1777"),
    pseudo("tmpfs", "/run", NO_DEVICES, c"mode=0755"),
];

/// Mounted where the root is read-only.
const READ_ONLY_ROOT: &[Pseudo] = &[pseudo("tmpfs", "/tmp", NO_DEVICES, c"mode=1777")];

/// Mounted where the kernel has them.
const IF_PRESENT: &[Pseudo] = &[
    pseudo("cgroup2", "/sys/fs/cgroup", NO_PROGRAMS, c"nsdelegate"),
    pseudo("mqueue", "/dev/mqueue", NO_PROGRAMS, c""),
    pseudo("hugetlbfs", "/dev/hugepages", NO_DEVICES, c""),
    pseudo("binfmt_misc", "/proc/sys/fs/binfmt_misc", NO_PROGRAMS, c""),
];

const fn pseudo(
    filesystem: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static CStr,
) -> Pseudo {
    Pseudo {
        filesystem,
        target,
        flags,
        options,
    }
}

/// Mounts devices, processes and the kernel's view of itself in the initrd.
pub(crate) fn early() -> Result<(), Failure> {
    for pseudo in EARLY {
        match pseudo.mount() {
            // The kernel may have mounted its devices already.
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
            Err(error) => return Err(at("mount", pseudo.target)(error)),
        }
    }
    Ok(())
}

/// Mounts the rest in the root that has been switched to.
pub(crate) fn in_root(boot: &Boot) {
    let read_only = match boot.root.mount {
        RootMount::Ro => READ_ONLY_ROOT,
        RootMount::Rw | RootMount::Overlay { .. } => &[],
    };
    let present = IF_PRESENT
        .iter()
        .filter(|pseudo| kernel_has(pseudo.filesystem));
    for pseudo in ALWAYS.iter().chain(read_only).chain(present) {
        if let Err(error) = pseudo.mount() {
            let Pseudo {
                filesystem, target, ..
            } = pseudo;
            console::say(format_args!(
                "cannot mount {filesystem} on {target}: {error}"
            ));
        }
    }
    for (target, link) in DEVICE_LINKS {
        match symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                console::say(format_args!("cannot make {link}: {error}"));
            }
            _ => {}
        }
    }
}

/// Returns whether the kernel knows `filesystem`, built in or as a module that is loaded.
pub(crate) fn kernel_has(filesystem: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    is_listed(&known, filesystem)
}

/// Lines are `nodev<TAB>name` or `<TAB>name`.
fn is_listed(known: &str, filesystem: &str) -> bool {
    known
        .lines()
        .any(|line| line.split_whitespace().last() == Some(filesystem))
}

impl Pseudo {
    fn mount(&self) -> io::Result<()> {
        fs::create_dir_all(self.target)?;
        let Self {
            filesystem,
            target,
            flags,
            options,
        } = *self;
        Ok(rustix::mount::mount(
            filesystem, target, filesystem, flags, options,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_are_known_by_their_whole_name() {
        let known = "nodev\tsysfs\nnodev\tcgroup2\n\text4\nnodev\tmqueue\n";
        for (name, want) in [
            ("cgroup2", true),
            ("ext4", true),
            ("cgroup", false),
            ("nodev", false),
        ] {
            assert_eq!(is_listed(known, name), want, "{name}");
        }
    }
}
