//! Indexed directories: names in hash order, under one or two levels of index blocks.
//!
//! ```text
//! dx_root   "." | ".." over the rest | at 24: 0 u32, hash version u8, 8 u8, levels u8, 0 u8
//!           at 32: limit u16, count u16, block u32 | then (hash u32, block u32) ... | tail 8
//! dx_node   one empty entry over the block | at 8: limit, count, block | (hash, block) ... | tail 8
//! leaf      entries | tail 12
//! ```
//!
//! The blocks' logical order is root, nodes, leaves. A leaf's key is the hash of its first
//! name, with bit 0 set when the leaf before ends with the same hash (the search must then look
//! at both).
//!
//! Not here: the hash, see `name_hash`; entries and leaf tails, see `directory`.

use std::ops::Range;

use crate::bytes::{BLOCK_BYTES, Block, put_u16, put_u32};
use crate::crc::Checksum;
use crate::directory::{DirectoryProblem, ENTRIES_BYTES, Entry, Leaf, LeafFill, Place, put_entry};
use crate::inode::FileType;
use crate::name_hash::{END_OF_DIRECTORY, NameHash, NameHasher};

/// Where the index of a `dx_root` begins.
const ROOT_OFFSET: usize = 32;

/// Where the index of a `dx_node` begins.
const NODE_OFFSET: usize = 8;

/// Index entries of a `dx_root`: (4096 − 32 − 8) / 8.
const ROOT_LIMIT: usize = 507;

/// Index entries of a `dx_node`: (4096 − 8 − 8) / 8.
const NODE_LIMIT: usize = 510;

/// `half_md4`; the superblock's flag says "signed".
const HASH_VERSION: u8 = 1;

/// The bit of a leaf's key that says "the leaf before ends with this hash too".
const CONTINUED: u32 = 1;

/// The names of an indexed directory in hash order, cut into leaves.
#[derive(Debug)]
pub(crate) struct Index {
    /// Positions in the caller's entries.
    order: Vec<u32>,
    leaves: Vec<LeafSpan>,
    /// Blocks between the root and the leaves.
    nodes: usize,
}

/// One leaf: which part of the order it holds, and its key.
#[derive(Debug)]
struct LeafSpan {
    names: Range<usize>,
    key: u32,
}

