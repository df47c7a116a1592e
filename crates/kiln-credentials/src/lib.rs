//! Finds the registry credentials a person already has, in auth files and credential helpers, and
//! keeps new ones there.
//!
//! Not here: HTTP, and environment variables (their values are handed in).
//! Everything blocks, because it reads files and runs programs.
//!
//! The files are read here and not by a ready crate: namespaced keys, the order of
//! `credHelpers`, `auths` and `credsStore`, a helper found on a given `PATH` and stopped after
//! a while, and errors that quote nothing of a file full of passwords are all of what is left
//! to do, and the ready one offers none of them.

mod document;
mod file;
mod helper;
mod keep;
mod logins;
mod members;
mod search;
#[cfg(test)]
mod testing;

pub use helper::HelperError;
pub use keep::{Chosen, Forgotten, KeepError, Kept, forget, keep};
pub use logins::{Login, Logins, logins};
pub use search::{CredentialsError, Found, Origin, Places, Target, find, locate};
