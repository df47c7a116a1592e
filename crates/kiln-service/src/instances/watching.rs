//! Watches the processes that run machines, and ends the machines of those that are gone.
//!
//! ```text
//! open ──▶ a place and a descriptor ──begin──▶ a task ──readable──▶ ended, with a reason
//!                                                └── let_go, or the daemon's end ──▶ nothing
//! resume ─▶ one that cannot be told apart or has no place ──look again, every 5 s──▶ as above
//! ```
//! One task and one descriptor per machine. Signals are not here: the daemon sends none.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_domain::InstanceId;
use kiln_store::events::EventActor;
use kiln_store::instances::{self, InstanceEnd, InstanceRow, ProcessRow};
use kiln_store::{Store, StoreError, WriteTransaction};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::records;
use crate::clock::Clock;
use crate::failures::with_causes;
use crate::host_process::{HostProcess, ProcessError};

/// What is said of a machine whose process ended without a word.
const PROCESS_GONE: &str = "the process that ran it is gone";

/// How long after a failure to record an end, or to find a process again, it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Watches processes; clones share what they watch.
#[derive(Clone, Debug)]
pub struct InstanceWatch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    clock: Arc<dyn Clock>,
    places: Arc<Semaphore>,
    most: usize,
    watched: Mutex<HashMap<InstanceId, CancellationToken>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A process that can be watched: it has a place, and the runtime looks at its descriptor.
#[derive(Debug)]
pub(super) struct Watchable {
    identity: ProcessRow,
    descriptor: AsyncFd<OwnedFd>,
    place: OwnedSemaphorePermit,
}

/// Why a process cannot be watched.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// As many are watched as may be.
    #[error("{most} machines are running, as many as the daemon watches")]
    Full { most: usize },
    /// The runtime cannot look at its descriptor.
    #[error("cannot watch process {pid}")]
    Runtime { pid: u32, source: io::Error },
    /// It cannot be opened.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl InstanceWatch {
    /// Makes a watch over at most `most` processes.
    pub fn new(store: Store, clock: Arc<dyn Clock>, most: usize) -> Self {
        let shared = Shared {
            store,
            clock,
            places: Arc::new(Semaphore::new(most)),
            most,
            watched: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Looks for the processes of all machines that have not ended, watches those that are there,
    /// and ends the machines of the others. What cannot be told at once is looked at again until it
    /// can. To be called once, before the first registration.
    pub async fn resume(&self) -> Result<(), StoreError> {
        let mut found: u64 = 0;
        let mut gone: Vec<InstanceId> = Vec::new();
        for row in self.shared.store.read(instances::live).await? {
            match self.watchable(|| HostProcess::open_again(row.process.clone())) {
                Ok(Some(watchable)) => {
                    self.begin(row.id, watchable);
                    found += 1;
                }
                Ok(None) => gone.push(row.id),
                // In doubt it counts as running: an image must not go from under a machine.
                Err(error) => {
                    let error = with_causes(&error);
                    tracing::error!(id = %row.id, error, "a machine is not watched yet");
                    self.look_again(row.id, row.process);
                }
            }
        }
        let ended = gone.len();
        // After a boot that is all of them: one transaction, not a sync for each.
        if ended > 0 {
            let now = self.shared.clock.now();
            let end_all = move |tx: &WriteTransaction<'_>| {
                gone.into_iter().try_for_each(|id| {
                    records::finish(tx, EventActor::Daemon, id, &process_gone(), now).map(drop)
                })
            };
            self.shared.store.write(end_all).await?;
        }
        if found > 0 || ended > 0 {
            tracing::info!(found, ended, "looked for machines of before");
        }
        Ok(())
    }

    /// Works until `stop` turns true. Machines go on; the next daemon looks for them.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        // Whoever could say so being gone says so too.
        stop.wait_for(|stopped| *stopped).await.ok();
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Opens the process that called, so that it can be watched.
    pub(super) fn open(&self, pid: Option<i32>, uid: u32) -> Result<Watchable, WatchError> {
        let opened = self.watchable(|| HostProcess::open(pid, uid).map(Some))?;
        Ok(opened.ok_or(ProcessError::Unseen)?)
    }

    fn watchable(
        &self,
        open: impl FnOnce() -> Result<Option<HostProcess>, ProcessError>,
    ) -> Result<Option<Watchable>, WatchError> {
        // First the process: one that is gone needs no place.
        let Some(process) = open()? else {
            return Ok(None);
        };
        let place = self.shared.places.clone().try_acquire_owned();
        // Never closed, so a missing place is the only reason.
        let place = place.map_err(|_| WatchError::Full {
            most: self.shared.most,
        })?;
        let pid = process.identity.pid;
        let descriptor =
            looked_at(process.descriptor).map_err(|source| WatchError::Runtime { pid, source })?;
        Ok(Some(Watchable {
            identity: process.identity,
            descriptor,
            place,
        }))
    }

    /// Watches the process of a machine whose row is in the store.
    pub(super) fn begin(&self, id: InstanceId, watchable: Watchable) {
        let Watchable {
            descriptor, place, ..
        } = watchable;
        let token = self.shared.stop.child_token();
        self.shared.watched().insert(id, token.clone());
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = token.cancelled() => {}
                ready = descriptor.readable() => match ready {
                    Ok(_) => {
                        drop(descriptor);
                        shared.end_at_last(id, &token).await;
                        shared.watched().remove(&id);
                    }
                    // Only a runtime that shuts down says so; the next daemon looks again.
                    Err(error) => tracing::debug!(%id, %error, "a machine is no longer watched"),
                },
            }
            drop(place);
        });
    }

    /// Looks for the process of a machine from time to time, until it can be watched or is gone.
    fn look_again(&self, id: InstanceId, identity: ProcessRow) {
        let token = self.shared.stop.child_token();
        self.shared.watched().insert(id, token.clone());
        let watch = self.clone();
        self.shared.tasks.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    // Its end was told, or the daemon's has come.
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
                match watch.watchable(|| HostProcess::open_again(identity.clone())) {
                    Ok(Some(watchable)) => {
                        tracing::info!(%id, "a machine is watched again");
                        return watch.begin(id, watchable);
                    }
                    Ok(None) => {
                        watch.shared.end_at_last(id, &token).await;
                        watch.shared.watched().remove(&id);
                        return;
                    }
                    Err(error) => {
                        let error = with_causes(&error);
                        tracing::debug!(%id, error, "a machine is still not watched");
                    }
                }
            }
        });
    }

    /// Watches a machine's process no longer.
    pub(super) fn let_go(&self, id: InstanceId) {
        if let Some(token) = self.shared.watched().remove(&id) {
            token.cancel();
        }
    }
}

