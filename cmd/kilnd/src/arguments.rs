//! What `kilnd` can be told on its command line.

use std::env;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _, Parser};

/// Kiln's daemon: turns OCI images into bootable microVM images and looks after them.
///
/// Without --root it keeps its state in /var/lib/kiln when root runs it, and in the user's XDG
/// directories otherwise.
#[derive(Clone, Debug, Parser)]
#[command(name = "kilnd", version)]
pub(crate) struct Arguments {
    /// Keep state, cache and socket below this directory: a private daemon.
    #[arg(long, value_name = "DIR", env = "KILN_ROOT")]
    pub(crate) root: Option<PathBuf>,

    /// Read this configuration file in place of the usual one.
    #[arg(long, value_name = "FILE", env = "KILN_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Listen on this socket.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// The program that is process 1 of guests, in place of the kiln-init that is installed with
    /// this daemon: one static file.
    #[arg(long, value_name = "FILE", env = "KILN_GUEST_INIT")]
    pub(crate) guest_init: Option<PathBuf>,

    /// How much to log: error, warn, info, debug, trace, or a filter such as `kiln_rpc=debug`.
    #[arg(long, value_name = "FILTER", env = "KILN_LOG")]
    pub(crate) log: Option<String>,

    /// Check the configuration, print every value with its origin, and exit.
    #[arg(long)]
    pub(crate) check_config: bool,

    /// Print the OpenRPC document of the API and exit.
    #[arg(long)]
    pub(crate) print_openrpc: bool,

    /// Write the reference pages api.md and errors.md into this directory and exit.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) write_docs: Option<PathBuf>,
}

impl Arguments {
    /// Reads the command line, or ends the process with what is wrong with it. A variable that is
    /// set to nothing counts as not set.
    pub(crate) fn read() -> Self {
        let is_empty = |arg: &clap::Arg| {
            let value = arg.get_env().and_then(env::var_os);
            value.is_some_and(|value| value.is_empty())
        };
        let command = Self::command().mut_args(|arg| {
            if is_empty(&arg) {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        });
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}
