//! The daemon itself: the desk that tells what it is and how it stands.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use kiln_api::Failure;
use kiln_api::daemon::{
    API_MAJOR, API_MINOR, ApiVersion, Caller, Counts, Database, Info, Places, Recovered, Setting,
};
use kiln_domain::access::{Actor, Role};
use kiln_domain::{Architecture, Timestamp};
use kiln_store::{Store, StoreError, images, kernels};

use crate::board::Board;
use crate::failures::store_failure;

/// How long after a write the database is taken to be writable still: whoever asks often is not to
/// make the disk work.
const KNOWN_GOOD: Duration = Duration::from_secs(30);

/// What does not change while a daemon runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its release.
    pub version: &'static str,
    /// The user it runs as.
    pub uid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// The architecture of the host.
    pub architecture: Architecture,
    /// Where it keeps things.
    pub places: Places,
    /// Its configuration with origins, as it was read at start.
    pub config: Vec<Setting>,
    /// What start-up put in order.
    pub recovered: Recovered,
}

/// Tells what the daemon is and how it stands.
#[derive(Clone, Debug)]
pub struct DaemonDesk {
    store: Store,
    board: Arc<Board>,
    identity: Arc<Identity>,
    /// The configuration in force, which may be read anew.
    config: Arc<RwLock<Vec<Setting>>>,
}

impl DaemonDesk {
    /// Makes the desk.
    pub fn new(store: Store, board: Arc<Board>, identity: Identity) -> Self {
        Self {
            store,
            board,
            config: Arc::new(RwLock::new(identity.config.clone())),
            identity: Arc::new(identity),
        }
    }

    /// Tells another configuration from now on.
    pub fn tell_config(&self, settings: Vec<Setting>) {
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        *config = settings;
    }

    fn config(&self) -> RwLockReadGuard<'_, Vec<Setting>> {
        self.config.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everything that a caller may know about the daemon.
    pub async fn info(&self, actor: &Actor) -> Result<Info, Failure> {
        let counted = self
            .store
            .read(|tx| {
                Ok::<_, StoreError>((images::count_active(tx)?, kernels::list(tx)?.len() as u64))
            })
            .await;
        let (images, kernels) = counted.map_err(|error| store_failure(&error))?;
        let writable = self.store.check_writable(KNOWN_GOOD).await;
        let identity = &*self.identity;
        Ok(Info {
            version: identity.version.to_owned(),
            api: ApiVersion {
                major: API_MAJOR,
                minor: API_MINOR,
            },
            pid: std::process::id(),
            uid: identity.uid,
            started_at: identity.started_at.to_string(),
            architecture: identity.architecture.to_string(),
            places: identity.places.clone(),
            counts: Counts {
                images,
                kernels,
                running_operations: self.board.len() as u64,
            },
            database: Database {
                error: writable.err().map(|error| store_failure(&error)),
            },
            recovered: identity.recovered.clone(),
            caller: Caller {
                uid: actor.uid,
                superadmin: actor.role == Role::Superadmin,
            },
            config: self.config().clone(),
        })
    }
}
