//! What a stored path may look like, and how one is shown.
//!
//! Making an archive's name into such a path is not here; the archive reader does it.

use std::fmt;

/// Longest component of a path, in bytes: the limit of a directory entry on Linux file systems.
pub const MAX_COMPONENT_BYTES: usize = 255;

/// Longest path, in bytes: `PATH_MAX` of Linux.
pub const MAX_PATH_BYTES: usize = 4096;

/// Longest target of a symbolic link, in bytes: one block of ext4, or `PATH_MAX`, less the NUL.
pub const MAX_SYMLINK_BYTES: usize = 4095;

/// A path of an image in an error or a log line: bytes that are not printable ASCII are escaped,
/// because the bytes come from strangers.
#[derive(Clone, PartialEq, Eq)]
pub struct ShownPath(Vec<u8>);

impl ShownPath {
    /// Takes the bytes as the image has them.
    pub fn new(path: &[u8]) -> Self {
        Self(path.to_vec())
    }

    /// Returns the bytes as the image has them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ShownPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Debug for ShownPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Tells whether `path` is stored as the index wants it: relative, without empty, `.` or `..`
/// components and without NUL, within the two length limits. The empty path is the root.
pub(crate) fn is_normalised(path: &[u8]) -> bool {
    path.is_empty()
        || path.len() <= MAX_PATH_BYTES
            && !path.contains(&0)
            && path.split(|byte| *byte == b'/').all(is_component)
}

fn is_component(name: &[u8]) -> bool {
    (1..=MAX_COMPONENT_BYTES).contains(&name.len()) && name != b"." && name != b".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_paths_have_plain_components_only() {
        let long = [b'a'; 256];
        let cases: &[(&[u8], bool)] = &[
            (b"", true),
            (b"a", true),
            (b"a/b", true),
            (b"...", true),
            (b"\xff\xfe/\n", true),
            (&long[..255], true),
            (&long, false),
            (b"/a", false),
            (b"a/", false),
            (b"a//b", false),
            (b"a/./b", false),
            (b"..", false),
            (b"a/../b", false),
            (b"a\0b", false),
            (&b"ab/".repeat(1400), false),
        ];
        for (path, want) in cases {
            assert_eq!(is_normalised(path), *want, "{:?}", ShownPath::new(path));
        }
    }

    #[test]
    fn shown_paths_hold_no_control_bytes() {
        let shown = ShownPath::new(b"a\x1b[31m\n\xff").to_string();

        assert_eq!(shown, r#""a\x1b[31m\n\xff""#);
    }
}
