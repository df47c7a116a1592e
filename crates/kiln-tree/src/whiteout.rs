//! Which names hide something of lower layers (OCI image specification, "Whiteouts").
//!
//! Applying them is not here; see the merge.
//!
//! | last component | meaning |
//! |---|---|
//! | `.wh.<name>` | `<name>` of lower layers is hidden |
//! | `.wh..wh..opq` | everything lower layers have in this directory is hidden |
//! | `.wh..wh.<anything else>` | metadata of AUFS, ignored, also as a directory |
//! | `.wh.`, `.wh..`, `.wh...` | refused: they would hide nothing, `.` or `..` |

use crate::path::ShownPath;

const PREFIX: &[u8] = b".wh.";
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry's path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// The entry is itself part of the tree.
    Ordinary,
    /// Lower layers' entry at `hidden`, with all that is below it, is hidden.
    Whiteout {
        /// Path of what is hidden.
        hidden: Vec<u8>,
    },
    /// Everything lower layers have in `directory` is hidden.
    Opaque {
        /// Path of the directory; empty for the root.
        directory: Vec<u8>,
    },
    /// Bookkeeping of the AUFS storage driver, which is no part of the image.
    Ignored,
}

/// Why a whiteout name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhiteoutError {
    /// `.wh.` is followed by nothing, `.` or `..`.
    #[error("whiteout {path} names nothing that can be hidden")]
    NamesNothing {
        /// Path of the entry.
        path: ShownPath,
    },
    /// A whiteout name stands where a directory should.
    #[error("{path} lies below a whiteout")]
    UsedAsDirectory {
        /// Path of the entry.
        path: ShownPath,
    },
}

/// Says what the entry at `path`, already normalised, means by its name.
pub fn classify(path: &[u8]) -> Result<Name, WhiteoutError> {
    let (directory, name) = split(path);
    for component in directory.split(|byte| *byte == b'/') {
        if component.starts_with(AUFS_PREFIX) && component != OPAQUE {
            return Ok(Name::Ignored);
        }
        if component.starts_with(PREFIX) {
            return Err(WhiteoutError::UsedAsDirectory {
                path: ShownPath::new(path),
            });
        }
    }
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return Ok(Name::Ordinary);
    };
    match rest {
        _ if name == OPAQUE => Ok(Name::Opaque {
            directory: directory.to_vec(),
        }),
        _ if name.starts_with(AUFS_PREFIX) => Ok(Name::Ignored),
        b"" | b"." | b".." => Err(WhiteoutError::NamesNothing {
            path: ShownPath::new(path),
        }),
        _ if directory.is_empty() => Ok(Name::Whiteout {
            hidden: rest.to_vec(),
        }),
        _ => Ok(Name::Whiteout {
            hidden: [directory, b"/", rest].concat(),
        }),
    }
}

/// Splits a path at its last slash; the slash itself is dropped.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_classified_by_the_table() {
        let hides = |hidden: &[u8]| {
            Ok(Name::Whiteout {
                hidden: hidden.to_vec(),
            })
        };
        let opaque = |directory: &[u8]| {
            Ok(Name::Opaque {
                directory: directory.to_vec(),
            })
        };
        let nothing = |path: &[u8]| {
            Err(WhiteoutError::NamesNothing {
                path: ShownPath::new(path),
            })
        };
        let below = |path: &[u8]| {
            Err(WhiteoutError::UsedAsDirectory {
                path: ShownPath::new(path),
            })
        };
        let cases: &[(&[u8], Result<Name, WhiteoutError>)] = &[
            (b"", Ok(Name::Ordinary)),
            (b"etc/passwd", Ok(Name::Ordinary)),
            (b".wh", Ok(Name::Ordinary)),
            (b"a.wh.b", Ok(Name::Ordinary)),
            (b".wh.a", hides(b"a")),
            (b"etc/.wh.passwd", hides(b"etc/passwd")),
            (b"etc/.wh....", hides(b"etc/...")),
            (b".wh.\xff", hides(b"\xff")),
            (b".wh..hidden", hides(b".hidden")),
            (b".wh..wh..opq", opaque(b"")),
            (b"a/b/.wh..wh..opq", opaque(b"a/b")),
            (b".wh..wh.plnk", Ok(Name::Ignored)),
            (b".wh..wh.plnk/12.34", Ok(Name::Ignored)),
            (b".wh..wh.aufs", Ok(Name::Ignored)),
            (b"a/.wh..wh.orph", Ok(Name::Ignored)),
            (b".wh..wh..opqx", Ok(Name::Ignored)),
            (b".wh.", nothing(b".wh.")),
            (b"a/.wh..", nothing(b"a/.wh..")),
            (b".wh...", nothing(b".wh...")),
            (b".wh.a/b", below(b".wh.a/b")),
            (b".wh..wh..opq/b", below(b".wh..wh..opq/b")),
        ];
        for (path, want) in cases {
            assert_eq!(classify(path), *want, "{:?}", ShownPath::new(path));
        }
    }
}
