//! Kiln's desks: the use cases, one file per noun.
//!
//! A desk serves one noun with few collaborators and holds no other desk. Decisions are pure
//! functions of `kiln-domain`; rows, rights and events change in one transaction. Not here:
//! sockets, JSON-RPC, configuration.

mod agents;
mod aliases;
mod audit;
mod blocking;
mod board;
mod boot;
mod build;
mod cancel;
mod clock;
mod daemon;
mod database;
mod digests;
mod events;
mod failures;
mod fetch;
mod find_image;
mod guest_initrds;
mod host_files;
mod host_process;
mod image_json;
mod images;
mod instances;
mod kernels;
mod keyed_lock;
mod leases;
mod metadata;
mod needs;
mod operations;
mod orgs;
mod partials;
mod patient_reader;
mod pulls;
mod purges;
mod recovery;
mod registries;
mod remotes;
mod reserve;
mod roles;
mod scans;
mod seams;
mod snapshots;
mod space;
mod spare;
mod storage;
mod system_logins;
mod transfers;
mod tree_file;
mod users;
mod views;
mod watchers;
mod webhooks;
mod wholly;

pub use agents::{Agent, AgentError, AgentPlace, Agents, ReachAgents};
pub use aliases::Aliases;
pub use audit::{Audit, AuditRetention, Call, Ending, Followed};
pub use blocking::{Pool, PoolError};
pub use board::{Board, BoardError, Running};
pub use build::{BuildError, BuildRequest, Built, Ext4Builder};
pub use cancel::Cancel;
pub use clock::{Clock, SystemClock};
pub use daemon::{DaemonDesk, Identity};
pub use database::{DatabaseError, open_database};
pub use digests::RootfsDigests;
pub use events::Events;
pub use fetch::{
    FetchError, FetchRequest, Fetcher, ForeignError, LayerLimits, MinimumRate, RegistryConfig,
    SourceFiles,
};
pub use find_image::Naming;
pub use guest_initrds::GuestInitrds;
pub use host_files::{Claim, HostFileError, HostFiles, Opened};
pub use images::{ImageFiles, Images};
pub use instances::{InstanceWatch, Instances};
pub use kernels::{KernelSources, Kernels};
pub use leases::Leases;
pub use metadata::Metadata;
pub use needs::Needs;
pub use operations::{Operations, Watcher};
pub use orgs::Orgs;
pub use partials::Partials;
pub use pulls::{ProbeError, Pulls, Records};
pub use purges::{PurgeError, PurgeFiles, Purges, Retention, RetentionSwept};
pub use recovery::{AdoptionError, RecoveryError, recover};
pub use registries::{BlobFiles, Registries};
pub use remotes::Remotes;
pub use reserve::Reserve;
pub use roles::{Identified, Roles};
pub use scans::scan;
pub use seams::{
    Bootable, BootableFiles, BootableParts, BootableTarget, BuildRootfs, DiskParts, FetchTree,
    Found, Resolved, SeamFuture, SourceBlob,
};
pub use snapshots::{SnapshotSchedule, Snapshots};
pub use space::{FetchNeeds, NoRoom, Space, Storing};
pub use spare::Spare;
pub use storage::{Storage, StorageFiles};
pub use system_logins::{LoginError, SystemLogins};
pub use transfers::Transfers;
pub use users::Users;
pub use watchers::ConnectionId;
pub use webhooks::{Taken, Webhooks};
