//! A qcow2 disk of somebody else's, versions 2 and 3, read by the tables in it (QEMU,
//! docs/interop/qcow2.txt).
//!
//! ```text
//! header ─▶ L1 table ─▶ L2 table ─▶ cluster: stored │ compressed │ zeros │ absent, which is zeros
//!                                   (extended: 32 subclusters, each stored, zeros or absent)
//! ```
//! Every number is hostile until it was checked. Only what the running disk is made of is read:
//! refcounts and snapshots are not. Backing files, encryption and data files elsewhere are refused.

use std::io::{self, Read as _};

use flate2::bufread::DeflateDecoder;
use zstd::stream::read::Decoder;

use crate::disk::MAX_DISK_BYTES;
use crate::medium::{Extent, Holds, Medium};

/// What a qcow2 file begins with.
pub(crate) const MAGIC: &[u8] = b"QFI\xfb";

/// Bytes of the header that are read: version 3 without what follows the compression type.
const HEADER_BYTES: usize = 112;
const V2_HEADER_BYTES: usize = 72;
const V3_HEADER_BYTES: u64 = 104;

/// Smallest and largest cluster, as powers of two: what QEMU takes.
const CLUSTER_BITS: std::ops::RangeInclusive<u64> = 9..=21;

/// Smallest cluster with 32 subclusters of at least a sector, as a power of two.
const MIN_EXTENDED_BITS: u32 = 14;

/// Subclusters of a cluster.
const SUBCLUSTERS: u64 = 32;

/// Unit that the length of a compressed cluster is told in, in bytes.
const SECTOR_BYTES: u64 = 512;

/// Largest window of a compressed cluster, as a power of two: 8 MiB, four times the largest
/// cluster.
const CLUSTER_WINDOW_LOG: u32 = 23;

/// Data from which on the ratio below counts, in bytes.
const RATIO_FROM_BYTES: u64 = 1 << 30;

/// How many times the length of its file the data of a disk may be: as of Kiln's own artifacts.
const MAX_RATIO: u64 = 1000;

/// Bits of an L1 and L2 entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Says that the cluster is used once.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Says that the cluster reads as zeros, in version 3.
const ZERO: u64 = 1;

/// Incompatible features.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Why a qcow2 disk is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// It could not be read.
    #[error("cannot read the qcow2 disk")]
    Read(#[from] io::Error),
    /// It uses something that is not read.
    #[error("the qcow2 disk has {what}, which is not read")]
    Unsupported {
        /// What.
        what: &'static str,
    },
    /// It was not closed by who wrote it, or is known to be damaged.
    #[error("the qcow2 disk is marked as {what}")]
    Unclean {
        /// As what.
        what: &'static str,
    },
    /// A number in it cannot be.
    #[error("the qcow2 disk is damaged: its {what} cannot be {found:#x}")]
    Malformed {
        /// Which number.
        what: &'static str,
        /// What it is.
        found: u64,
    },
    /// It is longer than any.
    #[error("the qcow2 disk is {size_bytes} bytes long; at most {MAX_DISK_BYTES} are taken")]
    TooLarge {
        /// How long it says it is.
        size_bytes: u64,
    },
    /// Its data is far more than its file.
    #[error("the qcow2 disk has more than {MAX_RATIO} times the data that its file is long")]
    Ratio,
    /// A compressed cluster is damaged.
    #[error("cluster {number} of the qcow2 disk cannot be decompressed")]
    Cluster {
        /// Which one.
        number: u64,
        /// What the decompressor says.
        source: io::Error,
    },
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Deflate,
    Zstd,
}

/// Where the bytes of a cluster are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cluster {
    Zeros,
    /// In the file as they are; of the subclusters those whose bits are set.
    Stored {
        at: u64,
        subclusters: u32,
    },
    /// Compressed, in `length` bytes or fewer.
    Compressed {
        at: u64,
        length: u64,
    },
}

/// What is in the header, checked.
#[derive(Debug)]
struct Header {
    version: u64,
    size_bytes: u64,
    cluster_bits: u32,
    is_extended: bool,
    compression: Compression,
    l1_at: u64,
    l1_entries: u64,
}

