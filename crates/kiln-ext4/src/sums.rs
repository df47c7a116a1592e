//! Checksums of an image's blocks, and the file they are kept in.
//!
//! ```text
//!  0  8  "KILNSUMS"
//!  8  4  format number
//! 12  4  CRC32C of everything behind this field
//! 16  8  number of runs
//! 24     runs: first block u64, blocks u64, then one CRC32C (u32) a block
//! ```
//!
//! Integers are little-endian, runs ascend. What no run covers was never written: it is a hole
//! and reads as zeros.
//!
//! Not here: where the sums of file bodies come from; whoever makes a pack computes them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_tree::BLOCK_SIZE;

use crate::bytes::BLOCK_BYTES;

/// The format number this code writes, and the only one it reads.
const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"KILNSUMS";

/// The checksum covers what is behind its own field.
const CHECKED_FROM: usize = 16;

/// Bytes read at once when an image is verified.
const CHUNK_BLOCKS: usize = 256;

/// First block and number of blocks.
const RUN_HEAD_BYTES: usize = 16;

/// Most ranges of differing blocks that are listed; who has found so many need not look further.
const MAX_DIFFERING: usize = 1000;

/// Block numbers beyond this cannot be byte offsets.
const BLOCK_LIMIT: u64 = u64::MAX / BLOCK_SIZE;

/// The CRC32C (the common, inverted form) of every block that was written to an image.
///
/// Invariant: runs ascend, have at least one block, and neither touch nor overlap.
///
/// All sums lie in one piece: of those that somebody else wrote, every run may be of one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    runs: Vec<Run>,
    /// The sums of all runs, one run's behind the other's.
    sums: Vec<u32>,
}

/// Neighbouring blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// The first block's number.
    start: u64,
    /// How many there are.
    blocks: usize,
}

impl Run {
    fn end(&self) -> u64 {
        self.start + self.blocks as u64
    }
}

/// Why bytes are not the sums of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SumsError {
    /// The bytes do not start as sums do.
    #[error("these bytes are not the block checksums of an image")]
    NotSums,
    /// Another version of this code wrote them.
    #[error("the block checksums have format {found}, this version reads {FORMAT}")]
    Format {
        /// The number found.
        found: u32,
    },
    /// The bytes changed or are not all there.
    #[error("the block checksums are damaged")]
    Damaged,
}

/// Why an image could not be compared with its sums.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Somebody asked to stop.
    #[error("verifying the image was cancelled")]
    Cancelled,
    /// The image cannot be read. A file that ends early is no error: its missing blocks differ.
    #[error("cannot read block {block} of the image")]
    Read {
        /// The first block of the failed read.
        block: u64,
        /// What the system said.
        source: io::Error,
    },
}

impl Sums {
    /// Lists runs of neighbouring blocks: the first block's number, and the sum of each.
    pub fn runs(&self) -> impl Iterator<Item = (u64, &[u32])> {
        self.runs.iter().scan(&self.sums[..], |rest, run| {
            let (sums, behind) = rest.split_at_checked(run.blocks)?;
            *rest = behind;
            Some((run.start, sums))
        })
    }

    /// Counts the blocks.
    pub fn blocks(&self) -> u64 {
        self.sums.len() as u64
    }

