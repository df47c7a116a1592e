//! What Kiln is compared with, measured in the same run: packaged programs on the same image.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::images::debian::DebianImage;
use crate::measure::{self, Cost};
use crate::tools;

/// Longest time one peer may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Measures `skopeo copy` of `reference`, in a registry open to all over HTTP, into the new layout
/// folder `layout`.
pub fn fetch(reference: &str, layout: &Path) -> Result<Cost> {
    let mut command = Command::new(tools::require(tools::SKOPEO)?);
    command.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
    ]);
    command.arg(format!("docker://{reference}"));
    command.arg(format!("oci:{}:fetched", layout.display()));
    measure::command(&command, layout.parent(), LIMIT)
}

/// Measures `umoci unpack` of `image` into the bundle folder `bundle`; the tree is in its
/// `rootfs`. Needs root, for owners and devices.
pub fn unpack(image: &DebianImage, bundle: &Path) -> Result<Cost> {
    let mut command = Command::new(tools::require(tools::UMOCI)?);
    command.args(["unpack", "--image"]);
    command.arg(format!("{}:{}", image.layout.display(), image.tag));
    command.arg(bundle);
    measure::command(&command, bundle.parent(), LIMIT)
}

/// Measures `mkfs.ext4 -d` of the folder `tree` into the new file `rootfs` of `size_bytes`.
pub fn make_filesystem(tree: &Path, rootfs: &Path, size_bytes: u64) -> Result<Cost> {
    let file = File::create(rootfs).with_context(|| rootfs.display().to_string())?;
    file.set_len(size_bytes)?;
    let mut command = Command::new(tools::require(tools::MKFS_EXT4)?);
    // A fixed block size: what mkfs chooses for small images holds no large attributes.
    command
        .args(["-q", "-b", "4096", "-d"])
        .arg(tree)
        .arg(rootfs);
    measure::command(&command, rootfs.parent(), LIMIT)
}

/// Measures `gzip -dc` of the layers, one after the other, to nowhere.
pub fn decompress(image: &DebianImage) -> Result<Cost> {
    let mut command = Command::new("/bin/sh");
    command.args([
        "-ec",
        r#"for layer; do gzip -dc < "$layer"; done > /dev/null"#,
        "sh",
    ]);
    command.args(image.layers()?);
    measure::command(&command, None, LIMIT)
}

/// Measures a plain copy of the finished image `rootfs` to the new file `copy`: holes stay holes,
/// and nothing is shared by reflink.
pub fn copy(rootfs: &Path, copy: &Path) -> Result<Cost> {
    let mut command = Command::new("cp");
    command
        .args(["--reflink=never", "--sparse=auto"])
        .arg(rootfs)
        .arg(copy);
    measure::command(&command, copy.parent(), LIMIT)
}
