//! Why a layer could not be decoded.
//!
//! Why a finished pack cannot be opened is not here; see the pack.

use std::fmt;
use std::io;

use kiln_tree::{DiffId, IndexError, ShownPath};

use crate::compression::Compression;

/// Why a layer could not be decoded. What was written so far is worthless.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The compressed bytes are damaged or end early.
    #[error("the {compression} stream is damaged")]
    BrokenCompression {
        /// How the layer is compressed.
        compression: Compression,
        /// What the decompressor says.
        source: io::Error,
    },
    /// The layer is not compressed the way its media type says.
    #[error("the layer is declared as {declared} and is {found}")]
    CompressionMismatch {
        /// What was declared.
        declared: Compression,
        /// What the first bytes say.
        found: Compression,
    },
    /// The layer is compressed in a way that OCI layers are not.
    #[error("layers compressed with {name} are not supported")]
    UnsupportedCompression {
        /// What the first bytes say.
        name: &'static str,
    },
    /// The archive is malformed, or can be read in two ways.
    #[error("entry {path} at byte {at} of the archive: {reason}")]
    Malformed {
        /// The entry's name as far as it is known.
        path: ShownPath,
        /// Where the entry's header is in the uncompressed archive.
        at: u64,
        /// What is wrong.
        reason: Malformation,
    },
    /// The archive has an entry of a type that no image can hold.
    #[error("entry {path} at byte {at} of the archive has the unsupported type {:?}", char::from(*.typeflag))]
    UnsupportedEntry {
        /// The entry's name.
        path: ShownPath,
        /// Where the entry's header is in the uncompressed archive.
        at: u64,
        /// The type byte of its header.
        typeflag: u8,
    },
    /// A limit is crossed.
    #[error("entry {path} at byte {at} of the archive passes the limit of {limit} {cap}")]
    Limit {
        /// Which one.
        cap: Cap,
        /// Its value.
        limit: u64,
        /// The entry's name as far as it is known.
        path: ShownPath,
        /// Where in the uncompressed archive.
        at: u64,
    },
    /// The layer is whole and well formed, and not the one that was asked for.
    #[error("the layer's diff id is {found}, not {expected}")]
    DiffIdMismatch {
        /// What the image's configuration says.
        expected: DiffId,
        /// What was hashed.
        found: DiffId,
    },
    /// The layer could not be read from where it comes from.
    #[error("cannot read the layer")]
    Input {
        /// What the reader said, untouched.
        source: io::Error,
    },
    /// The pack could not be written.
    #[error("cannot {step} the pack")]
    Output {
        /// What was being done.
        step: &'static str,
        /// What the system said; its kind tells a full disk.
        source: io::Error,
    },
    /// The entries do not fit an index.
    #[error("the layer's entries cannot be indexed")]
    Index {
        /// Why not.
        source: IndexError,
    },
    /// The caller asked to stop.
    #[error("decoding the layer was cancelled")]
    Cancelled,
}

