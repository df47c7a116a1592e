//! Names of an archive as the index wants them: relative, without `.` and `..`.
//!
//! What a name hides by being a whiteout is not here; kiln-tree knows.

use kiln_tree::{MAX_COMPONENT_BYTES, MAX_PATH_BYTES};

use crate::error::{Cap, Malformation};

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadName {
    Malformed(Malformation),
    Limit(Cap, u64),
}

/// Makes a name relative to the image's root: leading slashes, `.` and empty components go;
/// `..` and NUL are refused. `/` and `./` give the empty path, the root.
pub(crate) fn normalise(name: &[u8]) -> Result<Vec<u8>, BadName> {
    if name.is_empty() {
        return Err(BadName::Malformed(Malformation::EmptyName));
    }
    if name.contains(&0) {
        return Err(BadName::Malformed(Malformation::NulInName));
    }
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(BadName::Malformed(Malformation::ParentComponent)),
            _ if component.len() > MAX_COMPONENT_BYTES => {
                let limit = MAX_COMPONENT_BYTES as u64;
                return Err(BadName::Limit(Cap::ComponentBytes, limit));
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(BadName::Limit(Cap::PathBytes, MAX_PATH_BYTES as u64));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case<'a> = (&'a [u8], Result<&'a [u8], BadName>);

    #[test]
    fn names_become_relative_and_plain() {
        let malformed = |reason| Err(BadName::Malformed(reason));
        let long = b"x".repeat(256);
        let deep = b"ab/".repeat(1366);
        let cases: &[Case<'_>] = &[
            (b"a", Ok(b"a")),
            (b"./a/b/", Ok(b"a/b")),
            (b"/a", Ok(b"a")),
            (b"//a//./b", Ok(b"a/b")),
            (b"./", Ok(b"")),
            (b"/", Ok(b"")),
            (b".", Ok(b"")),
            (b"\xff\n/...", Ok(b"\xff\n/...")),
            (&long[..255], Ok(&long[..255])),
            (&long, Err(BadName::Limit(Cap::ComponentBytes, 255))),
            (&deep, Err(BadName::Limit(Cap::PathBytes, 4096))),
            (b"", malformed(Malformation::EmptyName)),
            (b"..", malformed(Malformation::ParentComponent)),
            (b"a/../b", malformed(Malformation::ParentComponent)),
            (b"a\0b", malformed(Malformation::NulInName)),
        ];
        for (name, want) in cases {
            let got = normalise(name);
            assert_eq!(
                got.as_deref(),
                want.as_ref().copied(),
                "{}",
                name.escape_ascii()
            );
        }
    }
}
