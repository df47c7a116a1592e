//! Where an instance has its files while it runs.
//!
//! ```text
//! <base>/                     0700: $KILN_INSTANCES, else /var/lib/kiln-instances for root,
//!   <instance id>/            else $XDG_STATE_HOME/kiln/instances, else ~/.local/state/kiln/instances
//!     console.log             what the guest wrote; stays until the instance is removed, or 8 days
//!     kernel  initrd.img  rootfs.ext4  firecracker.json  api.sock  monitor.log
//!                             gone when the machine has ended
//! <base>/probes/              whether KVM works: root's, and where there is no $XDG_RUNTIME_DIR
//! ```
//! Whoever runs a machine holds a lock on its directory. One that is killed cannot put its files
//! away; the next one does, and knows them by the lock that nobody holds.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kiln_domain::InstanceId;
use kiln_files::{Directory, FileError, at};
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::RunError;
use crate::surroundings::Surroundings;

/// Where the console goes.
pub(crate) const CONSOLE_LOG: &str = "console.log";
/// The monitor's own words.
pub(crate) const MONITOR_LOG: &str = "monitor.log";
/// The kernel, where the monitor opens it.
pub(crate) const KERNEL: &str = "kernel";
/// The initrd with the instance's own words.
pub(crate) const INITRD: &str = "initrd.img";
/// The disk that the guest writes to.
pub(crate) const ROOTFS: &str = "rootfs.ext4";

/// How long the console's log of a machine that has ended is kept: a day longer than the daemon
/// knows of the machine.
const KEPT: Duration = Duration::from_secs(8 * 24 * 3600);

/// An instance's directory.
#[derive(Debug)]
pub(crate) struct Place {
    base: Directory,
    directory: Directory,
    name: String,
    /// Held as long as this is.
    lock: OwnedFd,
}

/// Finds the directory that all of a user's instances are in.
pub(crate) fn base(surroundings: &Surroundings) -> Result<PathBuf, RunError> {
    surroundings.homes.instances().ok_or(RunError::NoHome)
}

impl Place {
    /// Makes the directory of a new instance.
    pub(crate) fn create(base: &Path, id: InstanceId) -> Result<Self, FileError> {
        let base = Directory::open_or_create_private(base)?;
        let name = id.to_string();
        let directory = base.create_child(&name)?;
        let lock = open_to_lock(directory.path()).map_err(at("open", directory.path()))?;
        // Another run may be looking whether somebody holds it: for an instant.
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(at("lock", directory.path()))?;
        if let Ok(now) = modified(&lock) {
            sweep(&base, now);
        }
        Ok(Self {
            base,
            directory,
            name,
            lock,
        })
    }

    /// Opens the same directory once more.
    pub(crate) fn share(&self) -> Result<Self, FileError> {
        Ok(Self {
            base: self.base.reopen()?,
            directory: self.directory.reopen()?,
            name: self.name.clone(),
            lock: self
                .lock
                .try_clone()
                .map_err(at("open", self.directory.path()))?,
        })
    }

    /// Returns the directory.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Returns where a file of it is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.child_path(name)
    }

    /// Makes a file of it.
    pub(crate) fn create_file(&self, name: &str) -> Result<File, FileError> {
        self.directory.create_file(OsStr::new(name))
    }

    /// Removes everything but the console's log.
    pub(crate) fn clear(&self) -> Result<(), FileError> {
        clear(&self.directory)
    }

    /// Removes everything and the directory.
    pub(crate) fn remove(&self) -> Result<(), FileError> {
        self.base.remove(OsStr::new(&self.name))
    }
}

fn clear(directory: &Directory) -> Result<(), FileError> {
    for name in directory.names()? {
        if name != CONSOLE_LOG {
            directory.remove(&name)?;
        }
    }
    Ok(())
}

