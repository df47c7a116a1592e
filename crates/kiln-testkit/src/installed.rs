//! Kiln's programs side by side in one folder, as `make dist` and packages have them.
//!
//! What cargo leaves in its folder will not do for programs that look for each other there: the
//! guest's programs among them are not the static ones that are shipped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::daemon::built;
use crate::fixtures::profile_folder;
use crate::guest_programs;

/// The programs of the host.
const PROGRAMS: &[&str] = &["kiln", "kilnd", "kiln-runner"];

/// A folder with the programs; it goes when this value is dropped.
#[derive(Debug)]
pub struct Installed {
    folder: TempDir,
}

impl Installed {
    /// Installs what cargo built beside the running program.
    pub fn beside() -> Result<Self> {
        Self::install(built)
    }

    /// Installs the programs in `programs`.
    pub fn from(programs: &Path) -> Result<Self> {
        Self::install(|name| Ok(programs.join(name)))
    }

    fn install(found: impl Fn(&str) -> Result<PathBuf>) -> Result<Self> {
        // In cargo's folder, so that links serve: the programs are large.
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix("installed-").tempdir_in(profile_folder()?);
        let installed = Self {
            folder: folder.context("cannot make a folder for the programs")?,
        };
        for name in PROGRAMS {
            installed.add(name, &found(name)?)?;
        }
        let guest = guest_programs::built()?;
        installed.add("kiln-init", &guest.init)?;
        installed.add("kiln-hello", &guest.hello)?;
        Ok(installed)
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn add(&self, name: &str, file: &Path) -> Result<()> {
        let place = self.program(name);
        let placed = fs::hard_link(file, &place).or_else(|_| fs::copy(file, &place).map(drop));
        placed.with_context(|| format!("cannot install {}", file.display()))
    }
}
