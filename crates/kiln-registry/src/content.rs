//! Bytes on their way to a registry: read again wherever an upload has to go on, hashed once.
//!
//! ```text
//! file ─256 KiB─▶ thread: hash what was not hashed yet ─two pieces─▶ body of a request
//! ```
//! Not here: the requests that carry them (`upload`).

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use kiln_domain::Digest;
use sha2::Digest as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::blob::FileRange;

/// Bytes read and sent at a time.
const STEP_BYTES: usize = 256 << 10;

/// How many steps are read ahead of the connection.
const STEPS_AHEAD: usize = 2;

/// What a blob is sent from: read as often as an upload needs, never held in memory unless it
/// already is.
#[derive(Clone)]
pub struct Content {
    place: Place,
    report: Option<Report>,
}

/// Is told how many bytes of the blob have been sent.
type Report = Arc<dyn Fn(u64) + Send + Sync>;

#[derive(Clone)]
enum Place {
    Memory(Bytes),
    File(FileRange),
}

impl Content {
    /// Sends bytes that are at hand.
    pub fn bytes(bytes: Bytes) -> Self {
        Self {
            place: Place::Memory(bytes),
            report: None,
        }
    }

    /// Sends the first `size_bytes` of a file, which must not change meanwhile.
    pub fn file(file: Arc<File>, size_bytes: u64) -> Self {
        Self::range(FileRange::new(file, 0, size_bytes))
    }

    /// Sends a part of a file, such as a member of an archive.
    pub fn range(range: FileRange) -> Self {
        Self {
            place: Place::File(range),
            report: None,
        }
    }

    /// Tells `report` how many bytes have been sent, each time some were. The number falls when
    /// an upload has to begin anew.
    #[must_use]
    pub fn reporting(mut self, report: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.report = Some(Arc::new(report));
        self
    }

    /// Returns how many bytes there are.
    pub fn size_bytes(&self) -> u64 {
        match &self.place {
            Place::Memory(bytes) => bytes.len() as u64,
            Place::File(range) => range.remaining_bytes(),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("size_bytes", &self.size_bytes())
            .finish_non_exhaustive()
    }
}

/// Why content could not be sent, where the fault is our side's.
#[derive(Debug)]
pub(crate) enum ContentFault {
    /// It could not be read.
    Io(io::Error),
    /// It does not have the digest it is sent under.
    Digest(Digest),
}

/// One blob that is being sent: its content, what it must hash to, and how far it is.
#[derive(Debug)]
pub(crate) struct Outgoing {
    content: Content,
    digest: Digest,
    state: Mutex<State>,
    /// How many bytes of the blob the connection has taken.
    sent: AtomicU64,
    /// When it last took some.
    sent_at: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    hasher: sha2::Sha256,
    hashed_bytes: u64,
    fault: Option<ContentFault>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("hashed_bytes", &self.hashed_bytes)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

/// A part of a blob, as one request carries it.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    outgoing: Arc<Outgoing>,
    /// The first byte.
    pub(crate) start: u64,
    /// Behind the last byte.
    pub(crate) end: u64,
    /// Whether the request says in a `Content-Range` which part it is.
    pub(crate) is_ranged: bool,
}

impl Outgoing {
    pub(crate) fn new(content: Content, digest: Digest) -> Arc<Self> {
        Arc::new(Self {
            content,
            digest,
            state: Mutex::default(),
            sent: AtomicU64::new(0),
            sent_at: Mutex::default(),
        })
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.content.size_bytes()
    }

    /// Takes the bytes from `start` to `end`.
    pub(crate) fn piece(self: &Arc<Self>, start: u64, end: u64, is_ranged: bool) -> Piece {
        Piece {
            outgoing: self.clone(),
            start,
            end: end.min(self.size_bytes()),
            is_ranged,
        }
    }

