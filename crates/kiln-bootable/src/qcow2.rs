//! A raw disk as qcow2, version 3, written from front to end.
//!
//! ```text
//! header │ refcount table │ refcount blocks │ L1 table │ L2 tables │ clusters with data
//! ```
//! Only clusters with data are stored; everything has a refcount of one; there are no snapshots, no
//! backing file, no compression (QEMU, docs/interop/qcow2.txt). Integers are big-endian.

pub(crate) mod read;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::pack::PackError;
use crate::plan::{is_zero, next_data, next_hole};

/// log2 of a cluster: 64 KiB, what qemu-img makes.
const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;

/// Entries of one L2 table, and clusters of data it covers.
const L2_ENTRIES: u64 = CLUSTER_BYTES / 8;

/// Refcounts of 16 bits in one refcount block.
const REFCOUNTS: u64 = CLUSTER_BYTES / 2;

/// Length of the header, in bytes, as version 3 has it without extensions.
const HEADER_BYTES: u32 = 104;

/// Says in L1 and L2 tables that the cluster is used once.
const COPIED: u64 = 1 << 63;

/// Where everything of a qcow2 file will be.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    size_bytes: u64,
    /// Numbers of the disk's clusters that have data, ascending.
    data: Vec<u64>,
    /// Numbers of the L2 tables there are, ascending.
    tables: Vec<u64>,
    refcount_table: u64,
    refcount_blocks: u64,
    l1_clusters: u64,
}

impl Qcow2 {
    /// Looks which clusters of a disk have data.
    pub(crate) fn plan(disk: &File, cancelled: &AtomicBool) -> Result<Self, PackError> {
        let reading = |source| PackError::Read {
            what: "root filesystem",
            source,
        };
        let size_bytes = disk.metadata().map_err(reading)?.len();
        let mut data = Vec::new();
        let mut buffer = vec![0; usize::try_from(CLUSTER_BYTES).unwrap_or_default()];
        let mut at = 0;
        while let Some(start) = next_data(disk, at, size_bytes).map_err(reading)? {
            let end = next_hole(disk, start, size_bytes).map_err(reading)?;
            for cluster in start / CLUSTER_BYTES..end.div_ceil(CLUSTER_BYTES) {
                if cancelled.load(Ordering::Relaxed) {
                    return Err(PackError::Cancelled);
                }
                let is_known = data.last() == Some(&cluster);
                let filled = read_cluster(disk, cluster, size_bytes, &mut buffer);
                filled.map_err(reading)?;
                if !is_known && !buffer.chunks(4096).all(is_zero) {
                    data.push(cluster);
                }
            }
            at = end;
            if at >= size_bytes {
                break;
            }
        }
        Ok(Self::lay_out(size_bytes, data))
    }