impl Watchable {
    /// Borrows what the process is known by.
    pub(super) fn identity(&self) -> &ProcessRow {
        &self.identity
    }
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, HashMap<InstanceId, CancellationToken>> {
        // A panic elsewhere leaves the map whole: every use is one call.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an end until that is done or nobody needs it any more.
    async fn end_at_last(&self, id: InstanceId, token: &CancellationToken) {
        loop {
            match self.end(id).await {
                Ok(Some(_)) => tracing::info!(%id, "a machine ended: {PROCESS_GONE}"),
                // It had said so itself.
                Ok(None) => {}
                Err(error) => {
                    let error = with_causes(&error);
                    tracing::error!(%id, error, "the end of a machine is not recorded");
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = tokio::time::sleep(RETRY) => continue,
                    }
                }
            }
            return;
        }
    }

    async fn end(&self, id: InstanceId) -> Result<Option<InstanceRow>, StoreError> {
        let now = self.clock.now();
        self.store
            .write(move |tx| records::finish(tx, EventActor::Daemon, id, &process_gone(), now))
            .await
    }
}

fn process_gone() -> InstanceEnd {
    InstanceEnd {
        exit_code: None,
        reason: Some(PROCESS_GONE.to_owned()),
    }
}

/// Has the runtime look at a descriptor.
///
/// What is deprecated is to do so with any type that says it has a descriptor, since it may close it
/// or name another later. An [`OwnedFd`] does neither; the function that replaces this one is
/// unsafe.
#[expect(
    deprecated,
    reason = "sound for an `OwnedFd`, and the only way that is safe Rust"
)]
fn looked_at(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