    /// Returns when the connection last took some of it.
    pub(crate) fn sent_at(&self) -> Option<Instant> {
        *self.sent_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was wrong with the content itself, if anything was.
    pub(crate) fn take_fault(&self) -> Option<ContentFault> {
        self.state().fault.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes what of these bytes, which lie at `at`, was not hashed yet. Behind the last one the
    /// digest must be right, or they are not to be sent.
    fn see(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let known = state.hashed_bytes.saturating_sub(at);
        let fresh = usize::try_from(known)
            .ok()
            .and_then(|known| bytes.get(known..));
        let Some(fresh) = fresh.filter(|fresh| !fresh.is_empty()) else {
            return Ok(());
        };
        state.hasher.update(fresh);
        state.hashed_bytes += fresh.len() as u64;
        if state.hashed_bytes < self.size_bytes() {
            return Ok(());
        }
        let found = Digest::from_bytes(state.hasher.clone().finalize().into());
        if found == self.digest {
            return Ok(());
        }
        state.fault = Some(ContentFault::Digest(found));
        Err(io::Error::other("the content has another digest"))
    }

    fn note_sent(&self, count: u64) {
        self.sent.store(count, Ordering::Relaxed);
        let mut sent_at = self.sent_at.lock().unwrap_or_else(PoisonError::into_inner);
        *sent_at = Some(Instant::now());
        drop(sent_at);
        if let Some(report) = &self.content.report {
            report(count);
        }
    }
}

impl Piece {
    pub(crate) fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Returns how many bytes of the blob the connection has taken.
    pub(crate) fn sent(&self) -> u64 {
        self.outgoing.sent.load(Ordering::Relaxed)
    }

    /// Returns when it last took some.
    pub(crate) fn sent_at(&self) -> Option<Instant> {
        self.outgoing.sent_at()
    }

    /// Opens the part for one request.
    pub(crate) fn body(&self) -> PieceBody {
        let outgoing = self.outgoing.clone();
        outgoing.note_sent(self.start);
        let (sender, steps) = mpsc::channel(STEPS_AHEAD);
        let (at, end) = (self.start, self.end);
        let body = PieceBody {
            outgoing: outgoing.clone(),
            steps,
            at,
            end,
        };
        // Its owner is the body: when that is dropped, sending fails and the thread ends.
        tokio::task::spawn_blocking(move || read_into(&sender, &outgoing, at, end));
        body
    }
}

/// Reads a part step by step until the receiver has it all, or wants no more.
fn read_into(sender: &mpsc::Sender<io::Result<Bytes>>, outgoing: &Outgoing, start: u64, end: u64) {
    let mut at = start;
    while at < end {
        let step = read_step(&outgoing.content, at, end)
            .inspect_err(|error| {
                let copy = io::Error::new(error.kind(), error.to_string());
                outgoing.state().fault = Some(ContentFault::Io(copy));
            })
            .and_then(|bytes| outgoing.see(at, &bytes).map(|()| bytes));
        at += step.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let is_broken = step.is_err();
        if sender.blocking_send(step).is_err() || is_broken {
            return;
        }
    }
}

fn read_step(content: &Content, at: u64, end: u64) -> io::Result<Bytes> {
    let left = usize::try_from(end - at).unwrap_or(usize::MAX);
    let count = left.min(STEP_BYTES);
    match &content.place {
        Place::Memory(bytes) => {
            let start = usize::try_from(at).unwrap_or(usize::MAX);
            let range = start..start.saturating_add(count);
            if bytes.len() < range.end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(bytes.slice(range))
        }
        Place::File(range) => {
            let mut range = range.clone();
            range.skip_bytes(at);
            let mut buffer = vec![0; count];
            range.read_exact(&mut buffer)?;
            Ok(buffer.into())
        }
    }
}

/// The body of one request.
#[derive(Debug)]
pub(crate) struct PieceBody {
    outgoing: Arc<Outgoing>,
    steps: mpsc::Receiver<io::Result<Bytes>>,
    at: u64,
    end: u64,
}

impl Body for PieceBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let step = match self.steps.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(step) => step,
        };
        Poll::Ready(step.map(|step| {
            let bytes = step?;
            self.at += bytes.len() as u64;
            self.outgoing.note_sent(self.at);
            Ok(Frame::data(bytes))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn read_all(piece: &Piece) -> Vec<u8> {
        let mut body = piece.body();
        let mut bytes = Vec::new();
        loop {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            match frame.await {
                None => return bytes,
                Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap()),
                Some(Err(_)) => {
                    bytes.extend_from_slice(b"<broken>");
                    return bytes;
                }
            }
        }
    }

    fn file_of(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_part_is_read_as_often_as_asked_and_hashed_once() {
        let bytes: Vec<u8> = (0..600_000_u32)
            .map(|number| number.to_le_bytes()[0])
            .collect();
        for content in [
            Content::bytes(bytes.clone().into()),
            Content::file(file_of(&bytes), bytes.len() as u64),
        ] {
            let outgoing = Outgoing::new(content, Digest::of(&bytes));

            let first = read_all(&outgoing.piece(0, 400_000, true)).await;
            let again = read_all(&outgoing.piece(100_000, 400_000, true)).await;
            let rest = read_all(&outgoing.piece(400_000, u64::MAX, true)).await;

            assert!(first == bytes[..400_000]);
            assert!(again == bytes[100_000..400_000]);
            assert!(rest == bytes[400_000..]);
            assert!(outgoing.take_fault().is_none());
            assert_eq!(outgoing.state().hashed_bytes, 600_000);
        }
    }

    #[tokio::test]
    async fn the_last_step_of_other_bytes_is_held_back() {
        let outgoing = Outgoing::new(Content::bytes("others".into()), Digest::of(b"wanted"));

        let sent = read_all(&outgoing.piece(0, 6, false)).await;

        assert_eq!(sent, b"<broken>");
        let found = Digest::of(b"others");
        assert!(
            matches!(outgoing.take_fault(), Some(ContentFault::Digest(digest)) if digest == found)
        );
    }

    #[tokio::test]
    async fn a_file_that_has_become_shorter_breaks_the_body() {
        let content = Content::file(file_of(b"abc"), 4);
        let outgoing = Outgoing::new(content, Digest::of(b"abcd"));

        let sent = read_all(&outgoing.piece(0, 4, false)).await;

        assert_eq!(sent, b"<broken>");
        assert!(matches!(
            outgoing.take_fault(),
            Some(ContentFault::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof
        ));
    }

    #[tokio::test]
    async fn what_was_sent_is_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = told.clone();
        let content = Content::bytes(vec![7; STEP_BYTES + 1].into())
            .reporting(move |count| listener.lock().unwrap().push(count));
        let digest = Digest::of(&vec![7; STEP_BYTES + 1]);
        let outgoing = Outgoing::new(content, digest);

        read_all(&outgoing.piece(0, u64::MAX, false)).await;

        let step = STEP_BYTES as u64;
        assert_eq!(*told.lock().unwrap(), [0, step, step + 1]);
    }
}