    fn lay_out(size_bytes: u64, data: Vec<u64>) -> Self {
        let tables: BTreeSet<u64> = data.iter().map(|cluster| cluster / L2_ENTRIES).collect();
        let l1_entries = size_bytes.div_ceil(CLUSTER_BYTES * L2_ENTRIES);
        let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER_BYTES).max(1);
        let mut plan = Self {
            size_bytes,
            tables: tables.into_iter().collect(),
            data,
            refcount_table: 1,
            refcount_blocks: 1,
            l1_clusters,
        };
        // Refcounts count the clusters of the refcounts too.
        while plan.refcount_blocks < plan.clusters().div_ceil(REFCOUNTS) {
            plan.refcount_blocks = plan.clusters().div_ceil(REFCOUNTS);
            plan.refcount_table = (plan.refcount_blocks * 8).div_ceil(CLUSTER_BYTES);
        }
        plan
    }

    fn clusters(&self) -> u64 {
        self.first_data() + self.data.len() as u64
    }

    fn first_l2(&self) -> u64 {
        1 + self.refcount_table + self.refcount_blocks + self.l1_clusters
    }

    fn first_data(&self) -> u64 {
        self.first_l2() + self.tables.len() as u64
    }

    /// Returns how long the file is, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.clusters() * CLUSTER_BYTES
    }

    /// Returns how many bytes of the disk are read to write it.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data.len() as u64 * CLUSTER_BYTES
    }

    /// Writes the file.
    pub(crate) fn write(
        &self,
        disk: &File,
        output: &mut dyn Write,
        progress: &dyn Fn(u64),
        cancelled: &AtomicBool,
    ) -> Result<(), PackError> {
        let writing = |source| PackError::Write {
            what: "root filesystem",
            source,
        };
        self.write_tables(output).map_err(writing)?;
        let mut buffer = vec![0; usize::try_from(CLUSTER_BYTES).unwrap_or_default()];
        for cluster in &self.data {
            if cancelled.load(Ordering::Relaxed) {
                return Err(PackError::Cancelled);
            }
            read_cluster(disk, *cluster, self.size_bytes, &mut buffer).map_err(|source| {
                PackError::Read {
                    what: "root filesystem",
                    source,
                }
            })?;
            output.write_all(&buffer).map_err(writing)?;
            progress(CLUSTER_BYTES);
        }
        Ok(())
    }

    fn write_tables(&self, output: &mut dyn Write) -> io::Result<()> {
        let offset = |cluster: u64| cluster * CLUSTER_BYTES;
        let refcount_blocks = 1 + self.refcount_table;
        let l1 = refcount_blocks + self.refcount_blocks;
        let l1_entries = self.size_bytes.div_ceil(CLUSTER_BYTES * L2_ENTRIES);
        let mut table = Table::new(output);
        table.bytes(b"QFI\xfb")?;
        table.word(3)?;
        table.long(0)?; // no backing file
        table.word(0)?;
        table.word(CLUSTER_BITS)?;
        table.long(self.size_bytes)?;
        table.word(0)?; // no encryption
        table.word(narrow(l1_entries)?)?;
        table.long(offset(l1))?;
        table.long(offset(1))?;
        table.word(narrow(self.refcount_table)?)?;
        table.word(0)?; // no snapshots
        table.long(0)?;
        table.long(0)?; // features: none that is incompatible, compatible or cleared
        table.long(0)?;
        table.long(0)?;
        table.word(4)?; // refcounts are of 2^4 bits
        table.word(HEADER_BYTES)?;
        table.fill()?;

        for block in 0..self.refcount_blocks {
            table.long(offset(refcount_blocks + block))?;
        }
        table.fill()?;
        for _ in 0..self.clusters() {
            table.bytes(&1_u16.to_be_bytes())?;
        }
        table.fill()?;

        let mut stored = self.tables.iter().zip(self.first_l2()..).peekable();
        for number in 0..l1_entries {
            let entry = stored.next_if(|(table, _)| **table == number);
            table.long(entry.map_or(0, |(_, cluster)| offset(cluster) | COPIED))?;
        }
        table.fill()?;
        let mut stored = self.data.iter().zip(self.first_data()..).peekable();
        for number in &self.tables {
            let first = number * L2_ENTRIES;
            for cluster in first..first + L2_ENTRIES {
                let entry = stored.next_if(|(data, _)| **data == cluster);
                table.long(entry.map_or(0, |(_, cluster)| offset(cluster) | COPIED))?;
            }
        }
        table.fill()
    }
}

/// Fills `buffer` with a cluster of the disk; behind the disk's end there are zeros.
fn read_cluster(disk: &File, cluster: u64, size_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
    let start = cluster * CLUSTER_BYTES;
    let there = usize::try_from(size_bytes.saturating_sub(start)).unwrap_or(usize::MAX);
    let (there, behind) = buffer.split_at_mut(there.min(buffer.len()));
    behind.fill(0);
    disk.read_exact_at(there, start)
}

fn narrow(count: u64) -> io::Result<u32> {
    u32::try_from(count).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// Big-endian integers, and zeros up to the next cluster.
struct Table<'w> {
    output: io::BufWriter<&'w mut dyn Write>,
    written: u64,
}

impl<'w> Table<'w> {
    fn new(output: &'w mut dyn Write) -> Self {
        Self {
            output: io::BufWriter::new(output),
            written: 0,
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.output.write_all(bytes)
    }

    fn word(&mut self, word: u32) -> io::Result<()> {
        self.bytes(&word.to_be_bytes())
    }

    fn long(&mut self, long: u64) -> io::Result<()> {
        self.bytes(&long.to_be_bytes())
    }

    /// Ends a table: the next one begins at a cluster.
    fn fill(&mut self) -> io::Result<()> {
        let rest = self.written.next_multiple_of(CLUSTER_BYTES) - self.written;
        let mut zeros = io::Read::take(io::repeat(0), rest);
        io::copy(&mut zeros, &mut self.output)?;
        self.written += rest;
        self.output.flush()
    }
}

#[cfg(test)]
mod tests;