/// Puts away the files of machines whose runner was killed, and what nobody asks for any more.
///
/// What cannot be put away stays: it is no reason not to run another machine.
fn sweep(base: &Directory, now: SystemTime) {
    let Ok(names) = base.names() else {
        return;
    };
    for name in names {
        let is_instance = name
            .to_str()
            .is_some_and(|name| name.parse::<InstanceId>().is_ok());
        if is_instance {
            drop(sweep_one(base, &name, now));
        }
    }
}

fn sweep_one(base: &Directory, name: &OsStr, now: SystemTime) -> Result<(), FileError> {
    let path = base.child_path(name);
    let lock = open_to_lock(&path).map_err(at("open", &path))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    clear(&base.open_child(name)?)?;
    // The last file of a machine that goes, just now at the latest, changes its directory.
    let ended = modified(&lock).map_err(at("examine", &path))?;
    match now.duration_since(ended) {
        Ok(age) if age >= KEPT => base.remove(name),
        // The time of a host may be set back.
        _ => Ok(()),
    }
}

/// Tells when a directory was changed, by the clock of its file system.
fn modified(directory: &OwnedFd) -> io::Result<SystemTime> {
    File::from(directory.try_clone()?).metadata()?.modified()
}

fn open_to_lock(directory: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::Write as _;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_log_outlives_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("a/b");
        let place = Place::create(&base, InstanceId::new(Uuid::nil())).unwrap();
        let left = || -> Vec<_> { place.directory.names().unwrap() };
        for name in [CONSOLE_LOG, INITRD, ROOTFS] {
            let mut file = place.create_file(name).unwrap();
            file.write_all(b"x").unwrap();
        }

        place.clear().unwrap();

        assert_eq!(left(), [CONSOLE_LOG]);
        place.remove().unwrap();
        assert_eq!(std::fs::read_dir(&base).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_run_left_goes_with_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        let create = |number| {
            let place = Place::create(&base, InstanceId::new(Uuid::from_u128(number))).unwrap();
            for name in [CONSOLE_LOG, ROOTFS] {
                if place.directory.open_file(name.as_ref()).unwrap().is_none() {
                    place.create_file(name).unwrap();
                }
            }
            place
        };
        let names = |place: &Directory| {
            let mut names = place.names().unwrap();
            names.sort();
            names
        };
        let killed = create(1);
        let left = killed.directory.reopen().unwrap();
        drop(killed);
        let running = create(2);
        std::fs::create_dir(base.join("probes")).unwrap();
        std::fs::write(base.join("probes/kvm"), "works").unwrap();

        create(3);

        assert_eq!(names(&left), [CONSOLE_LOG]);
        assert_eq!(names(&running.directory), [CONSOLE_LOG, ROOTFS]);
        assert!(base.join("probes/kvm").exists());
    }
    #[test]
    fn an_old_log_goes_and_what_cannot_go_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        let id = |number| InstanceId::new(Uuid::from_u128(number));
        let create = |number| Place::create(&base, id(number)).unwrap();
        let make_older = |place: &Place, by: Duration| {
            let directory = File::open(place.directory.path()).unwrap();
            let changed = directory.metadata().unwrap().modified().unwrap();
            directory.set_modified(changed - by).unwrap();
        };
        let cases = [
            (1, CONSOLE_LOG, KEPT / 2),
            (2, CONSOLE_LOG, KEPT),
            // It was killed just now, after a long time.
            (3, ROOTFS, KEPT * 2),
        ];
        // The later ones do not see the earlier ones: they are all held at first.
        let places = cases.map(|(number, file, age)| {
            let place = create(number);
            drop(place.create_file(file).unwrap());
            make_older(&place, age);
            place
        });
        drop(places);
        let link = base.join(id(4).to_string());
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();

        create(5);

        let kept = [1, 3, 4, 5].map(|number| OsString::from(id(number).to_string()));
        assert_eq!(Directory::open(&base).unwrap().names().unwrap(), kept);
    }
}
