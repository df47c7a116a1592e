//! Kiln's door: JSON-RPC over HTTP and WebSocket on one Unix socket.
//!
//! It learns who calls, decodes, makes one desk call, encodes, logs, and keeps what changed or was
//! refused. No decision about
//! images is made here, and nothing else in Kiln knows JSON-RPC.

mod agent;
mod alias;
mod audit;
mod claims;
mod connection;
mod daemon;
mod door;
mod event;
mod files;
mod frames;
mod image;
mod instance;
mod kernel;
mod lease;
mod ledger;
mod operation;
mod org;
mod rates;
mod refusal;
mod registry;
mod server;
mod socket;
mod spellings;
mod storage;
mod table;
mod transfer;
mod upload;
mod user;

pub use door::Caller;
pub use files::FilesSocket;
pub use ledger::Ledger;
pub use rates::{RateLimit, Rates};
pub use server::{Closing, Desks, Limits, Server};
pub use socket::{BindError, BoundSocket, SocketAccess, bind};
pub use table::Table;
