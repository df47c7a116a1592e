//! Speaking to a monitor that runs: is it there, would it ask its guest to stop, and why did it end.
//!
//! ```text
//! QEMU              QMP on a socket that it inherited: system_powerdown, send-key; event SHUTDOWN
//! Firecracker       HTTP on <directory>/api.sock: PUT /actions SendCtrlAltDel
//! Cloud Hypervisor  HTTP on <directory>/api.sock: PUT /api/v1/vm.power-button
//! ```
//! Answers are a line or a status; no client library is worth its weight for that.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kiln_vmm::Monitor;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Longest time that a monitor may take to make its socket.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Longest time that a monitor may take to be asked: meanwhile nothing else of its machine is
/// looked after.
const ASK_LIMIT: Duration = Duration::from_millis(300);

/// Pause between two looks whether the socket is there.
const PAUSE: Duration = Duration::from_millis(10);

/// Longest time that the last words of a monitor that has ended may take to be read.
const LAST_LIMIT: Duration = Duration::from_secs(1);

/// Most bytes of an event that are kept; those that are of interest are short.
const LINE_BYTES: usize = 4 << 10;

/// Most bytes of an answer that are read.
const ANSWER_BYTES: u64 = 64 << 10;

/// A way to a monitor.
#[derive(Debug)]
pub(crate) enum Control {
    /// To QEMU.
    Qmp {
        /// What it says.
        from: BufReader<OwnedReadHalf>,
        /// What it is told.
        to: OwnedWriteHalf,
        /// Whether the machine has a keyboard, too.
        has_keyboard: bool,
        /// What has come of a line.
        begun: Vec<u8>,
        /// Why the machine ends, as far as it was said.
        shutdown: Option<Shutdown>,
        /// The last trouble with a disk that it told of.
        trouble: Option<Halt>,
    },
    /// To one with an HTTP API.
    Http {
        /// Its socket's name.
        socket: PathBuf,
        /// The method's path.
        path: &'static str,
        /// What is sent along.
        body: Option<Value>,
    },
}

impl Control {
    /// Takes the other end of the socket that QEMU inherited.
    pub(crate) fn of_qemu(
        socket: std::os::unix::net::UnixStream,
        monitor: Monitor,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(socket)?.into_split();
        Ok(Self::Qmp {
            from: BufReader::new(from),
            to,
            has_keyboard: monitor == Monitor::QemuQ35,
            begun: Vec::new(),
            shutdown: None,
            trouble: None,
        })
    }

    /// Names the socket that Firecracker makes.
    pub(crate) fn of_firecracker(socket: PathBuf) -> Self {
        Self::Http {
            socket,
            path: "/actions",
            body: Some(json!({"action_type": "SendCtrlAltDel"})),
        }
    }

    /// Names the socket that Cloud Hypervisor makes.
    pub(crate) fn of_cloud_hypervisor(socket: PathBuf) -> Self {
        Self::Http {
            socket,
            path: "/api/v1/vm.power-button",
            body: None,
        }
    }

