//! The system calls that rustix has no safe function for, each behind one that is safe.
//!
//! This is the only module with `unsafe`. Not here: any decision.

use std::ffi::{CString, c_int, c_void};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::ptr;

use kiln_boot::{Stdin, StopSignal};
use rustix::process::{Gid, Pid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

/// `_IOW('f', 16, __u64)`, from the kernel's `fs/ext4/ext4.h`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// A program with everything the kernel is told about it.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Path of the file.
    pub(crate) path: CString,
    /// Arguments, its name first.
    pub(crate) argv: Vec<CString>,
    /// Environment, each `NAME=value`.
    pub(crate) envp: Vec<CString>,
    /// Where it starts.
    pub(crate) workdir: CString,
}

/// Numbers to run as.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
}

/// All signals to this process, blocked and taken from a descriptor instead.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: OwnedFd,
}

impl Signals {
    /// Blocks all signals of the calling thread, which is the only one.
    pub(crate) fn block() -> io::Result<Self> {
        // SAFETY: an all-zero `sigset_t` is a valid value, and `sigfillset` only writes to it.
        // `pthread_sigmask` and `signalfd` only read the set, which outlives them; the old mask
        // is not asked for. The new descriptor belongs to nobody else.
        unsafe {
            let mut all: libc::sigset_t = mem::zeroed();
            libc::sigfillset(&raw mut all);
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            let descriptor = checked(libc::signalfd(-1, &raw const all, flags))?;
            Ok(Self {
                descriptor: OwnedFd::from_raw_fd(descriptor),
            })
        }
    }

    /// Returns the descriptor, to wait on.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }
}

/// Starts `program` as the leader of a new session on `terminal`, with no signal blocked. It reads
/// the terminal, or nothing.
///
/// Fails when any step up to the execution fails, with the error of that step.
pub(crate) fn spawn(
    program: &Program,
    credentials: &Credentials,
    terminal: OwnedFd,
    stdin: Stdin,
) -> io::Result<Pid> {
    let pointers = Pointers::new(program);
    let credentials = credentials.clone();
    let workdir = program.workdir.clone();
    // Never executed: the closure below either executes `program` or fails.
    let mut command = Command::new("/nonexistent");
    command.stdin(match stdin {
        Stdin::Console => Stdio::from(terminal.try_clone()?),
        Stdin::None => Stdio::null(),
    });
    command.stdout(Stdio::from(terminal.try_clone()?));
    command.stderr(Stdio::from(terminal));
    let prepare = move || {
        rustix::process::setsid()?;
        // A terminal that cannot be controlled, such as none at all, is no reason not to run.
        let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdout());
        rustix::process::chdir(workdir.as_c_str())?;
        set_thread_groups(&credentials.groups)?;
        set_thread_gid(credentials.gid)?;
        set_thread_uid(credentials.uid)?;
        reset_signals()?;
        Err(pointers.execute())
    };
    // SAFETY: the closure runs in a child of a process with one thread. It makes system calls
    // only, on values made before, and allocates nothing.
    let child = unsafe { command.pre_exec(prepare) }.spawn()?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the child has no process id"))
}

/// Executes `program` in place of this process; returns only why that failed.
pub(crate) fn execute(program: &Program) -> io::Error {
    if let Err(error) = rustix::process::chdir(program.workdir.as_c_str()) {
        return error.into();
    }
    let pointers = Pointers::new(program);
    match reset_signals() {
        Ok(()) => pointers.execute(),
        Err(error) => error,
    }
}

/// Sends a signal to a process, or to all but this one when it is -1.
pub(crate) fn kill(process: i32, signal: StopSignal) -> io::Result<()> {
    // SAFETY: `kill` takes numbers only.
    checked(unsafe { libc::kill(process, signal.number()) }).map(drop)
}

