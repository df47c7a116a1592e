//! OCI images to build from: small ones made in Rust, and real Debian trees.

pub mod debian;
pub mod entry;
pub mod layout;
pub mod torture;

use std::time::Duration;

use anyhow::Result;

use crate::process;
use crate::tools;

/// Longest time one copy of an image may take.
const COPY_LIMIT: Duration = Duration::from_secs(600);

/// Copies an image between forms on this host with skopeo, such as `oci:DIR:TAG` to
/// `docker-archive:FILE:NAME:TAG` or `oci-archive:FILE:TAG`.
pub fn copy(source: &str, destination: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = process::command(tools::require(tools::SKOPEO)?);
    command.arg("--insecure-policy");
    command.arg("--tmpdir").arg(folder.path());
    command.args(["copy", "--quiet", source, destination]);
    process::run(command, COPY_LIMIT)?;
    Ok(())
}
