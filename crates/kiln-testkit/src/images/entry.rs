//! One entry of a layer, and its bytes in a tar archive.
//!
//! Headers are written field by field rather than by a tar library's builder, because images in
//! the wild use forms that builders do not make: PAX and GNU extensions side by side, times
//! before 1970 with fractions, sparse files of both kinds, names that are no UTF-8.
//!
//! ```text
//! [PAX records 'x' | GNU long name 'L', long link 'K']  header  body padded to 512
//! ```

use std::io::Write;

use anyhow::{Context, Result, bail};
use tar::{EntryType, Header};

const BLOCK_BYTES: usize = 512;

/// Largest numbers that the octal fields of a header hold.
const MAX_OCTAL_ID: u32 = 0o7_777_777;

/// Longest name or link target that fits its header field, in bytes.
const MAX_SHORT_NAME: usize = 100;

/// A moment: `seconds` since 1970 plus `nanoseconds`, which count forward also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// The rest, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Which extension of tar carries what a plain header cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Extended headers with `key=value` records.
    Pax,
    /// GNU: entries with long names, base-256 numbers, sparse maps in the header.
    Gnu,
}

/// A stretch of data in a sparse file; what lies between is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A regular file with these bytes.
    File(Vec<u8>),
    /// A regular file stored as its extents only.
    Sparse {
        /// Length of the file, in bytes.
        size_bytes: u64,
        /// Its data, in order.
        extents: Vec<Extent>,
    },
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    Hardlink(Vec<u8>),
    /// A character device with its major and minor number.
    CharacterDevice(u32, u32),
    /// A block device with its major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path without a leading slash; the root itself is empty.
    pub path: Vec<u8>,
    /// What it is.
    pub body: Body,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Moment,
    /// Extended attributes by full name.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// How what does not fit the header is written.
    pub dialect: Dialect,
}

impl Moment {
    /// A whole number of seconds since 1970.
    pub const fn at(seconds: i64) -> Self {
        Self {
            seconds,
            nanoseconds: 0,
        }
    }

    fn to_pax(self) -> String {
        let Self {
            seconds,
            nanoseconds,
        } = self;
        match (seconds, nanoseconds) {
            (seconds, 0) => seconds.to_string(),
            (0.., _) => format!("{seconds}.{nanoseconds:09}"),
            // -0.25 s is 0.75 s after -1 s.
            _ => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
        }
    }
}

