//! `make bench`: the main job on a large real image, beside the packaged programs that do its
//! parts, in one run on one machine.
//!
//! Each row starts with everything before it written to disk and with free memory at hand, so
//! that no row pays for another. All rows are measured in turn, several rounds of them, and the
//! median of each figure counts.
//! What a row makes is checked before its figures count: a filesystem that `e2fsck` finds faults
//! in ends the run.

mod boot;
mod kiln;
mod others;
mod page;
mod store;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::debian;
use kiln_testkit::measure::Row;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::{debs, process};

use crate::{cargo, console};

/// What the benchmark starts programs of.
const NEEDS: &[Need] = &[
    Need::Root,
    tools::APT_CACHE,
    tools::APT_GET,
    tools::DOCKER_REGISTRY,
    tools::DPKG_DEB,
    tools::E2FSCK,
    tools::MKFS_EXT4,
    tools::MMDEBSTRAP,
    tools::SKOPEO,
    tools::TIME,
    tools::UMOCI,
];

/// How often each row is measured; odd, so that there is a middle.
const ROUNDS: usize = 3;

/// Longest time a check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(600);

/// Whether the page of figures is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// It is.
    Page,
    /// The figures are printed only.
    Nothing,
}

impl Keep {
    /// Takes the word of a command line.
    pub(crate) fn of(write: bool) -> Self {
        if write { Self::Page } else { Self::Nothing }
    }
}

/// Sizes of the image that was measured.
#[derive(Clone, Copy, Debug)]
struct Subject {
    layers: usize,
    blob_bytes: u64,
    entries: u64,
    /// What the finished root filesystem occupies.
    allocated_bytes: u64,
    size_bytes: u64,
}

/// Everything that one run found.
#[derive(Debug)]
struct Figures {
    /// How busy the machine was before the first row, over the minute before.
    load: String,
    /// Least and most processor time of a cold pull.
    spread: (Option<Duration>, Option<Duration>),
    subject: Subject,
    kiln: kiln::Rows,
    others: others::Rows,
}

impl Figures {
    /// Returns the rows of the table, Kiln's first.
    fn rows(&self) -> Vec<Row> {
        let mut rows = self.kiln.rows();
        rows.extend(self.others.rows());
        rows
    }
}

/// Measures, prints the figures as Markdown, and replaces those in the page if told so.
pub(crate) fn run(keep: Keep) -> Result<()> {
    if let Some(missing) = NEEDS.iter().find_map(|need| tools::require(*need).err()) {
        bail!("the benchmark cannot run: {missing}");
    }
    console::heading("building Kiln");
    cargo::build_release()?;
    let programs = cargo::release_folder()?;
    let target = programs.parent().context("no target folder")?;

    console::heading("the image and the kernel (made once, kept in target/)");
    let fixtures = Fixtures::at(target.join("kiln-fixtures"))?;
    let kernel = debs::cloud_kernel(&fixtures)?;
    let image = debian::benchmark(&fixtures)?;
    console::line(image.source());
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let reference = registry.push(&image.source(), "bench:1")?;

    let layers = image.layers()?;
    let load = load_average()?;
    let mut rounds = (Vec::new(), Vec::new());
    let mut subject = None;
    for round in 1..=ROUNDS {
        console::heading(format_args!("round {round} of {ROUNDS}"));
        // Beside the fixtures: all that is compared lies on one filesystem.
        let folder = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(target)
            .context("cannot make a folder for the benchmark")?;
        let bench = kiln::Bench::start(&programs, &folder.path().join("root"), &registry)?;
        bench.import(&kernel)?;
        let kiln = bench.measure(&reference)?;
        subject = Some(Subject {
            layers: layers.len(),
            blob_bytes: total_length(&layers)?,
            entries: kiln.entries,
            allocated_bytes: allocated_bytes(&kiln.rootfs)?,
            size_bytes: length(&kiln.rootfs)?,
        });
        let others = folder.path().join("others");
        rounds
            .1
            .push(others::measure(&image, &reference, &kiln.rootfs, &others)?);
        rounds.0.push(kiln);
    }
    let cold = rounds.0.iter().map(|rows| rows.cold.cost.processor);
    let figures = Figures {
        load,
        spread: (cold.clone().min(), cold.max()),
        subject: subject.context("no round was measured")?,
        kiln: kiln::Rows::median(rounds.0).context("no round was measured")?,
        others: others::Rows::median(&rounds.1),
    };
    let text = page::figures(&figures)?;
    console::heading("figures");
    console::line(&text);
    if keep == Keep::Page {
        page::replace(&cargo::workspace().join("docs/benchmarks.md"), &text)?;
    }
    Ok(())
}

