//! One layer of an OCI image becomes one *pack*: a file that holds the bodies of all regular
//! files at block boundaries, an index of the entries, and a checksum for every block.
//!
//! [`decode`] reads a layer as a registry sends it, checks it against its diff id and refuses
//! what is malformed or ambiguous. [`Pack`] opens the result. No path of a layer is ever a path
//! of the host.
//!
//! ```no_run
//! use std::fs::File;
//! use std::sync::atomic::AtomicBool;
//!
//! use kiln_layers::{Declared, Limits, Pack, decode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut layer = File::open("layer.tar.gz")?;
//! let pack = File::options().read(true).write(true).create_new(true).open("layer.pack")?;
//! let cancelled = AtomicBool::new(false);
//! let limits = Limits::default();
//! decode(&mut layer, Declared::Unknown, None, &pack, &limits, &|_| {}, &cancelled)?;
//! let pack = Pack::open(pack)?;
//! println!("{} has {} entries", pack.diff_id(), pack.index().len());
//! # Ok(())
//! # }
//! ```
//!
//! Not here: fetching, naming and syncing files, and what a stack of layers shows.

mod compression;
mod decode;
mod error;
mod inflate;
mod layer;
mod limits;
mod pack;
mod ring;
mod tar;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod writer;

pub use compression::{Compression, Declared};
pub use decode::{Decoded, Progress, decode};
pub use error::{Cap, DecodeError, Malformation};
pub use limits::Limits;
pub use pack::{PACK_FORMAT, Pack, PackError};
