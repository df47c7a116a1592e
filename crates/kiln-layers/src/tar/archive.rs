//! Gives the members of an archive one after the other, extension headers already applied.
//!
//! How a member becomes an entry of an index is not here.

use std::collections::BTreeMap;
use std::io::BufRead;

use kiln_tree::{Device, MAX_SYMLINK_BYTES, ShownPath, Timestamp};
use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::error::{Cap, DecodeError, Malformation};
use crate::limits::Limits;
use crate::tar::name::{self, BadName};
use crate::tar::number;
use crate::tar::pax::{Records, SparseRecords};
use crate::tar::sparse::Sparse;

const BLOCK: usize = 512;
type Block = [u8; BLOCK];

/// Longest decimal line of a PAX 1.0 sparse map, its newline included.
const MAP_LINE_BYTES: usize = 21;

/// An archive being read.
///
/// What it returns for a member, and which error for a malformed one, depends on the bytes alone
/// and not on how they arrive.
pub(crate) struct Archive<'l, R> {
    input: R,
    limits: &'l Limits,
    /// Bytes taken from `input`.
    position: u64,
    /// Bytes of the current member's body that nobody took yet.
    body_left: u64,
    /// Filling behind the current member's body.
    padding: u64,
    /// Members so far.
    members: u64,
    /// Where the current member's header is, and what it is called, for errors.
    member_at: u64,
    member_name: Vec<u8>,
    global: Records,
    pending: Pending,
}

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Normalised; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: MemberKind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    Directory,
    Regular {
        /// Bytes in the archive, to be taken with [`Archive::next_bytes`].
        stored_bytes: u64,
        sparse: Option<Sparse>,
    },
    Symlink(Vec<u8>),
    /// The target is normalised.
    Hardlink(Vec<u8>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

/// Extension headers that wait for their member.
#[derive(Default)]
struct Pending {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.records.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

impl<'l, R: BufRead> Archive<'l, R> {
    pub(crate) fn new(input: R, limits: &'l Limits) -> Self {
        Self {
            input,
            limits,
            position: 0,
            body_left: 0,
            padding: 0,
            members: 0,
            member_at: 0,
            member_name: Vec::new(),
            global: Records::default(),
            pending: Pending::default(),
        }
    }

    /// Returns the next member, or `None` at the end marker or the end of the input. What is left
    /// of the last member's body is skipped.
    pub(crate) fn next_member(&mut self) -> Result<Option<Member>, DecodeError> {
        loop {
            self.skip_body()?;
            self.member_at = self.position;
            let Some(block) = self.next_header()? else {
                self.refuse_dangling()?;
                return Ok(None);
            };
            let header = Header::from_byte_slice(&block);
            match header.as_old().linkflag[0] {
                b'x' => self.read_records(header)?,
                b'g' => self.read_global_records(header)?,
                b'L' => {
                    let name = self.read_long(header)?;
                    let is_first = self.pending.long_name.replace(name).is_none();
                    self.refuse_mixed(is_first && self.pending.records.is_none())?;
                }
                b'K' => {
                    let link = self.read_long(header)?;
                    let is_first = self.pending.long_link.replace(link).is_none();
                    self.refuse_mixed(is_first && self.pending.records.is_none())?;
                }
                // A volume label says nothing about the image.
                b'V' => self.skip_label(header)?,
                _ => return self.member(header).map(Some),
            }
        }
    }

    /// Returns the next bytes of the current member's body; empty when it is over.
    ///
    /// The bytes must be given back to [`Archive::consume`].
    pub(crate) fn next_bytes(&mut self) -> Result<&[u8], DecodeError> {
        if self.body_left == 0 {
            return Ok(&[]);
        }
        // The borrow checker does not see that the bytes are returned only when there are some,
        // so the input is asked twice; the second time costs nothing.
        if fill(&mut self.input)?.is_empty() {
            return Err(self.malformed(Malformation::TruncatedBody));
        }
        let bytes = fill(&mut self.input)?;
        let wanted = usize::try_from(self.body_left).unwrap_or(usize::MAX);
        Ok(&bytes[..bytes.len().min(wanted)])
    }

    /// Says how many of the bytes of [`Archive::next_bytes`] were used.
    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.position += count as u64;
        self.body_left -= count as u64;
    }

    /// Reads whatever follows the end marker, and returns the length of the input.
    pub(crate) fn drain(mut self) -> Result<u64, DecodeError> {
        loop {
            let count = fill(&mut self.input)?.len();
            if count == 0 {
                return Ok(self.position);
            }
            self.input.consume(count);
            self.position += count as u64;
        }
    }

    /// Makes the error for something wrong with the current member.
    pub(crate) fn malformed(&self, reason: Malformation) -> DecodeError {
        DecodeError::Malformed {
            path: ShownPath::new(&self.member_name),
            at: self.member_at,
            reason,
        }
    }

    /// Makes the error for a limit that the current member crosses.
    pub(crate) fn limit(&self, cap: Cap, limit: u64) -> DecodeError {
        DecodeError::Limit {
            cap,
            limit,
            path: ShownPath::new(&self.member_name),
            at: self.member_at,
        }
    }

    fn next_header(&mut self) -> Result<Option<Block>, DecodeError> {
        self.member_name.clear();
        let Some(block) = self.next_block(Malformation::TruncatedHeader)? else {
            return Ok(None);
        };
        if block == [0; BLOCK] {
            let second = self.next_block(Malformation::TruncatedHeader)?;
            return match second {
                Some(second) if second != [0; BLOCK] => {
                    Err(self.malformed(Malformation::LoneZeroBlock))
                }
                _ => Ok(None),
            };
        }
        let header = Header::from_byte_slice(&block);
        self.member_name = header_name(header);
        if !is_checksum_right(&block) {
            return Err(self.malformed(Malformation::Checksum));
        }
        Ok(Some(block))
    }

    /// Reads one block; `None` when the input ends right in front of it.
    fn next_block(&mut self, truncated: Malformation) -> Result<Option<Block>, DecodeError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = fill(&mut self.input)?;
            if bytes.is_empty() {
                break;
            }
            let count = bytes.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&bytes[..count]);
            self.input.consume(count);
            filled += count;
        }
        self.position += filled as u64;
        match filled {
            BLOCK => Ok(Some(block)),
            0 => Ok(None),
            _ => Err(self.malformed(truncated)),
        }
    }

    fn skip_body(&mut self) -> Result<(), DecodeError> {
        self.skip_bytes()?;
        self.body_left = std::mem::take(&mut self.padding);
        self.skip_bytes()
    }

    fn skip_bytes(&mut self) -> Result<(), DecodeError> {
        loop {
            let count = self.next_bytes()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    /// Announces a body of `size` bytes behind the header just read.
    fn start_body(&mut self, size: u64) {
        self.body_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn header_size(&self, header: &Header) -> Result<u64, DecodeError> {
        let size = self.number("size", &header.as_old().size)?;
        u64::try_from(size).map_err(|_| self.malformed(Malformation::Number { field: "size" }))
    }

    fn number(&self, field: &'static str, bytes: &[u8]) -> Result<i64, DecodeError> {
        number::header_field(bytes).ok_or_else(|| self.malformed(Malformation::Number { field }))
    }

    fn read_extension(&mut self, header: &Header) -> Result<Vec<u8>, DecodeError> {
        let size = self.header_size(header)?;
        if size > self.limits.extension_bytes {
            return Err(self.limit(Cap::ExtensionBytes, self.limits.extension_bytes));
        }
        self.start_body(size);
        let mut body = Vec::new();
        loop {
            let bytes = match self.next_bytes() {
                Ok(bytes) => bytes,
                Err(DecodeError::Malformed { .. }) => {
                    return Err(self.malformed(Malformation::TruncatedHeader));
                }
                Err(error) => return Err(error),
            };
            let count = bytes.len();
            if count == 0 {
                break;
            }
            body.extend_from_slice(bytes);
            self.consume(count);
        }
        self.skip_body()?;
        Ok(body)
    }

    fn read_records(&mut self, header: &Header) -> Result<(), DecodeError> {
        let body = self.read_extension(header)?;
        let is_alone = self.pending.is_empty();
        self.refuse_mixed(is_alone)?;
        let mut records = self.global.clone();
        records
            .read(&body)
            .map_err(|reason| self.malformed(reason))?;
        self.check_ranges(&records.sparse)?;
        self.pending.records = Some(records);
        Ok(())
    }

    fn read_global_records(&mut self, header: &Header) -> Result<(), DecodeError> {
        let body = self.read_extension(header)?;
        let is_alone = self.pending.is_empty();
        self.refuse_mixed(is_alone)?;
        let mut records = self.global.clone();
        records
            .read(&body)
            .map_err(|reason| self.malformed(reason))?;
        if records.name_one_entry() {
            return Err(self.malformed(Malformation::GlobalRecord));
        }
        if records.xattr_bytes() > self.limits.extension_bytes {
            return Err(self.limit(Cap::ExtensionBytes, self.limits.extension_bytes));
        }
        self.global = records;
        Ok(())
    }

    fn read_long(&mut self, header: &Header) -> Result<Vec<u8>, DecodeError> {
        let mut body = self.read_extension(header)?;
        let end = body.iter().position(|byte| *byte == 0);
        let end = end.unwrap_or(body.len());
        if end == 0 || body[end..].iter().any(|byte| *byte != 0) {
            return Err(self.malformed(Malformation::LongName));
        }
        body.truncate(end);
        Ok(body)
    }

    fn refuse_mixed(&self, is_alone: bool) -> Result<(), DecodeError> {
        if is_alone {
            return Ok(());
        }
        Err(self.malformed(Malformation::MixedExtensions))
    }

    fn refuse_dangling(&self) -> Result<(), DecodeError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        Err(self.malformed(Malformation::DanglingExtension))
    }

    fn skip_label(&mut self, header: &Header) -> Result<(), DecodeError> {
        self.refuse_dangling()?;
        self.count_member()?;
        let size = self.header_size(header)?;
        self.start_body(size);
        Ok(())
    }

    fn count_member(&mut self) -> Result<(), DecodeError> {
        self.members += 1;
        if self.members > self.limits.entries {
            return Err(self.limit(Cap::Entries, self.limits.entries));
        }
        Ok(())
    }

    /// Reads a real member: its header together with all extension headers in front of it.
    fn member(&mut self, header: &Header) -> Result<Member, DecodeError> {
        let pending = std::mem::take(&mut self.pending);
        let mut records = pending.records.unwrap_or_else(|| self.global.clone());
        let raw_name = [
            records.sparse.name.take(),
            records.path.take(),
            pending.long_name,
        ]
        .into_iter()
        .flatten()
        .next()
        .unwrap_or_else(|| header_name(header));
        self.member_name.clone_from(&raw_name);
        self.count_member()?;
        let path = self.normalise(&raw_name)?;
        let raw_link = [records.linkpath.take(), pending.long_link]
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_else(|| until_nul(&header.as_old().linkname).to_vec());
        let old = header.as_old();
        let mode = self.number("mode", &old.mode)?;
        let uid = self.id(records.uid, "uid", &old.uid)?;
        let gid = self.id(records.gid, "gid", &old.gid)?;
        let mtime = match records.mtime {
            Some(mtime) => mtime,
            None => Timestamp {
                seconds: self.number("mtime", &old.mtime)?,
                nanoseconds: 0,
            },
        };
        let xattrs = records.take_xattrs();
        let kind = self.kind(header, &raw_name, &raw_link, &records)?;
        Ok(Member {
            path,
            kind,
            // Only the low bits are kept, which no sign or type bit reaches.
            mode: u16::try_from(mode & 0o7777).unwrap_or_default(),
            uid,
            gid,
            mtime,
            xattrs,
        })
    }

    fn kind(
        &mut self,
        header: &Header,
        raw_name: &[u8],
        raw_link: &[u8],
        records: &Records,
    ) -> Result<MemberKind, DecodeError> {
        let stored_bytes = match records.size {
            Some(size) => size,
            None => self.header_size(header)?,
        };
        let typeflag = header.as_old().linkflag[0];
        let is_file = matches!(typeflag, b'0' | 0 | b'7' | b'S');
        if !is_file && records.sparse != SparseRecords::default() {
            return Err(self.malformed(Malformation::SparseMap));
        }
        // Before POSIX, a directory was a file whose name ends in a slash.
        let is_old_directory = typeflag == 0 && raw_name.last() == Some(&b'/');
        let is_bodiless = matches!(typeflag, b'2'..=b'6') || is_old_directory;
        if is_bodiless && stored_bytes != 0 {
            return Err(self.malformed(Malformation::UnexpectedBody));
        }
        match typeflag {
            _ if is_old_directory => Ok(MemberKind::Directory),
            b'0' | 0 | b'7' | b'S' => self.regular(header, raw_name, stored_bytes, records),
            // No reader looks for bytes behind a hard link, whatever its size says.
            b'1' => Ok(MemberKind::Hardlink(self.hardlink_target(raw_link)?)),
            b'2' => self.symlink(raw_link),
            b'3' => Ok(MemberKind::CharDevice(self.device(header)?)),
            b'4' => Ok(MemberKind::BlockDevice(self.device(header)?)),
            b'5' => Ok(MemberKind::Directory),
            b'6' => Ok(MemberKind::Fifo),
            _ => Err(DecodeError::UnsupportedEntry {
                path: ShownPath::new(raw_name),
                at: self.member_at,
                typeflag,
            }),
        }
    }

    fn regular(
        &mut self,
        header: &Header,
        raw_name: &[u8],
        stored_bytes: u64,
        records: &Records,
    ) -> Result<MemberKind, DecodeError> {
        if raw_name.last() == Some(&b'/') {
            return Err(self.malformed(Malformation::TrailingSlash));
        }
        if i64::try_from(stored_bytes).is_err() {
            return Err(self.malformed(Malformation::Number { field: "size" }));
        }
        let is_old_gnu = header.as_old().linkflag[0] == b'S';
        let has_records = records.sparse != SparseRecords::default();
        if is_old_gnu && has_records {
            return Err(self.malformed(Malformation::SparseMap));
        }
        let sparse = if is_old_gnu {
            Some(self.old_gnu_sparse(header, stored_bytes)?)
        } else if has_records {
            Some(self.pax_sparse(&records.sparse, stored_bytes)?)
        } else {
            None
        };
        if sparse.is_none() {
            self.start_body(stored_bytes);
        }
        Ok(MemberKind::Regular {
            stored_bytes: self.body_left,
            sparse,
        })
    }

    /// Reads the map of an old GNU sparse file: four ranges in the header, then blocks of 21.
    fn old_gnu_sparse(
        &mut self,
        header: &Header,
        stored_bytes: u64,
    ) -> Result<Sparse, DecodeError> {
        let broken = |archive: &Self| archive.malformed(Malformation::SparseMap);
        let Some(gnu) = header.as_gnu() else {
            return Err(broken(self));
        };
        let mut ranges = Vec::new();
        self.push_ranges(&gnu.sparse, &mut ranges)?;
        let mut is_extended = gnu.isextended[0] != 0;
        while is_extended {
            let Some(block) = self.next_block(Malformation::TruncatedHeader)? else {
                return Err(self.malformed(Malformation::TruncatedHeader));
            };
            let mut extension = GnuExtSparseHeader::new();
            extension.as_mut_bytes().copy_from_slice(&block);
            self.push_ranges(&extension.sparse, &mut ranges)?;
            is_extended = extension.isextended[0] != 0;
        }
        let size = self.number("size", &gnu.realsize)?;
        let size_bytes = u64::try_from(size).map_err(|_| broken(self))?;
        self.start_body(stored_bytes);
        Sparse::new(size_bytes, ranges, stored_bytes).ok_or_else(|| broken(self))
    }

    fn push_ranges(
        &self,
        found: &[GnuSparseHeader],
        ranges: &mut Vec<(u64, u64)>,
    ) -> Result<(), DecodeError> {
        for range in found {
            // Places that are not used are empty.
            if range.offset[0] == 0 && range.numbytes[0] == 0 {
                continue;
            }
            let number = |bytes: &[u8]| {
                let number = number::header_field(bytes).map(u64::try_from);
                match number {
                    Some(Ok(number)) => Ok(number),
                    _ => Err(self.malformed(Malformation::SparseMap)),
                }
            };
            ranges.push((number(&range.offset)?, number(&range.numbytes)?));
        }
        self.check_range_count(ranges.len())
    }

    fn check_ranges(&self, sparse: &SparseRecords) -> Result<(), DecodeError> {
        self.check_range_count(sparse.numbers.len() / 2)?;
        self.check_range_count(sparse.map.as_ref().map_or(0, Vec::len))
    }

    fn check_range_count(&self, count: usize) -> Result<(), DecodeError> {
        if count > self.limits.sparse_ranges {
            return Err(self.limit(Cap::SparseRanges, self.limits.sparse_ranges as u64));
        }
        Ok(())
    }

    /// Finds the map of a sparse file in its PAX records, or in front of its bytes.
    fn pax_sparse(
        &mut self,
        records: &SparseRecords,
        stored_bytes: u64,
    ) -> Result<Sparse, DecodeError> {
        let broken = |archive: &Self| archive.malformed(Malformation::SparseMap);
        self.start_body(stored_bytes);
        let (size_bytes, ranges) = match (records.major, records.minor) {
            (Some(1), Some(0)) => {
                let size = records.realsize.ok_or_else(|| broken(self))?;
                (size, self.read_map()?)
            }
            (None | Some(0), None | Some(0 | 1)) => {
                let size = records.size.ok_or_else(|| broken(self))?;
                let (pairs, rest) = records.numbers.as_chunks();
                let pairs = pairs.iter().map(|[offset, length]| (*offset, *length));
                let ranges = match &records.map {
                    Some(map) if records.numbers.is_empty() => map.clone(),
                    None if rest.is_empty() => pairs.collect(),
                    _ => return Err(broken(self)),
                };
                if records
                    .count
                    .is_some_and(|count| count != ranges.len() as u64)
                {
                    return Err(broken(self));
                }
                (size, ranges)
            }
            _ => return Err(broken(self)),
        };
        Sparse::new(size_bytes, ranges, self.body_left).ok_or_else(|| broken(self))
    }

    /// Reads the map of PAX 1.0 off the front of the body: the number of ranges, then their
    /// offsets and lengths, a line each, filled to a block.
    fn read_map(&mut self) -> Result<Vec<(u64, u64)>, DecodeError> {
        let start = self.position;
        let count = self.read_map_line()?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.check_range_count(count)?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            ranges.push((self.read_map_line()?, self.read_map_line()?));
        }
        let mut filling = (self.position - start).wrapping_neg() % BLOCK as u64;
        while filling > 0 {
            let available = self.next_bytes()?.len() as u64;
            if available == 0 {
                return Err(self.malformed(Malformation::SparseMap));
            }
            let count = available.min(filling);
            self.consume(usize::try_from(count).unwrap_or_default());
            filling -= count;
        }
        Ok(ranges)
    }

    fn read_map_line(&mut self) -> Result<u64, DecodeError> {
        let mut line = Vec::new();
        loop {
            let Some(byte) = self.next_bytes()?.first().copied() else {
                return Err(self.malformed(Malformation::SparseMap));
            };
            self.consume(1);
            if byte == b'\n' {
                break;
            }
            line.push(byte);
            if line.len() >= MAP_LINE_BYTES {
                return Err(self.malformed(Malformation::SparseMap));
            }
        }
        number::decimal(&line).ok_or_else(|| self.malformed(Malformation::SparseMap))
    }

    fn id(
        &self,
        record: Option<u64>,
        field: &'static str,
        bytes: &[u8],
    ) -> Result<u32, DecodeError> {
        let id = match record {
            Some(id) => u32::try_from(id).ok(),
            None => u32::try_from(self.number(field, bytes)?).ok(),
        };
        id.ok_or_else(|| self.malformed(Malformation::Id))
    }

    fn device(&self, header: &Header) -> Result<Device, DecodeError> {
        let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            _ => return Err(self.malformed(Malformation::Number { field: "device" })),
        };
        let number = |bytes: &[u8]| {
            u32::try_from(self.number("device", bytes)?)
                .map_err(|_| self.malformed(Malformation::Number { field: "device" }))
        };
        Ok(Device {
            major: number(major)?,
            minor: number(minor)?,
        })
    }

    fn symlink(&self, target: &[u8]) -> Result<MemberKind, DecodeError> {
        if target.is_empty() {
            return Err(self.malformed(Malformation::EmptyTarget));
        }
        if target.len() > MAX_SYMLINK_BYTES {
            return Err(self.limit(Cap::SymlinkBytes, MAX_SYMLINK_BYTES as u64));
        }
        Ok(MemberKind::Symlink(target.to_vec()))
    }

    fn hardlink_target(&self, target: &[u8]) -> Result<Vec<u8>, DecodeError> {
        if target.is_empty() {
            return Err(self.malformed(Malformation::EmptyTarget));
        }
        self.normalise(target)
    }

    fn normalise(&self, name: &[u8]) -> Result<Vec<u8>, DecodeError> {
        name::normalise(name).map_err(|bad| match bad {
            BadName::Malformed(reason) => self.malformed(reason),
            BadName::Limit(cap, limit) => self.limit(cap, limit),
        })
    }
}

