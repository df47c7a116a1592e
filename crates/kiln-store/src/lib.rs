//! The store of Kiln: an SQLite database with one writer and few readers, its schema, and one
//! module of queries per noun.
//!
//! Use cases compose the queries inside one [`Store::write`], so that a row, its tag, its quota
//! and its event commit together or not at all. Not here: rules about who may do what, the
//! clock, random ids, and the network.

pub mod agents;
pub mod aliases;
pub mod audit;
mod call_line;
mod columns;
pub mod disk;
mod error;
pub mod events;
mod health;
pub mod holders;
pub mod images;
pub mod instances;
pub mod jobs;
pub mod kernels;
pub mod leases;
pub mod logins;
pub mod meta;
mod migrations;
pub mod names;
mod open;
pub mod operations;
pub mod orgs;
pub mod outbox;
mod page;
#[cfg(test)]
mod plans;
mod readers;
pub mod recovery;
pub mod remote_states;
pub mod resolve;
mod rotation;
mod snapshot;
mod store;
pub mod tags;
#[cfg(test)]
mod testing;
mod transaction;
pub mod users;
pub mod version_blobs;
pub mod versions;
mod words;
mod writer;

pub use call_line::CallLine;
pub use error::StoreError;
pub use open::{OpenError, Opened, StoreOptions};
pub use page::Page;
pub use rotation::Rotated;
pub use snapshot::SnapshotError;
pub use store::Store;
pub use transaction::{ReadTransaction, WriteTransaction};
pub use words::{Object, ObjectKind, UnknownWord};
