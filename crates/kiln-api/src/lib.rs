//! The words on Kiln's wire: methods with their parameters and results, views, error codes.
//!
//! One description of each method registers its handler, checks the client and prints the
//! OpenRPC document, so they cannot disagree. Not here: sockets, JSON-RPC framing, behaviour.

pub mod agent;
pub mod alias;
pub mod audit;
mod bootable;
pub mod code;
pub mod codes;
pub mod daemon;
mod destination;
pub mod event;
pub mod failure;
pub mod host_file;
pub mod image;
pub mod instance;
pub mod kernel;
pub mod lease;
pub mod method;
pub mod openrpc;
pub mod operation;
pub mod org;
pub mod page;
pub mod reference_docs;
pub mod registry;
pub mod spellings;
pub mod storage;
pub mod transfer;
pub mod user;

pub use code::{Class, Code};
pub use destination::destination;
pub use failure::{Failure, Hint};
pub use host_file::{HandleError, HandleId, HostFile};
pub use method::{Cost, Description, Method};
