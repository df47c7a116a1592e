//! A tar archive as a table of files: one pass over the headers, then reads at offsets.
//!
//! Not here: the tars inside layers, which are read by a stricter reader elsewhere. This one
//! serves archives of blobs, and understands what tools write for them: ustar, PAX paths and
//! sizes, GNU long names, links inside the archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar::{EntryType, Header};

use crate::blob::FileRange;
use crate::error::FetchError;

const BLOCK: u64 = 512;

/// Most entries of an archive: 1,024 layers, three legacy files each, several images.
const MAX_ENTRIES: usize = 65_536;

/// Longest body of an extension header, in bytes.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Longest chain of links that is followed.
const MAX_LINKS: usize = 8;

/// A tar file whose headers have been read.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    entries: BTreeMap<String, Place>,
}

#[derive(Debug)]
enum Place {
    Body {
        offset: u64,
        size_bytes: u64,
    },
    /// The name of another entry, already resolved against this one's directory.
    Link(String),
}

/// What extension headers say about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
}

impl Archive {
    /// Reads all headers of `file`, which is called `path` in messages.
    pub(crate) fn scan(file: Arc<File>, path: &Path) -> Result<Self, FetchError> {
        let mut scan = Scan {
            file: &file,
            path,
            offset: 0,
            end: 0,
            entries: BTreeMap::new(),
            extensions: Extensions::default(),
        };
        scan.refuse_compressed()?;
        while scan.step()? {}
        let entries = scan.entries;
        Ok(Self {
            path: path.to_owned(),
            file,
            entries,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where the file `name` lies, following links inside the archive.
    pub(crate) fn find(&self, name: &str) -> Option<FileRange> {
        let mut name = normalised("", name)?;
        for _ in 0..MAX_LINKS {
            match self.entries.get(&name)? {
                Place::Link(target) => name.clone_from(target),
                Place::Body { offset, size_bytes } => {
                    return Some(FileRange::new(self.file.clone(), *offset, *size_bytes));
                }
            }
        }
        None
    }

    /// Reads a small file whole; nothing when there is no such file.
    pub(crate) fn read(&self, name: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, FetchError> {
        self.find(name)
            .map(|range| read_range(range, limit_bytes, &self.path))
            .transpose()
    }
}

/// Reads a range of at most `limit_bytes` whole.
pub(crate) fn read_range(
    mut range: FileRange,
    limit_bytes: u64,
    path: &Path,
) -> Result<Vec<u8>, FetchError> {
    let size_bytes = range.remaining_bytes();
    if size_bytes > limit_bytes {
        return Err(FetchError::Document {
            document: path.display().to_string(),
            source: kiln_domain::oci::DocumentError::TooLarge {
                size_bytes,
                limit_bytes,
            },
        });
    }
    let mut bytes = Vec::new();
    range
        .read_to_end(&mut bytes)
        .map_err(|source| FetchError::Io {
            step: "read",
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}

/// The pass over the headers.
struct Scan<'a> {
    file: &'a File,
    path: &'a Path,
    offset: u64,
    /// Where the body of the last entry ends.
    end: u64,
    entries: BTreeMap<String, Place>,
    extensions: Extensions,
}

impl Scan<'_> {
    fn refuse_compressed(&self) -> Result<(), FetchError> {
        let mut head = [0; 6];
        let count = read_some_at(self.file, &mut head, 0).map_err(|error| self.io(error))?;
        match compression_of(&head[..count]) {
            Some(with) => Err(FetchError::ArchiveCompressed {
                path: self.path.to_owned(),
                with,
            }),
            None => Ok(()),
        }
    }

    /// Reads one header; says whether there may be more.
    fn step(&mut self) -> Result<bool, FetchError> {
        let mut block = [0; 512];
        let count =
            read_some_at(self.file, &mut block, self.offset).map_err(|error| self.io(error))?;
        match count {
            0 if self.is_cut()? => return Err(self.malformed("it is cut short")),
            0 => return Ok(false),
            512 => {}
            _ => return Err(self.malformed("a header is cut off")),
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        let header = Header::from_byte_slice(&block);
        self.check_sum(header, &block)?;
        let header_size = header
            .entry_size()
            .map_err(|_| self.malformed("the size is not a number"))?;
        let body = self.offset + BLOCK;
        let kind = header.entry_type();
        let size_bytes = match kind {
            EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                self.extend(kind, body, header_size)?;
                header_size
            }
            EntryType::XGlobalHeader => header_size,
            EntryType::GNUSparse => return Err(self.malformed("it has a sparse file")),
            _ => self.add(header, kind, body, header_size)?,
        };
        self.end = body.saturating_add(size_bytes);
        self.offset = size_bytes
            .checked_next_multiple_of(BLOCK)
            .and_then(|padded| body.checked_add(padded))
            .ok_or_else(|| self.malformed("the size is absurd"))?;
        Ok(true)
    }

    /// Says whether the file ends within an entry.
    fn is_cut(&self) -> Result<bool, FetchError> {
        let found = self.file.metadata().map_err(|error| self.io(error))?;
        Ok(found.len() < self.end)
    }

    fn check_sum(&self, header: &Header, block: &[u8; 512]) -> Result<(), FetchError> {
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| match at {
                148..156 => u32::from(b' '),
                _ => u32::from(*byte),
            })
            .sum();
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(()),
            _ => Err(self.malformed("the header's checksum is wrong")),
        }
    }

    /// Keeps what an extension header says for the next entry.
    fn extend(&mut self, kind: EntryType, offset: u64, size_bytes: u64) -> Result<(), FetchError> {
        if size_bytes > MAX_EXTENSION_BYTES {
            return Err(self.malformed("an extension header is larger than 1 MiB"));
        }
        let mut body = vec![0; usize::try_from(size_bytes).unwrap_or_default()];
        self.file
            .read_exact_at(&mut body, offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => self.malformed("an extension header is cut off"),
                _ => self.io(error),
            })?;
        let until_nul = |body: &[u8]| {
            let text = body.split(|byte| *byte == 0).next();
            text.unwrap_or_default().to_vec()
        };
        match kind {
            EntryType::GNULongName => self.extensions.path = Some(until_nul(&body)),
            EntryType::GNULongLink => self.extensions.link = Some(until_nul(&body)),
            _ => {
                parse_pax(&body, &mut self.extensions)
                    .map_err(|problem| self.malformed(problem))?;
            }
        }
        Ok(())
    }

    /// Enters a file or a link into the table and returns how many bytes its body has.
    fn add(
        &mut self,
        header: &Header,
        kind: EntryType,
        offset: u64,
        header_size: u64,
    ) -> Result<u64, FetchError> {
        let extensions = std::mem::take(&mut self.extensions);
        let path = extensions
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions
            .link
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let size_bytes = extensions.size_bytes.unwrap_or(header_size);
        if self.entries.len() >= MAX_ENTRIES {
            return Err(self.malformed("there are more than 65,536 entries"));
        }
        // Names that leave the archive or are no text name nothing anybody asks for.
        let Some(name) = text(&path).and_then(|path| normalised("", path)) else {
            return Ok(stored(kind, size_bytes));
        };
        let place = match kind {
            EntryType::Regular | EntryType::Continuous => Some(Place::Body { offset, size_bytes }),
            EntryType::Symlink => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                let target = link.as_deref().and_then(text);
                target
                    .and_then(|target| normalised(directory, target))
                    .map(Place::Link)
            }
            EntryType::Link => {
                let target = link.as_deref().and_then(text);
                target
                    .and_then(|target| normalised("", target))
                    .map(Place::Link)
            }
            _ => None,
        };
        if let Some(place) = place {
            self.entries.insert(name, place);
        }
        Ok(stored(kind, size_bytes))
    }