/// A qcow2 disk that is being read.
pub(crate) struct Qcow2Disk<'m> {
    medium: &'m dyn Medium,
    /// Length of the file.
    length: u64,
    header: Header,
    /// Where each L2 table lies; 0 where there is none.
    l1: Vec<u64>,
    /// The L2 table looked at last, and its number.
    table: (u64, Vec<u8>),
    /// The compressed cluster read last, and its number.
    unpacked: Option<(u64, Vec<u8>)>,
    /// Bytes that were decompressed or copied.
    given_bytes: u64,
}

impl<'m> Qcow2Disk<'m> {
    /// Reads the header and the L1 table.
    pub(crate) fn open(medium: &'m dyn Medium) -> Result<Self, Qcow2Error> {
        let length = medium.size_bytes()?;
        let header = Header::read(medium, length)?;
        let l1 = read_l1(medium, length, &header)?;
        Ok(Self {
            medium,
            length,
            header,
            l1,
            table: (u64::MAX, Vec::new()),
            unpacked: None,
            given_bytes: 0,
        })
    }

    /// Returns how long the disk is, in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    /// Tells what is at `from` and how far that reaches. Of a long stretch only its beginning may
    /// be told: it ends with an L2 table, or with a cluster of data.
    pub(crate) fn extent(&mut self, from: u64) -> Result<Extent, Qcow2Error> {
        let cluster_bytes = self.header.cluster_bytes();
        let number = from / cluster_bytes;
        let size_bytes = self.header.size_bytes;
        let to = |cluster: u64, holds| Extent {
            end: (cluster * cluster_bytes).min(size_bytes),
            holds,
        };
        let entries = self.header.l2_entries();
        let table_end = (number / entries + 1) * entries;
        if self.l2_offset(number)? == 0 {
            return Ok(to(table_end, Holds::Hole));
        }
        let last = table_end.min(size_bytes.div_ceil(cluster_bytes));
        if self.cluster(number)? != Cluster::Zeros {
            return Ok(to(number + 1, Holds::Data));
        }
        let mut end = number + 1;
        while end < last && self.cluster(end)? == Cluster::Zeros {
            end += 1;
        }
        Ok(to(end, Holds::Hole))
    }

    /// Fills `buffer` with the bytes of the disk from `at` on; behind its end there are zeros.
    pub(crate) fn read(&mut self, buffer: &mut [u8], at: u64) -> Result<(), Qcow2Error> {
        let cluster_bytes = self.header.cluster_bytes();
        let (mut rest, mut at) = (buffer, at);
        while !rest.is_empty() {
            if at >= self.header.size_bytes {
                rest.fill(0);
                break;
            }
            let within = at % cluster_bytes;
            let left = (cluster_bytes - within).min(self.header.size_bytes - at);
            let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
            let (piece, behind) = rest.split_at_mut(count);
            self.read_piece(piece, at / cluster_bytes, within)?;
            rest = behind;
            at += count as u64;
        }
        Ok(())
    }

    /// Fills `piece` with the bytes of a cluster, from `within` on.
    fn read_piece(&mut self, piece: &mut [u8], number: u64, within: u64) -> Result<(), Qcow2Error> {
        let cluster = self.cluster(number)?;
        if cluster == Cluster::Zeros {
            piece.fill(0);
            return Ok(());
        }
        self.given_bytes = self.given_bytes.saturating_add(piece.len() as u64);
        if self.given_bytes > RATIO_FROM_BYTES.max(self.length.saturating_mul(MAX_RATIO)) {
            return Err(Qcow2Error::Ratio);
        }
        match cluster {
            Cluster::Zeros => {}
            Cluster::Stored { at, subclusters } => {
                self.read_stored(piece, at + within)?;
                blank(piece, within, self.header.cluster_bytes(), subclusters);
            }
            Cluster::Compressed { at, length } => {
                let unpacked = self.unpack(number, at, length)?;
                let bytes = usize::try_from(within).ok().and_then(|from| {
                    let to = from.checked_add(piece.len())?;
                    unpacked.get(from..to)
                });
                piece.copy_from_slice(bytes.ok_or(Qcow2Error::Malformed {
                    what: "cluster",
                    found: number,
                })?);
            }
        }
        Ok(())
    }

