//! A strict, streaming reader of tar archives: ustar, PAX, GNU and star.
//!
//! Whatever two common readers could understand differently is refused. Nothing is written here,
//! and no name is ever looked up anywhere.
//!
//! ```text
//! archive   blocks, extension headers, bodies: gives one member after the other
//! number    the number formats of headers and PAX records
//! acl       access control lists as text
//! pax       PAX records and what they mean
//! sparse    the maps of sparse files
//! name      names as the index wants them
//! ```

mod acl;
mod archive;
mod name;
mod number;
mod pax;
mod sparse;

pub(crate) use archive::{Archive, Member, MemberKind};
pub(crate) use sparse::Sparse;
