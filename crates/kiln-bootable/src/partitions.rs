//! The partitions of a disk, by its GPT or MBR (UEFI specification 2.10, chapter 5).
//!
//! ```text
//! sector 0: MBR ─ four partitions, or one of type 0xee ─▶ sector 1: GPT header ─▶ its entries
//! ```
//! A table is taken as it is or refused: nothing is repaired, and the copy of a GPT at the end of the
//! disk is not looked for.

use flate2::Crc;

/// Length of a sector, in bytes: what disks of virtual machines have.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// Longest table of a GPT, in bytes: eight times what is usual, and within a disk's first 128 KiB.
const MAX_TABLE_BYTES: u64 = 8 * 16_384 - 2 * SECTOR_BYTES;

/// Length of a GPT's header and of an entry, in bytes.
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;

const MBR_ENTRIES: usize = 446;
const MBR_ENTRY_BYTES: usize = 16;
const PROTECTIVE: u8 = 0xee;
/// Types of partitions that have others in them.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Where a partition lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Its number in the table, from 1 on.
    pub(crate) number: u32,
    /// Where it begins, in bytes.
    pub(crate) start: u64,
    /// Where it ends.
    pub(crate) end: u64,
}

/// Why no partition of a disk is the root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The table is damaged, or none.
    #[error("it is a partitioned disk, and its partition table is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
    /// Partitions lie in others.
    #[error("it is a partitioned disk with logical partitions, which are not read")]
    Logical,
    /// None has an ext4 filesystem.
    #[error("it is a partitioned disk, and none of its {count} partitions is an ext4 filesystem")]
    NoRoot {
        /// How many partitions there are.
        count: usize,
    },
    /// Several have one, and which is the root cannot be told.
    #[error(
        "it is a partitioned disk, and {count} of its partitions are ext4 filesystems: which is the \
         root cannot be told"
    )]
    Several {
        /// How many have one.
        count: usize,
    },
}

/// Tells whether a disk with this beginning may have partitions.
pub(crate) fn is_partitioned(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa])
}

/// Reads the partitions of a disk of `size_bytes` that begins with `head`: its first 128 KiB, or
/// all of it.
pub(crate) fn partitions(head: &[u8], size_bytes: u64) -> Result<Vec<Partition>, PartitionError> {
    let sectors = size_bytes / SECTOR_BYTES;
    let mbr = mbr(head)?;
    let mut found = if mbr.iter().any(|entry| entry.kind == PROTECTIVE) {
        gpt(head, sectors)?
    } else {
        if mbr.iter().any(|entry| EXTENDED.contains(&entry.kind)) {
            return Err(PartitionError::Logical);
        }
        let places = mbr.iter().map(|entry| entry.place(sectors));
        places.collect::<Result<_, _>>()?
    };
    found.sort_by_key(|partition| partition.start);
    let overlap = found.windows(2).any(|pair| match pair {
        [first, second] => first.end > second.start,
        _ => false,
    });
    if overlap {
        return Err(damaged("partitions overlap"));
    }
    Ok(found)
}

/// A partition as an MBR has it.
struct MbrEntry {
    number: u32,
    kind: u8,
    first: u64,
    count: u64,
}

impl MbrEntry {
    fn place(&self, sectors: u64) -> Result<Partition, PartitionError> {
        if self.first == 0 || self.count == 0 {
            return Err(damaged("a partition is empty"));
        }
        // Both are of 32 bits.
        let behind = self.first + self.count;
        place(self.number, self.first, behind, sectors)
    }
}

fn mbr(head: &[u8]) -> Result<Vec<MbrEntry>, PartitionError> {
    let table = head.get(MBR_ENTRIES..MBR_ENTRIES + 4 * MBR_ENTRY_BYTES);
    let table = table.ok_or(damaged("the disk is too short"))?;
    let mut found = Vec::new();
    for (entry, number) in table.chunks_exact(MBR_ENTRY_BYTES).zip(1..) {
        let (status, kind) = (entry.first().copied(), entry.get(4).copied());
        if !matches!(status, Some(0 | 0x80)) {
            return Err(damaged("the status of a partition"));
        }
        let Some(kind) = kind.filter(|kind| *kind != 0) else {
            continue;
        };
        found.push(MbrEntry {
            number,
            kind,
            first: word(entry, 8).unwrap_or_default(),
            count: word(entry, 12).unwrap_or_default(),
        });
    }
    if found.is_empty() {
        return Err(damaged("there is no partition"));
    }
    Ok(found)
}

fn gpt(head: &[u8], sectors: u64) -> Result<Vec<Partition>, PartitionError> {
    let at = usize::try_from(SECTOR_BYTES).unwrap_or_default();
    let header = head.get(at..2 * at);
    let header = header.ok_or(damaged("the disk is too short"))?;
    let field = |at| word(header, at).unwrap_or_default();
    let longer = |at| long(header, at).unwrap_or_default();
    if !header.starts_with(b"EFI PART") || field(8) != 0x0001_0000 {
        return Err(damaged("the header of the GPT"));
    }
    let length = usize::try_from(field(12))
        .ok()
        .filter(|bytes| *bytes >= HEADER_BYTES);
    let summed = length.and_then(|length| header.get(..length));
    let mut summed = summed.ok_or(damaged("the length of its header"))?.to_vec();
    summed.splice(16..20, [0; 4]);
    if checksum(&summed) != field(16) {
        return Err(damaged("the checksum of its header"));
    }
    let (first_usable, last_usable) = (longer(40), longer(48));
    if longer(24) != 1 || first_usable > last_usable || last_usable >= sectors {
        return Err(damaged("the places in its header"));
    }
    let entry_bytes = usize::try_from(field(84)).unwrap_or_default();
    let bytes = field(80)
        .checked_mul(field(84))
        .filter(|bytes| *bytes <= MAX_TABLE_BYTES);
    if entry_bytes < ENTRY_BYTES || !entry_bytes.is_power_of_two() {
        return Err(damaged("the length of its entries"));
    }
    let bytes = bytes.ok_or(damaged("the number of its entries"))?;
    let start = longer(72)
        .checked_mul(SECTOR_BYTES)
        .filter(|start| *start >= 2 * SECTOR_BYTES);
    let table = start.and_then(|start| {
        let (from, to) = (start, start.checked_add(bytes)?);
        head.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
    });
    let table = table.ok_or(damaged("the place of its entries"))?;
    if checksum(table) != field(88) {
        return Err(damaged("the checksum of its entries"));
    }
    let mut found = Vec::new();
    for (entry, number) in table.chunks_exact(entry_bytes).zip(1..) {
        if entry.iter().take(16).all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (long(entry, 32), long(entry, 40));
        let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
        if first < first_usable || last > last_usable || first > last {
            return Err(damaged("the place of a partition"));
        }
        found.push(place(number, first, last + 1, sectors)?);
    }
    Ok(found)
}

/// Makes a partition of its first sector and the one behind its last.
fn place(number: u32, first: u64, behind: u64, sectors: u64) -> Result<Partition, PartitionError> {
    if behind > sectors {
        return Err(damaged("a partition ends behind the disk"));
    }
    Ok(Partition {
        number,
        start: first * SECTOR_BYTES,
        end: behind * SECTOR_BYTES,
    })
}

fn damaged(what: &'static str) -> PartitionError {
    PartitionError::Damaged { what }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().into()
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
