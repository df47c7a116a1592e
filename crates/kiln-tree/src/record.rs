//! How one entry is written in an index, read back, and judged.
//!
//! Little-endian, not aligned, one record right behind the other:
//!
//! ```text
//! u8   kind            1 directory, 2 regular, 3 symlink, 4 hard link, 5 character device,
//!                      6 block device, 7 fifo, 8 socket, 9 whiteout, 10 opaque
//! u8   flags           1 nanoseconds follow, 2 extended attributes follow, 4 sparse
//! u16  mode
//! u32  uid
//! u32  gid
//! i64  seconds
//! u32  nanoseconds     only with flag 1
//! u16  path length     then the path
//! regular              u64 size, u32 first pack block
//! regular, sparse      u64 size, u32 count, then count times
//!                      u64 file block, u32 pack block, u32 blocks
//! symlink, hard link   u16 target length, then the target
//! device               u32 major, u32 minor
//! u32  bytes of attributes, only with flag 2, then for each
//!                      u8 name length, u16 value length, name, value
//! ```
//!
//! The file around the records is not here; see the index.

use crate::entry::{BLOCK_SIZE, Body, Device, Entry, Kind, Segment, Timestamp, Xattr, Xattrs};
use crate::path::{MAX_SYMLINK_BYTES, is_normalised};

const HAS_NANOSECONDS: u8 = 1;
const HAS_XATTRS: u8 = 2;
const IS_SPARSE: u8 = 4;
const KNOWN_FLAGS: u8 = HAS_NANOSECONDS | HAS_XATTRS | IS_SPARSE;

/// Bytes of one segment of a sparse file.
const SEGMENT_BYTES: usize = 16;

/// Bytes in front of an attribute's name.
const XATTR_HEAD_BYTES: usize = 3;

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The record ends early or holds an unknown kind or flag.
    #[error("the record is not well formed")]
    Malformed,
    /// The path or a hard link's target is not normalised.
    #[error("the path is not normalised")]
    Path,
    /// Mode bits beyond `0o7777`.
    #[error("the mode has bits beyond 0o7777")]
    Mode,
    /// Nanoseconds of 10⁹ or more.
    #[error("the time has a whole second of nanoseconds")]
    Time,
    /// A symbolic link's target is empty, too long, or holds a NUL.
    #[error("the link's target is empty, too long, or holds a NUL")]
    Target,
    /// Segments are empty, out of order, overlap, or leave the file or the pack.
    #[error("the file's blocks are out of order or out of range")]
    Segments,
    /// Attributes are out of order, named twice, or too long.
    #[error("the extended attributes are out of order or out of range")]
    Xattrs,
}

/// A record as read: the entry, and where its texts are, counted from the record's start.
pub(crate) struct Record<'a> {
    pub(crate) entry: Entry<'a>,
    pub(crate) path_at: usize,
    pub(crate) target_at: usize,
    pub(crate) len: usize,
}

/// Reads the record at the start of `bytes`; `None` when it is not well formed. Values are not
/// judged; see [`check`].
pub(crate) fn read(bytes: &[u8]) -> Option<Record<'_>> {
    let mut cursor = Cursor { rest: bytes };
    let kind = cursor.u8()?;
    let flags = cursor.u8()?;
    if flags & !KNOWN_FLAGS != 0 {
        return None;
    }
    let mode = cursor.u16()?;
    let uid = cursor.u32()?;
    let gid = cursor.u32()?;
    let mtime = Timestamp {
        seconds: cursor.u64()?.cast_signed(),
        nanoseconds: if flags & HAS_NANOSECONDS == 0 {
            0
        } else {
            cursor.u32()?
        },
    };
    let path_len = usize::from(cursor.u16()?);
    let path_at = bytes.len() - cursor.rest.len();
    let path = cursor.take(path_len)?;
    // Only links have a target; for all others the place is never asked for.
    let target_at = bytes.len() - cursor.rest.len() + size_of::<u16>();
    let kind = cursor.kind(kind, flags)?;
    let xattrs = if flags & HAS_XATTRS == 0 {
        Xattrs::NONE
    } else {
        let len = usize::try_from(cursor.u32()?).ok()?;
        Xattrs::encoded(cursor.take(len)?)
    };
    Some(Record {
        entry: Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        },
        path_at,
        target_at,
        len: bytes.len() - cursor.rest.len(),
    })
}

