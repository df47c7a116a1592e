//! Finds the registry credentials a person already has: auth files and credential helpers.
//!
//! Not here: HTTP, environment variables (their values are handed in), and storing anything.
//! The search blocks, because it reads files and runs programs.
//!
//! The files are read here and not by a ready crate: namespaced keys, the order of
//! `credHelpers`, `auths` and `credsStore`, a helper found on a given `PATH` and stopped after
//! a while, and errors that quote nothing of a file full of passwords are all of what is left
//! to do, and the ready one offers none of them.

mod file;
mod helper;
mod search;
#[cfg(test)]
mod testing;

pub use helper::HelperError;
pub use search::{CredentialsError, Places, Target, find};
