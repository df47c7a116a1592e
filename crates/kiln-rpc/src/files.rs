//! The second socket: descriptors in, single-use handles out.
//!
//! ```text
//! client                                           daemon
//!   │ length:u32be {"files":N} + N descriptors        │   one message, N = 1..=4
//!   │ ──────────────────────────────────────────────▶ │
//!   │ length:u32be {"handles":[…]} or {"error":…}     │
//!   │ ◀────────────────────────────────────────────── │
//!   │ … more of the same, or close                    │
//! ```
//! HTTP's reader would lose the descriptors, so they have a socket of their own. What a handle is
//! good for is not here.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use kiln_api::{Failure, codes};
use kiln_service::{HostFileError, HostFiles};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::socket::BoundSocket;

/// Most descriptors in one message.
const MAX_FILES: usize = 4;

/// Longest message, in bytes: it only says how many descriptors come along.
const MAX_MESSAGE: usize = 256;

/// Most connections at a time. Each passes a few files and goes.
const MAX_CONNECTIONS: usize = 256;

/// A connection that is silent for so long is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket descriptors come through.
#[derive(Debug)]
pub struct FilesSocket {
    socket: BoundSocket,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    files: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Handles(Vec<String>),
    Error(Failure),
}

/// One message as it came.
struct Received {
    bytes: Vec<u8>,
    passed: Vec<File>,
    /// The kernel dropped descriptors: too many came, or the daemon may open no more files.
    is_cut: bool,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
enum MessageError {
    #[error("the message is not a length and an object that says how many files come along")]
    Malformed,
    #[error("the message announces {announced} descriptors and brings {found}")]
    Count { announced: usize, found: usize },
    #[error("of {announced} descriptors {found} could be taken: the daemon has no more room")]
    NoRoom { announced: usize, found: usize },
    #[error(transparent)]
    File(#[from] HostFileError),
}

impl FilesSocket {
    /// Takes a bound socket.
    pub fn new(socket: BoundSocket) -> Self {
        Self { socket }
    }

    /// Takes descriptors into keeping until `stop` turns true.
    pub async fn serve(self, files: Arc<HostFiles>, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut sweeps = tokio::time::interval(PATIENCE);
        loop {
            tokio::select! {
                _ = sweeps.tick() => files.sweep(),
                accepted = self.socket.listener().accept() => match accepted {
                    Ok((stream, _)) => {
                        // No place: the connection is closed, and the client tries again.
                        let Ok(place) = places.clone().try_acquire_owned() else { continue };
                        let files = files.clone();
                        connections.spawn(async move {
                            let _place = place;
                            if let Err(error) = converse(&stream, &files).await {
                                tracing::debug!(%error, "a descriptor connection broke");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a descriptor connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
        }
    }
}

async fn converse(stream: &UnixStream, files: &HostFiles) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    loop {
        let received = tokio::time::timeout(PATIENCE, receive(stream)).await;
        let Some(message) = received.map_err(|_| io::ErrorKind::TimedOut)?? else {
            return Ok(());
        };
        let (reply, is_over) = match take(files, uid, message) {
            Ok(handles) => (Reply::Handles(handles), false),
            // Behind a message that was not understood nothing can be trusted.
            Err(error) => (Reply::Error(failure(&error)), true),
        };
        send(stream, &reply).await?;
        if is_over {
            return Ok(());
        }
    }
}

/// Receives one message with its descriptors; nothing when the peer has closed.
async fn receive(stream: &UnixStream) -> io::Result<Option<Received>> {
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || receive_now(stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

fn receive_now(stream: &UnixStream) -> io::Result<Option<Received>> {
    let mut bytes = [0; MAX_MESSAGE];
    // One more place than allowed, so that a fifth descriptor is seen and refused; what does not
    // even fit there the kernel closes.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES + 1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut passed = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            passed.extend(descriptors.map(File::from));
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some(Received {
        bytes: bytes[..received.bytes].to_vec(),
        passed,
        is_cut: received.flags.contains(ReturnFlags::CTRUNC),
    }))
}

fn take(files: &HostFiles, uid: u32, message: Received) -> Result<Vec<String>, MessageError> {
    let passed = message.passed;
    let (length, body) = message
        .bytes
        .split_first_chunk::<4>()
        .ok_or(MessageError::Malformed)?;
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(body.len()) {
        return Err(MessageError::Malformed);
    }
    let request: Request = serde_json::from_slice(body).map_err(|_| MessageError::Malformed)?;
    let found = passed.len();
    if message.is_cut && found < request.files {
        // The kernel drops what does not fit into the daemon's table of open files.
        let announced = request.files;
        tracing::warn!(announced, found, "no room for passed descriptors");
        return Err(MessageError::NoRoom { announced, found });
    }
    if request.files != found || found == 0 || found > MAX_FILES {
        return Err(MessageError::Count {
            announced: request.files,
            found,
        });
    }
    passed
        .into_iter()
        .map(|file| Ok(files.keep(uid, file)?.to_string()))
        .collect()
}

async fn send(stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    let body = serde_json::to_vec(reply)?;
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(body);
    let sent = tokio::time::timeout(PATIENCE, async {
        let mut written = 0;
        while written < message.len() {
            stream.writable().await?;
            match stream.try_write(&message[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    sent.await.map_err(|_| io::ErrorKind::TimedOut)?
}

fn failure(error: &MessageError) -> Failure {
    let code = match error {
        MessageError::Malformed | MessageError::Count { .. } => codes::request::MALFORMED,
        MessageError::NoRoom { .. } | MessageError::File(HostFileError::TooMany { .. }) => {
            codes::daemon::BUSY
        }
        MessageError::File(_) => codes::file::WRONG_KIND,
    };
    Failure::from_error(code, error)
}