    /// Reads bytes of the file. A file may end within its last cluster: the rest is zeros.
    fn read_stored(&self, piece: &mut [u8], at: u64) -> Result<(), Qcow2Error> {
        let there = self.length.saturating_sub(at);
        let there = usize::try_from(there).map_or(piece.len(), |there| there.min(piece.len()));
        let (there, behind) = piece.split_at_mut(there);
        self.medium.read_bytes(there, at)?;
        behind.fill(0);
        Ok(())
    }

    /// Decompresses a cluster, or returns the one that was decompressed last.
    fn unpack(&mut self, number: u64, at: u64, length: u64) -> Result<&[u8], Qcow2Error> {
        let known = self.unpacked.take().filter(|(last, _)| *last == number);
        let bytes = if let Some((_, bytes)) = known {
            bytes
        } else {
            let length = length.min(self.length.saturating_sub(at));
            let mut packed = vec![0; usize::try_from(length).unwrap_or_default()];
            self.medium.read_bytes(&mut packed, at)?;
            let size = usize::try_from(self.header.cluster_bytes()).unwrap_or_default();
            let mut bytes = vec![0; size];
            let unpacked = match self.header.compression {
                Compression::Deflate => DeflateDecoder::new(&packed[..]).read_exact(&mut bytes),
                Compression::Zstd => Decoder::with_buffer(&packed[..]).and_then(|mut decoder| {
                    decoder.window_log_max(CLUSTER_WINDOW_LOG)?;
                    decoder.read_exact(&mut bytes)
                }),
            };
            unpacked.map_err(|source| Qcow2Error::Cluster { number, source })?;
            bytes
        };
        Ok(&self.unpacked.insert((number, bytes)).1)
    }

    fn l2_offset(&self, number: u64) -> Result<u64, Qcow2Error> {
        let index = number / self.header.l2_entries();
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.l1.get(index));
        entry.copied().ok_or(Qcow2Error::Malformed {
            what: "cluster",
            found: number,
        })
    }

    /// Looks up where a cluster's bytes are.
    fn cluster(&mut self, number: u64) -> Result<Cluster, Qcow2Error> {
        let at = self.l2_offset(number)?;
        if at == 0 {
            return Ok(Cluster::Zeros);
        }
        let index = number / self.header.l2_entries();
        if self.table.0 != index {
            let size = usize::try_from(self.header.cluster_bytes()).unwrap_or_default();
            let (known, mut table) = std::mem::replace(&mut self.table, (u64::MAX, Vec::new()));
            debug_assert_ne!(known, index, "a table is read once in a row");
            table.resize(size, 0);
            self.medium.read_bytes(&mut table, at)?;
            self.table = (index, table);
        }
        let entry_bytes = self.header.entry_bytes();
        let within = number % self.header.l2_entries() * entry_bytes;
        let entry = long(&self.table.1, within)?;
        let bitmap = if self.header.is_extended {
            Some(long(&self.table.1, within + 8)?)
        } else {
            None
        };
        self.decode(entry, bitmap)
    }

    /// Understands an entry of an L2 table, and what an extended one says of subclusters.
    fn decode(&self, entry: u64, bitmap: Option<u64>) -> Result<Cluster, Qcow2Error> {
        let malformed = Qcow2Error::Malformed {
            what: "entry of an L2 table",
            found: entry,
        };
        if entry & COMPRESSED != 0 {
            // What an extended entry says of subclusters is of no meaning here, and is zeros.
            if entry & COPIED != 0 || bitmap.is_some_and(|bits| bits != 0) {
                return Err(malformed);
            }
            let offset_bits = 62 - (self.header.cluster_bits - 8);
            let at = entry & ((1 << offset_bits) - 1);
            let sectors = (entry & !COMPRESSED) >> offset_bits;
            if at == 0 || at >= self.length {
                return Err(malformed);
            }
            let length = (sectors + 1) * SECTOR_BYTES - at % SECTOR_BYTES;
            return Ok(Cluster::Compressed { at, length });
        }
        let at = entry & OFFSET;
        let can_be_zero = self.header.version >= 3 && bitmap.is_none();
        let known = OFFSET | COPIED | if can_be_zero { ZERO } else { 0 };
        if entry & !known != 0
            || !at.is_multiple_of(self.header.cluster_bytes())
            || at >= self.length
        {
            return Err(malformed);
        }
        let subclusters = match bitmap {
            None => u32::MAX,
            Some(bits) => {
                let (zeros, stored) = (low(bits >> 32), low(bits));
                if zeros & stored != 0 || (at == 0 && stored != 0) {
                    return Err(malformed);
                }
                stored
            }
        };
        if at == 0 || subclusters == 0 || (can_be_zero && entry & ZERO != 0) {
            return Ok(Cluster::Zeros);
        }
        Ok(Cluster::Stored { at, subclusters })
    }
}

