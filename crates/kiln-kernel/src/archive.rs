//! Reads tar archives, strictly: modules on their way in, and the data of Debian packages.
//!
//! ```text
//! │ header 512 │ body, padded to 512 │ header │ … │ two empty blocks │ anything, drained
//! ```
//!
//! Understood: ustar and GNU headers, GNU long names and links, and the `path`, `linkpath` and
//! `size` records of PAX. Anything malformed or ambiguous is an error, as is a name that is
//! absolute or climbs. Not here: OCI layers, which follow other rules, and writing files.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use tar::{EntryType, Header};

const BLOCK_BYTES: usize = 512;
/// Longest body of an extension header, in bytes; a path has at most 4,096.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;
/// Longest path, in bytes (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4096;
/// Longest component of a path, in bytes (`NAME_MAX`).
const MAX_COMPONENT_BYTES: usize = 255;
/// Most components of a path.
const MAX_COMPONENTS: usize = 48;

/// Why an archive was not understood.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It breaks a rule of the format.
    #[error("the archive is damaged: {what}")]
    Malformed {
        /// The rule that is broken.
        what: &'static str,
    },
    /// An entry has a name that could lead elsewhere or be misread.
    #[error("the archive has an entry with a bad name: {}", path.display())]
    BadName {
        /// The name.
        path: PathBuf,
    },
    /// Reading it failed.
    #[error("cannot read the archive")]
    Read {
        /// Why.
        source: io::Error,
    },
}

/// One entry. Its body is read from the archive it came from.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The components of its path: never empty ones, `.` or `..`; none at all for the root.
    pub(crate) components: Vec<OsString>,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular {
        size_bytes: u64,
    },
    Directory,
    Link {
        target: OsString,
    },
    /// A hard link, a device, a pipe.
    Other,
}

/// An archive that is read entry by entry.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    input: R,
    /// Bytes of the current body, and of its padding, that were not read yet.
    body_left: u64,
    padding_left: u64,
}

/// What extension headers say about the entry that follows them.
#[derive(Debug, Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link_path: Option<Vec<u8>>,
    size_bytes: Option<u64>,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            body_left: 0,
            padding_left: 0,
        }
    }

    /// Goes on to the next entry; `None` once the end was found and everything behind it read.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_body()?;
            let Some(header) = self.next_header()? else {
                if extensions.is_empty() {
                    return Ok(None);
                }
                return Err(malformed("an extension header with nothing behind it"));
            };
            let size_bytes = octal(&header.as_old().size)?;
            match header.entry_type() {
                EntryType::GNULongName => {
                    let name = self.read_text(size_bytes)?;
                    extensions.set_long_name(name)?;
                }
                EntryType::GNULongLink => {
                    let link = self.read_text(size_bytes)?;
                    extensions.set_long_link(link)?;
                }
                EntryType::XHeader => {
                    let records = self.read_extension(size_bytes)?;
                    extensions.set_pax(Pax::parse(&records)?)?;
                }
                kind => return self.entry(&header, kind, size_bytes, extensions).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size_bytes: u64,
        extensions: Extensions,
    ) -> Result<Entry, ArchiveError> {
        let pax = extensions.pax.unwrap_or_default();
        let path = pax.path.or(extensions.long_name);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.link_path.or(extensions.long_link);
        let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let size_bytes = pax.size_bytes.unwrap_or(size_bytes);
        let components = components(&path)?;
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous => Kind::Regular { size_bytes },
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Link {
                target: OsString::from_vec(
                    link.ok_or_else(|| malformed("a symbolic link to nothing"))?,
                ),
            },
            EntryType::Link | EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Other,
            _ => return Err(malformed("an entry of unknown kind")),
        };
        if let Kind::Regular { size_bytes } = kind {
            self.begin_body(size_bytes)?;
        } else if size_bytes != 0 && kind != Kind::Other {
            return Err(malformed("a body where none can be"));
        }
        Ok(Entry { components, kind })
    }

    /// Returns a reader of what is left of the current entry's body.
    pub(crate) fn body(&mut self) -> impl Read + use<'_, R> {
        Body { archive: self }
    }

    fn begin_body(&mut self, size_bytes: u64) -> Result<(), ArchiveError> {
        let end = size_bytes.checked_next_multiple_of(BLOCK_BYTES as u64);
        let end = end.ok_or_else(|| malformed("a body longer than any archive"))?;
        self.body_left = size_bytes;
        self.padding_left = end - size_bytes;
        Ok(())
    }

    fn skip_body(&mut self) -> Result<(), ArchiveError> {
        io::copy(&mut self.body(), &mut io::sink()).map_err(cannot_read)?;
        let padding = std::mem::take(&mut self.padding_left);
        let skipped = io::copy(&mut self.input.by_ref().take(padding), &mut io::sink())
            .map_err(cannot_read)?;
        if skipped < padding {
            return Err(malformed("it is cut short"));
        }
        Ok(())
    }

    /// Reads the next header that is not empty; `None` at the end, whose rest is read as well.
    fn next_header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let Some(block) = self.next_block()? else {
            // A sender that died looks just like this: what came may be half of it.
            return Err(malformed("it ends without an end marker"));
        };
        if block.iter().all(|byte| *byte == 0) {
            if self
                .next_block()?
                .is_some_and(|block| block != [0; BLOCK_BYTES])
            {
                return Err(malformed("an entry behind an empty block"));
            }
            // A checksum of the compression around this shows only at its end, and a sender
            // whose pipe closes early takes it for a failure.
            io::copy(&mut self.input, &mut io::sink()).map_err(cannot_read)?;
            return Ok(None);
        }
        check_sum(&block)?;
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        Ok(Some(header))
    }

    fn next_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, ArchiveError> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        self.input
            .by_ref()
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut bytes)
            .map_err(cannot_read)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        match bytes.first_chunk() {
            Some(block) => Ok(Some(*block)),
            None => Err(malformed("it is cut short")),
        }
    }

    fn read_extension(&mut self, size_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        if size_bytes > MAX_EXTENSION_BYTES {
            return Err(malformed("an extension header of more than 64 KiB"));
        }
        self.begin_body(size_bytes)?;
        let mut content = Vec::new();
        self.body().read_to_end(&mut content).map_err(cannot_read)?;
        Ok(content)
    }

    /// Reads a long name, which a NUL may end.
    fn read_text(&mut self, size_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut text = self.read_extension(size_bytes)?;
        if text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }
}

