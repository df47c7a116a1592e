//! A member out of its header and the extension headers in front of it.
//!
//! The maps of sparse files are not here.

use std::io::BufRead;

use kiln_tree::{Device, MAX_SYMLINK_BYTES, ShownPath, Timestamp};
use tar::Header;

use super::{Archive, Member, MemberKind, header_name, until_nul};
use crate::error::{Cap, DecodeError, Malformation};
use crate::tar::acl;
use crate::tar::name::{self, BadName};
use crate::tar::pax::{Records, SparseRecords};

impl<R: BufRead> Archive<'_, R> {
    /// Reads a real member: its header together with all extension headers in front of it.
    pub(super) fn member(&mut self, header: &Header) -> Result<Member, DecodeError> {
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
        if kind != MemberKind::Directory && xattrs.contains_key(acl::Use::Default.attribute()) {
            return Err(self.malformed(Malformation::DefaultAcl));
        }
        // Only the low bits are kept, which no sign or type bit reaches.
        let mut mode = u16::try_from(mode & 0o7777).unwrap_or_default();
        if let Some(group) = records.group_permissions
            && !xattrs.contains_key(acl::Use::Access.attribute())
        {
            mode &= !0o070 | (group << 3);
        }
        Ok(Member {
            path,
            kind,
            mode,
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