    /// Returns the bytes that [`Sums::decode`] takes: 4 for each block, 16 for each run.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((self.runs.len() as u64).to_le_bytes());
        for (start, sums) in self.runs() {
            bytes.extend(start.to_le_bytes());
            bytes.extend((sums.len() as u64).to_le_bytes());
            bytes.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
        }
        let checksum = crc32c::crc32c(&bytes[CHECKED_FROM..]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Takes what [`Sums::encode`] gave, after checking all of it. It needs no more memory than the
    /// bytes have.
    pub fn decode(bytes: &[u8]) -> Result<Self, SumsError> {
        let mut rest = bytes.strip_prefix(&MAGIC).ok_or(SumsError::NotSums)?;
        let found = take(&mut rest).map(u32::from_le_bytes)?;
        if found != FORMAT {
            return Err(SumsError::Format { found });
        }
        let checksum = take(&mut rest).map(u32::from_le_bytes)?;
        if checksum != crc32c::crc32c(rest) {
            return Err(SumsError::Damaged);
        }
        let count = take(&mut rest).map(u64::from_le_bytes)?;
        // A number that the bytes cannot hold is not made room for.
        let count = usize::try_from(count).map_err(|_| SumsError::Damaged)?;
        let heads_bytes = count.checked_mul(RUN_HEAD_BYTES);
        let sums_bytes = heads_bytes.and_then(|heads| rest.len().checked_sub(heads));
        let sums_bytes = sums_bytes.ok_or(SumsError::Damaged)?;
        let mut runs: Vec<Run> = Vec::with_capacity(count);
        let mut sums = Vec::with_capacity(sums_bytes / 4);
        for _ in 0..count {
            let run = decode_run(&mut rest, &mut sums)?;
            let touches = runs.last().is_some_and(|last| last.end() >= run.start);
            if touches || run.blocks == 0 {
                return Err(SumsError::Damaged);
            }
            runs.push(run);
        }
        if !rest.is_empty() {
            return Err(SumsError::Damaged);
        }
        Ok(Self { runs, sums })
    }
}

fn decode_run(rest: &mut &[u8], sums: &mut Vec<u32>) -> Result<Run, SumsError> {
    let start = take(rest).map(u64::from_le_bytes)?;
    let blocks = take(rest).map(u64::from_le_bytes)?;
    let is_addressable = start
        .checked_add(blocks)
        .is_some_and(|end| end <= BLOCK_LIMIT);
    let blocks = usize::try_from(blocks).map_err(|_| SumsError::Damaged)?;
    let (run, behind) = blocks
        .checked_mul(4)
        .and_then(|bytes| rest.split_at_checked(bytes))
        .filter(|_| is_addressable)
        .ok_or(SumsError::Damaged)?;
    *rest = behind;
    let run = run.as_chunks::<4>().0;
    sums.extend(run.iter().map(|sum| u32::from_le_bytes(*sum)));
    Ok(Run { start, blocks })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], SumsError> {
    let (field, behind) = rest.split_first_chunk::<N>().ok_or(SumsError::Damaged)?;
    *rest = behind;
    Ok(*field)
}

/// Compares an image with its sums and returns the blocks that differ, as ascending ranges: the
/// first thousand ranges at most.
///
/// Reads what was written only; holes are not looked at. `cancelled` is checked for every MiB.
pub fn verify(
    image: &File,
    sums: &Sums,
    cancelled: &AtomicBool,
) -> Result<Vec<Range<u64>>, VerifyError> {
    let mut differing: Vec<Range<u64>> = Vec::new();
    let mut buffer = vec![0; CHUNK_BLOCKS * BLOCK_BYTES];
    for (start, run) in sums.runs() {
        let mut block = start;
        for chunk in run.chunks(CHUNK_BLOCKS) {
            if cancelled.load(Ordering::Relaxed) {
                return Err(VerifyError::Cancelled);
            }
            let bytes = &mut buffer[..chunk.len() * BLOCK_BYTES];
            let filled = read_at(image, bytes, block * BLOCK_SIZE)
                .map_err(|source| VerifyError::Read { block, source })?;
            for (index, sum) in chunk.iter().enumerate() {
                let place = index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES;
                let is_there = place.end <= filled;
                if !is_there || crc32c::crc32c(&bytes[place]) != *sum {
                    note(&mut differing, block + index as u64);
                    if differing.len() > MAX_DIFFERING {
                        differing.truncate(MAX_DIFFERING);
                        return Ok(differing);
                    }
                }
            }
            block += chunk.len() as u64;
        }
    }
    Ok(differing)
}

/// Reads until the buffer is full or the file ends; returns how much there was.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn note(differing: &mut Vec<Range<u64>>, block: u64) {
    match differing.last_mut() {
        Some(last) if last.end == block => last.end += 1,
        _ => differing.push(block..block + 1),
    }
}

/// Collects sums in the order blocks are written, no block twice.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    runs: Vec<(u64, Vec<u32>)>,
}

impl Recorder {
    pub(crate) fn record(&mut self, start: u64, sums: &[u32]) {
        match self.runs.last_mut() {
            Some((first, last)) if *first + last.len() as u64 == start => {
                last.extend_from_slice(sums);
            }
            _ if sums.is_empty() => {}
            _ => self.runs.push((start, sums.to_vec())),
        }
    }

