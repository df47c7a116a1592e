//! The SHA-256 of every root filesystem file, computed behind the pull's back: one at a time, and
//! only while nothing else is running.
//!
//! A pull asks for it in its own transaction, so that a restart forgets none.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use kiln_artifacts::names::ROOTFS;
use kiln_artifacts::{ArtifactError, Artifacts};
use kiln_domain::{Digest, Timestamp, VersionId};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::jobs::{self, JobRow, NewJob};
use kiln_store::{Object, Store, StoreError, WriteTransaction, versions};
use tokio::sync::watch;

use crate::blocking::{Pool, PoolError};
use crate::board::Board;
use crate::cancel::Cancel;
use crate::clock::Clock;

/// The kind of job this module does.
const JOB: &str = "rootfs.sha256";

/// How often the store is asked for work. It need not be soon.
const INTERVAL: Duration = Duration::from_secs(2);

/// Longest file that is hashed, in bytes. Holes are hashed as the zeros they read as, so a sparse
/// image of terabytes would cost hours of a core for a digest nobody asked for.
const MAX_FILE_BYTES: u64 = 16 << 30;

/// How long hashing rests before it looks again whether something else is running.
const REST: Duration = Duration::from_millis(100);

/// Attempts after which a file that cannot be read is given up.
const MAX_ATTEMPTS: u32 = 5;

/// Microseconds between two attempts.
const RETRY_MICROS: i64 = 60_000_000;

/// Computes what was asked for.
#[derive(Clone, Debug)]
pub struct RootfsDigests {
    store: Store,
    artifacts: Artifacts,
    board: Arc<Board>,
    clock: Arc<dyn Clock>,
    pool: Pool,
}

#[derive(Debug, thiserror::Error)]
enum DigestError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("cannot read the root filesystem")]
    Read(#[from] io::Error),
}

/// Asks for a version's digest, in the transaction that makes the version known. A file beyond
/// [`MAX_FILE_BYTES`] gets none.
pub(crate) fn request(
    tx: &WriteTransaction<'_>,
    version: VersionId,
    size_bytes: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    if size_bytes > MAX_FILE_BYTES {
        return Ok(());
    }
    let key = version.to_string();
    let payload = serde_json::json!({});
    jobs::put(
        tx,
        &NewJob {
            kind: JOB,
            key: &key,
            due_at: now,
            payload,
        },
    )?;
    Ok(())
}

impl RootfsDigests {
    /// Makes the worker.
    pub fn new(
        store: Store,
        artifacts: Artifacts,
        board: Arc<Board>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            artifacts,
            board,
            clock,
            pool: Pool::new("digest", 1),
        }
    }

    /// Works until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let cancel = Cancel::default();
        let work = async {
            loop {
                tokio::time::sleep(INTERVAL).await;
                if !self.board.is_empty() {
                    continue;
                }
                if let Err(error) = self.work_once(&cancel).await {
                    tracing::warn!(%error, "a root filesystem's digest has to wait");
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stopped| *stopped) => cancel.cancel(),
        }
    }

    async fn work_once(&self, cancel: &Cancel) -> Result<(), DigestError> {
        let now = self.clock.now();
        let due = self
            .store
            .read(move |tx| jobs::due_of(tx, JOB, now, 1))
            .await?;
        let Some(job) = due.into_iter().next() else {
            return Ok(());
        };
        match self.digest(&job, cancel).await {
            Ok(digest) => self.record(&job, digest).await,
            Err(error) => {
                self.put_off(&job).await?;
                Err(error)
            }
        }
    }

    /// Hashes the file; `None` when it is gone. A daemon that stops is an error.
    async fn digest(&self, job: &JobRow, cancel: &Cancel) -> Result<Option<Digest>, DigestError> {
        let (artifacts, id, cancel) = (self.artifacts.clone(), job.key.clone(), cancel.clone());
        let board = self.board.clone();
        let hash = move || {
            let Some(mut file) = artifacts.open_file(&id, ROOTFS)? else {
                return Ok(None);
            };
            let mut hasher = sha2::Sha256::default();
            let mut buffer = vec![0; 1 << 20];
            loop {
                while !board.is_empty() && !cancel.is_cancelled() {
                    std::thread::sleep(REST);
                }
                if cancel.is_cancelled() {
                    return Err(io::Error::from(io::ErrorKind::Interrupted).into());
                }
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                sha2::Digest::update(&mut hasher, &buffer[..count]);
            }
            Ok(Some(Digest::from_bytes(
                sha2::Digest::finalize(hasher).into(),
            )))
        };
        self.pool.run(hash).await?
    }

    async fn record(&self, job: &JobRow, digest: Option<Digest>) -> Result<(), DigestError> {
        let (job_id, now) = (job.id, self.clock.now());
        let version = job.key.parse::<VersionId>().ok().zip(digest);
        self.store
            .write(move |tx| {
                if let Some((version, digest)) = version
                    && versions::set_rootfs_sha256(tx, version, &digest)?
                {
                    let event = NewEvent {
                        at: now,
                        actor: EventActor::Daemon,
                        kind: "version.hashed",
                        object: Object::version(version),
                        data: serde_json::json!({ "rootfs_sha256": digest }),
                    };
                    events::append(tx, &event)?;
                }
                jobs::delete(tx, job_id)?;
                Ok::<_, StoreError>(())
            })
            .await?;
        Ok(())
    }

    async fn put_off(&self, job: &JobRow) -> Result<(), DigestError> {
        let (id, attempts) = (job.id, job.attempts + 1);
        let later = self.clock.now().as_micros().saturating_add(RETRY_MICROS);
        let later = Timestamp::from_micros(later).unwrap_or(Timestamp::EPOCH);
        self.store
            .write(move |tx| {
                if attempts >= MAX_ATTEMPTS {
                    jobs::delete(tx, id)?;
                } else {
                    jobs::try_again_at(tx, id, later)?;
                }
                Ok::<_, StoreError>(())
            })
            .await?;
        Ok(())
    }
}
