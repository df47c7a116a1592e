//! POSIX access control lists as text, in the form `getxattr` shows.
//!
//! ```text
//! GNU tar          user::rw-⏎user:1000:rw-⏎group::r--⏎mask::rw-⏎other::r--⏎
//! star, libarchive user::rw-,user:lisa:rw-:1000,group::r--,mask::rw-,other::r--
//! binary           u32 2, then per entry:  tag u16, permissions u16, id u32   (little-endian)
//! ```
//! Source: acl(5), `acl_to_text(3)`, `linux/posix_acl_xattr.h`. GNU tar writes the name of whom its
//! own host has a name for, and nothing else about them; who that is in the image is not known
//! here, so such a list cannot be converted. Storing lists is not here.

use std::collections::BTreeMap;

/// Version of the binary form.
const VERSION: u32 = 2;

/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Which of the two lists of a file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Who may use the file itself.
    Access,
    /// What new files in a directory begin with.
    Default,
}

impl Use {
    /// Returns the attribute the list is kept in.
    pub(crate) fn attribute(self) -> &'static [u8] {
        match self {
            Self::Access => b"system.posix_acl_access",
            Self::Default => b"system.posix_acl_default",
        }
    }
}

/// What a list comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The attribute's value.
    List(Vec<u8>),
    /// It has no entries, or says no more than the file's mode.
    Nothing,
    /// It names somebody by name alone, and has to be left out.
    Named {
        /// What the owning group may do: its own entry as far as the mask lets it. Where there is
        /// a list, the mode's bits of the group are the mask instead, which can be more.
        group: u16,
    },
}

/// Whom an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whom<'a> {
    Id(u32),
    Name(&'a str),
}

/// The key of an entry that names nobody.
const fn unnamed(tag: u16) -> (u16, Whom<'static>) {
    (tag, Whom::Id(NOBODY))
}

/// Converts a list; nothing comes of what is no list, which the kernel would refuse as well.
pub(crate) fn from_text(text: &[u8], role: Use) -> Option<Reading> {
    let text = std::str::from_utf8(text).ok()?;
    // Sorted by tag, then by id: the order the kernel wants them in.
    let mut entries = BTreeMap::new();
    for entry in text.split(['\n', ',']) {
        let entry = entry.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        let (key, permissions) = parse(entry)?;
        if entries.insert(key, permissions).is_some() {
            return None;
        }
    }
    if entries.is_empty() {
        return Some(Reading::Nothing);
    }
    let has = |tag| entries.contains_key(&unnamed(tag));
    let is_whole = [OWNER, OWNING_GROUP, OTHER].into_iter().all(has);
    let is_named = entries.keys().any(|(tag, _)| [USER, GROUP].contains(tag));
    if !is_whole || is_named && !has(MASK) {
        return None;
    }
    if role == Use::Access && entries.len() == 3 {
        return Some(Reading::Nothing);
    }
    let mut binary = VERSION.to_le_bytes().to_vec();
    for ((tag, whom), permissions) in &entries {
        let Whom::Id(id) = whom else {
            let of = |tag| entries.get(&unnamed(tag)).copied().unwrap_or_default();
            let group = of(OWNING_GROUP) & of(MASK);
            return Some(Reading::Named { group });
        };
        binary.extend(tag.to_le_bytes());
        binary.extend(permissions.to_le_bytes());
        binary.extend(id.to_le_bytes());
    }
    Some(Reading::List(binary))
}

/// Reads `tag:whom:permissions`, and the id that some write behind it. Solaris leaves the empty
/// field of `mask` and `other` out, and acl(5) readers let it.
fn parse(entry: &str) -> Option<((u16, Whom<'_>), u16)> {
    let fields: Vec<&str> = entry.split(':').collect();
    let (tag, whom, permissions, stated_id) = match fields[..] {
        [tag @ ("mask" | "m" | "other" | "o"), permissions] => (tag, "", permissions, None),
        [tag, whom, permissions] => (tag, whom, permissions, None),
        [tag, whom, permissions, id] => (tag, whom, permissions, Some(id)),
        _ => return None,
    };
    let tag = match (tag, whom.is_empty()) {
        ("user" | "u", true) => OWNER,
        ("user" | "u", false) => USER,
        ("group" | "g", true) => OWNING_GROUP,
        ("group" | "g", false) => GROUP,
        ("mask" | "m", true) => MASK,
        ("other" | "o", true) => OTHER,
        _ => return None,
    };
    let whom = match (whom.is_empty(), stated_id) {
        (true, None) => Whom::Id(NOBODY),
        (false, Some(id)) => Whom::Id(number(id)?),
        (false, None) => named(whom)?,
        (true, Some(_)) => return None,
    };
    Some(((tag, whom), bits(permissions)?))
}

/// Tells ids from names. No name is a number, with a sign or without one.
fn named(whom: &str) -> Option<Whom<'_>> {
    let digits = whom.strip_prefix(['+', '-']).unwrap_or(whom);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return number(whom).map(Whom::Id);
    }
    (!whom.contains('\0')).then_some(Whom::Name(whom))
}

/// Reads an id; the largest number stands for nobody and is none.
fn number(text: &str) -> Option<u32> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.parse().ok().filter(|id| *id != NOBODY);
    id.filter(|_| is_plain)
}