/// What a limit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// [`Limits::layer_bytes`](crate::Limits::layer_bytes).
    LayerBytes,
    /// [`Limits::ratio`](crate::Limits::ratio).
    Ratio,
    /// [`Limits::entries`](crate::Limits::entries).
    Entries,
    /// [`Limits::index_bytes`](crate::Limits::index_bytes).
    IndexBytes,
    /// [`kiln_tree::MAX_COMPONENT_BYTES`].
    ComponentBytes,
    /// [`kiln_tree::MAX_PATH_BYTES`].
    PathBytes,
    /// [`kiln_tree::MAX_SYMLINK_BYTES`].
    SymlinkBytes,
    /// [`Limits::extension_bytes`](crate::Limits::extension_bytes).
    ExtensionBytes,
    /// [`Limits::xattr_bytes`](crate::Limits::xattr_bytes).
    XattrBytes,
    /// [`Limits::xattrs`](crate::Limits::xattrs).
    Xattrs,
    /// The longest attribute name Linux knows.
    XattrNameBytes,
    /// [`Limits::sparse_ranges`](crate::Limits::sparse_ranges).
    SparseRanges,
    /// [`Limits::zstd_window_log`](crate::Limits::zstd_window_log).
    ZstdWindowLog,
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LayerBytes => "uncompressed bytes",
            Self::Ratio => "uncompressed bytes for a compressed one",
            Self::Entries => "entries",
            Self::IndexBytes => "bytes of names and attributes",
            Self::ComponentBytes => "bytes in a path component",
            Self::PathBytes => "bytes in a path",
            Self::SymlinkBytes => "bytes in a symbolic link",
            Self::ExtensionBytes => "bytes in an extension header",
            Self::XattrBytes => "bytes of extended attributes",
            Self::Xattrs => "extended attributes",
            Self::XattrNameBytes => "bytes in an attribute's name",
            Self::SparseRanges => "data ranges in a sparse file",
            Self::ZstdWindowLog => "bits of zstd window",
        })
    }
}

/// What is wrong with an archive. Whatever two readers could understand differently is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformation {
    /// The archive ends inside a header or an extension header.
    #[error("the archive ends inside a header")]
    TruncatedHeader,
    /// The archive ends inside a file's bytes or their padding.
    #[error("the archive ends inside a file")]
    TruncatedBody,
    /// A header's checksum is wrong.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// A single block of zeros is followed by something else.
    #[error("data follows a single block of zeros")]
    LoneZeroBlock,
    /// A number of the header is neither octal nor base 256, or is out of range.
    #[error("the header's {field} is not a number in range")]
    Number {
        /// Which one.
        field: &'static str,
    },
    /// An owner or group does not fit 32 bits.
    #[error("the owner or group does not fit 32 bits")]
    Id,
    /// The name is empty.
    #[error("the name is empty")]
    EmptyName,
    /// A name or link target has a `..` component.
    #[error("the name or the link's target goes through ..")]
    ParentComponent,
    /// A name or link target holds a NUL.
    #[error("the name or the link's target holds a NUL")]
    NulInName,
    /// A link names nothing.
    #[error("the link's target is empty")]
    EmptyTarget,
    /// A regular file's name ends in a slash, which some readers take for a directory.
    #[error("the name of a regular file ends in a slash")]
    TrailingSlash,
    /// An entry without bytes of its own has a size, which some readers skip and others do not.
    #[error("an entry that is not a regular file has a size")]
    UnexpectedBody,
    /// A whiteout names nothing that can be hidden, or is used as a directory.
    #[error("the whiteout's name hides nothing")]
    Whiteout,
    /// A PAX record does not end where it says, has no key, or a value that cannot be.
    #[error("a PAX record is malformed")]
    PaxRecord,
    /// A global PAX header has a record that can be about one file only.
    #[error("a global PAX header names a single file")]
    GlobalRecord,
    /// Two extension headers of one kind, or of PAX and GNU, are in front of one entry.
    #[error("extension headers that exclude each other belong to one entry")]
    MixedExtensions,
    /// No entry follows an extension header.
    #[error("no entry follows the extension header")]
    DanglingExtension,
    /// A GNU long name or link is empty or has bytes behind its NUL.
    #[error("a GNU long name is malformed")]
    LongName,
    /// The map of a sparse file is out of order, out of range or does not match the bytes.
    #[error("the map of the sparse file is malformed")]
    SparseMap,
    /// An attribute's name or value cannot be decoded.
    #[error("an extended attribute is malformed")]
    Xattr,
    /// An access control list that came as text is none.
    #[error("an access control list is malformed")]
    Acl,
    /// A list that new files of a directory begin with belongs to something else, where the
    /// kernel has no place for it.
    #[error("a default access control list belongs to an entry that is no directory")]
    DefaultAcl,
}
