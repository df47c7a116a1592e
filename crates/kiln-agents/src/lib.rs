//! The way to other daemons: a socket of this host, or one of another host behind SSH.
//!
//! ```text
//! unix:  this daemon ──────────────────────────────▶ kiln.sock
//! ssh:   this daemon ──▶ <run>/agents/<random>/s ──▶ ssh ═════▶ sshd ──▶ kiln.sock there
//!                        (0700, this user's alone)   host key checked
//! ```
//! The system's `ssh` forwards a socket to a socket. So nothing but sshd is needed over there: no
//! shell, no command, and no program of Kiln's, and whoever administers that host may deny the key
//! everything else. Keys, agents, jump hosts and aliases are those of the user's SSH configuration.
//!
//! What agents are asked is not here, nor which there are.

mod ssh;
mod ways;
mod words;

pub use ways::{Ways, WaysError};