/// Reads `rwx`, with `-` for what is not allowed.
fn bits(text: &str) -> Option<u16> {
    let [read, write, execute] = <[u8; 3]>::try_from(text.as_bytes()).ok()?;
    let bit = |found, letter, value| match found {
        b'-' => Some(0),
        found if found == letter => Some(value),
        _ => None,
    };
    Some(bit(read, b'r', 4)? | bit(write, b'w', 2)? | bit(execute, b'x', 1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The binary form of entries of tag, permissions and id.
    fn binary(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entries = entries.iter().flat_map(|(tag, permissions, id)| {
            let words = [tag.to_le_bytes(), permissions.to_le_bytes()].concat();
            [words, id.to_le_bytes().to_vec()].concat()
        });
        [2, 0, 0, 0].into_iter().chain(entries).collect()
    }

    #[test]
    fn the_forms_of_gnu_tar_and_of_star_are_one_list() {
        // What Linux shows of a file after
        // `setfacl -m u:1234:rw,u:7777:r,g:5678:rx,m::rw` (getxattr, kernel 6.1).
        let want = binary(&[
            (1, 6, 0xffff_ffff),
            (2, 6, 1234),
            (2, 4, 7777),
            (4, 4, 0xffff_ffff),
            (8, 5, 5678),
            (16, 6, 0xffff_ffff),
            (32, 4, 0xffff_ffff),
        ]);
        for text in [
            // What `tar --acls --format=pax` of GNU tar 1.34 wrote of it.
            "user::rw-\nuser:1234:rw-\nuser:7777:r--\ngroup::r--\ngroup:5678:r-x\nmask::rw-\nother::r--\n",
            "user::rw-,user:lisa:r--:7777,user:1234:rw-:1234,group::r--,group:toolies:r-x:5678,mask::rw-,other::r--",
            "u::rw-,u:7777:r--,u:1234:rw-,g::r--,g:5678:r-x #effective:r--\nm::rw-,o::r--",
            "u::rw-,u:7777:r--,u:1234:rw-,g::r--,g:5678:r-x,mask:rw-,other:r--",
        ] {
            assert_eq!(
                from_text(text.as_bytes(), Use::Access),
                Some(Reading::List(want.clone())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_list_that_is_the_mode_again_counts_as_a_default_only() {
        let text = b"user::rwx\ngroup::r-x\nother::---\n";

        assert_eq!(from_text(text, Use::Access), Some(Reading::Nothing));
        let want = binary(&[
            (OWNER, 7, NOBODY),
            (OWNING_GROUP, 5, NOBODY),
            (OTHER, 0, NOBODY),
        ]);
        assert_eq!(from_text(text, Use::Default), Some(Reading::List(want)));
        for nothing in [&b""[..], b"\n", b"# nobody\n"] {
            assert_eq!(from_text(nothing, Use::Default), Some(Reading::Nothing));
        }
    }

    #[test]
    fn a_list_with_a_name_alone_leaves_what_the_owning_group_may_do() {
        let cases = [
            ("user::rw-,user:bob:rw-,group::---,mask::rw-,other::---", 0),
            (
                "user::rw-,group:wheel:rwx,group::rwx,mask::r-x,other::---",
                5,
            ),
            (
                "user::rw-,user:1:rw-,user:a-1:r--,group::r--,mask::rw-,other::---",
                4,
            ),
        ];
        for (text, group) in cases {
            for role in [Use::Access, Use::Default] {
                let reading = from_text(text.as_bytes(), role);
                assert_eq!(reading, Some(Reading::Named { group }), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let around = |entry: &str| format!("user::rwx\ngroup::r-x\nmask::rwx\nother::r-x\n{entry}");
        from_text(around("user:1:rwx").as_bytes(), Use::Access).unwrap();
        for entry in [
            "user:lisa:rwx:lisa",
            "user:1:rwx:1:1",
            "user:1:rwx\nuser:1:r--",
            "user:lisa:rwx\nuser:lisa:r--",
            "user:lisa:rwx:1\nuser:1:r--",
            "user::rwx",
            "user:4294967295:rwx",
            "user:4294967296:rwx",
            "user:+1:rwx",
            "user:-1:rwx",
            "user:li\0sa:rwx",
            "user:1:rw",
            "user:1:wrx",
            "user:1:rwxx",
            "user:1",
            "user",
            "user:rwx",
            "mask:1:rwx",
            "other::rwx:1",
            "other:rwx",
            "owner@::rwx",
        ] {
            let text = around(entry);
            assert_eq!(from_text(text.as_bytes(), Use::Access), None, "{text}");
        }
        for text in [
            &b"user::rwx\nuser:1:rwx\ngroup::r-x\nother::r-x\n"[..],
            b"user::rwx\nuser:lisa:rwx\ngroup::r-x\nother::r-x\n",
            b"user:1:rwx\ngroup::r-x\nmask::rwx\nother::r-x\n",
            b"user::rwx\ngroup::r-x\n",
            b"\0",
            b"\xff",
        ] {
            let shown = text.escape_ascii();
            assert_eq!(from_text(text, Use::Access), None, "{shown}");
        }
    }
}
