//! Blobs on their way to a place of this host: several are fetched side by side, one after the other
//! is written.
//!
//! ```text
//! daemon ─▶ fetched, four at a time ─▶ descriptors, in their order ─▶ one thread writes ─▶ place
//! ```

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt as _};
use kiln_api::operation::{LayerProgress, LayerState, Progress, Stage};
use kiln_domain::oci::Descriptor;
use kiln_registry::{Outgoing, OutgoingError};
use tokio::sync::Semaphore;

use super::content::{Body, Origin};
use super::outcome;
use crate::failure::CommandError;
use crate::output::Amount;
use crate::progress::Renderer;
use crate::session::Session;
use crate::text::size;

/// Blobs that the daemon fetches at a time, as it does for copies to registries.
const BLOBS_AT_A_TIME: usize = 4;

/// How often bars move.
const BEAT: Duration = Duration::from_millis(200);

/// How long a thread that writes may take to see that it is to stop. A running system call must
/// return first.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The thread that writes, of which there is one at a time, and the switch that ends it.
#[derive(Debug)]
pub(super) struct Writing {
    cancelled: Arc<AtomicBool>,
    at_work: Arc<Semaphore>,
}

impl Default for Writing {
    fn default() -> Self {
        Self {
            cancelled: Arc::default(),
            at_work: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Writing {
    /// Ends the thread, and waits until it has removed what it has half made.
    pub(super) async fn stop(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        // Late: what is left has a name that says what it is.
        drop(tokio::time::timeout(STOP_GRACE, self.at_work.acquire()).await);
    }

    /// Says whether the place has a blob.
    pub(super) async fn has(
        &self,
        outgoing: Outgoing,
        blob: Descriptor,
    ) -> Result<(Outgoing, bool), CommandError> {
        let look =
            move |outgoing: &mut Outgoing, cancelled: &AtomicBool| outgoing.has(&blob, cancelled);
        self.work(outgoing, look).await
    }

    /// Writes a blob.
    async fn put(
        &self,
        outgoing: Outgoing,
        blob: Descriptor,
        mut body: Counted,
    ) -> Result<Outgoing, CommandError> {
        let write = move |outgoing: &mut Outgoing, cancelled: &AtomicBool| {
            outgoing.put(&blob, &mut body, cancelled)
        };
        let (outgoing, ()) = self.work(outgoing, write).await?;
        Ok(outgoing)
    }

    /// Makes the place complete, unless it is to stop already.
    pub(super) async fn finish(
        &self,
        outgoing: Outgoing,
        complete: impl FnOnce(Outgoing) -> Result<(), OutgoingError> + Send + 'static,
    ) -> Result<(), CommandError> {
        let at_work = self.at_work.clone().acquire_owned().await;
        let cancelled = self.cancelled.clone();
        let thread = move || {
            let done = if cancelled.load(Ordering::Relaxed) {
                drop(outgoing);
                Err(OutgoingError::Cancelled)
            } else {
                complete(outgoing)
            };
            drop(at_work);
            done
        };
        let done = tokio::task::spawn_blocking(thread).await;
        let done = done.map_err(io::Error::other)?;
        done.map_err(|error| outcome::failure(&error).into())
    }

    async fn work<T: Send + 'static>(
        &self,
        mut outgoing: Outgoing,
        work: impl FnOnce(&mut Outgoing, &AtomicBool) -> Result<T, OutgoingError> + Send + 'static,
    ) -> Result<(Outgoing, T), CommandError> {
        let at_work = self.at_work.clone().acquire_owned().await;
        let cancelled = self.cancelled.clone();
        let thread = move || {
            let done = work(&mut outgoing, &cancelled).map(|done| (outgoing, done));
            // Nobody takes what comes now, and it would be removed later than the process ends.
            let done = match done {
                Ok(_) if cancelled.load(Ordering::Relaxed) => Err(OutgoingError::Cancelled),
                done => done,
            };
            // Behind it nothing is left of what failed: the place went with the closure.
            drop(at_work);
            done
        };
        let done = tokio::task::spawn_blocking(thread).await;
        let done = done.map_err(io::Error::other)?;
        done.map_err(|error| outcome::failure(&error).into())
    }
}

/// A body that counts what is read of it.
struct Counted {
    body: Body,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Brings blobs that the place has not.
pub(super) async fn bring(
    mut outgoing: Outgoing,
    blobs: Vec<Descriptor>,
    from: &Origin,
    session: &Session,
    writing: &Writing,
) -> Result<Outgoing, CommandError> {
    let mut shown = Shown::new(session, &blobs);
    let mut queue = blobs.into_iter().enumerate();
    let mut coming = FuturesOrdered::new();
    let mut here = VecDeque::new();
    loop {
        while coming.len() + here.len() < BLOBS_AT_A_TIME
            && let Some((index, blob)) = queue.next()
        {
            shown.state(index, LayerState::Fetching);
            coming.push_back(async move {
                let body = from.blob(&blob, session).await;
                body.map(|body| (index, blob, body))
            });
        }
        let (index, blob, body) = match here.pop_front() {
            Some(next) => next,
            None => match shown.until(coming.next()).await {
                Some(next) => next?,
                None => break,
            },
        };
        let body = Counted {
            body,
            count: shown.writes(index),
        };
        let put = writing.put(outgoing, blob.clone(), body);
        tokio::pin!(put);
        // A descriptor that came meanwhile is taken at once: the daemon does not keep it for long.
        outgoing = loop {
            tokio::select! {
                written = shown.until(&mut put) => break written?,
                Some(next) = coming.next(), if !coming.is_empty() => here.push_back(next?),
            }
        };
        shown.written(session, index, &blob);
    }
    shown.renderer.close();
    Ok(outgoing)
}

/// What is shown of it.
struct Shown {
    renderer: Renderer,
    progress: Progress,
    /// The blob that is written, and how much of it is.
    writes: Option<(usize, Arc<AtomicU64>)>,
}

impl Shown {
    fn new(session: &Session, blobs: &[Descriptor]) -> Self {
        let layers: Vec<LayerProgress> = blobs
            .iter()
            .map(|blob| LayerProgress {
                digest: blob.digest.to_string(),
                state: LayerState::Waiting,
                bytes_done: 0,
                bytes_total: blob.size_bytes,
            })
            .collect();
        Self {
            renderer: session.renderer(),
            progress: Progress {
                stage: Stage::Fetch,
                bytes_total: Some(layers.iter().map(|layer| layer.bytes_total).sum()),
                items_total: Some(layers.len() as u64),
                layers,
                ..Progress::default()
            },
            writes: None,
        }
    }

    fn state(&mut self, index: usize, state: LayerState) {
        if let Some(layer) = self.progress.layers.get_mut(index) {
            layer.state = state;
        }
    }

    fn writes(&mut self, index: usize) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        self.writes = Some((index, count.clone()));
        count
    }

    fn written(&mut self, session: &Session, index: usize, blob: &Descriptor) {
        self.refresh();
        self.state(index, LayerState::Done);
        self.writes = None;
        self.progress.items_done += 1;
        self.renderer.show(&self.progress);
        if session.output().amount == Amount::Everything && !self.renderer.is_silent() {
            let digest = blob.digest.to_short_hex();
            let line = format!("{digest}  {}\n", size(blob.size_bytes));
            self.renderer.note(&line);
        }
    }

    /// Waits for something while bars move.
    async fn until<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        tokio::pin!(awaited);
        let mut beat = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                done = &mut awaited => return done,
                _ = beat.tick() => self.refresh(),
            }
        }
    }

    fn refresh(&mut self) {
        let Some((index, count)) = &self.writes else {
            self.renderer.show(&self.progress);
            return;
        };
        if let Some(layer) = self.progress.layers.get_mut(*index) {
            layer.bytes_done = count.load(Ordering::Relaxed).min(layer.bytes_total);
        }
        let done = self.progress.layers.iter().map(|layer| layer.bytes_done);
        self.progress.bytes_done = done.sum();
        self.renderer.show(&self.progress);
    }
}
