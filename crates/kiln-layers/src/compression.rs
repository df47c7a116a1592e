//! How a layer may be compressed, and how its first bytes tell.
//!
//! Media types are not read here: a caller that knows one says what it declares.

use std::fmt;

use crate::error::DecodeError;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Gzip, of one member or several.
    Gzip,
    /// Zstandard, of one frame or several.
    Zstd,
}

/// What is known of a layer's compression before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// Nothing; the first bytes decide.
    Unknown,
    /// Its media type says this; first bytes that say otherwise are refused.
    As(Compression),
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Bytes that [`detect`] wants to see.
pub(crate) const MAGIC_BYTES: usize = 6;

/// Tells from a layer's first bytes how it is compressed.
pub(crate) fn detect(first: &[u8], declared: Declared) -> Result<Compression, DecodeError> {
    let found = match first {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or one of the sixteen kinds of skippable frames (RFC 8878, 3.1).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return unsupported("xz"),
        // The level, then the first bytes of pi: a file may well be called "BZh9".
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => return unsupported("bzip2"),
        _ => Compression::None,
    };
    match declared {
        // Nothing at all is a truncated stream rather than another kind.
        Declared::As(declared) if first.is_empty() => Ok(declared),
        Declared::As(declared) if declared != found => {
            Err(DecodeError::CompressionMismatch { declared, found })
        }
        _ => Ok(found),
    }
}

fn unsupported(name: &'static str) -> Result<Compression, DecodeError> {
    Err(DecodeError::UnsupportedCompression { name })
}