    /// Waits until the monitor answers: then it has read all it was told, and the machine runs.
    pub(crate) async fn until_ready(&mut self) -> io::Result<()> {
        let ready = tokio::time::timeout(START_LIMIT, self.answer()).await;
        ready.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn answer(&mut self) -> io::Result<()> {
        match self {
            Self::Qmp { from, to, .. } => {
                let greeting = line(from).await?;
                if greeting.get("QMP").is_none() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                tell(to, &json!({"execute": "qmp_capabilities"})).await?;
                loop {
                    let said = line(from).await?;
                    if said.get("return").is_some() {
                        return Ok(());
                    }
                }
            }
            Self::Http { socket, .. } => {
                let start = Instant::now();
                loop {
                    match connect(socket).await {
                        Ok(_) => return Ok(()),
                        Err(error) if start.elapsed() >= START_LIMIT => return Err(error),
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                }
            }
        }
    }

    /// Asks the guest to stop. It may not hear it yet, so it is asked again later.
    ///
    /// `keys` says whether ctrl-alt-del means the same to it; to an init of the image's own it
    /// means a restart. A monitor that hangs is not waited for.
    pub(crate) async fn ask_to_stop(&mut self, keys: Keyboard) -> io::Result<()> {
        let asked = tokio::time::timeout(ASK_LIMIT, self.ask(keys)).await;
        asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn ask(&mut self, keys: Keyboard) -> io::Result<()> {
        match self {
            Self::Qmp {
                to, has_keyboard, ..
            } => {
                tell(to, &json!({"execute": "system_powerdown"})).await?;
                if *has_keyboard && keys == Keyboard::Stops {
                    let names = ["ctrl", "alt", "delete"];
                    let keys = names.map(|name| json!({"type": "qcode", "data": name}));
                    let order = json!({"execute": "send-key", "arguments": {"keys": keys}});
                    tell(to, &order).await?;
                }
                Ok(())
            }
            Self::Http { socket, path, body } => put(socket, path, body.as_ref()).await,
        }
    }

    /// Reads what the monitor says: one that nobody listens to stops. Returns only when it has
    /// closed the way, or has halted its machine, and says why.
    ///
    /// Nobody here asks for a halt. QEMU itself halts a machine that it cannot go on with, and waits
    /// for a person (`rerror` and `werror` in its manual; `KVM_EXIT_INTERNAL_ERROR` in the kernel's
    /// Documentation/virt/kvm/api.rst).
    pub(crate) async fn listen(&mut self) -> Option<Halt> {
        match self {
            Self::Qmp {
                from,
                begun,
                shutdown,
                trouble,
                ..
            } => {
                // Whoever stops waiting loses nothing: a line that has begun is kept.
                while let Ok([_, ..]) = from.fill_buf().await {
                    let length = from.buffer().len();
                    let mut halt = None;
                    for line in from.buffer().split_inclusive(|byte| *byte == b'\n') {
                        let room = LINE_BYTES.saturating_sub(begun.len());
                        begun.extend_from_slice(line.get(..room).unwrap_or(line));
                        if line.ends_with(b"\n") {
                            *shutdown = Shutdown::in_line(begun).or(*shutdown);
                            *trouble = Halt::in_line(begun).or(*trouble);
                            if event(begun).as_deref() == Some("STOP") {
                                halt = Some(trouble.unwrap_or(Halt::Processor));
                            }
                            begun.clear();
                        }
                    }
                    from.consume(length);
                    if halt.is_some() {
                        return halt;
                    }
                }
                None
            }
            Self::Http { .. } => std::future::pending().await,
        }
    }

    /// Returns why the machine of a monitor that has ended did, where the monitor says that.
    pub(crate) async fn shutdown(&mut self) -> Option<Shutdown> {
        if let Self::Http { .. } = self {
            return None;
        }
        // A program that the monitor started may hold the way open.
        drop(tokio::time::timeout(LAST_LIMIT, self.listen()).await);
        match self {
            Self::Qmp { shutdown, .. } => *shutdown,
            Self::Http { .. } => None,
        }
    }
}

/// Why a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// The guest switched it off.
    SwitchedOff,
    /// The guest reset it, or its kernel panicked, which resets it as well.
    Reset,
    /// Something on the host ended it.
    FromOutside,
}

impl Shutdown {
    /// Reads a line of QEMU's, if it is about that.
    fn in_line(line: &[u8]) -> Option<Self> {
        let said: Value = serde_json::from_slice(line).ok()?;
        if said.get("event")?.as_str()? != "SHUTDOWN" {
            return None;
        }
        match said.get("data")?.get("reason")?.as_str()? {
            "guest-shutdown" => Some(Self::SwitchedOff),
            "guest-reset" | "guest-panic" | "subsystem-reset" => Some(Self::Reset),
            _ => Some(Self::FromOutside),
        }
    }
}

/// Why a monitor cannot go on with its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// What executes it gave up.
    Processor,
    /// The disk of the host is full.
    NoSpace,
    /// A disk of the host failed.
    Disk,
}

impl Halt {
    /// Reads a line of QEMU's, if it tells of a disk that failed.
    fn in_line(line: &[u8]) -> Option<Self> {
        let said: Value = serde_json::from_slice(line).ok()?;
        if said.get("event")?.as_str()? != "BLOCK_IO_ERROR" {
            return None;
        }
        let data = said.get("data")?;
        if data.get("action")?.as_str()? != "stop" {
            return None;
        }
        let is_full = data.get("nospace").and_then(Value::as_bool);
        Some(if is_full == Some(true) {
            Self::NoSpace
        } else {
            Self::Disk
        })
    }
}

/// Returns the name of the event that a line of QEMU's tells of.
fn event(line: &[u8]) -> Option<String> {
    let said: Value = serde_json::from_slice(line).ok()?;
    Some(said.get("event")?.as_str()?.to_owned())
}

/// What ctrl-alt-del does in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyboard {
    /// It stops the program.
    Stops,
    /// Something else.
    IsNotOurs,
}

async fn line(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Value> {
    let mut line = Vec::new();
    let length = from.take(ANSWER_BYTES).read_until(b'\n', &mut line).await?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

async fn tell(to: &mut OwnedWriteHalf, order: &Value) -> io::Result<()> {
    to.write_all(format!("{order}\n").as_bytes()).await
}

/// Connects to a socket in a directory whose path may be longer than a socket's address.
async fn connect(socket: &std::path::Path) -> io::Result<UnixStream> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    UnixStream::connect(short.join(name)).await
}

async fn put(socket: &std::path::Path, path: &str, body: Option<&Value>) -> io::Result<()> {
    let mut stream = connect(socket).await?;
    stream.write_all(request(path, body).as_bytes()).await?;
    let mut answer = Vec::new();
    let mut stream = BufReader::new(stream).take(ANSWER_BYTES);
    stream.read_until(b'\n', &mut answer).await?;
    if is_success(&answer) {
        return Ok(());
    }
    let status = String::from_utf8_lossy(&answer).trim_end().to_owned();
    Err(io::Error::other(status))
}

fn request(path: &str, body: Option<&Value>) -> String {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn is_success(status_line: &[u8]) -> bool {
    status_line
        .strip_prefix(b"HTTP/1.1 2")
        .or_else(|| status_line.strip_prefix(b"HTTP/1.0 2"))
        .is_some()
}

#[cfg(test)]
mod tests;