impl Entry {
    /// A file of mode 0644.
    pub fn file(path: impl Into<Vec<u8>>, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Body::File(bytes.into()), 0o644)
    }

    /// A sparse file of mode 0644.
    pub fn sparse(path: impl Into<Vec<u8>>, size_bytes: u64, extents: Vec<Extent>) -> Self {
        Self::new(
            path,
            Body::Sparse {
                size_bytes,
                extents,
            },
            0o644,
        )
    }

    /// A directory of mode 0755.
    pub fn directory(path: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Body::Directory, 0o755)
    }

    /// A symbolic link.
    pub fn symlink(path: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Body::Symlink(target.into()), 0o777)
    }

    /// Another name of `target`, of mode 0644 in its own header.
    pub fn hardlink(path: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Body::Hardlink(target.into()), 0o644)
    }

    /// The mark that hides `path` of the layers below.
    pub fn whiteout(path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let slash = if parent.is_empty() { "" } else { "/" };
        Self::new(
            format!("{parent}{slash}.wh.{name}"),
            Body::File(Vec::new()),
            0o644,
        )
    }

    /// The mark that hides everything the layers below have in `directory`.
    pub fn opaque(directory: &str) -> Self {
        let path = format!("{directory}/.wh..wh..opq");
        Self::new(path, Body::File(Vec::new()), 0o644)
    }

    /// An entry of any kind, owned by root, last changed at 1,700,000,000 s.
    pub fn new(path: impl Into<Vec<u8>>, body: Body, mode: u32) -> Self {
        Self {
            path: path.into(),
            body,
            mode,
            uid: 0,
            gid: 0,
            mtime: Moment::at(1_700_000_000),
            xattrs: Vec::new(),
            dialect: Dialect::Pax,
        }
    }

    /// The same with other permission bits.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// The same with another owner and group.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// The same with another time.
    #[must_use]
    pub fn mtime(self, seconds: i64, nanoseconds: u32) -> Self {
        let mtime = Moment {
            seconds,
            nanoseconds,
        };
        Self { mtime, ..self }
    }

    /// The same with one more extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.xattrs.push((name.to_owned(), value.into()));
        self
    }

    /// The same in GNU's dialect, which has no fractions of seconds and no attributes.
    #[must_use]
    pub fn gnu(self) -> Self {
        Self {
            dialect: Dialect::Gnu,
            ..self
        }
    }

    /// Writes the entry as part of a tar archive.
    pub fn write_to(&self, archive: &mut dyn Write) -> Result<()> {
        let written = match self.dialect {
            Dialect::Pax => self.write_pax(archive),
            Dialect::Gnu => self.write_gnu(archive),
        };
        written.with_context(|| format!("cannot write {}", self.path.escape_ascii()))
    }

    fn write_pax(&self, archive: &mut dyn Write) -> Result<()> {
        let mut records = Records::default();
        let mut name = self.name();
        let mut body = self.bytes().to_vec();
        if let Body::Sparse {
            size_bytes,
            extents,
        } = &self.body
        {
            records.add("GNU.sparse.major", b"1");
            records.add("GNU.sparse.minor", b"0");
            records.add("GNU.sparse.name", &name);
            records.add("GNU.sparse.realsize", size_bytes.to_string().as_bytes());
            name = b"GNUSparseFile.0/body".to_vec();
            body = sparse_body(extents);
        }
        if name.len() > MAX_SHORT_NAME {
            records.add("path", &name);
        }
        let link = self.link();
        if link.len() > MAX_SHORT_NAME {
            records.add("linkpath", link);
        }
        if self.mtime.nanoseconds != 0 || !(0..1 << 33).contains(&self.mtime.seconds) {
            records.add("mtime", self.mtime.to_pax().as_bytes());
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id > MAX_OCTAL_ID {
                records.add(key, id.to_string().as_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            records.add(&format!("SCHILY.xattr.{name}"), value);
        }

        if !records.bytes.is_empty() {
            let mut header = Header::new_ustar();
            set_name(&mut header, b"PaxHeaders.0/entry");
            header.set_entry_type(EntryType::XHeader);
            header.set_mode(0o644);
            write_entry(archive, header, &records.bytes)?;
        }
        let mut header = self.header(Header::new_ustar())?;
        set_name(&mut header, &name);
        header.set_uid(u64::from(self.uid.min(MAX_OCTAL_ID)));
        header.set_gid(u64::from(self.gid.min(MAX_OCTAL_ID)));
        header.set_mtime(u64::try_from(self.mtime.seconds).unwrap_or(0) & ((1 << 33) - 1));
        write_entry(archive, header, &body)
    }

    fn write_gnu(&self, archive: &mut dyn Write) -> Result<()> {
        if !self.xattrs.is_empty() || self.mtime.nanoseconds != 0 {
            bail!("GNU's dialect has no attributes and no fractions of seconds");
        }
        let name = self.name();
        for (kind, text) in [
            (EntryType::GNULongName, name.as_slice()),
            (EntryType::GNULongLink, self.link()),
        ] {
            if text.len() > MAX_SHORT_NAME {
                let mut header = Header::new_gnu();
                set_name(&mut header, b"././@LongLink");
                header.set_entry_type(kind);
                write_entry(archive, header, &[text, b"\0"].concat())?;
            }
        }
        let mut header = self.header(Header::new_gnu())?;
        set_name(&mut header, &name);
        header.set_uid(u64::from(self.uid));
        header.set_gid(u64::from(self.gid));
        set_base_256_time(&mut header, self.mtime.seconds);
        let mut body = self.bytes().to_vec();
        if let Body::Sparse {
            size_bytes,
            extents,
        } = &self.body
        {
            header.set_entry_type(EntryType::GNUSparse);
            let fields = header.as_gnu_mut().context("no GNU header")?;
            if extents.len() > fields.sparse.len() {
                bail!("a GNU header holds {} extents", fields.sparse.len());
            }
            for (field, extent) in fields.sparse.iter_mut().zip(extents) {
                octal(&mut field.offset, extent.offset);
                octal(&mut field.numbytes, extent.bytes.len() as u64);
            }
            octal(&mut fields.realsize, *size_bytes);
            body = extents
                .iter()
                .flat_map(|extent| extent.bytes.clone())
                .collect();
        }
        write_entry(archive, header, &body)
    }

    fn header(&self, mut header: Header) -> Result<Header> {
        header.set_mode(self.mode);
        header.set_entry_type(match &self.body {
            Body::File(_) | Body::Sparse { .. } => EntryType::Regular,
            Body::Directory => EntryType::Directory,
            Body::Symlink(_) => EntryType::Symlink,
            Body::Hardlink(_) => EntryType::Link,
            Body::CharacterDevice(..) => EntryType::Char,
            Body::BlockDevice(..) => EntryType::Block,
            Body::Fifo => EntryType::Fifo,
        });
        if let Body::CharacterDevice(major, minor) | Body::BlockDevice(major, minor) = self.body {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        let field = &mut header.as_old_mut().linkname;
        for (to, from) in field.iter_mut().zip(self.link()) {
            *to = *from;
        }
        Ok(header)
    }

    /// The name as it stands in archives: directories end with a slash.
    fn name(&self) -> Vec<u8> {
        let mut name = self.path.clone();
        if name.is_empty() {
            name.push(b'.');
        }
        if self.body == Body::Directory {
            name.push(b'/');
        }
        name
    }

    fn link(&self) -> &[u8] {
        match &self.body {
            Body::Symlink(target) | Body::Hardlink(target) => target,
            _ => &[],
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::File(bytes) => bytes,
            _ => &[],
        }
    }
}

/// Records of a PAX extended header: `length key=value\n`, the length counting itself.
#[derive(Debug, Default)]
struct Records {
    bytes: Vec<u8>,
}

impl Records {
    fn add(&mut self, key: &str, value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.bytes
            .extend_from_slice(format!("{length} {key}=").as_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }
}

/// The body of a PAX 1.0 sparse file: its map in decimal lines, padded to a block, then its data.
fn sparse_body(extents: &[Extent]) -> Vec<u8> {
    let mut body = format!("{}\n", extents.len()).into_bytes();
    for extent in extents {
        let line = format!("{}\n{}\n", extent.offset, extent.bytes.len());
        body.extend_from_slice(line.as_bytes());
    }
    body.resize(body.len().next_multiple_of(BLOCK_BYTES), 0);
    for extent in extents {
        body.extend_from_slice(&extent.bytes);
    }
    body
}

fn set_name(header: &mut Header, name: &[u8]) {
    let field = &mut header.as_old_mut().name;
    for (to, from) in field.iter_mut().zip(name) {
        *to = *from;
    }
}

fn octal(field: &mut [u8; 12], value: u64) {
    let text = format!("{value:011o}");
    for (to, from) in field.iter_mut().zip(text.as_bytes()) {
        *to = *from;
    }
}

/// Writes a time as GNU tar does: in octal where that holds it, else as a big-endian two's
/// complement number whose first bit is set.
fn set_base_256_time(header: &mut Header, seconds: i64) {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds < 1 << 33 => header.set_mtime(seconds),
        _ => {
            let fill = if seconds < 0 { 0xff } else { 0 };
            let mut field = [fill; 12];
            for (to, from) in field.iter_mut().skip(4).zip(seconds.to_be_bytes()) {
                *to = from;
            }
            field[0] |= 0x80;
            for (to, from) in header.as_old_mut().mtime.iter_mut().zip(field) {
                *to = from;
            }
        }
    }
}

fn write_entry(archive: &mut dyn Write, mut header: Header, body: &[u8]) -> Result<()> {
    header.set_size(body.len() as u64);
    header.set_cksum();
    archive.write_all(header.as_bytes())?;
    archive.write_all(body)?;
    let padding = body.len().next_multiple_of(BLOCK_BYTES) - body.len();
    archive.write_all(&[0; BLOCK_BYTES][..padding])?;
    Ok(())
}

/// Writes the end of a tar archive.
pub fn write_end(archive: &mut dyn Write) -> Result<()> {
    archive.write_all(&[0; 2 * BLOCK_BYTES])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_1970_count_backwards_in_pax() {
        let cases = [
            ((5, 0), "5"),
            ((5, 500_000_000), "5.500000000"),
            ((-5, 0), "-5"),
            ((-1, 750_000_000), "-0.250000000"),
            ((-86_401, 750_000_000), "-86400.250000000"),
        ];
        for ((seconds, nanoseconds), want) in cases {
            let moment = Moment {
                seconds,
                nanoseconds,
            };
            assert_eq!(moment.to_pax(), want);
        }
    }

    #[test]
    fn a_record_counts_its_own_length() {
        let cases = [
            (vec![b'x'; 1], "6 a=x\n".len()),
            (vec![b'x'; 5], "10 a=xxxxx\n".len() - 1),
            (vec![b'x'; 95], 101),
        ];
        for (value, want) in cases {
            let mut records = Records::default();
            records.add("a", &value);
            let text = String::from_utf8_lossy(&records.bytes).into_owned();
            let stated = text
                .split(' ')
                .next()
                .and_then(|length| length.parse().ok());
            assert_eq!(stated, Some(records.bytes.len()), "{text}");
            assert!(records.bytes.len().abs_diff(want) <= 1, "{text}");
        }
    }

    #[test]
    fn another_reader_understands_every_form() -> Result<()> {
        let long = vec![b'n'; 300];
        let mut archive = Vec::new();
        let entries = [
            Entry::file(long.clone(), "body")
                .mtime(-2, 750_000_000)
                .owner(4_000_000_000, 1),
            Entry::file(long.clone(), "body")
                .mtime(-86_400, 0)
                .owner(4_000_000_000, 1)
                .gnu(),
            Entry::symlink("link", long.clone()),
            Entry::symlink("link", long.clone()).gnu(),
        ];
        for entry in &entries {
            entry.write_to(&mut archive)?;
        }
        write_end(&mut archive)?;

        let mut reader = tar::Archive::new(archive.as_slice());
        let mut seen = Vec::new();
        for entry in reader.entries()? {
            let entry = entry?;
            let link = entry.link_name_bytes().unwrap_or_default().into_owned();
            seen.push((entry.path_bytes().into_owned(), link, entry.header().uid()?));
        }

        let want = [
            (long.clone(), vec![], 4_000_000_000),
            (long.clone(), vec![], 4_000_000_000),
            (b"link".to_vec(), long.clone(), 0),
            (b"link".to_vec(), long, 0),
        ];
        assert_eq!(seen, want);
        Ok(())
    }
}
