//! The second socket: descriptors in for single-use handles, and handles in for descriptors.
//!
//! ```text
//! client                                           daemon
//!   │ length:u32be {"files":N} + N descriptors        │   one message, N = 1..=4
//!   │ ──────────────────────────────────────────────▶ │
//!   │ length:u32be {"handles":[…]} or {"error":…}     │   handles to name in a call
//!   │ ◀────────────────────────────────────────────── │
//!   │ length:u32be {"take":["<handle>",…]}            │   1..=4 handles that a call answered
//!   │ ──────────────────────────────────────────────▶ │
//!   │ length:u32be {"taken":N} + N descriptors        │   with its first bytes, in order
//!   │   or {"error":…}                                │   all or none
//!   │ ◀────────────────────────────────────────────── │
//!   │ … more of either, or close                      │
//! ```
//! HTTP's reader would lose the descriptors, so they have a socket of their own. What a handle is
//! good for, and what lies behind one, is not here.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use kiln_api::{Failure, HandleId, codes};
use kiln_service::{HostFileError, HostFiles};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::socket::BoundSocket;

/// Most descriptors in one message.
const MAX_FILES: usize = 4;

/// Longest body of a message, in bytes: it says how many descriptors come along, or names four handles.
const MAX_MESSAGE: usize = 256;

/// Most connections at a time. Each passes a few files and goes.
const MAX_CONNECTIONS: usize = 256;

/// A connection that is silent for so long is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket descriptors go through.
#[derive(Debug)]
pub struct FilesSocket {
    socket: BoundSocket,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    Files(usize),
    Take(Vec<String>),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Handles(Vec<String>),
    Taken(usize),
    Error(Failure),
}

/// What a message is answered with, and the descriptors that go with it.
struct Answer {
    reply: Reply,
    files: Vec<File>,
}

/// One message as it came.
#[derive(Default)]
struct Received {
    /// What comes behind the length; empty when that is more than a message has.
    body: Vec<u8>,
    passed: Vec<File>,
    /// The kernel dropped descriptors: too many came, or the daemon may open no more files.
    is_cut: bool,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
enum MessageError {
    #[error("the message is not a length and an object of `files` or `take`")]
    Malformed,
    #[error("the message asks for {asked} descriptors, not 1 to {MAX_FILES}")]
    Asked { asked: usize },
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

    /// Takes descriptors into keeping and hands others out until `stop` turns true.
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
        let (answer, is_over) = match answer(files, uid, message) {
            Ok(answer) => (answer, false),
            // Behind a message that was not understood nothing can be trusted.
            Err(error) => (Answer::of(Reply::Error(failure(&error))), true),
        };
        send(stream, &answer).await?;
        if is_over {
            return Ok(());
        }
    }
}

/// Receives one message with its descriptors; nothing when the peer has closed.
async fn receive(stream: &UnixStream) -> io::Result<Option<Received>> {
    let mut received = Received::default();
    let mut length = [0; 4];
    if received.fill(stream, &mut length).await? < length.len() {
        return Ok(None);
    }
    // What is too long is not read, and no message without it.
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length <= MAX_MESSAGE {
        let mut body = vec![0; length];
        if received.fill(stream, &mut body).await? < length {
            return Ok(None);
        }
        received.body = body;
    }
    Ok(Some(received))
}

impl Received {
    /// Fills `bytes`, or as much of it as comes before the peer closes, and says how much. A
    /// message may come in pieces, and its descriptors with any of them.
    async fn fill(&mut self, stream: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            stream.readable().await?;
            let piece = &mut bytes[filled..];
            match stream.try_io(Interest::READABLE, || self.receive_now(stream, piece)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn receive_now(&mut self, stream: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
        // One more place than allowed, so that a fifth descriptor is seen and refused; what does
        // not even fit there the kernel closes.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES + 1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            stream,
            &mut [IoSliceMut::new(bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.passed.extend(descriptors.map(File::from));
            }
        }
        self.passed.truncate(MAX_FILES + 1);
        self.is_cut |= received.flags.contains(ReturnFlags::CTRUNC);
        Ok(received.bytes)
    }
}

impl Answer {
    fn of(reply: Reply) -> Self {
        let files = Vec::new();
        Self { reply, files }
    }
}

fn answer(files: &HostFiles, uid: u32, message: Received) -> Result<Answer, MessageError> {
    let request = serde_json::from_slice(&message.body).map_err(|_| MessageError::Malformed)?;
    match request {
        Request::Files(announced) => {
            let handles = keep(files, uid, announced, message)?;
            Ok(Answer::of(Reply::Handles(handles)))
        }
        Request::Take(handles) => {
            let files = hand_out(files, uid, &handles, &message)?;
            let reply = Reply::Taken(files.len());
            Ok(Answer { reply, files })
        }
    }
}

fn keep(
    files: &HostFiles,
    uid: u32,
    announced: usize,
    message: Received,
) -> Result<Vec<String>, MessageError> {
    let found = message.passed.len();
    if message.is_cut && found < announced {
        // The kernel drops what does not fit into the daemon's table of open files.
        tracing::warn!(announced, found, "no room for passed descriptors");
        return Err(MessageError::NoRoom { announced, found });
    }
    if announced != found || found == 0 || found > MAX_FILES {
        return Err(MessageError::Count { announced, found });
    }
    message
        .passed
        .into_iter()
        .map(|file| Ok(files.keep(uid, file)?.to_string()))
        .collect()
}

fn hand_out(
    files: &HostFiles,
    uid: u32,
    handles: &[String],
    message: &Received,
) -> Result<Vec<File>, MessageError> {
    if message.is_cut || !message.passed.is_empty() {
        let found = message.passed.len();
        return Err(MessageError::Count {
            announced: 0,
            found,
        });
    }
    if handles.is_empty() || handles.len() > MAX_FILES {
        let asked = handles.len();
        return Err(MessageError::Asked { asked });
    }
    let parsed: Result<Vec<HandleId>, _> = handles.iter().map(|text| text.parse()).collect();
    let parsed = parsed.map_err(|_| MessageError::Malformed)?;
    Ok(files.hand_out(uid, &parsed)?)
}

/// Sends an answer; its descriptors go with the first bytes. Who is gone by then has used the
/// handles up all the same.
async fn send(stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let body = serde_json::to_vec(&answer.reply)?;
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(body);
    let sent = tokio::time::timeout(PATIENCE, async {
        let mut written = if answer.files.is_empty() {
            0
        } else {
            send_with_files(stream, &message, &answer.files).await?
        };
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

/// Sends the descriptors with as many bytes as go at once, and says how many went.
async fn send_with_files(stream: &UnixStream, bytes: &[u8], files: &[File]) -> io::Result<usize> {
    let descriptors: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    loop {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let slices = [IoSlice::new(bytes)];
            Ok(sendmsg(
                stream,
                &slices,
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )?)
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}

fn failure(error: &MessageError) -> Failure {
    let code = match error {
        MessageError::Malformed | MessageError::Count { .. } | MessageError::Asked { .. } => {
            codes::request::MALFORMED
        }
        MessageError::File(HostFileError::HandleUnknown) => codes::file::HANDLE_UNKNOWN,
        MessageError::NoRoom { .. } | MessageError::File(HostFileError::TooMany { .. }) => {
            codes::daemon::BUSY
        }
        MessageError::File(_) => codes::file::WRONG_KIND,
    };
    Failure::from_error(code, error)
}
