//! Debian packages, downloaded and unpacked once; above all, Debian's cloud kernel.
//!
//! Nothing is installed: `apt-get download` and `dpkg-deb -x` leave the machine as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::fixtures::Fixtures;
use crate::process;
use crate::tools;

/// Package that depends on the newest cloud kernel.
const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Longest time a download and its unpacking may take.
const LIMIT: Duration = Duration::from_secs(300);

/// A downloaded package.
#[derive(Clone, Debug)]
pub struct Package {
    /// The package file.
    pub deb: PathBuf,
    /// The tree it holds.
    pub tree: PathBuf,
}

/// Debian's kernel for virtual machines: a bzImage whose virtio drivers are modules.
#[derive(Clone, Debug)]
pub struct CloudKernel {
    /// The package file, for `kiln kernel import --deb`.
    pub deb: PathBuf,
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// The modules folder, `lib/modules/<release>`.
    pub modules: PathBuf,
    /// The release, as `uname -r` prints it.
    pub release: String,
}

/// Downloads and unpacks `name` in the version that apt would install.
pub fn package(fixtures: &Fixtures, name: &str) -> Result<Package> {
    let version = version(name)?;
    let folder = fixtures.obtain(name, &format!("deb 1 {name} {version}"), |folder| {
        download(name, folder)?;
        let deb = find_deb(folder)?;
        let mut command = process::command(tools::require(tools::DPKG_DEB)?);
        command.arg("-x").arg(deb).arg(folder.join("tree"));
        process::run(command, LIMIT)?;
        Ok(())
    })?;
    Ok(Package {
        deb: find_deb(&folder)?,
        tree: folder.join("tree"),
    })
}

/// Downloads and unpacks Debian's newest cloud kernel.
pub fn cloud_kernel(fixtures: &Fixtures) -> Result<CloudKernel> {
    let mut command = process::command(tools::require(tools::APT_CACHE)?);
    command.args(["depends", KERNEL_META_PACKAGE]);
    let listing = process::run(command, LIMIT)?.text();
    let name = listing
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .with_context(|| format!("{KERNEL_META_PACKAGE} names no kernel; run apt-get update"))?;
    let release = name
        .strip_prefix("linux-image-")
        .with_context(|| format!("{name} is no kernel package"))?;

    let Package { deb, tree } = package(fixtures, name)?;
    Ok(CloudKernel {
        deb,
        kernel: tree.join(format!("boot/vmlinuz-{release}")),
        modules: tree.join(format!("lib/modules/{release}")),
        release: release.to_owned(),
    })
}

fn version(name: &str) -> Result<String> {
    let mut command = process::command(tools::require(tools::APT_CACHE)?);
    command.args(["show", "--no-all-versions", name]);
    let listing = process::run(command, LIMIT)?.text();
    let version = listing
        .lines()
        .find_map(|line| line.strip_prefix("Version: "))
        .with_context(|| format!("apt knows no version of {name}; run apt-get update"))?;
    Ok(version.to_owned())
}

fn download(name: &str, folder: &Path) -> Result<()> {
    let mut command = process::command(tools::require(tools::APT_GET)?);
    command.args(["download", name]).current_dir(folder);
    process::run(command, LIMIT)?;
    Ok(())
}

fn find_deb(folder: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    anyhow::bail!("no package file in {}", folder.display())
}
