//! Gives the members of an archive one after the other, extension headers already applied.
//!
//! How a member becomes an entry of an index is not here.
//!
//! ```text
//! bytes        blocks and bodies
//! extensions   PAX records and GNU long names, kept until their member comes
//! members      a member out of its header and what was kept
//! maps         the maps of sparse files
//! ```

mod bytes;
mod extensions;
mod maps;
mod members;

use std::collections::BTreeMap;
use std::io::BufRead;

use kiln_tree::{Device, ShownPath, Timestamp};
use tar::Header;

use crate::error::{Cap, DecodeError, Malformation};
use crate::limits::Limits;
use crate::tar::number;
use crate::tar::pax::Records;
use crate::tar::sparse::Sparse;

const BLOCK: usize = 512;
type Block = [u8; BLOCK];

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

    fn header_size(&self, header: &Header) -> Result<u64, DecodeError> {
        let size = self.number("size", &header.as_old().size)?;
        u64::try_from(size).map_err(|_| self.malformed(Malformation::Number { field: "size" }))
    }

    fn number(&self, field: &'static str, bytes: &[u8]) -> Result<i64, DecodeError> {
        number::header_field(bytes).ok_or_else(|| self.malformed(Malformation::Number { field }))
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
