//! Extended attributes: what goes into the inode, what into a block, and the bytes of both.
//!
//! ```text
//! entry 16   name_len u8 | index u8 | value_offs u16 | value_inum 0 u32 | value_size u32 | hash u32 | name, padded to 4
//! inode 96   magic u32 | entries | 0 u32 | ... | values        (offsets count from the first entry)
//! block      magic u32 | refcount u32 | blocks 1 u32 | hash u32 | checksum u32 | 0 ×12
//!            | entries, sorted | 0 u32 | ... | values          (offsets count from the block)
//! ```
//!
//! Attributes are taken in the order (index, name length, name). Each goes into the inode if it
//! still fits there, else into the block; a smaller one behind it may still fit the inode.
//!
//! Not here: which inodes share a block; see `survey`.

use std::borrow::Cow;

use crate::acl::{self, Converted};
use crate::bytes::{BLOCK_BYTES, Block, get_u32, put_u16, put_u32, round4};
use crate::crc::Checksum;
use crate::inode::{ATTRIBUTES_OFFSET, INODE_BYTES};

const MAGIC: u32 = 0xea02_0000;
const ENTRY_BYTES: usize = 16;
const END_BYTES: usize = 4;
const BLOCK_HEADER_BYTES: usize = 32;

/// Bytes for entries and values inside the inode, behind the magic.
const INODE_ROOM: usize = INODE_BYTES - ATTRIBUTES_OFFSET - 4;

/// Most inodes that may share one block, `EXT4_XATTR_REFCOUNT_MAX`.
pub(crate) const SHARERS_MAX: u32 = 1024;

/// Name prefixes and the numbers that stand for them. The two lists have no name of their own.
const ACL_ACCESS: (u8, &[u8]) = (2, b"system.posix_acl_access");
const ACL_DEFAULT: (u8, &[u8]) = (3, b"system.posix_acl_default");
const PREFIXES: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];

/// One attribute as ext4 stores it.
#[derive(Debug, PartialEq, Eq)]
struct Attribute<'a> {
    index: u8,
    name: &'a [u8],
    value: Cow<'a, [u8]>,
}

impl Attribute<'_> {
    fn entry_bytes(&self) -> usize {
        ENTRY_BYTES + round4(self.name.len())
    }

    fn value_bytes(&self) -> usize {
        round4(self.value.len())
    }

    fn total_bytes(&self) -> usize {
        self.entry_bytes() + self.value_bytes()
    }
}

/// Why an attribute cannot be stored; both name it by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttributeProblem {
    /// Inode and block together have no room for it.
    TooLarge(usize),
    /// An access control list that is none.
    InvalidAcl(usize),
}

/// The attributes of one inode, laid out.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    /// The 96 bytes behind the inode's fields, or empty.
    pub(crate) inline: Vec<u8>,
    /// The block, still without the number of its sharers and its checksum.
    pub(crate) block: Option<Box<Block>>,
    /// Attributes of name spaces Linux does not have on ext4; they are left out.
    pub(crate) unsupported: u64,
}

impl Attributes {
    /// Lays out attributes given by full name and value, in any order, no name twice.
    pub(crate) fn new<'a>(
        given: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, AttributeProblem> {
        let mut laid_out = Self::default();
        let mut attributes = Vec::new();
        for (position, (name, value)) in given.enumerate() {
            match classify(name, value) {
                Class::Stored(attribute) => attributes.push((position, attribute)),
                Class::SaysNothing => {}
                Class::Unsupported => laid_out.unsupported += 1,
                Class::Malformed => return Err(AttributeProblem::InvalidAcl(position)),
                Class::LongName => return Err(AttributeProblem::TooLarge(position)),
            }
        }
        attributes.sort_by(|(_, one), (_, other)| {
            let key = |attribute: &Attribute<'a>| (attribute.index, attribute.name.len());
            (key(one), one.name).cmp(&(key(other), other.name))
        });

        let mut inode_room = INODE_ROOM - END_BYTES;
        let mut block_room = BLOCK_BYTES - BLOCK_HEADER_BYTES - END_BYTES;
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for (position, attribute) in attributes {
            let bytes = attribute.total_bytes();
            if bytes <= inode_room {
                inode_room -= bytes;
                inside.push(attribute);
            } else if bytes <= block_room {
                block_room -= bytes;
                outside.push(attribute);
            } else {
                return Err(AttributeProblem::TooLarge(position));
            }
        }
        if !inside.is_empty() {
            laid_out.inline = encode_inline(&inside);
        }
        if !outside.is_empty() {
            laid_out.block = Some(encode_block(&outside));
        }
        Ok(laid_out)
    }
}