/// Takes the first segment off `bytes`.
pub(crate) fn next_segment(bytes: &mut &[u8]) -> Option<Segment> {
    let mut cursor = Cursor { rest: bytes };
    let segment = Segment {
        file_block: cursor.u64()?,
        pack_block: u64::from(cursor.u32()?),
        blocks: u64::from(cursor.u32()?),
    };
    *bytes = cursor.rest;
    Some(segment)
}

/// Takes the first attribute off `bytes`.
pub(crate) fn next_xattr<'a>(bytes: &mut &'a [u8]) -> Option<Xattr<'a>> {
    let mut cursor = Cursor { rest: bytes };
    let name_len = usize::from(cursor.u8()?);
    let value_len = usize::from(cursor.u16()?);
    let xattr = Xattr {
        name: cursor.take(name_len)?,
        value: cursor.take(value_len)?,
    };
    *bytes = cursor.rest;
    Some(xattr)
}

/// Appends `entry` to `bytes`; on an error `bytes` may end in a part of it.
pub(crate) fn write(entry: &Entry<'_>, bytes: &mut Vec<u8>) -> Result<(), Defect> {
    let mut flags = 0;
    if entry.mtime.nanoseconds != 0 {
        flags |= HAS_NANOSECONDS;
    }
    if !entry.xattrs.is_empty() {
        flags |= HAS_XATTRS;
    }
    if matches!(entry.kind, Kind::Regular(body) if body.sparse) {
        flags |= IS_SPARSE;
    }
    bytes.extend([kind_number(entry.kind), flags]);
    bytes.extend(entry.mode.to_le_bytes());
    bytes.extend(entry.uid.to_le_bytes());
    bytes.extend(entry.gid.to_le_bytes());
    bytes.extend(entry.mtime.seconds.to_le_bytes());
    if flags & HAS_NANOSECONDS != 0 {
        bytes.extend(entry.mtime.nanoseconds.to_le_bytes());
    }
    write_text(entry.path, Defect::Path, bytes)?;
    match entry.kind {
        Kind::Regular(body) => write_body(&body, bytes)?,
        Kind::Symlink { target } => write_text(target, Defect::Target, bytes)?,
        Kind::Hardlink { target } => write_text(target, Defect::Path, bytes)?,
        Kind::CharDevice(device) | Kind::BlockDevice(device) => {
            bytes.extend(device.major.to_le_bytes());
            bytes.extend(device.minor.to_le_bytes());
        }
        Kind::Directory | Kind::Fifo | Kind::Socket | Kind::Whiteout | Kind::Opaque => {}
    }
    if flags & HAS_XATTRS != 0 {
        write_xattrs(entry.xattrs, bytes)?;
    }
    Ok(())
}

/// Judges every value of `entry`. Bodies lie in the pack in entry order: this one may start at
/// `pack_block` at the earliest. Returns where the next one may.
pub(crate) fn check(entry: &Entry<'_>, pack_block: u64) -> Result<u64, Defect> {
    if !is_normalised(entry.path) {
        return Err(Defect::Path);
    }
    if entry.mode & !0o7777 != 0 {
        return Err(Defect::Mode);
    }
    if entry.mtime.nanoseconds >= 1_000_000_000 {
        return Err(Defect::Time);
    }
    check_xattrs(entry.xattrs)?;
    match entry.kind {
        Kind::Symlink { target } => {
            let fits = (1..=MAX_SYMLINK_BYTES).contains(&target.len()) && !target.contains(&0);
            fits.then_some(pack_block).ok_or(Defect::Target)
        }
        Kind::Hardlink { target } if !is_normalised(target) => Err(Defect::Path),
        Kind::Whiteout if entry.path.is_empty() => Err(Defect::Path),
        Kind::Regular(body) => check_body(&body, pack_block).ok_or(Defect::Segments),
        _ => Ok(pack_block),
    }
}

fn check_body(body: &Body<'_>, earliest: u64) -> Option<u64> {
    let file_blocks = body.size_bytes.div_ceil(BLOCK_SIZE);
    let (mut file_block, mut pack_block) = (0, earliest);
    for segment in body.segments() {
        if segment.blocks == 0 || segment.file_block < file_block || segment.pack_block < pack_block
        {
            return None;
        }
        file_block = segment.file_block.checked_add(segment.blocks)?;
        pack_block = segment.pack_block.checked_add(segment.blocks)?;
    }
    (file_block <= file_blocks && u32::try_from(pack_block).is_ok()).then_some(pack_block)
}

