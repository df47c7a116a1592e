//! A whole disk of somebody else's, plain or compressed, into a file.
//!
//! How it is compressed is told by its first bytes, never by its name; what is in it is for the
//! caller to judge, who sees its beginning before anything is written.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::bufread::MultiGzDecoder;
use kiln_files::Passing;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use zstd::stream::read::Decoder;

use crate::plan::BLOCK_BYTES;
use crate::unpack::{HoleKeeping, WINDOW_LOG, Watched, fill};

/// Longest disk, unpacked, in bytes: as long as an image's longest layer.
pub const MAX_DISK_BYTES: u64 = 64 << 30;

/// Bytes of a disk's beginning that are judged first: superblocks and partition tables.
pub(crate) const HEAD_BYTES: usize = 128 << 10;

/// Unpacked bytes handled at a time; the cancel flag is looked at as often.
const PIECE_BYTES: usize = 1 << 20;

/// Memory that an xz decoder may take, in bytes: enough for the 64 MiB window of `xz -9`.
const XZ_MEMORY_BYTES: u64 = 72 << 20;

/// Compressed bytes read at a time.
const INPUT_BYTES: usize = 128 << 10;

/// Why a disk could not be unpacked. What was written of it is worthless.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Somebody asked to stop.
    #[error("unpacking the disk was cancelled")]
    Cancelled,
    /// The bytes could not be read; what they are is not known.
    #[error("cannot read the disk")]
    Input {
        /// What the source said.
        source: io::Error,
    },
    /// The compressed stream is damaged, ends early, or needs too much memory.
    #[error("the compressed stream of the disk is damaged")]
    Broken {
        /// What the decompressor says.
        source: io::Error,
    },
    /// It is compressed in a way that is not read.
    #[error("the disk is compressed with {with}; zstd, gzip and xz are read")]
    Packed {
        /// What with.
        with: &'static str,
    },
    /// It is longer than any.
    #[error("the disk unpacks to more than {MAX_DISK_BYTES} bytes")]
    TooLong,
    /// It could not be written.
    #[error("cannot write the root filesystem")]
    Output {
        /// What the system said.
        source: io::Error,
    },
}

/// Unpacks a disk into an empty file, holes left out, and returns its length, rounded up to whole
/// blocks.
///
/// `judge` sees the beginning of the disk before the first byte is written, and chooses the file;
/// what it refuses with is the inner error. `progress` is told how many more bytes came out.
pub fn unpack_disk<'f, E>(
    input: &mut dyn Read,
    judge: impl FnOnce(&[u8]) -> Result<&'f File, E>,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<Result<u64, E>, DiskError> {
    let failure = RefCell::new(None);
    let mut watched = Watched {
        input,
        failure: &failure,
    };
    let broken = |error| match failure.take() {
        Some(source) => DiskError::Input { source },
        None => DiskError::Broken { source: error },
    };
    let mut magic = [0; 6];
    let count = fill(&mut watched, &mut magic).map_err(&broken)?;
    let start = io::Cursor::new(magic).take(count as u64);
    let input = start.chain(BufReader::with_capacity(INPUT_BYTES, watched));
    let mut disk = open(input, &magic)?;
    let mut buffer = vec![0; PIECE_BYTES];
    let head = buffer.get_mut(..HEAD_BYTES).unwrap_or_default();
    let mut filled = fill(&mut disk, head).map_err(&broken)?;
    let output = match judge(buffer.get(..filled).unwrap_or_default()) {
        Ok(output) => output,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut writer = HoleKeeping::new(Passing::new(output), 0);
    let mut length = 0;
    while filled > 0 {
        if cancelled.load(Ordering::Relaxed) {
            return Err(DiskError::Cancelled);
        }
        length += filled as u64;
        if length > MAX_DISK_BYTES {
            return Err(DiskError::TooLong);
        }
        let piece = buffer.get(..filled).unwrap_or_default();
        let written = writer.write(piece);
        written.map_err(|source| DiskError::Output { source })?;
        progress(filled as u64);
        filled = fill(&mut disk, &mut buffer).map_err(&broken)?;
    }
    let length = length.next_multiple_of(BLOCK_BYTES as u64);
    let grown = output.set_len(length);
    grown.map_err(|source| DiskError::Output { source })?;
    Ok(Ok(length))
}

/// Prepares to read a disk that begins with `magic`.
fn open<'i>(input: impl io::BufRead + 'i, magic: &[u8]) -> Result<Box<dyn Read + 'i>, DiskError> {
    Ok(match magic {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let made = Decoder::with_buffer(input).and_then(|mut decoder| {
                decoder.window_log_max(WINDOW_LOG)?;
                Ok(decoder)
            });
            Box::new(made.map_err(|source| DiskError::Broken { source })?)
        }
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED);
            let stream = stream.map_err(|error| DiskError::Broken {
                source: error.into(),
            })?;
            Box::new(XzDecoder::new_stream(input, stream))
        }
        [b'B', b'Z', b'h', ..] => return Err(DiskError::Packed { with: "bzip2" }),
        _ => Box::new(input),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use flate2::write::GzEncoder;

    use super::*;

    fn disk() -> Vec<u8> {
        let mut disk = vec![0; (3 << 20) + 100];
        disk[5000..5004].copy_from_slice(b"data");
        disk[3 << 20..].fill(9);
        disk
    }

    fn unpacked(bytes: &[u8]) -> Result<Result<u64, &'static str>, DiskError> {
        let output = tempfile::tempfile().unwrap();
        let judge = |head: &[u8]| {
            if head.get(5000..5004) == Some(b"data") {
                return Ok(&output);
            }
            Err("another disk")
        };
        let running = AtomicBool::new(false);
        let length = unpack_disk(&mut &bytes[..], judge, &|_| {}, &running)?;
        if let Ok(length) = length {
            let mut found = vec![0; disk().len()];
            output.read_exact_at(&mut found, 0).unwrap();
            assert!(found == disk());
            assert_eq!(output.metadata().unwrap().len(), length);
        }
        Ok(length)
    }

    #[test]
    fn first_bytes_tell_how_it_is_packed() {
        let plain = disk();
        let zstd = zstd::encode_all(&plain[..], 3).unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let xz = xz.finish().unwrap();
        for bytes in [&plain, &zstd, &gzip, &xz] {
            let length = unpacked(bytes).unwrap();
            assert_eq!(length, Ok((3 << 20) + 4096));
        }
    }

    #[test]
    fn what_is_no_disk_is_refused_before_it_is_written() {
        assert_eq!(unpacked(&vec![0; 1 << 20]).unwrap(), Err("another disk"));
        assert_eq!(unpacked(b"").unwrap(), Err("another disk"));
        let xz = unpacked(b"\xfd7zXZ\0 and so on");
        assert!(matches!(xz, Err(DiskError::Broken { .. })), "{xz:?}");
        let bzip2 = unpacked(b"BZh9 and so on");
        assert!(matches!(bzip2, Err(DiskError::Packed { with: "bzip2" })));
        let zstd = zstd::encode_all(&disk()[..], 3).unwrap();
        let cut = unpacked(&zstd[..zstd.len() - 3]);
        assert!(matches!(cut, Err(DiskError::Broken { .. })), "{cut:?}");
    }
}
