//! Builds archives by hand, right and wrong ones, and looks into the packs they become.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;

use kiln_tree::{BLOCK_SIZE, Body, Device, DiffId, Kind, Timestamp};

use crate::{Declared, DecodeError, Decoded, Limits, Pack, decode};

/// An archive in the making; every method appends.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

/// A header's block, to be changed before its checksum is set.
pub(crate) type Header = [u8; 512];

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A member with a POSIX header: mode 0644, ids and time 0.
    pub(crate) fn member(self, typeflag: u8, name: &str, body: &[u8]) -> Self {
        self.edited(typeflag, name, body, |_| {})
    }

    /// A member whose header `edit` changes.
    pub(crate) fn edited(
        mut self,
        typeflag: u8,
        name: &str,
        body: &[u8],
        edit: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = [0; 512];
        put(&mut header, 0, name.as_bytes());
        put(&mut header, 100, b"0000644\0");
        put(&mut header, 108, b"0000000\0");
        put(&mut header, 116, b"0000000\0");
        put(
            &mut header,
            124,
            format!("{:011o}\0", body.len()).as_bytes(),
        );
        put(&mut header, 136, b"00000000000\0");
        header[156] = typeflag;
        put(&mut header, 257, b"ustar\x0000");
        edit(&mut header);
        seal(&mut header);
        self.0.extend(header);
        self.block_of(body)
    }

    /// Bytes, filled to a block with zeros.
    pub(crate) fn block_of(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, body: &[u8]) -> Self {
        self.member(b'0', name, body)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.member(b'5', name, b"")
    }

    pub(crate) fn link(self, typeflag: u8, name: &str, target: &str) -> Self {
        self.edited(typeflag, name, b"", |header| {
            put(header, 157, target.as_bytes());
        })
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.member(b'x', "PaxHeaders/x", &pax_body(records))
    }

    pub(crate) fn global(self, records: &[(&str, &[u8])]) -> Self {
        self.member(b'g', "pax_global_header", &pax_body(records))
    }

    pub(crate) fn long_name(self, name: &[u8]) -> Self {
        self.member(b'L', "././@LongLink", &[name, b"\0"].concat())
    }

    pub(crate) fn long_link(self, target: &[u8]) -> Self {
        self.member(b'K', "././@LongLink", &[target, b"\0"].concat())
    }

    /// Ends the archive as GNU tar does.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Writes into a header.
pub(crate) fn put(header: &mut Header, at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

fn seal(header: &mut Header) {
    put(header, 148, b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(header, 148, format!("{sum:06o}\0 ").as_bytes());
}

/// Lays records out, each with its own length in front.
pub(crate) fn pax_body(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        body.extend(format!("{length} {key}=").bytes());
        body.extend(*value);
        body.push(b'\n');
    }
    body
}

/// An entry of a decoded layer, with a regular file's bytes read back from the pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) ids: (u32, u32),
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    /// The bytes, and how many blocks of the pack they take.
    File(Vec<u8>, u64),
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Whiteout,
    Opaque,
}

/// A decoded layer and the pack it became.
pub(crate) struct Layer {
    pub(crate) decoded: Decoded,
    pub(crate) pack: Pack,
}

/// Decodes a layer, whatever its compression, with the default limits.
pub(crate) fn open(bytes: &[u8]) -> Result<Layer, DecodeError> {
    open_with(bytes, Declared::Unknown, None, &Limits::default())
}

pub(crate) fn open_with(
    mut bytes: &[u8],
    declared: Declared,
    expected: Option<DiffId>,
    limits: &Limits,
) -> Result<Layer, DecodeError> {
    let file = tempfile::tempfile().unwrap();
    let go = AtomicBool::new(false);
    let decoded = decode(&mut bytes, declared, expected, &file, limits, &|_| {}, &go)?;
    assert_eq!(file.metadata().unwrap().len(), decoded.pack_bytes);
    let pack = Pack::open(file).unwrap();
    assert_eq!(pack.diff_id(), decoded.diff_id);
    assert_eq!(pack.index().len(), decoded.entries);
    Ok(Layer { decoded, pack })
}

/// Decodes a plain archive and shows its entries.
pub(crate) fn entries(archive: &[u8]) -> Result<Vec<Shown>, DecodeError> {
    open(archive).map(|layer| layer.entries())
}

impl Layer {
    pub(crate) fn entries(&self) -> Vec<Shown> {
        self.check_sums();
        let shown = |entry: kiln_tree::Entry<'_>| Shown {
            path: entry.path.to_vec(),
            what: match entry.kind {
                Kind::Directory => What::Directory,
                Kind::Regular(body) => What::File(self.body(&body), body.pack_blocks()),
                Kind::Symlink { target } => What::Symlink(target.to_vec()),
                Kind::Hardlink { target } => What::Hardlink(target.to_vec()),
                Kind::CharDevice(Device { major, minor }) => What::CharDevice(major, minor),
                Kind::BlockDevice(Device { major, minor }) => What::BlockDevice(major, minor),
                Kind::Fifo => What::Fifo,
                Kind::Socket => panic!("no archive holds sockets"),
                Kind::Whiteout => What::Whiteout,
                Kind::Opaque => What::Opaque,
            },
            mode: entry.mode,
            ids: (entry.uid, entry.gid),
            mtime: entry.mtime,
            xattrs: entry
                .xattrs
                .iter()
                .map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec()))
                .collect(),
        };
        self.pack.index().entries().map(shown).collect()
    }

    fn body(&self, body: &Body<'_>) -> Vec<u8> {
        let size = usize::try_from(body.size_bytes).unwrap();
        let mut bytes = vec![0; size.next_multiple_of(4096)];
        for segment in body.segments() {
            let at = usize::try_from(segment.file_block * BLOCK_SIZE).unwrap();
            let len = usize::try_from(segment.blocks * BLOCK_SIZE).unwrap();
            let from = segment.pack_block * BLOCK_SIZE;
            self.read(&mut bytes[at..at + len], from);
        }
        // What is behind the end of a file in its last block would be seen by mmap.
        assert!(bytes[size..].iter().all(|byte| *byte == 0));
        bytes.truncate(size);
        bytes
    }

    /// Every block has the sum that is kept of it, and exactly the zero blocks are in a run.
    pub(crate) fn check_sums(&self) {
        let sums = self.pack.sums();
        assert_eq!(sums.len() as u64, self.pack.index().pack_blocks());
        for (number, sum) in (0..).zip(sums) {
            let mut block = [0; 4096];
            self.read(&mut block, number * BLOCK_SIZE);
            assert_eq!(crc32c::crc32c(&block), *sum, "block {number}");
            let mut runs = self.pack.zero_runs().iter();
            let is_zero = runs.any(|run| run.contains(&number));
            assert_eq!(is_zero, block == [0; 4096], "block {number}");
        }
    }

    fn read(&self, bytes: &mut [u8], at: u64) {
        self.pack.file().read_exact_at(bytes, at).unwrap();
    }
}