fn check_xattrs(xattrs: Xattrs<'_>) -> Result<(), Defect> {
    let mut last: &[u8] = &[];
    let mut list_bytes = 0;
    for xattr in xattrs.iter() {
        if xattr.name <= last || xattr.name.contains(&0) {
            return Err(Defect::Xattrs);
        }
        last = xattr.name;
        list_bytes += XATTR_HEAD_BYTES + xattr.name.len() + xattr.value.len();
    }
    // A list that ends in the middle of an attribute reads as a shorter one.
    let is_whole = xattrs.encoded_len().is_none_or(|len| len == list_bytes);
    is_whole.then_some(()).ok_or(Defect::Xattrs)
}

fn kind_number(kind: Kind<'_>) -> u8 {
    match kind {
        Kind::Directory => 1,
        Kind::Regular(_) => 2,
        Kind::Symlink { .. } => 3,
        Kind::Hardlink { .. } => 4,
        Kind::CharDevice(_) => 5,
        Kind::BlockDevice(_) => 6,
        Kind::Fifo => 7,
        Kind::Socket => 8,
        Kind::Whiteout => 9,
        Kind::Opaque => 10,
    }
}

fn write_text(text: &[u8], defect: Defect, bytes: &mut Vec<u8>) -> Result<(), Defect> {
    let len = u16::try_from(text.len()).map_err(|_| defect)?;
    bytes.extend(len.to_le_bytes());
    bytes.extend(text);
    Ok(())
}

fn write_body(body: &Body<'_>, bytes: &mut Vec<u8>) -> Result<(), Defect> {
    let narrow = |wide: u64| u32::try_from(wide).map_err(|_| Defect::Segments);
    bytes.extend(body.size_bytes.to_le_bytes());
    if !body.sparse {
        let first = body.segments().next().map_or(0, |whole| whole.pack_block);
        bytes.extend(narrow(first)?.to_le_bytes());
        return Ok(());
    }
    let count = u32::try_from(body.segments().count()).map_err(|_| Defect::Segments)?;
    bytes.extend(count.to_le_bytes());
    for segment in body.segments() {
        bytes.extend(segment.file_block.to_le_bytes());
        bytes.extend(narrow(segment.pack_block)?.to_le_bytes());
        bytes.extend(narrow(segment.blocks)?.to_le_bytes());
    }
    Ok(())
}

fn write_xattrs(xattrs: Xattrs<'_>, bytes: &mut Vec<u8>) -> Result<(), Defect> {
    let mut list = Vec::new();
    for xattr in xattrs.iter() {
        list.push(u8::try_from(xattr.name.len()).map_err(|_| Defect::Xattrs)?);
        let value_len = u16::try_from(xattr.value.len()).map_err(|_| Defect::Xattrs)?;
        list.extend(value_len.to_le_bytes());
        list.extend(xattr.name);
        list.extend(xattr.value);
    }
    let len = u32::try_from(list.len()).map_err(|_| Defect::Xattrs)?;
    bytes.extend(len.to_le_bytes());
    bytes.extend(list);
    Ok(())
}

/// Takes fields off the front of a record.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        self.take(len)
    }

    fn device(&mut self) -> Option<Device> {
        Some(Device {
            major: self.u32()?,
            minor: self.u32()?,
        })
    }

    fn kind(&mut self, number: u8, flags: u8) -> Option<Kind<'a>> {
        let is_sparse = flags & IS_SPARSE != 0;
        Some(match number {
            2 if is_sparse => {
                let size_bytes = self.u64()?;
                let count = usize::try_from(self.u32()?).ok()?;
                let segments = self.take(count.checked_mul(SEGMENT_BYTES)?)?;
                Kind::Regular(Body::encoded(size_bytes, segments))
            }
            _ if is_sparse => return None,
            1 => Kind::Directory,
            2 => Kind::Regular(Body::whole(self.u64()?, u64::from(self.u32()?))),
            3 => Kind::Symlink {
                target: self.text()?,
            },
            4 => Kind::Hardlink {
                target: self.text()?,
            },
            5 => Kind::CharDevice(self.device()?),
            6 => Kind::BlockDevice(self.device()?),
            7 => Kind::Fifo,
            8 => Kind::Socket,
            9 => Kind::Whiteout,
            10 => Kind::Opaque,
            _ => return None,
        })
    }
}