impl Header {
    fn read(medium: &dyn Medium, length: u64) -> Result<Self, Qcow2Error> {
        let count = usize::try_from(length).map_or(HEADER_BYTES, |all| all.min(HEADER_BYTES));
        let mut bytes = vec![0; count];
        medium.read_bytes(&mut bytes, 0)?;
        if !bytes.starts_with(MAGIC) || bytes.len() < V2_HEADER_BYTES {
            return Err(malformed("length", length));
        }
        let version = word(&bytes, 4)?;
        if !matches!(version, 2 | 3) {
            return Err(Qcow2Error::Unsupported {
                what: "another version than 2 and 3",
            });
        }
        let refused = [
            (long(&bytes, 8)?, "a backing file"),
            (word(&bytes, 32)?, "encryption"),
        ];
        if let Some((_, what)) = refused.iter().find(|(found, _)| *found != 0) {
            return Err(Qcow2Error::Unsupported { what });
        }
        let bits = word(&bytes, 20)?;
        let cluster_bits = u32::try_from(bits)
            .ok()
            .filter(|_| CLUSTER_BITS.contains(&bits));
        let cluster_bits = cluster_bits.ok_or(malformed("size of clusters", bits))?;
        let size_bytes = long(&bytes, 24)?;
        if size_bytes == 0 {
            return Err(malformed("length of the disk", 0));
        }
        if size_bytes > MAX_DISK_BYTES {
            return Err(Qcow2Error::TooLarge { size_bytes });
        }
        let (is_extended, compression) = match version {
            2 => (false, Compression::Deflate),
            _ => features(&bytes, cluster_bits)?,
        };
        let header = Self {
            version,
            size_bytes,
            cluster_bits,
            is_extended,
            compression,
            l1_at: long(&bytes, 40)?,
            l1_entries: size_bytes
                .div_ceil((1 << cluster_bits) * entries(cluster_bits, is_extended)),
        };
        let listed = word(&bytes, 36)?;
        if listed < header.l1_entries {
            return Err(malformed("number of L2 tables", listed));
        }
        Ok(header)
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn entry_bytes(&self) -> u64 {
        if self.is_extended { 16 } else { 8 }
    }

    fn l2_entries(&self) -> u64 {
        entries(self.cluster_bits, self.is_extended)
    }
}

/// Counts the entries of one L2 table.
fn entries(cluster_bits: u32, is_extended: bool) -> u64 {
    let entry_bits = if is_extended { 4 } else { 3 };
    1 << (cluster_bits - entry_bits)
}

/// Reads what version 3 added to the header: whether L2 entries are extended, and how clusters are
/// compressed.
fn features(bytes: &[u8], cluster_bits: u32) -> Result<(bool, Compression), Qcow2Error> {
    let features = long(bytes, 72)?;
    let unclean = [(DIRTY, "not closed by what wrote it"), (CORRUPT, "corrupt")];
    if let Some((_, what)) = unclean.iter().find(|(bit, _)| features & bit != 0) {
        return Err(Qcow2Error::Unclean { what });
    }
    if features & EXTERNAL_DATA != 0 {
        return Err(Qcow2Error::Unsupported {
            what: "its data in another file",
        });
    }
    if features & !(COMPRESSION_TYPE | EXTENDED_L2) != 0 {
        return Err(Qcow2Error::Unsupported {
            what: "a feature that is not known",
        });
    }
    let refcount_order = word(bytes, 96)?;
    if refcount_order > 6 {
        return Err(malformed("size of refcounts", refcount_order));
    }
    let header_bytes = word(bytes, 100)?;
    if header_bytes < V3_HEADER_BYTES || header_bytes % 8 != 0 || header_bytes > 1 << cluster_bits {
        return Err(malformed("length of the header", header_bytes));
    }
    let kind = if header_bytes > V3_HEADER_BYTES {
        bytes.get(104).copied()
    } else {
        Some(0)
    };
    let kind = kind.ok_or(malformed("length", bytes.len() as u64))?;
    let compression = match (kind, features & COMPRESSION_TYPE != 0) {
        (0, false) => Compression::Deflate,
        (1, true) => Compression::Zstd,
        (0, true) | (1, false) => return Err(malformed("compression", kind.into())),
        _ => {
            return Err(Qcow2Error::Unsupported {
                what: "a compression that is not known",
            });
        }
    };
    let is_extended = features & EXTENDED_L2 != 0;
    if is_extended && cluster_bits < MIN_EXTENDED_BITS {
        return Err(malformed("size of clusters", cluster_bits.into()));
    }
    Ok((is_extended, compression))
}

/// Reads where the L2 tables are. Each lies in the file as a whole, and no two at one place: what
/// the tables can say is bounded by the length of the file.
fn read_l1(medium: &dyn Medium, length: u64, header: &Header) -> Result<Vec<u64>, Qcow2Error> {
    let cluster_bytes = header.cluster_bytes();
    let bytes = header.l1_entries * 8;
    let end = header.l1_at.checked_add(bytes);
    if header.l1_at == 0
        || !header.l1_at.is_multiple_of(cluster_bytes)
        || end.is_none_or(|end| end > length)
    {
        return Err(malformed("place of the L1 table", header.l1_at));
    }
    let mut table = vec![0; usize::try_from(bytes).unwrap_or_default()];
    medium.read_bytes(&mut table, header.l1_at)?;
    let mut tables = Vec::with_capacity(table.len() / 8);
    for entry in table.chunks_exact(8) {
        let entry = long(entry, 0)?;
        let at = entry & OFFSET;
        let is_whole = at
            .checked_add(cluster_bytes)
            .is_some_and(|end| end <= length);
        if entry & !(OFFSET | COPIED) != 0 || !at.is_multiple_of(cluster_bytes) || !is_whole {
            return Err(malformed("entry of the L1 table", entry));
        }
        tables.push(at);
    }
    let mut places: Vec<u64> = tables.iter().copied().filter(|at| *at != 0).collect();
    places.sort_unstable();
    if let Some(twice) = places.windows(2).find(|pair| pair.first() == pair.last()) {
        let found = twice.first().copied().unwrap_or_default();
        return Err(malformed("place of two L2 tables", found));
    }
    Ok(tables)
}

/// Makes zeros of the subclusters that are not stored.
fn blank(piece: &mut [u8], within: u64, cluster_bytes: u64, subclusters: u32) {
    if subclusters == u32::MAX {
        return;
    }
    let size = cluster_bytes / SUBCLUSTERS;
    let (mut rest, mut at) = (piece, within);
    while !rest.is_empty() {
        let left = size - at % size;
        let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        let (subcluster, behind) = rest.split_at_mut(count);
        if subclusters >> (at / size) & 1 == 0 {
            subcluster.fill(0);
        }
        rest = behind;
        at += count as u64;
    }
}

fn malformed(what: &'static str, found: u64) -> Qcow2Error {
    Qcow2Error::Malformed { what, found }
}

/// Returns the lower half.
fn low(bits: u64) -> u32 {
    u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default()
}

fn word(bytes: &[u8], at: u64) -> Result<u64, Qcow2Error> {
    let found = usize::try_from(at)
        .ok()
        .and_then(|at| bytes.get(at..)?.first_chunk());
    let word = found.ok_or(malformed("length", at))?;
    Ok(u32::from_be_bytes(*word).into())
}

fn long(bytes: &[u8], at: u64) -> Result<u64, Qcow2Error> {
    let found = usize::try_from(at)
        .ok()
        .and_then(|at| bytes.get(at..)?.first_chunk());
    let long = found.ok_or(malformed("length", at))?;
    Ok(u64::from_be_bytes(*long))
}

#[cfg(test)]
mod tests;
