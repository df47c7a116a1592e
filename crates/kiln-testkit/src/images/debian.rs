//! Real Debian images: the demo's, which boots, and the benchmark's, which is large.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::fixtures::Fixtures;
use crate::process;
use crate::tools;

/// Debian release the trees are made of.
const SUITE: &str = "bookworm";

/// Longest time making a tree may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Line the demo's guest prints when it has started.
pub const DEMO_MARKER: &str = "kiln-demo: hello from the guest";

/// The demo guest's `/sbin/init`: says what it is and turns the machine off.
pub const DEMO_INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
. /etc/os-release
echo
echo "kiln-demo: hello from the guest"
echo "kiln-demo: $PRETTY_NAME"
echo "kiln-demo: Linux $(uname -r) on $(uname -m)"
df -h / | sed 's/^/kiln-demo: /'
echo "kiln-demo: $(cat /etc/kiln-demo)"
echo "kiln-demo: powering off"
sync
mount -o remount,ro /
echo o > /proc/sysrq-trigger
# Waits without touching the disk, which is going away.
while :; do :; done
"#;

/// Makes (once) a Debian tree as a tar file, with `packages` beyond the minimum.
pub fn base_tar(fixtures: &Fixtures, packages: &[&str]) -> Result<PathBuf> {
    let packages = packages.join(",");
    let recipe = format!("mmdebstrap 1 {SUITE} minbase {packages}");
    let folder = fixtures.obtain(&format!("debian-{SUITE}"), &recipe, |folder| {
        let mut command = process::command(tools::require(tools::MMDEBSTRAP)?);
        command.args(["--variant=minbase", "--format=tar"]);
        if !packages.is_empty() {
            command.arg(format!("--include={packages}"));
        }
        command.arg(SUITE).arg(folder.join("base.tar"));
        process::run(command, LIMIT)?;
        Ok(())
    })?;
    let path = folder.join("base.tar");
    fs::metadata(&path)?;
    Ok(path)
}
