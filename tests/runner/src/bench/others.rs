//! The rows of others: programs that do parts of the same job, and the floors below it.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use kiln_testkit::images::debian::DebianImage;
use kiln_testkit::measure::{self, Cost, Row};
use kiln_testkit::peers;
use sha2::{Digest, Sha256};

use super::{allocated_bytes, length};
use crate::console;

/// Longest time one program may take.
const LIMIT: Duration = Duration::from_secs(900);

/// What the others cost.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) skopeo: Cost,
    pub(super) umoci: Cost,
    pub(super) mkfs: Cost,
    pub(super) gzip: Cost,
    pub(super) decode: Cost,
    pub(super) copy: Cost,
    pub(super) sync: Cost,
}

impl Rows {
    /// Returns the median of each figure.
    pub(super) fn median(rounds: &[Self]) -> Self {
        let of = |row: fn(&Self) -> Cost| {
            let costs: Vec<Cost> = rounds.iter().map(row).collect();
            Cost::median(&costs)
        };
        Self {
            skopeo: of(|rows| rows.skopeo),
            umoci: of(|rows| rows.umoci),
            mkfs: of(|rows| rows.mkfs),
            gzip: of(|rows| rows.gzip),
            decode: of(|rows| rows.decode),
            copy: of(|rows| rows.copy),
            sync: of(|rows| rows.sync),
        }
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let named = [
            ("skopeo copy", self.skopeo),
            ("umoci unpack", self.umoci),
            ("mkfs.ext4 -d", self.mkfs),
            ("these three", self.three()),
            ("gzip -dc of the layers", self.gzip),
            ("inflate and SHA-256 alone, Kiln's decoder", self.decode),
            ("cp of the finished image", self.copy),
            ("dd conv=fsync of as many bytes", self.sync),
        ];
        let row = |(name, cost): (&str, Cost)| Row {
            name: name.to_owned(),
            cost,
        };
        named.into_iter().map(row).collect()
    }

    /// Returns what a user pays who makes the image with packaged programs.
    pub(super) fn three(&self) -> Cost {
        let all = [self.skopeo, self.umoci, self.mkfs];
        Cost {
            wall: all.iter().map(|cost| cost.wall).sum(),
            processor: all.iter().map(|cost| cost.processor).sum(),
            peak_memory_bytes: all
                .iter()
                .map(|cost| cost.peak_memory_bytes)
                .max()
                .unwrap_or(0),
            written_bytes: all.iter().map(|cost| cost.written_bytes).sum(),
            // Each keeps what the one before made.
            peak_disk_bytes: all.iter().map(|cost| cost.peak_disk_bytes).sum(),
        }
    }
}

/// Measures them all, in the new folder `folder`, which is removed.
pub(super) fn measure(
    image: &DebianImage,
    reference: &str,
    rootfs: &Path,
    folder: &Path,
) -> Result<Rows> {
    fs::create_dir(folder).with_context(|| folder.display().to_string())?;
    let bundle = folder.join("bundle");
    let skopeo = row("skopeo copy", || {
        peers::fetch(reference, &folder.join("layout"))
    })?;
    let umoci = row("umoci unpack", || peers::unpack(image, &bundle))?;
    let size_bytes = length(rootfs)?;
    let mkfs = row("mkfs.ext4 -d", || {
        peers::make_filesystem(
            &bundle.join("rootfs"),
            &folder.join("mkfs.ext4"),
            size_bytes,
        )
    })?;
    let gzip = row("gzip -dc", || peers::decompress(image))?;
    let decode = row("inflate and SHA-256", || decode(image))?;
    let copy = row("cp", || peers::copy(rootfs, &folder.join("copy.ext4")))?;
    let sync = row("dd conv=fsync", || {
        write_and_sync(&folder.join("zeroes"), allocated_bytes(rootfs)?)
    })?;
    fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    Ok(Rows {
        skopeo,
        umoci,
        mkfs,
        gzip,
        decode,
        copy,
        sync,
    })
}

fn row(name: &str, measured: impl FnOnce() -> Result<Cost>) -> Result<Cost> {
    measure::settle()?;
    let cost = measured().with_context(|| format!("cannot measure {name}"))?;
    console::line(format_args!("{name}: {:.2} s", cost.wall.as_secs_f64()));
    Ok(cost)
}

/// Decompresses and hashes the layers, one after the other, in this process: the floor of any
/// pull that checks diff ids, with the crates that Kiln uses.
fn decode(image: &DebianImage) -> Result<Cost> {
    let id = std::process::id();
    let (start, before) = (Instant::now(), measure::processor_time(id)?);
    let mut buffer = vec![0_u8; 1 << 20];
    for layer in image.layers()? {
        let file = File::open(&layer).with_context(|| layer.display().to_string())?;
        let mut decoder = MultiGzDecoder::new(std::io::BufReader::with_capacity(1 << 20, file));
        let mut hash = Sha256::new();
        loop {
            let length = decoder.read(&mut buffer).context("cannot decompress")?;
            if length == 0 {
                break;
            }
            hash.update(buffer.get(..length).unwrap_or_default());
        }
        // Kept from being optimised away.
        std::hint::black_box(hash.finalize());
    }
    Ok(Cost {
        wall: start.elapsed(),
        processor: measure::processor_time(id)?.saturating_sub(before),
        ..Cost::default()
    })
}

fn write_and_sync(file: &Path, bytes: u64) -> Result<Cost> {
    let mut command = Command::new("dd");
    command.args(["if=/dev/zero", "bs=1M", "conv=fsync", "status=none"]);
    command.arg(format!("count={}", bytes.div_ceil(1 << 20)));
    command.arg(format!("of={}", file.display()));
    measure::command(&command, file.parent(), LIMIT)
}
