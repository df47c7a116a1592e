//! Opens the decoder for what compressed bytes begin with.

use std::io::{self, Read};

use flate2::read::{GzDecoder, MultiGzDecoder};
use liblzma::read::XzDecoder;
use liblzma::stream::Stream;

use crate::error::KernelError;
use crate::facts::Compression;
use crate::lz4::{self, LegacyDecoder};

/// Memory that an xz decoder may take, in bytes: enough for the 64 MiB window of `xz -9`, which
/// is twice what the kernel's build asks for.
pub(crate) const XZ_MEMORY_BYTES: u64 = 72 << 20;
/// Largest window of a zstd frame, as a power of two: 128 MiB, which is what `zstd -22` of the
/// kernel's build asks for.
pub(crate) const ZSTD_WINDOW_LOG: u32 = 27;

const GZIP_MAGIC: &[u8] = b"\x1f\x8b";
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";

/// Compressions of the kernel's build that are recognised and not unpacked.
const UNSUPPORTED: &[(&[u8], &str)] = &[
    (b"BZh", "bzip2 compression"),
    (b"\x5d\0\0", "lzma compression"),
    (b"\x89LZO\0", "lzo compression"),
];

/// How many streams in a row are one content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// One; what follows is not looked at. The kernel's build appends the unpacked length.
    One,
    /// All of them, and nothing else may follow.
    All,
}

impl Compression {
    /// Recognises a compression by the first bytes; `None` when they are of another kind.
    pub(crate) fn of(head: &[u8]) -> Result<Option<Self>, KernelError> {
        let known: &[(&[u8], Self)] = &[
            (GZIP_MAGIC, Self::Gzip),
            (&lz4::MAGIC, Self::Lz4),
            (XZ_MAGIC, Self::Xz),
            (ZSTD_MAGIC, Self::Zstd),
        ];
        if let Some((_, found)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Ok(Some(*found));
        }
        match UNSUPPORTED
            .iter()
            .find(|(magic, _)| head.starts_with(magic))
        {
            Some((_, what)) => Err(KernelError::Unsupported { what }),
            None => Ok(None),
        }
    }

    /// Opens a decoder, whose memory is bounded whatever the input says.
    pub(crate) fn decoder<'a>(
        self,
        input: impl Read + 'a,
        streams: Streams,
    ) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match (self, streams) {
            (Self::Gzip, Streams::One) => Box::new(GzDecoder::new(input)),
            (Self::Gzip, Streams::All) => Box::new(MultiGzDecoder::new(input)),
            (Self::Lz4, _) => Box::new(LegacyDecoder::new(input)),
            (Self::Xz, _) => {
                let flags = match streams {
                    Streams::One => 0,
                    Streams::All => liblzma::stream::CONCATENATED,
                };
                let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, flags)?;
                Box::new(XzDecoder::new_stream(input, stream))
            }
            (Self::Zstd, _) => {
                let mut decoder = zstd::stream::read::Decoder::new(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                match streams {
                    Streams::One => Box::new(decoder.single_frame()),
                    Streams::All => Box::new(decoder),
                }
            }
        })
    }
}