struct Body<'a, R> {
    archive: &'a mut Archive<R>,
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.archive.body_left;
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if length == 0 {
            return Ok(0);
        }
        let read = self.archive.input.read(&mut buffer[..length])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.archive.body_left -= read as u64;
        Ok(read)
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_link.is_none() && self.pax.is_none()
    }

    fn set_long_name(&mut self, name: Vec<u8>) -> Result<(), ArchiveError> {
        if self.pax.is_some() || self.long_name.replace(name).is_some() {
            return Err(malformed("two names for one entry"));
        }
        Ok(())
    }

    fn set_long_link(&mut self, link: Vec<u8>) -> Result<(), ArchiveError> {
        if self.pax.is_some() || self.long_link.replace(link).is_some() {
            return Err(malformed("two targets for one link"));
        }
        Ok(())
    }

    fn set_pax(&mut self, pax: Pax) -> Result<(), ArchiveError> {
        if self.is_empty() {
            self.pax = Some(pax);
            return Ok(());
        }
        Err(malformed("two extension headers for one entry"))
    }
}

impl Pax {
    /// Reads records, each cut by its own length: `<length> <key>=<value>\n`.
    fn parse(mut records: &[u8]) -> Result<Self, ArchiveError> {
        let bad = || malformed("a PAX record that does not end where it says");
        let mut pax = Self::default();
        while !records.is_empty() {
            let space = records
                .iter()
                .position(|byte| *byte == b' ')
                .ok_or_else(bad)?;
            let length = decimal(&records[..space]).ok_or_else(bad)?;
            let length = usize::try_from(length).map_err(|_| bad())?;
            if length <= space + 1 || length > records.len() {
                return Err(bad());
            }
            let (record, rest) = records.split_at(length);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(bad)?;
            pax.set(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link_path = Some(value.to_vec()),
            b"size" => {
                let size = decimal(value);
                self.size_bytes = Some(size.ok_or_else(|| malformed("a PAX size of no number"))?);
            }
            key if key.starts_with(b"GNU.sparse.") => return Err(malformed("a sparse file")),
            // Times, owners and extended attributes: modules have no use for them.
            _ => {}
        }
        Ok(())
    }
}

/// Takes a path apart. Leading and inner `.` are left out, everything else that is odd refused.
fn components(path: &[u8]) -> Result<Vec<OsString>, ArchiveError> {
    let bad = || ArchiveError::BadName {
        path: PathBuf::from(OsStr::from_bytes(&path[..path.len().min(MAX_PATH_BYTES)])),
    };
    let plain = path.strip_suffix(b"/").unwrap_or(path);
    if plain.is_empty() || plain.len() > MAX_PATH_BYTES || plain.contains(&0) {
        return Err(bad());
    }
    let parts: Vec<OsString> = plain
        .split(|byte| *byte == b'/')
        .filter(|part| *part != b".")
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect();
    let odd = |part: &OsString| part.is_empty() || part == ".." || part.len() > MAX_COMPONENT_BYTES;
    if parts.len() > MAX_COMPONENTS || parts.iter().any(odd) {
        return Err(bad());
    }
    Ok(parts)
}

/// Compares the checksum of a header: the sum of its bytes, those of the checksum as spaces.
fn check_sum(block: &[u8; BLOCK_BYTES]) -> Result<(), ArchiveError> {
    let (before, rest) = block.split_at(148);
    let (field, behind) = rest.split_at(8);
    let sum: u64 = before
        .iter()
        .chain(behind)
        .map(|byte| u64::from(*byte))
        .sum();
    if octal(field)? == sum + 8 * u64::from(b' ') {
        Ok(())
    } else {
        Err(malformed("a header whose checksum is wrong"))
    }
}

/// Reads an octal number that spaces may lead and that a space or NUL ends.
fn octal(field: &[u8]) -> Result<u64, ArchiveError> {
    let text = field.trim_ascii_start();
    let length = text
        .iter()
        .position(|byte| matches!(byte, 0 | b' '))
        .unwrap_or(text.len());
    if text[length..].iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return Err(malformed("a number that is not octal"));
    }
    text[..length]
        .iter()
        .try_fold(0_u64, |number, digit| match digit {
            b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        })
        .ok_or_else(|| malformed("a number that is not octal"))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn malformed(what: &'static str) -> ArchiveError {
    ArchiveError::Malformed { what }
}

fn cannot_read(source: io::Error) -> ArchiveError {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        return malformed("it is cut short");
    }
    ArchiveError::Read { source }
}

#[cfg(test)]
mod tests;