/// Completes a block that `sharers` inodes point to, at its place in the image.
pub(crate) fn seal(block: &mut Block, sharers: u32, number: u64, seed: u32) {
    put_u32(&mut block[..], 4, sharers);
    let sum = Checksum::from(seed)
        .feed(&number.to_le_bytes())
        .feed(&block[..])
        .value();
    put_u32(&mut block[..], 16, sum);
}

enum Class<'a> {
    Stored(Attribute<'a>),
    SaysNothing,
    Unsupported,
    Malformed,
    LongName,
}

fn classify<'a>(full_name: &'a [u8], value: &'a [u8]) -> Class<'a> {
    for (index, name) in [ACL_ACCESS, ACL_DEFAULT] {
        if full_name == name {
            return match acl::to_disk(value) {
                Converted::Stored(stored) => Class::Stored(Attribute {
                    index,
                    name: b"",
                    value: Cow::Owned(stored),
                }),
                Converted::Empty => Class::SaysNothing,
                Converted::Malformed => Class::Malformed,
            };
        }
    }
    let stored = PREFIXES.into_iter().find_map(|(index, prefix)| {
        let name = full_name.strip_prefix(prefix)?;
        (!name.is_empty()).then_some((index, name))
    });
    match stored {
        None => Class::Unsupported,
        Some((_, name)) if name.len() > usize::from(u8::MAX) => Class::LongName,
        Some((index, name)) => Class::Stored(Attribute {
            index,
            name,
            value: Cow::Borrowed(value),
        }),
    }
}

