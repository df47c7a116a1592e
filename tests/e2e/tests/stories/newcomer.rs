//! Somebody who has just installed Kiln: its programs side by side, a kernel package of Debian's,
//! and a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::{Daemon, Start};
use kiln_testkit::debs::{self, CloudKernel};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::installed::Installed;
use kiln_testkit::tools::{self, Need};
use tempfile::TempDir;

use crate::stage::folder;

/// Longest time one command may take that boots a machine: some seconds, many where it is busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// A newcomer.
pub(crate) struct Newcomer {
    pub(crate) installed: Installed,
    pub(crate) kernel: CloudKernel,
    pub(crate) fixtures: Fixtures,
    folder: TempDir,
}

impl Newcomer {
    /// Sets one up; nothing where this machine cannot, which lacks `further` too.
    pub(crate) fn for_test(name: &str, further: &[Need]) -> Result<Option<Self>> {
        let needs = [
            tools::QEMU,
            tools::APT_GET,
            tools::APT_CACHE,
            tools::DPKG_DEB,
        ];
        if tools::must_skip(name, &[&needs, further].concat())? {
            return Ok(None);
        }
        let fixtures = Fixtures::shared()?;
        let newcomer = Self {
            installed: Installed::beside()?,
            kernel: debs::cloud_kernel(&fixtures)?,
            fixtures,
            folder: folder()?,
        };
        fs::create_dir(newcomer.temporary())?;
        Ok(Some(newcomer))
    }

    /// Returns a path in the newcomer's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the folder for temporary files, which every program is told.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.path("t")
    }

    /// Starts the installed daemon.
    pub(crate) fn daemon(&self) -> Result<Daemon> {
        let program = self.installed.program("kilnd");
        Daemon::start_program(&program, &self.path("root"), Start::default())
    }

    /// Returns a command of the newcomer's that talks to the daemon at `socket`, if one is there.
    pub(crate) fn command(&self, program: impl AsRef<Path>, socket: &Path) -> Result<Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path);
        let folders = [self.installed.folder().to_owned()]
            .into_iter()
            .chain(folders);
        let mut command = Command::new(program.as_ref());
        command
            .env("PATH", std::env::join_paths(folders).context("PATH")?)
            .env("KILN_HOST", format!("unix://{}", socket.display()))
            .env("TMPDIR", self.temporary())
            .env("KILN_INSTANCES", self.path("instances"))
            // What KVM runs is found out once for all tests: it may take 8 s.
            .env("KILN_PROBES", self.fixtures.root().join("probes"))
            .env_remove("KILN_GUEST_INIT")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Returns the installed `kiln` with `words`.
    pub(crate) fn kiln(&self, words: &[&str], socket: &Path) -> Result<Command> {
        let mut command = self.command(self.installed.program("kiln"), socket)?;
        command.args(words);
        Ok(command)
    }
}