fn fill(input: &mut impl BufRead) -> Result<&[u8], DecodeError> {
    input
        .fill_buf()
        .map_err(|source| DecodeError::Input { source })
}

/// Puts a header's name together. POSIX headers have a prefix of 155 bytes, those of star one of
/// 131 in front of its times; GNU and older ones have none.
fn header_name(header: &Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    let Some(ustar) = header.as_ustar() else {
        return name.to_vec();
    };
    let is_star = header.as_bytes()[508..] == *b"tar\0";
    let prefix_bytes = if is_star { 131 } else { 155 };
    let prefix = until_nul(&ustar.prefix[..prefix_bytes]);
    match prefix {
        b"" => name.to_vec(),
        _ => [prefix, b"/", name].concat(),
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// Compares a header's checksum with the sum of its bytes, taken without sign as POSIX says or
/// with it as some old systems did.
fn is_checksum_right(block: &Block) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let Some(stored) = number::header_field(&block[FIELD]) else {
        return false;
    };
    let bytes = block.iter().enumerate();
    let (unsigned, signed) = bytes.fold((0_i64, 0_i64), |(unsigned, signed), (at, byte)| {
        let byte = if FIELD.contains(&at) { b' ' } else { *byte };
        (
            unsigned + i64::from(byte),
            signed + i64::from(byte.cast_signed()),
        )
    });
    stored == unsigned || stored == signed
}
