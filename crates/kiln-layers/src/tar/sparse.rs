//! The maps of sparse files: which ranges of a file the archive holds bytes of.
//!
//! | form | where the map is | where the real size is |
//! |---|---|---|
//! | old GNU (`S`) | the header and blocks behind it | the header |
//! | PAX 0.0 | repeated records `GNU.sparse.offset`, `.numbytes` | `GNU.sparse.size` |
//! | PAX 0.1 | one record `GNU.sparse.map` | `GNU.sparse.size` |
//! | PAX 1.0 | decimal lines in front of the bytes, filled to a block | `GNU.sparse.realsize` |
//!
//! Reading the blocks is not here; see the archive.

use crate::tar::number;

/// The data ranges of a sparse file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Length of the file with its holes.
    pub(crate) size_bytes: u64,
    /// Offset and length of each range: ascending, apart, not empty, inside the file.
    pub(crate) ranges: Vec<(u64, u64)>,
}

impl Sparse {
    /// Takes a map as the archive has it, if it is in order and its ranges add up to
    /// `stored_bytes`.
    pub(crate) fn new(size_bytes: u64, ranges: Vec<(u64, u64)>, stored_bytes: u64) -> Option<Self> {
        // Sizes beyond i64 cannot be offsets of a file on Linux.
        i64::try_from(size_bytes).ok()?;
        let mut end = 0;
        let mut sum = 0_u64;
        for (offset, length) in &ranges {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            sum = sum.checked_add(*length)?;
        }
        if end > size_bytes || sum != stored_bytes {
            return None;
        }
        let mut ranges = ranges;
        // GNU tar ends a map with an empty range at the end of the file.
        ranges.retain(|(_, length)| *length > 0);
        Some(Self { size_bytes, ranges })
    }
}

/// Reads the map of PAX 0.1: offsets and lengths in turn, between commas.
pub(crate) fn parse_map(text: &[u8]) -> Option<Vec<(u64, u64)>> {
    let numbers: Vec<u64> = text
        .split(|byte| *byte == b',')
        .map(number::decimal)
        .collect::<Option<_>>()?;
    let (pairs, rest) = numbers.as_chunks();
    let pairs = pairs.iter().map(|[offset, length]| (*offset, *length));
    rest.is_empty().then(|| pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_in_order_and_add_up() {
        type Case<'a> = (u64, &'a [(u64, u64)], u64, bool);
        let cases: &[Case<'_>] = &[
            (10, &[(0, 4), (6, 4)], 8, true),
            (10, &[(0, 4), (4, 2), (10, 0)], 6, true),
            (10, &[], 0, true),
            (0, &[], 0, true),
            (10, &[(0, 4)], 5, false),
            (10, &[(0, 4)], 3, false),
            (10, &[(4, 4), (0, 4)], 8, false),
            (10, &[(0, 4), (3, 4)], 8, false),
            (10, &[(8, 4)], 4, false),
            (10, &[(u64::MAX, 2)], 2, false),
            (u64::MAX, &[], 0, false),
        ];
        for (size, ranges, stored, good) in cases {
            let sparse = Sparse::new(*size, ranges.to_vec(), *stored);
            assert_eq!(sparse.is_some(), *good, "{size} {ranges:?} {stored}");
        }
    }

    #[test]
    fn maps_of_pax_have_pairs() {
        assert_eq!(parse_map(b"0,4,6,4"), Some(vec![(0, 4), (6, 4)]));
        for bad in [&b""[..], b"0", b"0,4,", b"0,4,6", b"0,-4", b"a,b"] {
            assert_eq!(parse_map(bad), None, "{}", bad.escape_ascii());
        }
    }
}
