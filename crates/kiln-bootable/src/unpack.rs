//! One blob back to its place in a root filesystem.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_domain::Digest;
use kiln_domain::oci::bootable::Chunk;
use kiln_files::Passing;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use sha2::Digest as _;
use zstd::stream::read::Decoder;

use crate::plan::{BLOCK_BYTES, is_zero};

/// Unpacked bytes handled at a time; the cancel flag is looked at as often.
const PIECE_BYTES: usize = 1 << 20;

/// Compressed bytes read at a time.
const INPUT_BYTES: usize = 128 << 10;

/// Largest window of a zstd stream, as a power of two: 128 MiB, what the zstd program takes
/// without being told to take more.
pub(crate) const WINDOW_LOG: u32 = 27;

/// Why a chunk is not what it says, or could not be written. What was written of it is worthless.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Somebody asked to stop.
    #[error("unpacking the chunk was cancelled")]
    Cancelled,
    /// The bytes could not be read; what they are is not known.
    #[error("cannot read the chunk")]
    Input {
        /// What the source said.
        source: io::Error,
    },
    /// They are no zstd stream, or one that is damaged, ends early, or needs too much memory.
    #[error("the zstd stream of the chunk is damaged")]
    Broken {
        /// What the decompressor says.
        source: io::Error,
    },
    /// It unpacks to more, or there is something behind it.
    #[error("the chunk should unpack to {expected_bytes} bytes, but there are more")]
    TooLong {
        /// The length announced.
        expected_bytes: u64,
    },
    /// It unpacks to less.
    #[error("the chunk should unpack to {expected_bytes} bytes, but unpacks to {found_bytes}")]
    TooShort {
        /// The length announced.
        expected_bytes: u64,
        /// The length found.
        found_bytes: u64,
    },
    /// It unpacks to other bytes.
    #[error("the chunk should unpack to {expected}, but unpacks to {found}")]
    DigestMismatch {
        /// What was announced.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The root filesystem could not be written.
    #[error("cannot write the root filesystem")]
    Output {
        /// What the system said.
        source: io::Error,
    },
}

/// Unpacks a chunk into its place in `rootfs`, which is as long as it will be and has nothing but
/// zeros there: blocks of zeros are not written, so that they stay holes.
///
/// `input` is read to its end when all is well, which is what whoever hashes it needs.
/// `progress` is told how many more bytes came out.
pub fn unpack(
    input: &mut dyn Read,
    chunk: &Chunk,
    rootfs: &File,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<(), UnpackError> {
    let expected_bytes = chunk.size_bytes;
    let failure = RefCell::new(None);
    let mut input = Watched {
        input,
        failure: &failure,
    };
    let mut decoder = decoder(&mut input)?;
    let mut writer = HoleKeeping::new(Passing::new(rootfs), chunk.offset_bytes);
    let mut hasher = sha2::Sha256::new();
    let mut found_bytes = 0;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(UnpackError::Cancelled);
        }
        // One byte more than there may be, so that more is noticed before it is kept.
        let left = usize::try_from(expected_bytes - found_bytes).unwrap_or(usize::MAX);
        let room = left.saturating_add(1).min(PIECE_BYTES);
        let piece = buffer.get_mut(..room).unwrap_or_default();
        let filled = fill(&mut decoder, piece).map_err(|error| broken(&failure, error))?;
        if filled > left {
            return Err(UnpackError::TooLong { expected_bytes });
        }
        let piece = piece.get(..filled).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        hasher.update(piece);
        writer
            .write(piece)
            .map_err(|source| UnpackError::Output { source })?;
        found_bytes += filled as u64;
        progress(filled as u64);
    }
    let mut behind = decoder.finish();
    let more = fill(&mut behind, &mut [0]).map_err(|error| broken(&failure, error))?;
    if found_bytes < expected_bytes {
        return Err(UnpackError::TooShort {
            expected_bytes,
            found_bytes,
        });
    }
    if more > 0 {
        return Err(UnpackError::TooLong { expected_bytes });
    }
    let found = Digest::from_bytes(hasher.finalize().into());
    if found != chunk.digest {
        let expected = chunk.digest;
        return Err(UnpackError::DigestMismatch { expected, found });
    }
    Ok(())
}

