//! Builds the programs that run inside guests as they are shipped: static and small.
//!
//! They are linked against the C library's archive that every C compiler's development package
//! has, so no further toolchain is needed. The flags name a target, which keeps them away from
//! build scripts and procedural macros.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// Names of the packages, and of the programs.
const INIT: &str = "kiln-init";
const HELLO: &str = "kiln-hello";

/// The profile of the workspace they are built in, which is also the name of cargo's folder.
const PROFILE: &str = "init";

/// Longest time a build may take, cold and on two shared cores.
const LIMIT: Duration = Duration::from_secs(900);

/// Where the programs lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPrograms {
    /// Process 1 of guests.
    pub init: PathBuf,
    /// The program of the demo's image.
    pub hello: PathBuf,
}

/// Returns where they lie, built at the first call of a process.
pub fn built() -> Result<&'static GuestPrograms> {
    static BUILT: OnceLock<Result<GuestPrograms, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    match built {
        Ok(programs) => Ok(programs),
        Err(error) => bail!("{error}"),
    }
}

/// Builds them for this machine's processor, unless they are built already.
pub fn build() -> Result<GuestPrograms> {
    let target = host_target()?;
    let mut command = cargo();
    command.args(["build", "--locked", "--quiet"]);
    command.args(["--package", INIT, "--package", HELLO]);
    command.args(["--profile", PROFILE, "--target", &target]);
    // No folder of cargo's own: that of the running program may be the tests' alone.
    let folder = target_folder()?;
    command.arg("--target-dir").arg(&folder);
    // Flags of the caller's would replace these.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C relocation-model=static",
    );
    process::run(command, LIMIT)?;
    let programs = folder.join(target).join(PROFILE);
    let program = |name: &str| {
        let program = programs.join(name);
        if !program.is_file() {
            bail!("cargo built no {}", program.display());
        }
        Ok(program)
    };
    Ok(GuestPrograms {
        init: program(INIT)?,
        hello: program(HELLO)?,
    })
}

/// Cargo's target folder, in which the running program lies.
fn target_folder() -> Result<PathBuf> {
    let profile = crate::fixtures::profile_folder()?;
    let folder = profile
        .parent()
        .context("the program is in no target folder")?;
    Ok(folder.to_owned())
}

fn host_target() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let mut command = process::command(rustc);
    command.arg("-vV").current_dir(workspace());
    let about = process::run(command, LIMIT)?.text();
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host
        .context("rustc does not say what it builds for")?
        .to_owned())
}

fn cargo() -> Command {
    // Cargo tells the programs it runs which cargo it is.
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = process::command(program);
    command.current_dir(workspace());
    command
}

fn workspace() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    folder.unwrap_or(Path::new("/")).to_owned()
}
