//! Reads archives, and refuses what the kernel would read differently or not at all.

use std::borrow::Cow;
use std::io::{self, Read};

use super::{
    ALIGNMENT, CpioEntry, CpioError, CpioLimits, CpioNode, HEADER_BYTES, KIND_BLOCK,
    KIND_CHARACTER, KIND_DIRECTORY, KIND_FILE, KIND_LINK, KIND_MASK, MAGIC, PATH_MAX,
    PERMISSIONS_MASK, TRAILER, path_fault, to_path,
};
use crate::compression::{XZ_MEMORY_BYTES, ZSTD_WINDOW_LOG};
use crate::error::KernelError;
use crate::facts::Compression;

/// Where the fields of a header begin, in bytes.
const INODE_AT: usize = 6;
const MODE_AT: usize = 14;
const LINKS_AT: usize = 38;
const SIZE_AT: usize = 54;
const DEVICE_MAJOR_AT: usize = 78;
const DEVICE_MINOR_AT: usize = 86;
const NAME_BYTES_AT: usize = 94;

/// Reads one plain archive, behind which only NULs may follow.
pub fn read_cpio(bytes: &[u8], limits: CpioLimits) -> Result<Vec<CpioEntry<'_>>, CpioError> {
    if bytes.len() as u64 > limits.bytes {
        return Err(CpioError::TooMuch { limits });
    }
    let mut entries = Vec::new();
    let mut reader = Reader {
        bytes,
        at: 0,
        limits,
    };
    reader.archive(&mut entries)?;
    let rest = bytes.get(reader.at..).unwrap_or_default();
    if rest.iter().any(|byte| *byte != 0) {
        return Err(malformed(reader.at, "something follows the archive"));
    }
    Ok(entries)
}

/// Reads what the kernel takes as an initrd: archives in a row, plain or compressed.
///
/// Later entries come later; the kernel lets them replace earlier ones. An archive that the kernel
/// would pass over is an error. The limits hold for everything together, unpacked.
pub fn read_initramfs(
    bytes: &[u8],
    limits: CpioLimits,
) -> Result<Vec<CpioEntry<'static>>, CpioError> {
    let mut entries = Vec::new();
    let mut left_bytes = limits.bytes;
    let mut at = 0;
    while let Some(start) = next_part(bytes, at) {
        let part = bytes.get(start..).unwrap_or_default();
        let mut found = Vec::new();
        let plain;
        let plain_bytes = if part.starts_with(b"0707") {
            if start % ALIGNMENT != 0 {
                return Err(CpioError::Misaligned { offset: start });
            }
            let mut reader = Reader {
                bytes,
                at: start,
                limits,
            };
            reader.archive(&mut found)?;
            at = reader.at;
            at - start
        } else {
            let used;
            (plain, used) = unpack(part, start, left_bytes, limits)?;
            let mut reader = Reader {
                bytes: &plain,
                at: 0,
                limits,
            };
            reader.archives(&mut found)?;
            at = start + used;
            plain.len()
        };
        let left = left_bytes.checked_sub(plain_bytes as u64);
        left_bytes = left.ok_or(CpioError::TooMuch { limits })?;
        if found.len() + entries.len() > limits.entries as usize {
            return Err(CpioError::TooMuch { limits });
        }
        entries.extend(found.into_iter().map(owned));
    }
    Ok(entries)
}

/// Returns where the next part begins: behind any number of NULs.
fn next_part(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    rest.iter()
        .position(|byte| *byte != 0)
        .map(|skip| at + skip)
}

/// Unpacks one compressed part, and says how many bytes it has.
fn unpack(
    part: &[u8],
    start: usize,
    left_bytes: u64,
    limits: CpioLimits,
) -> Result<(Vec<u8>, usize), CpioError> {
    let compression = match Compression::of(part) {
        Ok(Some(compression)) => compression,
        Err(KernelError::Unsupported { what }) => return Err(CpioError::Unsupported { what }),
        Ok(None) | Err(_) => return Err(malformed(start, "it is no archive")),
    };
    let mut rest = part;
    let mut plain = Vec::new();
    let most = left_bytes.saturating_add(1);
    // Decoders of buffered input take what belongs to them and not a byte more.
    let read = match compression {
        Compression::Gzip => flate2::bufread::GzDecoder::new(&mut rest)
            .take(most)
            .read_to_end(&mut plain),
        Compression::Xz => liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES, 0)
            .map_err(io::Error::from)
            .and_then(|stream| {
                liblzma::bufread::XzDecoder::new_stream(&mut rest, stream)
                    .take(most)
                    .read_to_end(&mut plain)
            }),
        Compression::Zstd => zstd::stream::read::Decoder::with_buffer(&mut rest)
            .and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Ok(decoder.single_frame())
            })
            .and_then(|decoder| decoder.take(most).read_to_end(&mut plain)),
        Compression::Lz4 => {
            return Err(CpioError::Unsupported {
                what: "lz4 compression",
            });
        }
    };
    read.map_err(|source| CpioError::Corrupt {
        compression,
        source,
    })?;
    if plain.len() as u64 > left_bytes {
        return Err(CpioError::TooMuch { limits });
    }
    Ok((plain, part.len() - rest.len()))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    limits: CpioLimits,
}

impl<'a> Reader<'a> {
    /// Reads archives up to the end.
    fn archives(&mut self, entries: &mut Vec<CpioEntry<'a>>) -> Result<(), CpioError> {
        while let Some(start) = next_part(self.bytes, self.at) {
            if start % ALIGNMENT != 0 {
                return Err(CpioError::Misaligned { offset: start });
            }
            self.at = start;
            self.archive(entries)?;
        }
        Ok(())
    }

