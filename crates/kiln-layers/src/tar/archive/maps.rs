//! The maps of sparse files, wherever an archive has them.
//!
//! Which maps are in order is not here; see [`crate::tar::sparse`].

use std::io::BufRead;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{Archive, BLOCK};
use crate::error::{Cap, DecodeError, Malformation};
use crate::tar::number;
use crate::tar::pax::SparseRecords;
use crate::tar::sparse::Sparse;

/// Longest decimal line of a PAX 1.0 map, its newline included.
const MAP_LINE_BYTES: usize = 21;

impl<R: BufRead> Archive<'_, R> {
    /// Reads the map of an old GNU sparse file: four ranges in the header, then blocks of 21.
    pub(super) fn old_gnu_sparse(
        &mut self,
        header: &Header,
        stored_bytes: u64,
    ) -> Result<Sparse, DecodeError> {
        let broken = |archive: &Self| archive.malformed(Malformation::SparseMap);
        let Some(gnu) = header.as_gnu() else {
            return Err(broken(self));
        };
        let mut ranges = Vec::new();
        self.push_ranges(&gnu.sparse, &mut ranges)?;
        let mut is_extended = gnu.isextended[0] != 0;
        while is_extended {
            let Some(block) = self.next_block(Malformation::TruncatedHeader)? else {
                return Err(self.malformed(Malformation::TruncatedHeader));
            };
            let mut extension = GnuExtSparseHeader::new();
            extension.as_mut_bytes().copy_from_slice(&block);
            self.push_ranges(&extension.sparse, &mut ranges)?;
            is_extended = extension.isextended[0] != 0;
        }
        let size = self.number("size", &gnu.realsize)?;
        let size_bytes = u64::try_from(size).map_err(|_| broken(self))?;
        self.start_body(stored_bytes);
        Sparse::new(size_bytes, ranges, stored_bytes).ok_or_else(|| broken(self))
    }

    /// Finds the map of a sparse file in its PAX records, or in front of its bytes.
    pub(super) fn pax_sparse(
        &mut self,
        records: &SparseRecords,
        stored_bytes: u64,
    ) -> Result<Sparse, DecodeError> {
        let broken = |archive: &Self| archive.malformed(Malformation::SparseMap);
        self.start_body(stored_bytes);
        let (size_bytes, ranges) = match (records.major, records.minor) {
            (Some(1), Some(0)) => {
                let size = records.realsize.ok_or_else(|| broken(self))?;
                (size, self.read_map()?)
            }
            (None | Some(0), None | Some(0 | 1)) => {
                let size = records.size.ok_or_else(|| broken(self))?;
                let (pairs, rest) = records.numbers.as_chunks();
                let pairs = pairs.iter().map(|[offset, length]| (*offset, *length));
                let ranges = match &records.map {
                    Some(map) if records.numbers.is_empty() => map.clone(),
                    None if rest.is_empty() => pairs.collect(),
                    _ => return Err(broken(self)),
                };
                if records
                    .count
                    .is_some_and(|count| count != ranges.len() as u64)
                {
                    return Err(broken(self));
                }
                (size, ranges)
            }
            _ => return Err(broken(self)),
        };
        Sparse::new(size_bytes, ranges, self.body_left).ok_or_else(|| broken(self))
    }

    pub(super) fn check_ranges(&self, sparse: &SparseRecords) -> Result<(), DecodeError> {
        self.check_range_count(sparse.numbers.len() / 2)?;
        self.check_range_count(sparse.map.as_ref().map_or(0, Vec::len))
    }

    fn push_ranges(
        &self,
        found: &[GnuSparseHeader],
        ranges: &mut Vec<(u64, u64)>,
    ) -> Result<(), DecodeError> {
        for range in found {
            // Places that are not used are empty.
            if range.offset[0] == 0 && range.numbytes[0] == 0 {
                continue;
            }
            let number = |bytes: &[u8]| {
                let number = number::header_field(bytes).map(u64::try_from);
                match number {
                    Some(Ok(number)) => Ok(number),
                    _ => Err(self.malformed(Malformation::SparseMap)),
                }
            };
            ranges.push((number(&range.offset)?, number(&range.numbytes)?));
        }
        self.check_range_count(ranges.len())
    }

    fn check_range_count(&self, count: usize) -> Result<(), DecodeError> {
        if count > self.limits.sparse_ranges {
            return Err(self.limit(Cap::SparseRanges, self.limits.sparse_ranges as u64));
        }
        Ok(())
    }

    /// Reads the map of PAX 1.0 off the front of the body: the number of ranges, then their
    /// offsets and lengths, a line each, filled to a block.
    fn read_map(&mut self) -> Result<Vec<(u64, u64)>, DecodeError> {
        let start = self.position;
        let count = self.read_map_line()?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.check_range_count(count)?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            ranges.push((self.read_map_line()?, self.read_map_line()?));
        }
        let mut filling = (self.position - start).wrapping_neg() % BLOCK as u64;
        while filling > 0 {
            let available = self.next_bytes()?.len() as u64;
            if available == 0 {
                return Err(self.malformed(Malformation::SparseMap));
            }
            let count = available.min(filling);
            self.consume(usize::try_from(count).unwrap_or_default());
            filling -= count;
        }
        Ok(ranges)
    }

    fn read_map_line(&mut self) -> Result<u64, DecodeError> {
        let mut line = Vec::new();
        loop {
            let Some(byte) = self.next_bytes()?.first().copied() else {
                return Err(self.malformed(Malformation::SparseMap));
            };
            self.consume(1);
            if byte == b'\n' {
                break;
            }
            line.push(byte);
            if line.len() >= MAP_LINE_BYTES {
                return Err(self.malformed(Malformation::SparseMap));
            }
        }
        number::decimal(&line).ok_or_else(|| self.malformed(Malformation::SparseMap))
    }
}
