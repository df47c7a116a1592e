//! Reading documents of this crate: bounded, strict, and of a known format.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Largest document that is read, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is larger than any document that is meant.
    #[error("the document has {size_bytes} bytes; at most {MAX_DOCUMENT_BYTES} are read")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
    },
    /// It comes from a newer Kiln.
    #[error(
        "the document has format {found}, this init reads up to {known}; make the initrd anew with the Kiln that wrote it"
    )]
    Newer {
        /// Its format.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// It is no JSON, has unknown members or wrong ones.
    #[error("the document cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// A member has a value that cannot be.
    #[error("{member} {what}")]
    Invalid {
        /// Where it stands.
        member: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Reads a document whose newest known format is `known`.
pub(crate) fn document<T: DeserializeOwned>(bytes: &[u8], known: u32) -> Result<T, ReadError> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        let size_bytes = bytes.len();
        return Err(ReadError::TooLarge { size_bytes });
    }
    // The format comes first: a newer document may have members that are unknown here.
    let Format { format } = serde_json::from_slice(bytes).map_err(ReadError::Malformed)?;
    if format > known {
        let found = format;
        return Err(ReadError::Newer { found, known });
    }
    check("format", format >= 1, "is no format")?;
    serde_json::from_slice(bytes).map_err(ReadError::Malformed)
}

/// Writes a document with a line end, and refuses what could not be read again.
pub(crate) fn to_bytes<T: Serialize>(document: &T) -> Result<Vec<u8>, ReadError> {
    let mut bytes = serde_json::to_vec_pretty(document).map_err(ReadError::Malformed)?;
    bytes.push(b'\n');
    if bytes.len() > MAX_DOCUMENT_BYTES {
        let size_bytes = bytes.len();
        return Err(ReadError::TooLarge { size_bytes });
    }
    Ok(bytes)
}

/// Refuses `member` with `what` is wrong with it, unless what must hold `holds`.
pub(crate) fn check(
    member: &'static str,
    holds: bool,
    what: &'static str,
) -> Result<(), ReadError> {
    if holds {
        return Ok(());
    }
    Err(ReadError::Invalid { member, what })
}
