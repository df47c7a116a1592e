//! The end of the machine: everything stops, everything is written, then the report, then power.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use kiln_boot::{End, Outcome, StopSignal};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::WaitOptions;
use rustix::system::RebootCommand;

use crate::console;
use crate::kernel_calls;
use crate::places::Made;
use crate::report::Reporter;

/// Longest time that killed processes may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Pause between two looks at them.
const PAUSE: Duration = Duration::from_millis(2);

/// What has to be put away before the machine ends.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Files that something was mounted on.
    pub(crate) names: Vec<PathBuf>,
    /// Places made in the root filesystem.
    pub(crate) made: Made,
    /// Top of the second device's filesystem.
    pub(crate) upper: Option<OwnedFd>,
}

/// Ends the machine after the program of the image has ended, or never ran.
pub(crate) fn machine(outcome: &Outcome, end: End, reporter: Reporter, leftovers: Leftovers) {
    kill_everybody();
    put_away(leftovers);
    // Who hears it may stop the machine at once: nothing is left to lose.
    reporter.tell(outcome);
    power(end);
}

fn kill_everybody() {
    // Fails only when there is nobody.
    drop(kernel_calls::kill(-1, StopSignal::KILL));
    let deadline = Instant::now() + END_LIMIT;
    while Instant::now() < deadline {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Err(Errno::CHILD) => return,
            Ok(None) | Err(_) => thread::sleep(PAUSE),
        }
    }
    console::say(format_args!("some processes do not end"));
}

fn put_away(leftovers: Leftovers) {
    let Leftovers { names, made, upper } = leftovers;
    for path in names.iter().rev() {
        // What stays mounted keeps its place from being removed, and nothing else.
        let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
    }
    made.unmount_and_remove();
    rustix::fs::sync();
    if let Err(error) = rustix::mount::mount_remount("/", MountFlags::RDONLY, "") {
        console::say(format_args!("cannot make the root read-only: {error}"));
    }
    if let Some(upper) = upper {
        let closed = rustix::process::fchdir(&upper)
            .and_then(|()| rustix::mount::mount_remount(".", MountFlags::RDONLY, ""));
        if let Err(error) = closed {
            console::say(format_args!(
                "cannot make the upper filesystem read-only: {error}"
            ));
        }
    }
    rustix::fs::sync();
}

fn power(end: End) {
    let command = match end {
        End::Poweroff => RebootCommand::PowerOff,
        End::Reboot => RebootCommand::Restart,
    };
    if let Err(error) = rustix::system::reboot(command) {
        console::say(format_args!("cannot end the machine: {error}"));
        // Where the kernel has this, it ends the machine without asking anybody.
        drop(fs::write("/proc/sysrq-trigger", "o"));
    }
}
