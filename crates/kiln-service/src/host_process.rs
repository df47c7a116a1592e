//! Processes of the host: opened by number, so that their end is noticed and their number is never
//! taken for another's.
//!
//! Waiting for the end is not here. What is read in `/proc` is made by the kernel on the spot and
//! waits for no disk.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use kiln_domain::{ProcessStart, ProcessStartError};
use kiln_store::instances::ProcessRow;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process that was there when it was opened.
#[derive(Debug)]
pub(crate) struct HostProcess {
    /// How it is known again.
    pub(crate) identity: ProcessRow,
    /// Becomes readable when it has ended; stays its own whatever becomes of its number.
    pub(crate) descriptor: OwnedFd,
}

/// Why a process could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// The kernel tells no number: it is in a PID namespace that this process cannot see into.
    #[error("the calling process cannot be seen from the daemon's PID namespace")]
    Unseen,
    /// There is no such process, or not any more.
    #[error("there is no process {pid}")]
    Gone { pid: u32 },
    /// It is another user's: the number was given away meanwhile.
    #[error("process {pid} does not belong to user {uid}")]
    OtherUser { pid: u32, uid: u32 },
    /// This process has no descriptor left.
    #[error("no descriptor is left to watch process {pid}")]
    NoDescriptor { pid: u32 },
    /// What the kernel tells of it cannot be read.
    #[error("cannot {step} of process {pid}")]
    Io {
        step: &'static str,
        pid: u32,
        source: io::Error,
    },
    /// What the kernel tells of it is in no known form.
    #[error("cannot tell when process {pid} began")]
    Stat { pid: u32, source: ProcessStartError },
}

impl HostProcess {
    /// Opens the process that has the number `pid` and belongs to `uid`.
    pub(crate) fn open(pid: Option<i32>, uid: u32) -> Result<Self, ProcessError> {
        let seen = pid.filter(|pid| *pid > 0);
        let raw = seen.and_then(Pid::from_raw).ok_or(ProcessError::Unseen)?;
        let pid = u32::try_from(raw.as_raw_pid()).map_err(|_| ProcessError::Unseen)?;
        let descriptor = descriptor_of(raw, pid)?;
        let started = start_of(pid)?;
        let owner = owner_of(pid)?;
        let boot_id = boot_id()?;
        // Read by number while the process was there all along, so it was read of this process.
        if has_ended(&descriptor) {
            return Err(ProcessError::Gone { pid });
        }
        if owner != Some(uid) {
            return Err(ProcessError::OtherUser { pid, uid });
        }
        let identity = ProcessRow {
            pid,
            started,
            boot_id,
        };
        Ok(Self {
            identity,
            descriptor,
        })
    }

    /// Opens a process that was known before; `None` when it has ended.
    pub(crate) fn open_again(identity: ProcessRow) -> Result<Option<Self>, ProcessError> {
        if identity.boot_id != boot_id()? {
            return Ok(None);
        }
        let pid = identity.pid;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or(ProcessError::Gone { pid })?;
        let opened = descriptor_of(raw, pid).and_then(|descriptor| {
            let started = start_of(pid)?;
            Ok((descriptor, started))
        });
        match opened {
            Ok((descriptor, started)) if started == identity.started && !has_ended(&descriptor) => {
                Ok(Some(Self {
                    identity,
                    descriptor,
                }))
            }
            Ok(_) | Err(ProcessError::Gone { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn descriptor_of(raw: Pid, pid: u32) -> Result<OwnedFd, ProcessError> {
    pidfd_open(raw, PidfdFlags::empty()).map_err(|error| match error {
        // A thread's number is no process's (pidfd_open(2)): EINVAL, and ENOENT from Linux 6.9 on.
        Errno::SRCH | Errno::INVAL | Errno::NOENT => ProcessError::Gone { pid },
        Errno::MFILE | Errno::NFILE => ProcessError::NoDescriptor { pid },
        error => ProcessError::Io {
            step: "open a descriptor",
            pid,
            source: error.into(),
        },
    })
}

fn start_of(pid: u32) -> Result<ProcessStart, ProcessError> {
    let stat = read(pid, "stat", "read the state")?;
    // A program's name is any bytes; what stands behind it is digits.
    let stat = String::from_utf8_lossy(&stat);
    ProcessStart::from_stat(&stat).map_err(|source| ProcessError::Stat { pid, source })
}

/// Returns the effective user of a process, which is what it called as.
fn owner_of(pid: u32) -> Result<Option<u32>, ProcessError> {
    let status = read(pid, "status", "read the owner")?;
    let status = String::from_utf8_lossy(&status);
    let mut lines = status.lines();
    let uids = lines.find_map(|line| line.strip_prefix("Uid:"));
    // Real, effective, saved, and that of files (proc_pid_status(5)).
    let effective = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1));
    Ok(effective.and_then(|uid| uid.parse().ok()))
}

fn boot_id() -> Result<String, ProcessError> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let text = text.map_err(|source| ProcessError::Io {
        step: "read the boot",
        pid: std::process::id(),
        source,
    })?;
    Ok(text.trim_end().to_owned())
}

fn read(pid: u32, file: &str, step: &'static str) -> Result<Vec<u8>, ProcessError> {
    fs::read(format!("/proc/{pid}/{file}")).map_err(|source| {
        let is_gone = source.kind() == io::ErrorKind::NotFound
            || source.raw_os_error() == Some(Errno::SRCH.raw_os_error());
        if is_gone {
            ProcessError::Gone { pid }
        } else {
            ProcessError::Io { step, pid, source }
        }
    })
}

fn has_ended(descriptor: &OwnedFd) -> bool {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut asked = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
    // Without a wait there is nothing to interrupt; an error would come again when it is watched.
    rustix::event::poll(&mut asked, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null()).spawn().unwrap()
    }

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn number(child: &Child) -> Option<i32> {
        i32::try_from(child.id()).ok()
    }

    #[test]
    fn a_process_is_found_again_until_it_ends() {
        let mut child = sleeper();
        let opened = HostProcess::open(number(&child), uid()).unwrap();
        let identity = opened.identity.clone();
        assert_eq!(identity.pid, child.id());

        let again = HostProcess::open_again(identity.clone()).unwrap();
        assert_eq!(again.map(|found| found.identity), Some(identity.clone()));
        child.kill().unwrap();
        child.wait().unwrap();

        assert!(HostProcess::open_again(identity).unwrap().is_none());
        assert!(has_ended(&opened.descriptor));
        let gone = HostProcess::open(number(&child), uid()).unwrap_err();
        assert!(matches!(gone, ProcessError::Gone { .. }), "{gone:?}");
    }

    #[test]
    fn another_start_or_another_boot_is_another_process() {
        let mut child = sleeper();
        let identity = HostProcess::open(number(&child), uid()).unwrap().identity;
        let others = [
            ProcessRow {
                started: ProcessStart::new(identity.started.ticks() + 1),
                ..identity.clone()
            },
            ProcessRow {
                boot_id: "another".to_owned(),
                ..identity.clone()
            },
        ];
        for other in others {
            assert!(HostProcess::open_again(other).unwrap().is_none());
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_cannot_be_seen_or_is_another_users_is_refused() {
        for pid in [None, Some(0), Some(-5)] {
            let unseen = HostProcess::open(pid, uid()).unwrap_err();
            assert!(matches!(unseen, ProcessError::Unseen), "{pid:?} {unseen:?}");
        }
        let own = i32::try_from(std::process::id()).ok();

        let other = HostProcess::open(own, uid() + 1).unwrap_err();

        assert!(matches!(other, ProcessError::OtherUser { .. }), "{other:?}");
    }
}