/// Ties a socket to the interface `name`.
pub(crate) fn bind_to_interface(socket: &OwnedFd, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    let bytes = name.as_bytes_with_nul();
    let length = libc::socklen_t::try_from(bytes.len()).unwrap_or(libc::socklen_t::MAX);
    let value = bytes.as_ptr().cast::<c_void>();
    // SAFETY: `value` points to `length` bytes that live until the call returns.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            value,
            length,
        )
    };
    checked(code).map(drop)
}

/// Opens a stream to `port` of the host over vsock; the kernel gives up after two seconds.
pub(crate) fn connect_to_host(port: u32) -> io::Result<File> {
    // SAFETY: `socket` takes numbers only, and the new descriptor belongs to nobody else. An
    // all-zero `sockaddr_vm` is valid; `connect` reads as many bytes as it has.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        let socket = checked(libc::socket(libc::AF_VSOCK, kind, 0))?;
        let socket = OwnedFd::from_raw_fd(socket);
        let mut address: libc::sockaddr_vm = mem::zeroed();
        address.svm_family = AF_VSOCK_FAMILY;
        address.svm_cid = libc::VMADDR_CID_HOST;
        address.svm_port = port;
        let pointer = (&raw const address).cast::<libc::sockaddr>();
        checked(libc::connect(
            socket.as_raw_fd(),
            pointer,
            SOCKADDR_VM_BYTES,
        ))?;
        Ok(File::from(socket))
    }
}

/// `AF_VSOCK` as the address has it.
const AF_VSOCK_FAMILY: libc::sa_family_t = 40;

/// Length of an address of vsock.
const SOCKADDR_VM_BYTES: libc::socklen_t = 16;

/// Grows the mounted ext4 filesystem that `folder` lies on to `blocks` of its blocks.
pub(crate) fn resize_ext4(folder: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the call reads one `u64`, which lives until it returns.
    let code = unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) };
    checked(code).map(drop)
}

/// A program as `execve` wants it: arrays of pointers into strings that live as long.
struct Pointers {
    program: Program,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

// SAFETY: the pointers lead to the heap buffers of `program`, which moves along with them and is
// never changed.
unsafe impl Send for Pointers {}
// SAFETY: as above; nothing changes through them.
unsafe impl Sync for Pointers {}

impl Pointers {
    fn new(program: &Program) -> Self {
        // The clone is the one that the pointers lead into.
        let program = program.clone();
        let ended = |strings: &[CString]| {
            let pointers = strings.iter().map(|string| string.as_ptr());
            pointers.chain([ptr::null()]).collect()
        };
        Self {
            argv: ended(&program.argv),
            envp: ended(&program.envp),
            program,
        }
    }

    /// Replaces this process; returns only why that failed. Unlike the C library's functions it
    /// never tries a shell.
    fn execute(&self) -> io::Error {
        let path = self.program.path.as_ptr();
        // SAFETY: `path` and the elements of both arrays are strings that end with a zero byte,
        // and the arrays end with null; all live as long as `self`.
        unsafe {
            libc::execve(path, self.argv.as_ptr(), self.envp.as_ptr());
        }
        io::Error::last_os_error()
    }
}

/// Undoes what a program would inherit: that this process blocks signals, and that Rust's
/// start-up ignores SIGPIPE.
fn reset_signals() -> io::Result<()> {
    // SAFETY: an all-zero `sigset_t` is a valid value, and `sigemptyset` only writes to it.
    // `pthread_sigmask` only reads it. The default is a disposition that is always valid.
    let error = unsafe {
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut())
    };
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn checked(code: c_int) -> io::Result<c_int> {
    if code == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_vsock_are_as_long_as_stated() {
        assert_eq!(
            mem::size_of::<libc::sockaddr_vm>(),
            SOCKADDR_VM_BYTES as usize
        );
        assert_eq!(libc::AF_VSOCK, c_int::from(AF_VSOCK_FAMILY));
    }

    #[test]
    fn a_socket_is_tied_to_interfaces_that_exist() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = OwnedFd::from(socket);
        assert!(bind_to_interface(&socket, "no-such-one").is_err());
    }
}
