//! What the process was started in: its environment and its terminals. Read once, here and nowhere
//! else.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use kiln_vmm::Homes;

/// The environment as far as the runner heeds it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// The words for the user's directories.
    pub(crate) homes: Homes,
    /// `PATH`.
    pub(crate) path: Option<OsString>,
    /// Whether stdin is a terminal.
    pub(crate) stdin_is_terminal: bool,
    /// Whether stdout is a terminal.
    pub(crate) stdout_is_terminal: bool,
}

impl Surroundings {
    /// Reads environment and terminals.
    pub(crate) fn read() -> Self {
        // The XDG specification: a relative path is to be ignored.
        let place = |name: &str| {
            let path = env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        Self {
            homes: Homes {
                kiln_instances: place("KILN_INSTANCES"),
                kiln_probes: place("KILN_PROBES"),
                xdg_state_home: place("XDG_STATE_HOME"),
                xdg_runtime_dir: place("XDG_RUNTIME_DIR"),
                home: place("HOME"),
                is_root: rustix::process::geteuid().is_root(),
            },
            path: env::var_os("PATH"),
            stdin_is_terminal: io::stdin().is_terminal(),
            stdout_is_terminal: io::stdout().is_terminal(),
        }
    }
}
