//! `runner dist`: the programs as they are shipped, side by side, and their checksums.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use kiln_testkit::guest_programs;
use sha2::{Digest, Sha256};

use crate::{cargo, console};

/// The folder below the workspace's top.
const FOLDER: &str = "dist";

/// What `sha256sum --check` reads.
const SUMS: &str = "SHA256SUMS";

/// Builds everything that is shipped into `dist/`.
pub(crate) fn make() -> Result<()> {
    cargo::build_release()?;
    let release = cargo::release_folder()?;
    let guest = guest_programs::build()?;
    let mut programs: Vec<_> = cargo::RELEASED
        .iter()
        .map(|name| release.join(name))
        .collect();
    programs.extend([guest.init, guest.hello]);
    let folder = cargo::workspace().join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut sums = String::new();
    for program in programs {
        let name = program.file_name().context("a program without a name")?;
        let bytes = fs::read(&program).with_context(|| program.display().to_string())?;
        for byte in Sha256::digest(&bytes) {
            write!(sums, "{byte:02x}")?;
        }
        writeln!(sums, "  {}", name.to_string_lossy())?;
        let place = folder.join(name);
        // A program that runs cannot be written to, but its name can be given to another.
        let new = folder.join(".new");
        fs::copy(&program, &new).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, &place).with_context(|| format!("cannot write {}", place.display()))?;
        console::line(place.display());
    }
    let sums_path = folder.join(SUMS);
    fs::write(&sums_path, sums).with_context(|| format!("cannot write {}", sums_path.display()))
}
