//! Making images: the desk that pulls and registers.
//!
//! ```text
//! call ──▶ check (pure) ──▶ name free? ──▶ kernel good? ──▶ reserve name + record operation
//!                                                                  │ one transaction
//!            the daemon's own task, whoever hangs up:              ▼
//!            resolve ─▶ fetch + decode ─▶ merge + build ─▶ stage ─▶ publish ─▶ commit
//!                                                                         (rename)  (one transaction)
//! ```
//! A failure anywhere releases the name, removes the staging directory or the published one, and
//! records why. Only after the commit does anybody hear "done".

mod artifact_twin;
mod asked_size;
mod begin;
mod belonging;
mod bootable;
mod commit;
mod container_disk;
mod job;
mod kernel_choice;
mod pull;
mod register;
mod rootfs_probe;
mod shipped_initrd;
mod shipped_kernel;
mod source_files;
mod twin;

use std::path::PathBuf;
use std::sync::Arc;

use kiln_artifacts::Artifacts;
use kiln_domain::{Architecture, OperationId};
use kiln_kernel::Catalogue;
use kiln_store::Store;

use crate::blocking::Pool;
use crate::board::Board;
use crate::clock::Clock;
use crate::find_image::Naming;
use crate::guest_initrds::GuestInitrds;
use crate::host_files::HostFiles;
use crate::remotes::Remotes;
use crate::scans::Registering;
use crate::seams::{BuildRootfs, FetchTree};
use crate::spare::Spare;

pub(crate) use begin::{
    Attendance, Launched, Makes, Opening, name_invalid, record_progress, taken,
};
pub(crate) use commit::cancelled;
pub(crate) use job::{or_cancelled, unless_cancelled, while_wanted};
pub(crate) use kernel_choice::{ClaimedKernel, DEFAULT, KernelWords};
pub(crate) use pull::credentials;
pub use rootfs_probe::ProbeError;
pub(crate) use rootfs_probe::probe_head;
pub(crate) use source_files::claim_source;

/// Pulls images and registers existing root filesystems.
#[derive(Clone, Debug)]
pub struct Pulls {
    records: Records,
    fetch: Arc<dyn FetchTree>,
    build: Arc<dyn BuildRootfs>,
    kernels: Catalogue,
    initrds: GuestInitrds,
    artifacts: Artifacts,
    files: Arc<HostFiles>,
    /// Threads that look through callers' kernels, all of each.
    inspections: Pool,
    /// What scans are making images of.
    pub(crate) registering: Arc<Registering>,
}

/// How many callers' kernels are looked through at a time.
const INSPECTIONS_AT_A_TIME: usize = 2;

impl Pulls {
    /// Tells whether an operation of this desk has not ended.
    pub(crate) fn is_running(&self, id: OperationId) -> bool {
        self.records.board.find(id).is_some()
    }
}

/// What a pull needs to know besides its collaborators, and the store it records in.
#[derive(Clone, Debug)]
pub struct Records {
    /// Where rows go.
    pub store: Store,
    /// Where running operations are found.
    pub board: Arc<Board>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What calls mean that name no platform.
    pub architecture: Architecture,
    /// Whether an image that a caller may not see is said not to exist.
    pub conceals_private: bool,
    /// Where artifact directories are.
    pub images: PathBuf,
    /// What makes way when the disk has too little room.
    pub spare: Spare,
    /// How registries are reached, and what short names stand for.
    pub remotes: Arc<Remotes>,
    /// Threads that assemble and copy.
    pub build_pool: Pool,
    /// Threads that look at files, a caller's and our own: short work, that must not wait behind
    /// builds.
    pub look_pool: Pool,
}

impl Records {
    /// Returns how words that name images are read.
    pub(crate) fn naming(&self) -> Naming {
        Naming {
            architecture: self.architecture,
            conceals_private: self.conceals_private,
        }
    }
}

impl Pulls {
    /// Makes the desk.
    pub fn new(
        records: Records,
        fetch: Arc<dyn FetchTree>,
        build: Arc<dyn BuildRootfs>,
        kernels: Catalogue,
        initrds: GuestInitrds,
        artifacts: Artifacts,
        files: Arc<HostFiles>,
    ) -> Self {
        Self {
            records,
            fetch,
            build,
            kernels,
            initrds,
            artifacts,
            files,
            inspections: Pool::new("inspect", INSPECTIONS_AT_A_TIME),
            registering: Arc::default(),
        }
    }
}

/// Makes a new random operation id.
fn new_operation_id() -> OperationId {
    OperationId::new(uuid::Uuid::new_v4())
}
