//! How much one layer may ask for.
//!
//! Limits of a whole image are not here; whoever adds layers up has them.

/// Caps on one layer, all enforced while it streams. Each one crossed is a
/// [`DecodeError::Limit`](crate::DecodeError::Limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub layer_bytes: u64,
    /// Uncompressed bytes for one compressed byte, judged once the archive has passed
    /// [`Limits::ratio_from_bytes`]. Deflate cannot pass 1,032; real layers stay below 100.
    pub ratio: u64,
    /// Uncompressed bytes from which on [`Limits::ratio`] is judged.
    pub ratio_from_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of all entries' names, attributes and numbers together, which are kept in memory: an
    /// entry of a real image takes about eighty.
    pub index_bytes: usize,
    /// Bytes of one extension header (PAX records, GNU long name or link). Nothing beyond is
    /// buffered.
    pub extension_bytes: u64,
    /// Bytes of an inode's attribute names and values together, and of those that global records
    /// give to every inode; 65,536 at most.
    pub xattr_bytes: usize,
    /// Attributes of an inode, and of all global records together.
    pub xattrs: usize,
    /// Data ranges of one sparse file.
    pub sparse_ranges: usize,
    /// Binary logarithm of the largest window a zstd frame may ask for.
    pub zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 64 << 30,
            ratio: 1000,
            ratio_from_bytes: 1 << 30,
            entries: 2_000_000,
            index_bytes: 256 << 20,
            extension_bytes: 1 << 20,
            xattr_bytes: 64 << 10,
            xattrs: 256,
            sparse_ranges: 1 << 20,
            zstd_window_log: 27,
        }
    }
}
