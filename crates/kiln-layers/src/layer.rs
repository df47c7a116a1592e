//! Turns the members of an archive into the bodies and the index of a pack.
//!
//! Where the bytes come from, and the parts of a pack behind the bodies, are not here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufRead;

use kiln_tree::{
    BLOCK_SIZE, Body, Entry, Index, IndexBuilder, IndexError, Kind, Name, Segment, Xattr, Xattrs,
    classify,
};

use crate::error::{Cap, DecodeError, Malformation};
use crate::limits::Limits;
use crate::tar::{Archive, Member, MemberKind, Sparse};
use crate::writer::{PackWriter, ZERO_BLOCK};

/// Attributes with these prefixes belong to the storage driver that made the layer.
const DROPPED_XATTRS: &[&[u8]] = &[b"trusted.overlay.", b"user.overlay."];

/// Longest name of an attribute, in bytes (`XATTR_NAME_MAX` of Linux).
const XATTR_NAME_BYTES: usize = 255;

/// A layer that was read to its end.
pub(crate) struct Parsed<'f> {
    pub(crate) index: Index,
    /// The pack, which still lacks what stands behind the bodies.
    pub(crate) pack: PackWriter<'f>,
    pub(crate) tar_bytes: u64,
}

/// Reads the whole archive, and what follows it, and writes the bodies to `output`.
pub(crate) fn read<'f>(
    input: impl BufRead,
    output: &'f File,
    limits: &Limits,
) -> Result<Parsed<'f>, DecodeError> {
    let mut layer = Layer {
        archive: Archive::new(input, limits),
        limits,
        pack: PackWriter::new(output),
        index: IndexBuilder::new(),
    };
    while let Some(member) = layer.archive.next_member()? {
        layer.add(&member)?;
    }
    Ok(Parsed {
        index: layer.index.finish(),
        pack: layer.pack,
        tar_bytes: layer.archive.drain()?,
    })
}

struct Layer<'l, 'f, R> {
    archive: Archive<'l, R>,
    limits: &'l Limits,
    pack: PackWriter<'f>,
    index: IndexBuilder,
}

impl<R: BufRead> Layer<'_, '_, R> {
    fn add(&mut self, member: &Member) -> Result<(), DecodeError> {
        let name =
            classify(&member.path).map_err(|_| self.archive.malformed(Malformation::Whiteout))?;
        match name {
            Name::Ordinary => self.add_entry(member),
            Name::Whiteout { hidden } => self.add_marker(member, &hidden, Kind::Whiteout),
            Name::Opaque { directory } => self.add_marker(member, &directory, Kind::Opaque),
            Name::Ignored => Ok(()),
        }
    }

    fn add_entry(&mut self, member: &Member) -> Result<(), DecodeError> {
        let xattrs = self.xattrs(&member.xattrs)?;
        let segments;
        let kind = match &member.kind {
            MemberKind::Directory => Kind::Directory,
            MemberKind::Regular {
                stored_bytes,
                sparse: None,
            } => {
                let first = self.pack.next_block();
                self.copy(*stored_bytes)?;
                self.pack.end_block()?;
                Kind::Regular(Body::whole(*stored_bytes, first))
            }
            MemberKind::Regular {
                sparse: Some(sparse),
                ..
            } => {
                segments = self.copy_sparse(sparse)?;
                Kind::Regular(Body::sparse(sparse.size_bytes, &segments))
            }
            MemberKind::Symlink(target) => Kind::Symlink { target },
            MemberKind::Hardlink(target) => Kind::Hardlink { target },
            MemberKind::CharDevice(device) => Kind::CharDevice(*device),
            MemberKind::BlockDevice(device) => Kind::BlockDevice(*device),
            MemberKind::Fifo => Kind::Fifo,
        };
        self.push(member, &member.path, kind, Xattrs::sorted(&xattrs))
    }

    /// A whiteout says nothing but its name; a body, if it has one, is skipped.
    fn add_marker(
        &mut self,
        member: &Member,
        path: &[u8],
        kind: Kind<'_>,
    ) -> Result<(), DecodeError> {
        self.push(member, path, kind, Xattrs::NONE)
    }