    fn malformed(&self, problem: &'static str) -> FetchError {
        FetchError::ArchiveMalformed {
            path: self.path.to_owned(),
            offset: self.offset,
            problem,
        }
    }

    fn io(&self, source: io::Error) -> FetchError {
        FetchError::Io {
            step: "read",
            path: self.path.to_owned(),
            source,
        }
    }
}

/// Links, directories and devices have no body, whatever their size field says.
fn stored(kind: EntryType, size_bytes: u64) -> u64 {
    match kind {
        EntryType::Link
        | EntryType::Symlink
        | EntryType::Char
        | EntryType::Block
        | EntryType::Directory
        | EntryType::Fifo => 0,
        _ => size_bytes,
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Joins and simplifies a path inside the archive; nothing when it leaves the archive.
fn normalised(directory: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let start = if path.starts_with('/') { "" } else { directory };
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Reads PAX records, each cut by its own length: `23 path=some/long/name\n`.
fn parse_pax(mut body: &[u8], extensions: &mut Extensions) -> Result<(), &'static str> {
    const BROKEN: &str = "a PAX record does not end where it says";
    while !body.is_empty() {
        let space = body.iter().position(|byte| *byte == b' ').ok_or(BROKEN)?;
        let length: usize = text(&body[..space])
            .and_then(|digits| digits.parse().ok())
            .ok_or(BROKEN)?;
        if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
            return Err(BROKEN);
        }
        let record = &body[space + 1..length - 1];
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or("a PAX record has no value")?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extensions.path = Some(value.to_vec()),
            b"linkpath" => extensions.link = Some(value.to_vec()),
            b"size" => {
                let size = text(value).and_then(|digits| digits.parse().ok());
                extensions.size_bytes = Some(size.ok_or("the size is not a number")?);
            }
            _ if key.starts_with(b"GNU.sparse.") => return Err("it has a sparse file"),
            _ => {}
        }
        body = &body[length..];
    }
    Ok(())
}

/// Names the compression that begins with these bytes.
pub(crate) fn compression_of(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        _ => None,
    }
}

/// Reads until the buffer is full or the file ends.
fn read_some_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
