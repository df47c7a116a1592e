//! The cache: blobs as the registry sent them, and layers decoded once.
//!
//! ```text
//! <cache>/blobs/sha256/<hex>        a blob, 0400, named only after its digest was checked
//! <cache>/packs/<hex diff id>.pack  a decoded layer, 0400; not synced: its footer decides belief
//! <cache>/ingest/<hex>.<random>     a blob on its way in
//! <cache>/ingest/<hex>.partial      a blob on its way in that may be resumed, locked while written
//! <cache>/ingest/pack.<random>      a pack on its way in
//! ```
//!
//! All of it can be fetched or decoded again, so all of it may be deleted at any time, also by
//! hand and while the daemon runs: whoever has a file open keeps it.
//!
//! Not here: the network, what a blob or a pack holds, and when to delete what.

mod cache;
mod error;
mod files;
mod ingest;
mod pack;
mod partial;
mod survey;

pub use cache::{Blob, Cache, CachedPack, Discarded, Swept, Usage};
pub use error::CacheError;
pub use ingest::{Ingest, IngestError, TooLong};
pub use pack::PendingPack;
pub use partial::PartialName;
pub use survey::{Entry, EntryKind, Gone};
