//! Extension headers: PAX records and GNU long names, kept until their member comes.
//!
//! What the records say is not here; see [`crate::tar::pax`].

use std::io::BufRead;

use tar::Header;

use super::Archive;
use crate::error::{Cap, DecodeError, Malformation};

impl<R: BufRead> Archive<'_, R> {
    pub(super) fn read_records(&mut self, header: &Header) -> Result<(), DecodeError> {
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

    pub(super) fn read_global_records(&mut self, header: &Header) -> Result<(), DecodeError> {
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
        // Every member gets a copy of them, so they must not wait for the limits of a member.
        let (count, bytes) = records.xattr_size();
        if count > self.limits.xattrs {
            return Err(self.limit(Cap::Xattrs, self.limits.xattrs as u64));
        }
        if bytes > self.limits.xattr_bytes {
            return Err(self.limit(Cap::XattrBytes, self.limits.xattr_bytes as u64));
        }
        self.global = records;
        Ok(())
    }

    pub(super) fn read_long(&mut self, header: &Header) -> Result<Vec<u8>, DecodeError> {
        let mut body = self.read_extension(header)?;
        let end = body.iter().position(|byte| *byte == 0);
        let end = end.unwrap_or(body.len());
        if end == 0 || body[end..].iter().any(|byte| *byte != 0) {
            return Err(self.malformed(Malformation::LongName));
        }
        body.truncate(end);
        Ok(body)
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

    pub(super) fn refuse_mixed(&self, is_alone: bool) -> Result<(), DecodeError> {
        if is_alone {
            return Ok(());
        }
        Err(self.malformed(Malformation::MixedExtensions))
    }

    pub(super) fn refuse_dangling(&self) -> Result<(), DecodeError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        Err(self.malformed(Malformation::DanglingExtension))
    }
}
