//! The manifest of an ext4 image, read by the kernel: a read-only loop mount, for tests as root.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::Manifest;
use crate::process;
use crate::tools;

/// Longest time a mount may take.
const LIMIT: Duration = Duration::from_secs(60);

impl Manifest {
    /// Reads the tree in the ext4 image `image`, without the `lost+found` of its root.
    ///
    /// The image is not changed: its journal is not even looked at.
    pub fn of_image(image: &Path) -> Result<Self> {
        let mount = Mount::new(image)?;
        let mut manifest = Self::of_folder(mount.folder.path())?;
        drop(mount);
        manifest.nodes.retain(|path, _| path != b"lost+found");
        Ok(manifest)
    }
}

/// A mounted image; dropping it takes the mount away.
#[derive(Debug)]
struct Mount {
    folder: TempDir,
}

impl Mount {
    fn new(image: &Path) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder to mount on")?;
        let mut command = process::command(tools::require(tools::MOUNT)?);
        command.args(["-t", "ext4", "-o", "ro,loop,noload"]);
        command.arg(image).arg(folder.path());
        process::run(command, LIMIT)?;
        Ok(Self { folder })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut command = process::command("umount");
        command.arg(self.folder.path());
        // A mount that will not go is left for whoever runs the tests to see.
        drop(process::run(command, LIMIT));
    }
}