    /// Sorts the runs and joins neighbours.
    pub(crate) fn finish(mut self) -> Sums {
        self.runs.sort_unstable_by_key(|(start, _)| *start);
        let mut joined = Sums::default();
        for (start, sums) in self.runs {
            let blocks = sums.len();
            match joined.runs.last_mut() {
                Some(last) if last.end() == start => last.blocks += blocks,
                _ => joined.runs.push(Run { start, blocks }),
            }
            joined.sums.extend(sums);
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sums {
        let mut recorder = Recorder::default();
        recorder.record(10, &[3, 4]);
        recorder.record(12, &[5]);
        recorder.record(1, &[1]);
        recorder.record(2, &[2]);
        recorder.record(13, &[6]);
        recorder.record(20, &[]);
        recorder.finish()
    }

    #[test]
    fn runs_are_sorted_and_joined() {
        let sums = sample();

        let runs: Vec<(u64, &[u32])> = sums.runs().collect();
        assert_eq!(runs, [(1, &[1, 2][..]), (10, &[3, 4, 5, 6])]);
        assert_eq!(sums.blocks(), 6);
    }

    #[test]
    fn bytes_come_back_as_the_same_sums() {
        let sums = sample();

        assert_eq!(Sums::decode(&sums.encode()), Ok(sums));
        let none = Sums::default();
        assert_eq!(Sums::decode(&none.encode()), Ok(none));
    }

    #[test]
    fn any_changed_or_missing_byte_is_noticed() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Sums::decode(&damaged).is_err(), "byte {at}");
            assert!(Sums::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Sums::decode(&longer), Err(SumsError::Damaged));
    }

    #[test]
    fn runs_that_no_writer_makes_are_refused() {
        // Overlapping, empty, and beyond any file; each with a right checksum.
        let cases: [&[(u64, &[u32])]; 3] = [
            &[(5, &[1, 2]), (6, &[3])],
            &[(5, &[])],
            &[(u64::MAX - 1, &[1])],
        ];
        for case in cases {
            let run = |(start, sums): &(u64, &[u32])| Run {
                start: *start,
                blocks: sums.len(),
            };
            let runs = case.iter().map(run).collect();
            let sums = case.iter().flat_map(|(_, sums)| sums.to_vec()).collect();
            let bytes = Sums { runs, sums }.encode();
            assert_eq!(Sums::decode(&bytes), Err(SumsError::Damaged), "{case:?}");
        }
    }

    #[test]
    fn many_runs_take_no_more_memory_than_their_bytes() {
        let mut recorder = Recorder::default();
        for number in 0..10_000 {
            recorder.record(number * 2, &[7]);
        }
        let bytes = recorder.finish().encode();

        let sums = Sums::decode(&bytes).expect("they are good");

        let heads = sums.runs.capacity() * size_of::<Run>();
        assert!(heads + sums.sums.capacity() * 4 <= bytes.len());
        // A number of runs that is not there takes none at all.
        let mut claimed = bytes;
        claimed[16..24].copy_from_slice(&(u64::MAX / 16).to_le_bytes());
        let checksum = crc32c::crc32c(&claimed[CHECKED_FROM..]);
        claimed[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Sums::decode(&claimed), Err(SumsError::Damaged));
    }

    #[test]
    fn of_very_many_differences_the_first_are_listed() {
        let file = tempfile::tempfile().expect("a temporary file");
        let mut recorder = Recorder::default();
        for number in 0..5_000 {
            recorder.record(number * 2, &[7]);
        }
        let sums = recorder.finish();

        let got = verify(&file, &sums, &AtomicBool::new(false)).expect("it can be read");

        assert_eq!(got.len(), MAX_DIFFERING);
        assert_eq!(got.first(), Some(&(0..1)));
        assert_eq!(got.last(), Some(&(1998..1999)));
    }

    #[test]
    fn verify_names_the_blocks_that_changed() {
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(&[7; 3 * BLOCK_BYTES], 0)
            .expect("it can be written");
        let sum = crc32c::crc32c(&[7; BLOCK_BYTES]);
        let mut recorder = Recorder::default();
        recorder.record(0, &[sum, sum, sum, sum]);
        let sums = recorder.finish();
        let running = AtomicBool::new(false);

        // The fourth block is not there.
        let got = verify(&file, &sums, &running).expect("it can be read");
        assert_eq!(got, vec![3..4]);
        file.write_all_at(b"?", 5000).expect("it can be written");
        let got = verify(&file, &sums, &running).expect("it can be read");
        assert_eq!(got, [1..2, 3..4]);
        let got = verify(&file, &sums, &AtomicBool::new(true));
        assert!(matches!(got, Err(VerifyError::Cancelled)));
    }
}
