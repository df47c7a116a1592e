//! What the process was started in: its environment and its terminals. Read once, here and
//! nowhere else.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use kiln_vmm::Homes;

/// Variables that must name an absolute path: what they mean would depend on where a command is
/// typed, and logins would be left anywhere (XDG Base Directory Specification, "must be absolute").
const ABSOLUTE: &[&str] = &[
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "KILN_INSTANCES",
];

/// The environment as far as the client heeds it.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one fact about the outside"
)]
pub(crate) struct Surroundings {
    /// `KILN_HOST`, whatever bytes it holds: one that is no text must not pass for absent.
    pub(crate) kiln_host: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub(crate) xdg_runtime_dir: Option<PathBuf>,
    /// `TMPDIR`, where it is a full path.
    pub(crate) tmpdir: Option<PathBuf>,
    /// `XDG_CACHE_HOME`, where it is a full path.
    pub(crate) xdg_cache_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub(crate) xdg_config_home: Option<PathBuf>,
    /// `REGISTRY_AUTH_FILE`.
    pub(crate) registry_auth_file: Option<PathBuf>,
    /// `REGISTRY_URL`: the registry where none is named.
    pub(crate) registry_url: Option<String>,
    /// `REGISTRY_INSECURE`: plain HTTP will do there.
    pub(crate) registry_insecure: Option<String>,
    /// `DOCKER_CONFIG`.
    pub(crate) docker_config: Option<PathBuf>,
    /// `HOME`.
    pub(crate) home: Option<PathBuf>,
    /// The words for the user's own machines.
    pub(crate) homes: Homes,
    /// Variables that name a relative path and are passed over.
    pub(crate) relative: Vec<&'static str>,
    /// `PATH`.
    pub(crate) path: Option<OsString>,
    /// `NO_COLOR` is set and not empty (no-color.org).
    pub(crate) no_color: bool,
    /// `CLICOLOR_FORCE` is set and not `0`.
    pub(crate) force_color: bool,
    /// `CI` is set: somebody reads a log, not a screen.
    pub(crate) is_ci: bool,
    /// `TERM` is `dumb`.
    pub(crate) is_dumb: bool,
    /// Whether stderr is a terminal.
    pub(crate) stderr_is_terminal: bool,
    /// Whether stdout is a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether stdin is a terminal.
    pub(crate) stdin_is_terminal: bool,
}

impl Surroundings {
    /// Returns a variable that the caller named.
    #[expect(
        clippy::unused_self,
        reason = "whoever asks has the surroundings, and the environment is read here only"
    )]
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        env::var_os(name)
    }

    /// Reads environment and terminals.
    pub(crate) fn read() -> Self {
        let stated = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let place = |name: &str| env::var_os(name).map(PathBuf::from);
        let absolute = |name: &str| place(name).filter(|path| path.is_absolute());
        let is_relative = |name: &&str| {
            place(name).is_some_and(|path| !path.as_os_str().is_empty() && path.is_relative())
        };
        Self {
            kiln_host: stated("KILN_HOST"),
            xdg_runtime_dir: absolute("XDG_RUNTIME_DIR"),
            tmpdir: absolute("TMPDIR"),
            xdg_cache_home: absolute("XDG_CACHE_HOME"),
            xdg_config_home: absolute("XDG_CONFIG_HOME"),
            registry_auth_file: place("REGISTRY_AUTH_FILE"),
            registry_url: text("REGISTRY_URL"),
            registry_insecure: text("REGISTRY_INSECURE"),
            docker_config: place("DOCKER_CONFIG"),
            home: absolute("HOME"),
            homes: Homes {
                kiln_instances: absolute("KILN_INSTANCES"),
                kiln_probes: absolute("KILN_PROBES"),
                xdg_state_home: absolute("XDG_STATE_HOME"),
                xdg_runtime_dir: absolute("XDG_RUNTIME_DIR"),
                home: absolute("HOME"),
                is_root: rustix::process::geteuid().is_root(),
            },
            relative: ABSOLUTE.iter().copied().filter(is_relative).collect(),
            path: env::var_os("PATH"),
            no_color: stated("NO_COLOR").is_some(),
            force_color: stated("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
            is_ci: stated("CI").is_some(),
            is_dumb: stated("TERM").is_some_and(|value| value == "dumb"),
            stderr_is_terminal: io::stderr().is_terminal(),
            stdout_is_terminal: io::stdout().is_terminal(),
            stdin_is_terminal: io::stdin().is_terminal(),
        }
    }
}
