//! How much a stack of layers may ask for.
//!
//! Limits of one layer's archive (sizes, ratios, headers) are not here; its reader has them.

/// Caps on a merge. Each one crossed is a typed error, never a truncated result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Layers of one image. Registries and runtimes stop near 128.
    pub layers: usize,
    /// Entries of all layers together, and names made while merging, implied directories
    /// included.
    pub entries: usize,
    /// Directories above a name. A path of 4,096 bytes has at most 2,048 components.
    pub depth: u16,
    /// Symbolic links followed for one path, as Linux counts them.
    pub symlink_hops: u32,
    /// Components of symbolic link targets walked in one merge. A link such as `/lib` costs one
    /// or two for each entry below it; chains of long targets could otherwise cost hours.
    pub symlink_steps: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers: 1024,
            entries: 2_000_000,
            depth: 2048,
            symlink_hops: 40,
            symlink_steps: 50_000_000,
        }
    }
}
