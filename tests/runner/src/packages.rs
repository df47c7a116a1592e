//! `runner deps`: the Debian packages that tests, demo and benchmarks start programs from.
//!
//! Nothing is installed that is there already, and nothing at all without root: then the missing
//! packages are named, and the tests that need them skip visibly.

use std::time::Duration;

use anyhow::{Result, bail};
use kiln_testkit::process;
use kiln_testkit::tools::{self, Need};

use crate::console;
use crate::stream::{self, Echo};

/// Longest time one run of apt may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// What the demo boots; it is downloaded, not installed.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// Asks dpkg for the state of packages.
const DPKG_QUERY: Need = Need::Program {
    name: "dpkg-query",
    package: "dpkg",
};

/// Makes sure that the packages are installed and that apt knows Debian's kernel, as far as this
/// machine and this user allow; says what is missing otherwise.
pub(crate) fn install() -> Result<()> {
    let wanted = listed(tools::PACKAGES);
    if tools::require(DPKG_QUERY).is_err() {
        console::line(format_args!(
            "no dpkg here; the tests use programs of: {}",
            wanted.join(" ")
        ));
        return Ok(());
    }
    let missing = missing(&wanted)?;
    let knows_kernel = knows(KERNEL_PACKAGE);
    if missing.is_empty() && knows_kernel {
        console::line(format_args!(
            "all {} packages of packages.txt are installed",
            wanted.len()
        ));
        return Ok(());
    }
    if tools::require(Need::Root).is_err() || tools::require(tools::APT_GET).is_err() {
        console::line("some tests will be skipped. As root, run:");
        if !knows_kernel {
            console::line("  apt-get update");
        }
        if !missing.is_empty() {
            console::line(format_args!("  apt-get install {}", missing.join(" ")));
        }
        return Ok(());
    }
    // A machine may know of packages already; an update costs more than the attempt.
    if !knows_kernel || !apt_install(&missing)? {
        refresh()?;
        if !missing.is_empty() && !apt_install(&missing)? {
            bail!("apt-get cannot install {}", missing.join(" "));
        }
    }
    install_replaced(&wanted)
}

/// Installs what made way for the others: one of another origin may be in their way, as a newer
/// qemu-utils is in the way of Debian's qemu-system-x86.
fn install_replaced(wanted: &[&str]) -> Result<()> {
    let replaced = missing(wanted)?;
    if replaced.is_empty() {
        return Ok(());
    }
    console::line(format_args!(
        "made way for the others, and are installed again as they fit: {}",
        replaced.join(" ")
    ));
    if !apt_install(&replaced)? {
        bail!("apt-get cannot install {}", replaced.join(" "));
    }
    let missing = missing(wanted)?;
    if !missing.is_empty() {
        bail!(
            "not all of these can be installed together: {}",
            wanted.join(" ")
        );
    }
    Ok(())
}

/// Fetches apt's lists anew; a failure shows in what is asked of apt next.
pub(crate) fn refresh() -> Result<()> {
    apt(&["update"]).map(drop)
}

fn apt_install(packages: &[&str]) -> Result<bool> {
    let mut words = vec!["install", "--yes", "--no-install-recommends"];
    words.extend(packages);
    apt(&words)
}

fn apt(words: &[&str]) -> Result<bool> {
    let program = tools::require(tools::APT_GET)?;
    let mut shown = vec!["apt-get"];
    shown.extend(words);
    console::typed(&shown);
    let mut command = process::command(program);
    command.args(["--quiet=2", "-o", "DPkg::Lock::Timeout=300"]);
    command.args(words).env("DEBIAN_FRONTEND", "noninteractive");
    let status = stream::run(command, "apt-get", LIMIT, &mut |_| Echo::Show)?;
    Ok(status.success())
}

fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    let program = tools::require(DPKG_QUERY)?;
    let mut missing = Vec::new();
    for package in wanted {
        let mut command = process::command(&program);
        command.args(["-W", "-f", "${db:Status-Status}", package]);
        // It fails for a package it has never heard of.
        let state = process::run(command, Duration::from_secs(30));
        if !state.is_ok_and(|output| output.text() == "installed") {
            missing.push(*package);
        }
    }
    Ok(missing)
}

/// Tells whether apt's lists name `package`; on a fresh machine they are empty.
fn knows(package: &str) -> bool {
    let Ok(program) = tools::require(tools::APT_CACHE) else {
        return false;
    };
    let mut command = process::command(program);
    command.args(["show", "--no-all-versions", package]);
    process::run(command, Duration::from_secs(60)).is_ok()
}

fn listed(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_no_packages() {
        assert_eq!(listed("# why\na\n\n b \n"), ["a", "b"]);
    }
}