    fn push(
        &mut self,
        member: &Member,
        path: &[u8],
        kind: Kind<'_>,
        xattrs: Xattrs<'_>,
    ) -> Result<(), DecodeError> {
        let pushed: Result<(), IndexError> = self.index.push(&Entry {
            path,
            kind,
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            xattrs,
        });
        pushed.map_err(|source| DecodeError::Index { source })?;
        if self.index.size_bytes() > self.limits.index_bytes {
            let limit = self.limits.index_bytes as u64;
            return Err(self.archive.limit(Cap::IndexBytes, limit));
        }
        Ok(())
    }

    /// Copies `count` bytes of the current member's body into the pack.
    fn copy(&mut self, count: u64) -> Result<(), DecodeError> {
        let mut left = count;
        while left > 0 {
            let bytes = self.archive.next_bytes()?;
            let wanted = usize::try_from(left).unwrap_or(usize::MAX);
            let taken = bytes.len().min(wanted);
            if taken == 0 {
                // The archive says how long the body is, so this would be a wrong map.
                return Err(self.archive.malformed(Malformation::SparseMap));
            }
            self.pack.append(&bytes[..taken])?;
            self.archive.consume(taken);
            left -= taken as u64;
        }
        Ok(())
    }

    /// Copies the ranges of a sparse file, each put at its place within a block, and returns which
    /// blocks of the file they fill.
    fn copy_sparse(&mut self, sparse: &Sparse) -> Result<Vec<Segment>, DecodeError> {
        let mut segments: Vec<Segment> = Vec::new();
        // Where in the file the last range ended; the pack stands at the same place of a block.
        let mut end = 0;
        for (offset, length) in &sparse.ranges {
            let block = offset / BLOCK_SIZE;
            let is_same_block = !end_is_aligned(end) && end / BLOCK_SIZE == block;
            if is_same_block {
                self.fill(offset - end)?;
            } else {
                self.pack.end_block()?;
                let next = segments.last().map(|last| last.file_block + last.blocks);
                if next != Some(block) {
                    segments.push(Segment {
                        file_block: block,
                        pack_block: self.pack.next_block(),
                        blocks: 0,
                    });
                }
                self.fill(offset % BLOCK_SIZE)?;
            }
            self.copy(*length)?;
            end = offset + length;
            if let Some(last) = segments.last_mut() {
                last.blocks = end.div_ceil(BLOCK_SIZE) - last.file_block;
            }
        }
        self.pack.end_block()?;
        Ok(segments)
    }

    /// Appends fewer zeros than a block has.
    fn fill(&mut self, count: u64) -> Result<(), DecodeError> {
        let count = usize::try_from(count % BLOCK_SIZE).unwrap_or_default();
        self.pack.append(&ZERO_BLOCK[..count])
    }

    /// Picks the attributes that belong to the image, and judges them.
    fn xattrs<'m>(
        &self,
        found: &'m BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Vec<Xattr<'m>>, DecodeError> {
        let is_dropped = |name: &[u8]| {
            let mut prefixes = DROPPED_XATTRS.iter();
            prefixes.any(|prefix| name.starts_with(prefix))
        };
        let kept: Vec<_> = found
            .iter()
            .filter(|(name, _)| !is_dropped(name))
            .map(|(name, value)| Xattr { name, value })
            .collect();
        let longest = kept.iter().map(|xattr| xattr.name.len()).max();
        if longest.is_some_and(|longest| longest > XATTR_NAME_BYTES) {
            return Err(self
                .archive
                .limit(Cap::XattrNameBytes, XATTR_NAME_BYTES as u64));
        }
        if kept.len() > self.limits.xattrs {
            return Err(self.archive.limit(Cap::Xattrs, self.limits.xattrs as u64));
        }
        let bytes: usize = kept
            .iter()
            .map(|xattr| xattr.name.len() + xattr.value.len())
            .sum();
        if bytes > self.limits.xattr_bytes {
            let limit = self.limits.xattr_bytes as u64;
            return Err(self.archive.limit(Cap::XattrBytes, limit));
        }
        Ok(kept)
    }
}

fn end_is_aligned(end: u64) -> bool {
    end.is_multiple_of(BLOCK_SIZE)
}
