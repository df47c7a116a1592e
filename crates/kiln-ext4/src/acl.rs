//! POSIX access control lists: from the form `getxattr` shows (version 2) to the one ext4
//! stores (version 1).
//!
//! ```text
//! version 2   u32 2, then per entry:  tag u16, permissions u16, id u32
//! version 1   u32 1, then per entry:  tag u16, permissions u16, and an id u32 for USER and GROUP only
//! ```
//!
//! Not here: what the permissions mean.

/// Version of the form seen by programs, `POSIX_ACL_XATTR_VERSION`.
const SEEN_VERSION: u32 = 2;

/// Version of the form on disk, `EXT4_ACL_VERSION`.
const STORED_VERSION: u32 = 1;

const USER_OBJECT: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJECT: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What became of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Converted {
    /// The value to store.
    Stored(Vec<u8>),
    /// A list without entries says nothing; the kernel removes the attribute.
    Empty,
    /// Not a list of version 2.
    Malformed,
}

/// Converts the value of `system.posix_acl_access` or `system.posix_acl_default`.
pub(crate) fn to_disk(seen: &[u8]) -> Converted {
    let Some((version, entries)) = seen.split_first_chunk::<4>() else {
        return Converted::Malformed;
    };
    if u32::from_le_bytes(*version) != SEEN_VERSION || entries.len() % 8 != 0 {
        return Converted::Malformed;
    }
    if entries.is_empty() {
        return Converted::Empty;
    }
    let mut stored = STORED_VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        match u16::from_le_bytes([entry[0], entry[1]]) {
            USER_OBJECT | GROUP_OBJECT | MASK | OTHER => stored.extend_from_slice(&entry[..4]),
            USER | GROUP => stored.extend_from_slice(entry),
            _ => return Converted::Malformed,
        }
    }
    Converted::Stored(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u16, permissions: u16, id: u32) -> Vec<u8> {
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes
    }

    #[test]
    fn ids_stay_with_named_users_and_groups_only() {
        let mut seen = SEEN_VERSION.to_le_bytes().to_vec();
        seen.extend(entry(USER_OBJECT, 7, u32::MAX));
        seen.extend(entry(USER, 6, 1000));
        seen.extend(entry(GROUP_OBJECT, 5, u32::MAX));
        seen.extend(entry(MASK, 7, u32::MAX));
        seen.extend(entry(OTHER, 0, u32::MAX));

        let stored = vec![
            1, 0, 0, 0, // version
            1, 0, 7, 0, // the owner
            2, 0, 6, 0, 0xe8, 0x03, 0, 0, // user 1000
            4, 0, 5, 0, // the owning group
            0x10, 0, 7, 0, // mask
            0x20, 0, 0, 0, // everybody else
        ];

        assert_eq!(to_disk(&seen), Converted::Stored(stored));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let cases: &[(&[u8], Converted)] = &[
            (b"", Converted::Malformed),
            (&[2, 0, 0], Converted::Malformed),
            (&[1, 0, 0, 0], Converted::Malformed),
            (&[2, 0, 0, 0, 1], Converted::Malformed),
            (&[2, 0, 0, 0, 3, 0, 7, 0, 0, 0, 0, 0], Converted::Malformed),
            (&[2, 0, 0, 0], Converted::Empty),
        ];
        for (seen, want) in cases {
            assert_eq!(to_disk(seen), *want, "{seen:?}");
        }
    }
}