    /// Reads one archive, with its trailer.
    fn archive(&mut self, entries: &mut Vec<CpioEntry<'a>>) -> Result<(), CpioError> {
        while let Some(entry) = self.entry()? {
            if entries.len() >= self.limits.entries as usize {
                return Err(CpioError::TooMuch {
                    limits: self.limits,
                });
            }
            entries.push(entry);
        }
        Ok(())
    }

    /// Reads one entry; `None` is the trailer.
    fn entry(&mut self) -> Result<Option<CpioEntry<'a>>, CpioError> {
        let start = self.at;
        let header = self.take(HEADER_BYTES, start)?;
        if !header.starts_with(MAGIC) {
            return Err(malformed(start, "an entry does not begin with 070701"));
        }
        let field = |at: usize| field_at(header, at, start);
        let name_bytes = field(NAME_BYTES_AT)? as usize;
        if !(1..=PATH_MAX).contains(&name_bytes) {
            return Err(malformed(
                start,
                "a name is longer than 4095 bytes, or empty",
            ));
        }
        let name = self.take(name_bytes, start)?;
        let Some((&0, name)) = name.split_last() else {
            return Err(malformed(start, "a name does not end with a NUL"));
        };
        self.skip_padding(start)?;
        if name == TRAILER {
            if field(SIZE_AT)? != 0 {
                return Err(malformed(start, "the trailer has a content"));
            }
            return Ok(None);
        }
        let content = self.take(field(SIZE_AT)? as usize, start)?;
        self.skip_padding(start)?;
        let device = (field(DEVICE_MAJOR_AT)?, field(DEVICE_MINOR_AT)?);
        let mode = field(MODE_AT)?;
        let links = field(LINKS_AT)?;
        Ok(Some(CpioEntry {
            path: to_path(plain_name(name).map_err(|what| malformed(start, what))?),
            permissions: mode & PERMISSIONS_MASK,
            inode: field(INODE_AT)?,
            links,
            node: node(mode & KIND_MASK, content, device).map_err(|what| malformed(start, what))?,
        }))
    }

    fn take(&mut self, length: usize, start: usize) -> Result<&'a [u8], CpioError> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(malformed(start, "it breaks off"))?;
        self.at += length;
        Ok(taken)
    }

    /// Passes over the padding, which the kernel does not look at, so neither may anybody else.
    fn skip_padding(&mut self, start: usize) -> Result<(), CpioError> {
        let length = self.at.next_multiple_of(ALIGNMENT) - self.at;
        let padding = self.take(length, start)?;
        if padding.iter().all(|byte| *byte == 0) {
            Ok(())
        } else {
            Err(malformed(start, "its padding is not of NULs"))
        }
    }
}

/// Takes the `./` off that some programs put in front; `.` is the top.
fn plain_name(name: &[u8]) -> Result<&[u8], &'static str> {
    let plain = name.strip_prefix(b"./").unwrap_or(name);
    if plain == b"." || (plain.is_empty() && !name.is_empty()) {
        return Ok(b"");
    }
    path_fault(plain).map_or(Ok(plain), Err)
}

fn node(
    kind: u32,
    content: &[u8],
    (major, minor): (u32, u32),
) -> Result<CpioNode<'_>, &'static str> {
    match kind {
        KIND_FILE => return Ok(CpioNode::File(Cow::Borrowed(content))),
        KIND_LINK if content.is_empty() || content.contains(&0) || content.len() >= PATH_MAX => {
            return Err("the target of a link is empty, too long or has a NUL in it");
        }
        KIND_LINK => return Ok(CpioNode::Link(Cow::Borrowed(content))),
        _ => {}
    }
    if !content.is_empty() {
        return Err("something that is no file and no link has a content");
    }
    match kind {
        KIND_DIRECTORY => Ok(CpioNode::Directory),
        KIND_CHARACTER => Ok(CpioNode::CharacterDevice { major, minor }),
        KIND_BLOCK => Ok(CpioNode::BlockDevice { major, minor }),
        _ => Err("an entry is a pipe, a socket or of no known kind"),
    }
}

fn field_at(header: &[u8], at: usize, start: usize) -> Result<u32, CpioError> {
    let digits = header.get(at..at + 8).unwrap_or_default();
    // The parser of the standard library would take a sign.
    let text = std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    text.and_then(|text| u32::from_str_radix(text, 16).ok())
        .ok_or(malformed(start, "a field is not of hexadecimal digits"))
}

fn owned(entry: CpioEntry<'_>) -> CpioEntry<'static> {
    let node = match entry.node {
        CpioNode::Directory => CpioNode::Directory,
        CpioNode::File(content) => CpioNode::File(Cow::Owned(content.into_owned())),
        CpioNode::Link(target) => CpioNode::Link(Cow::Owned(target.into_owned())),
        CpioNode::CharacterDevice { major, minor } => CpioNode::CharacterDevice { major, minor },
        CpioNode::BlockDevice { major, minor } => CpioNode::BlockDevice { major, minor },
    };
    CpioEntry {
        path: entry.path,
        permissions: entry.permissions,
        inode: entry.inode,
        links: entry.links,
        node,
    }
}

fn malformed(offset: usize, what: &'static str) -> CpioError {
    CpioError::Malformed { offset, what }
}