fn encode_inline(attributes: &[Attribute<'_>]) -> Vec<u8> {
    let mut bytes = vec![0; INODE_BYTES - ATTRIBUTES_OFFSET];
    put_u32(&mut bytes, 0, MAGIC);
    // e2fsck takes 0 for "no hash" here; the kernel does not look at it inside an inode.
    put_attributes(&mut bytes[4..], 0, attributes, |_| 0);
    bytes
}

fn encode_block(attributes: &[Attribute<'_>]) -> Box<Block> {
    let mut block = Box::new([0; BLOCK_BYTES]);
    put_u32(&mut block[..], 0, MAGIC);
    put_u32(&mut block[..], 8, 1);
    put_attributes(&mut block[..], BLOCK_HEADER_BYTES, attributes, entry_hash);

    let hashes = attributes.iter().map(entry_hash);
    put_u32(&mut block[..], 12, block_hash(hashes));
    block
}

/// Writes entries from `start` up and values from the end down.
fn put_attributes(
    area: &mut [u8],
    start: usize,
    attributes: &[Attribute<'_>],
    hash: impl Fn(&Attribute<'_>) -> u32,
) {
    let mut entry = start;
    let mut values = area.len();
    for attribute in attributes {
        values -= attribute.value_bytes();
        let offset = if attribute.value.is_empty() {
            0
        } else {
            values
        };
        let length = attribute.value.len();

        area[entry] = u8::try_from(attribute.name.len()).unwrap_or(u8::MAX);
        area[entry + 1] = attribute.index;
        put_u16(area, entry + 2, u16::try_from(offset).unwrap_or(u16::MAX));
        put_u32(area, entry + 8, u32::try_from(length).unwrap_or(u32::MAX));
        put_u32(area, entry + 12, hash(attribute));
        let name = entry + ENTRY_BYTES;
        area[name..name + attribute.name.len()].copy_from_slice(attribute.name);
        area[values..values + length].copy_from_slice(&attribute.value);
        entry += attribute.entry_bytes();
    }
}

/// `ext4_xattr_hash_entry`, with name bytes taken as unsigned.
fn entry_hash(attribute: &Attribute<'_>) -> u32 {
    let named = attribute
        .name
        .iter()
        .fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    attribute.value.chunks(4).fold(named, |hash, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        hash.rotate_left(16) ^ get_u32(&word, 0)
    })
}

/// `ext4_xattr_rehash`: an entry without a hash makes the block one that is never shared.
fn block_hash(entries: impl Iterator<Item = u32>) -> u32 {
    let mut hash = 0_u32;
    for entry in entries {
        if entry == 0 {
            return 0;
        }
        hash = hash.rotate_left(16) ^ entry;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lay_out(given: &[(&[u8], &[u8])]) -> Result<Attributes, AttributeProblem> {
        Attributes::new(given.iter().copied())
    }

    #[test]
    fn a_small_attribute_lies_in_the_inode() {
        let laid_out = lay_out(&[(b"user.a", b"hello")]).expect("it fits");

        let inline = &laid_out.inline;
        assert!(laid_out.block.is_none());
        assert_eq!(inline.len(), 96);
        assert_eq!(inline[..4], [0, 0, 0x02, 0xea]);
        // 92 − 8 = 84 bytes from the first entry.
        assert_eq!(
            inline[4..24],
            *b"\x01\x01\x54\0\0\0\0\0\x05\0\0\0\0\0\0\0a\0\0\0"
        );
        assert_eq!(inline[88..], *b"hello\0\0\0");
    }

    #[test]
    fn the_inode_takes_92_bytes_and_not_one_more() {
        // 92 − 4 (end) − 16 (entry) − 4 (name) = 68 bytes of value.
        let cases = [(68, false), (69, true)];
        for (length, in_block) in cases {
            let value = vec![1; length];
            let laid_out = lay_out(&[(b"user.a", &value)]).expect("it fits");
            assert_eq!(laid_out.block.is_some(), in_block, "{length} bytes");
            assert_eq!(laid_out.inline.is_empty(), in_block, "{length} bytes");
        }
    }

    #[test]
    fn a_block_takes_4040_bytes_of_one_value_and_not_one_more() {
        // 4096 − 32 (header) − 4 (end) − 16 (entry) − 4 (name).
        let fits = vec![1; 4040];
        let too_large = vec![1; 4041];

        assert!(
            lay_out(&[(b"user.a", &fits)])
                .expect("it fits")
                .block
                .is_some()
        );
        let problem = lay_out(&[(b"user.b", b""), (b"user.a", &too_large)]).err();
        assert_eq!(problem, Some(AttributeProblem::TooLarge(1)));
    }

    #[test]
    fn blocks_are_sorted_and_hashed() {
        let value = [0x5a; 100];
        let laid_out = lay_out(&[
            (b"trusted.z", &value),
            (b"user.bb", &value),
            (b"user.c", &value),
        ])
        .expect("they fit");

        let block = laid_out.block.expect("they are too large for the inode");
        let heads: Vec<(u8, u8)> = [32, 52, 72].map(|at| (block[at + 1], block[at])).to_vec();
        assert_eq!(heads, [(1, 1), (1, 2), (4, 1)]);
        assert_eq!(block[48], b'c');
        // One byte of name, then 25 words that cancel out except for the last.
        let hash = (0..25).fold(u32::from(b'c'), |hash: u32, _| {
            hash.rotate_left(16) ^ 0x5a5a_5a5a
        });
        assert_eq!(get_u32(&block[..], 32 + 12), hash);
        assert_ne!(get_u32(&block[..], 12), 0);
    }

    #[test]
    fn names_decide_the_index_and_strangers_are_left_out() {
        let acl = [2, 0, 0, 0, 1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff];
        let laid_out = lay_out(&[
            (b"com.apple.provenance", b"x"),
            (b"system.data", b""),
            (b"user.", b"x"),
            (b"system.posix_acl_access", &acl),
        ])
        .expect("they fit");

        assert_eq!(laid_out.unsupported, 3);
        assert_eq!(laid_out.inline[4..6], [0, 2]);
        let problem = lay_out(&[(b"system.posix_acl_default", b"?")]).err();
        assert_eq!(problem, Some(AttributeProblem::InvalidAcl(0)));
    }
}