impl Index {
    pub(crate) fn new(
        entries: &[Entry<'_>],
        hasher: &NameHasher,
        fill: LeafFill,
    ) -> Result<Self, DirectoryProblem> {
        let mut keyed = Vec::with_capacity(entries.len());
        for (position, entry) in entries.iter().enumerate() {
            let position = u32::try_from(position).map_err(|_| DirectoryProblem::TooLarge)?;
            keyed.push((hasher.hash(entry.name), position));
        }
        // Entries arrive sorted by name, so their position breaks ties by name bytes.
        keyed.sort_unstable();

        let leaves = cut(entries, &keyed, fill)?;
        Ok(Self {
            order: keyed.into_iter().map(|(_, position)| position).collect(),
            nodes: nodes_above(leaves.len()).ok_or(DirectoryProblem::TooLarge)?,
            leaves,
        })
    }

    pub(crate) fn blocks(&self) -> u32 {
        u32::try_from(1 + self.nodes + self.leaves.len()).unwrap_or(u32::MAX)
    }
}

/// Cuts names in hash order into leaves.
fn cut(
    entries: &[Entry<'_>],
    keyed: &[(NameHash, u32)],
    fill: LeafFill,
) -> Result<Vec<LeafSpan>, DirectoryProblem> {
    let bytes_of = |(_, position): &(NameHash, u32)| entries[*position as usize].record_bytes();
    let mut leaves: Vec<LeafSpan> = Vec::new();
    let mut used = 0;
    for (place, name) in keyed.iter().enumerate() {
        let bytes = bytes_of(name);
        match leaves.last_mut() {
            Some(leaf) if used + bytes <= fill.bytes() => {
                leaf.names.end = place + 1;
                used += bytes;
            }
            _ => {
                leaves.push(LeafSpan::new(keyed, place..place + 1));
                used = bytes;
            }
        }
    }

    // The kernel looks for names with the reserved hash just below it. It finds them if they
    // are all in the last leaf and do not begin it.
    let reserved = keyed.partition_point(|(hash, _)| hash.major < END_OF_DIRECTORY);
    let begins_a_leaf = |leaf: &LeafSpan| leaf.names.start > 0 && leaf.names.start >= reserved;
    if reserved < keyed.len() && leaves.last().is_some_and(begins_a_leaf) {
        let start = reserved.saturating_sub(1);
        if keyed[start..].iter().map(bytes_of).sum::<usize>() > ENTRIES_BYTES {
            return Err(DirectoryProblem::ReservedHash(keyed[reserved].1 as usize));
        }
        leaves.retain(|leaf| leaf.names.start < start);
        if let Some(before) = leaves.last_mut() {
            before.names.end = start;
        }
        leaves.push(LeafSpan::new(keyed, start..keyed.len()));
    }
    Ok(leaves)
}

impl LeafSpan {
    fn new(keyed: &[(NameHash, u32)], names: Range<usize>) -> Self {
        let first = keyed[names.start].0.major;
        let continues = names.start > 0 && keyed[names.start - 1].0.major == first;
        Self {
            names,
            key: first | if continues { CONTINUED } else { 0 },
        }
    }
}

/// Index blocks between the root and so many leaves: none while the root reaches all of them;
/// nothing when two levels are not enough (more would need the `largedir` feature).
fn nodes_above(leaves: usize) -> Option<usize> {
    match leaves {
        0..=ROOT_LIMIT => Some(0),
        _ => Some(leaves.div_ceil(NODE_LIMIT)).filter(|nodes| *nodes <= ROOT_LIMIT),
    }
}

/// Makes the blocks in logical order.
pub(crate) fn emit<E>(
    place: &Place,
    index: &Index,
    entries: &[Entry<'_>],
    sink: &mut impl FnMut(&Block) -> Result<(), E>,
) -> Result<(), E> {
    let nodes = index.nodes;
    let key_of = |leaf: usize| (index.leaves[leaf].key, block_number(1 + nodes + leaf));

    let mut root = dx_root(place, u8::from(nodes > 0));
    if nodes == 0 {
        let children = (0..index.leaves.len()).map(key_of);
        put_index(&mut root, ROOT_OFFSET, ROOT_LIMIT, children, place.checksum);
    } else {
        let children = (0..nodes).map(|node| {
            let first_leaf = index.leaves[node * NODE_LIMIT].key;
            (first_leaf, block_number(1 + node))
        });
        put_index(&mut root, ROOT_OFFSET, ROOT_LIMIT, children, place.checksum);
    }
    sink(&root)?;

    for node in 0..nodes {
        let mut block = dx_node();
        let first = node * NODE_LIMIT;
        let children = (first..index.leaves.len().min(first + NODE_LIMIT)).map(key_of);
        put_index(
            &mut block,
            NODE_OFFSET,
            NODE_LIMIT,
            children,
            place.checksum,
        );
        sink(&block)?;
    }
    for span in &index.leaves {
        let mut leaf = Leaf::new();
        for position in &index.order[span.names.clone()] {
            leaf.push(&entries[*position as usize]);
        }
        sink(leaf.finish(place.checksum))?;
    }
    Ok(())
}

fn dx_root(place: &Place, levels: u8) -> Box<Block> {
    let mut block = Box::new([0; BLOCK_BYTES]);
    let dots = [
        (&b"."[..], place.number, 0, 12),
        (b"..", place.parent, 12, BLOCK_BYTES - 12),
    ];
    for (name, number, offset, record_bytes) in dots {
        let entry = Entry {
            name,
            number,
            file_type: FileType::Directory,
        };
        put_entry(&mut block[..], offset, &entry, record_bytes);
    }
    block[28] = HASH_VERSION;
    block[29] = 8;
    block[30] = levels;
    block
}

fn dx_node() -> Box<Block> {
    let mut block = Box::new([0; BLOCK_BYTES]);
    put_u16(&mut block[..], 4, 4096);
    block
}

/// Writes the index entries and the tail; the first child's key gives way to the counts.
fn put_index(
    block: &mut Block,
    offset: usize,
    limit: usize,
    children: impl Iterator<Item = (u32, u32)>,
    checksum: Checksum,
) {
    let mut count = 0;
    for (key, child) in children {
        let at = offset + count * 8;
        put_u32(&mut block[..], at, key);
        put_u32(&mut block[..], at + 4, child);
        count += 1;
    }
    let field = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
    put_u16(&mut block[..], offset, field(limit));
    put_u16(&mut block[..], offset + 2, field(count));

    // Covered: everything up to the last used entry, the tail's reserved word, and a zero in
    // place of the checksum (`ext4_dx_csum`).
    let sum = checksum
        .feed(&block[..offset + count * 8])
        .feed(&[0; 8])
        .value();
    put_u32(&mut block[..], offset + limit * 8 + 4, sum);
}

/// Logical block numbers stay below 2¹⁸ here.
fn block_number(block: usize) -> u32 {
    u32::try_from(block).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::get_u32;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{n:0>120}")).collect()
    }

    fn entries(names: &[String]) -> Vec<Entry<'_>> {
        names
            .iter()
            .map(|name| Entry {
                name: name.as_bytes(),
                number: 12,
                file_type: FileType::Regular,
            })
            .collect()
    }

    fn blocks(index: &Index, entries: &[Entry<'_>]) -> Vec<Block> {
        let place = Place {
            number: 12,
            parent: 2,
            checksum: Checksum::from(5),
        };
        let mut blocks = Vec::new();
        let sunk: Result<(), std::convert::Infallible> =
            emit(&place, index, entries, &mut |block| {
                blocks.push(*block);
                Ok(())
            });
        assert!(sunk.is_ok(), "the sink never fails");
        blocks
    }

    #[test]
    fn a_second_level_starts_at_508_leaves() {
        // Names of 120 bytes: records of 128 bytes, 31 to a full leaf.
        let hasher = NameHasher::new(&[3; 16]);
        let names = names(508 * 31);
        let entries = entries(&names);
        for (count, levels, total) in [(507 * 31, 0, 508), (507 * 31 + 1, 1, 1 + 1 + 508)] {
            let index =
                Index::new(&entries[..count], &hasher, LeafFill::Full).expect("it has a layout");
            let blocks = blocks(&index, &entries);

            assert_eq!(blocks[0][30], levels, "{count} names");
            assert_eq!(blocks.len(), total, "{count} names");
            assert_eq!(index.blocks() as usize, total, "{count} names");
        }
    }

    #[test]
    fn two_levels_reach_258570_leaves() {
        let cases = [
            (1, Some(0)),
            (507, Some(0)),
            (508, Some(1)),
            (511, Some(2)),
            (258_570, Some(507)),
            (258_571, None),
        ];
        for (leaves, want) in cases {
            assert_eq!(nodes_above(leaves), want, "{leaves} leaves");
        }
    }

    #[test]
    fn leaves_are_in_hash_order_and_keys_are_their_first_hashes() {
        let hasher = NameHasher::new(&[4; 16]);
        let names = names(1000);
        let entries = entries(&names);
        let index = Index::new(&entries, &hasher, LeafFill::FourFifths).expect("it has a layout");

        let blocks = blocks(&index, &entries);

        let count = blocks.len() - 1;
        assert_eq!(blocks[0][32..34], 507_u16.to_le_bytes());
        assert_eq!(usize::from(blocks[0][34]), count);
        let mut last = 0;
        for leaf in 0..count {
            let name = &blocks[1 + leaf][8..128];
            let hash = hasher.hash(name).major;
            assert!(hash >= last, "leaf {leaf}");
            if leaf > 0 {
                assert_eq!(get_u32(&blocks[0], 32 + leaf * 8), hash, "leaf {leaf}");
            }
            last = hash;
        }
    }

    #[test]
    fn a_name_with_the_reserved_hash_never_begins_a_leaf() {
        // Found by search, for this seed.
        let hasher = NameHasher::new(&[1; 16]);
        let reserved = "2c51fc13";
        assert_eq!(hasher.hash(reserved.as_bytes()).major, END_OF_DIRECTORY);
        // 31 records of 128 bytes and 4 of 28 leave 4 bytes of a leaf; the reserved name needs
        // 16, so that with 4 others the cut would fall in front of it.
        for extra in 0..8 {
            let mut names = names(31);
            names.extend((0..extra).map(|n| format!("{n:0>20}")));
            names.push(reserved.to_owned());
            names.sort();
            let entries = entries(&names);

            let index = Index::new(&entries, &hasher, LeafFill::Full).expect("it has a layout");

            let last = index.leaves.last().expect("a leaf");
            assert_eq!(last.names.end, names.len(), "{extra} names");
            assert!(
                index.leaves.len() == 1 || last.key < END_OF_DIRECTORY,
                "{extra} names"
            );
            let spans = index.leaves.windows(2);
            assert!(
                spans
                    .into_iter()
                    .all(|pair| pair[0].names.end == pair[1].names.start)
            );
        }
    }

    #[test]
    fn names_with_the_reserved_hash_must_fit_one_leaf() {
        // The same name over and over: what matters is the hash.
        let hasher = NameHasher::new(&[1; 16]);
        let most = ENTRIES_BYTES / 16 - 1;
        for (count, want) in [
            (most, None),
            (most + 1, Some(DirectoryProblem::ReservedHash(1))),
        ] {
            let mut names = vec!["00000000".to_owned()];
            names.resize(1 + count, "2c51fc13".to_owned());
            let entries = entries(&names);

            let got = Index::new(&entries, &hasher, LeafFill::FourFifths).err();

            assert_eq!(got, want, "{count} names");
        }
    }

    #[test]
    fn a_hash_that_spans_two_leaves_sets_the_continuation_bit() {
        // Two names with one hash, found by search; the first leaf is filled so that it ends
        // between them.
        let hasher = NameHasher::new(&[5; 16]);
        let mut seen = std::collections::BTreeMap::new();
        let pair = (0_u32..)
            .find_map(|n| {
                let name = format!("{n:0>120}");
                let other = seen.insert(hasher.hash(name.as_bytes()).major, name.clone());
                other.map(|other| [other, name])
            })
            .expect("31 bits collide early");
        let hash = hasher.hash(pair[0].as_bytes()).major;
        let mut names: Vec<String> = (0_u32..)
            .map(|n| format!("{n:a>120}"))
            .filter(|name| hasher.hash(name.as_bytes()).major < hash)
            .take(30)
            .collect();
        names.extend(pair);
        names.sort();

        let index = Index::new(&entries(&names), &hasher, LeafFill::Full).expect("it has a layout");

        assert_eq!(index.leaves.len(), 2);
        assert_eq!(index.leaves[1].key, hash | 1);
    }
}