/// Measures how long guests take, prints it as Markdown, and replaces it in the page if told so.
pub(crate) fn boots(keep: Keep) -> Result<()> {
    if let Some(missing) = boot::NEEDS
        .iter()
        .find_map(|need| tools::require(*need).err())
    {
        bail!("the benchmark cannot run: {missing}");
    }
    console::heading("building Kiln");
    cargo::build_release()?;
    let programs = cargo::release_folder()?;
    let target = programs.parent().context("no target folder")?;
    console::heading("the image and the kernel (made once, kept in target/)");
    let fixtures = Fixtures::at(target.join("kiln-fixtures"))?;
    let folder = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(target)
        .context("cannot make a folder for the benchmark")?;
    let load = load_average()?;
    let boots = boot::measure(&programs, &folder.path().join("root"), &fixtures)?;
    let text = page::boots(&boots, &load)?;
    console::heading("figures");
    console::line(&text);
    if keep == Keep::Page {
        page::replace_boots(&cargo::workspace().join("docs/benchmarks.md"), &text)?;
    }
    Ok(())
}

/// Measures calls over a store of many images, prints the times as Markdown, and replaces them in the
/// page if told so.
pub(crate) fn store(keep: Keep) -> Result<()> {
    console::heading("building Kiln");
    cargo::build_release()?;
    store::build()?;
    let programs = cargo::release_folder()?;
    let target = programs.parent().context("no target folder")?;
    console::heading("a store of many images");
    let folder = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(target)
        .context("cannot make a folder for the benchmark")?;
    let load = load_average()?;
    let figures = store::measure(&programs, &folder.path().join("root"))?;
    let text = page::store(&figures, &load)?;
    console::heading("figures");
    console::line(&text);
    if keep == Keep::Page {
        page::replace_store(&cargo::workspace().join("docs/benchmarks.md"), &text)?;
    }
    Ok(())
}

/// Returns how many inodes a clean filesystem uses; fails where `e2fsck` finds a fault.
fn check_filesystem(rootfs: &Path) -> Result<u64> {
    let mut command = process::command(tools::require(tools::E2FSCK)?);
    command.arg("-fn").arg(rootfs);
    let output = process::run(command, CHECK_LIMIT)?.text();
    let used = output.lines().last().and_then(used_inodes);
    used.with_context(|| format!("e2fsck counted nothing:\n{output}"))
}

/// Parses `/a/rootfs.ext4: 38123/98304 files (0.1% non-contiguous), …`.
fn used_inodes(line: &str) -> Option<u64> {
    let (before, _) = line.rsplit_once(" files (")?;
    let (_, counts) = before.rsplit_once(' ')?;
    let (used, _) = counts.split_once('/')?;
    used.parse().ok()
}

fn load_average() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn total_length(files: &[PathBuf]) -> Result<u64> {
    files.iter().map(|file| length(file)).sum()
}

fn length(file: &Path) -> Result<u64> {
    let metadata = fs::metadata(file).with_context(|| file.display().to_string())?;
    Ok(metadata.len())
}

fn allocated_bytes(file: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = fs::metadata(file).with_context(|| file.display().to_string())?;
    Ok(metadata.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_are_read_from_the_last_line() {
        let line = "/a b/rootfs.ext4: 38123/98304 files (0.1% non-contiguous), 1/2 blocks";

        assert_eq!(used_inodes(line), Some(38_123));
        assert_eq!(used_inodes("Pass 1: Checking inodes"), None);
    }
}