/// Takes back what was unpacked of a chunk, so that it can be unpacked once more.
pub fn clear(rootfs: &File, chunk: &Chunk) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let (start, end) = (chunk.offset_bytes, chunk.offset_bytes + chunk.size_bytes);
    match rustix::fs::fallocate(rootfs, flags, start, chunk.size_bytes) {
        Ok(()) => return Ok(()),
        // The file system makes no holes: zeros are as good.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let zeros = vec![0; PIECE_BYTES];
    let mut at = start;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(PIECE_BYTES);
        let piece = zeros.get(..count.min(PIECE_BYTES)).unwrap_or(&zeros);
        rootfs.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Reads a file that was packed in zstd, such as modules, as it was. How long it may get is for
/// the reader to judge.
pub fn inflate(input: File) -> io::Result<impl Read + Send> {
    let mut decoder = Decoder::new(input)?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(decoder)
}

type Frames<'r, 'i> = Decoder<'static, BufReader<&'r mut Watched<'i>>>;

/// Prepares to read one frame: a second one would be read by some and not by others.
fn decoder<'r, 'i>(input: &'r mut Watched<'i>) -> Result<Frames<'r, 'i>, UnpackError> {
    let input = BufReader::with_capacity(INPUT_BYTES, input);
    let made = Decoder::with_buffer(input).and_then(|mut decoder| {
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(decoder.single_frame())
    });
    made.map_err(|source| UnpackError::Broken { source })
}

/// Tells a broken source from broken bytes.
fn broken(failure: &RefCell<Option<io::Error>>, error: io::Error) -> UnpackError {
    match failure.take() {
        Some(source) => UnpackError::Input { source },
        None => UnpackError::Broken { source: error },
    }
}

/// Fills `buffer` from the front; less than its length only at the end.
pub(crate) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A source whose error is kept, so that it is not mistaken for one of the decompressor.
pub(crate) struct Watched<'i> {
    pub(crate) input: &'i mut dyn Read,
    pub(crate) failure: &'i RefCell<Option<io::Error>>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let kind = error.kind();
                self.failure.replace(Some(error));
                Err(kind.into())
            }
            read => read,
        }
    }
}

/// Writes all but blocks of zeros.
pub(crate) struct HoleKeeping<'f> {
    output: Passing<'f>,
    /// Where the next byte goes; pieces are of whole blocks, but for the last.
    offset: u64,
}

impl<'f> HoleKeeping<'f> {
    /// Writes from `offset` on, which is where a block begins.
    pub(crate) fn new(output: Passing<'f>, offset: u64) -> Self {
        Self { output, offset }
    }

    /// Writes from another block on.
    pub(crate) fn write_at(&mut self, piece: &[u8], offset: u64) -> io::Result<()> {
        self.offset = offset;
        self.write(piece)
    }

    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut rest = piece;
        while !rest.is_empty() {
            let zeros = leading(rest, is_zero);
            let (hole, behind) = rest.split_at(zeros);
            let (data, behind) = behind.split_at(leading(behind, |block| !is_zero(block)));
            self.offset += hole.len() as u64;
            if !data.is_empty() {
                self.output.write_all_at(data, self.offset)?;
            }
            self.offset += data.len() as u64;
            rest = behind;
        }
        Ok(())
    }
}

/// Counts the bytes of the blocks at the front that are `such`.
fn leading(bytes: &[u8], such: impl Fn(&[u8]) -> bool) -> usize {
    let blocks = bytes.chunks(BLOCK_BYTES);
    blocks
        .take_while(|block| such(block))
        .map(<[u8]>::len)
        .sum()
}

#[cfg(test)]
mod tests;
