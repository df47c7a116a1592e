//! Layers and images for tests: packs in temporary files, trees from index builders.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use kiln_ext4::{Identity, Plan, PlanError, Profile, Size, Source, Written};
use kiln_tree::{
    Body, Device, Entry, Index, IndexBuilder, Kind, Limits, Segment, Timestamp, Tree, Xattr, Xattrs,
};
use tempfile::TempDir;

pub(crate) const BLOCK: usize = 4096;

/// Metadata of an entry; the default is that of an ordinary file of root's.
#[derive(Clone, Debug)]
pub(crate) struct Attributes {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (1_700_000_000, 123_456_789),
            xattrs: Vec::new(),
        }
    }
}

/// What an entry is, with the bytes of its body.
#[derive(Clone, Debug)]
pub(crate) enum What<'a> {
    Directory,
    File(&'a [u8]),
    /// A file of this many blocks of zeros, which take no space in the pack.
    Zeros(u64),
    /// Length, and one-block pieces: block in the file, and a byte to fill it with.
    Sparse(u64, &'a [(u64, u8)]),
    Symlink(&'a [u8]),
    Hardlink(&'a [u8]),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Socket,
    Whiteout,
}

/// One layer and its pack.
pub(crate) struct Layer {
    pub(crate) index: Index,
    pub(crate) pack: File,
    pub(crate) sums: Vec<u32>,
    pub(crate) zero_runs: Vec<Range<u64>>,
}

pub(crate) struct LayerBuilder {
    index: IndexBuilder,
    pack: File,
    sums: Vec<u32>,
    zero_runs: Vec<Range<u64>>,
}

impl LayerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            index: IndexBuilder::new(),
            pack: tempfile::tempfile().expect("a temporary file"),
            sums: Vec::new(),
            zero_runs: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, path: impl AsRef<[u8]>, what: &What<'_>) -> &mut Self {
        self.add_with(path, what, &Attributes::default())
    }

    pub(crate) fn directory(&mut self, path: impl AsRef<[u8]>) -> &mut Self {
        let attributes = Attributes {
            mode: 0o755,
            ..Attributes::default()
        };
        self.add_with(path, &What::Directory, &attributes)
    }

    pub(crate) fn file(&mut self, path: impl AsRef<[u8]>, bytes: &[u8]) -> &mut Self {
        self.add(path, &What::File(bytes))
    }

    pub(crate) fn add_with(
        &mut self,
        path: impl AsRef<[u8]>,
        what: &What<'_>,
        attributes: &Attributes,
    ) -> &mut Self {
        let segments: Vec<Segment>;
        let kind = match *what {
            What::Directory => Kind::Directory,
            What::File(bytes) => {
                let start = self.append(bytes);
                Kind::Regular(Body::whole(bytes.len() as u64, start))
            }
            What::Zeros(blocks) => {
                let start = self.append_zeros(blocks);
                Kind::Regular(Body::whole(blocks * BLOCK as u64, start))
            }
            What::Sparse(size, pieces) => {
                segments = pieces
                    .iter()
                    .map(|(file_block, byte)| Segment {
                        file_block: *file_block,
                        pack_block: self.append(&[*byte; BLOCK]),
                        blocks: 1,
                    })
                    .collect();
                Kind::Regular(Body::sparse(size, &segments))
            }
            What::Symlink(target) => Kind::Symlink { target },
            What::Hardlink(target) => Kind::Hardlink { target },
            What::CharDevice(major, minor) => Kind::CharDevice(Device { major, minor }),
            What::BlockDevice(major, minor) => Kind::BlockDevice(Device { major, minor }),
            What::Fifo => Kind::Fifo,
            What::Socket => Kind::Socket,
            What::Whiteout => Kind::Whiteout,
        };
        let mut sorted = attributes.xattrs.clone();
        sorted.sort();
        let xattrs: Vec<Xattr<'_>> = sorted
            .iter()
            .map(|(name, value)| Xattr { name, value })
            .collect();
        self.index
            .push(&Entry {
                path: path.as_ref(),
                kind,
                mode: attributes.mode,
                uid: attributes.uid,
                gid: attributes.gid,
                mtime: Timestamp {
                    seconds: attributes.mtime.0,
                    nanoseconds: attributes.mtime.1,
                },
                xattrs: Xattrs::sorted(&xattrs),
            })
            .expect("the entry is valid");
        self
    }

    fn append(&mut self, bytes: &[u8]) -> u64 {
        let start = self.sums.len() as u64;
        for chunk in bytes.chunks(BLOCK) {
            let mut block = [0; BLOCK];
            block[..chunk.len()].copy_from_slice(chunk);
            if block == [0; BLOCK] {
                self.append_zeros(1);
                continue;
            }
            let offset = (self.sums.len() * BLOCK) as u64;
            self.pack
                .write_all_at(&block, offset)
                .expect("it can be written");
            self.sums.push(crc32c(&block));
        }
        start
    }

    fn append_zeros(&mut self, blocks: u64) -> u64 {
        let start = self.sums.len() as u64;
        let end = start + blocks;
        self.sums.resize(end as usize, crc32c(&[0; BLOCK]));
        match self.zero_runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.zero_runs.push(start..end),
        }
        start
    }

    pub(crate) fn finish(self) -> Layer {
        self.pack
            .set_len((self.sums.len() * BLOCK) as u64)
            .expect("it can be extended");
        Layer {
            index: self.index.finish(),
            pack: self.pack,
            sums: self.sums,
            zero_runs: self.zero_runs,
        }
    }
}

/// A tree and the packs its bodies are in.
pub(crate) struct Stack {
    pub(crate) tree: Tree,
    pub(crate) layers: Vec<Layer>,
}

impl Stack {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        let indexes = layers.iter().map(|layer| layer.index.clone()).collect();
        let tree = Tree::merge(indexes, &Limits::default(), &AtomicBool::new(false))
            .expect("the layers can be merged");
        Self { tree, layers }
    }

    /// A stack of one layer.
    pub(crate) fn of(fill: impl FnOnce(&mut LayerBuilder)) -> Self {
        let mut layer = LayerBuilder::new();
        fill(&mut layer);
        Self::new(vec![layer.finish()])
    }

    pub(crate) fn sources(&self) -> Vec<Source<'_>> {
        self.layers
            .iter()
            .map(|layer| Source {
                file: &layer.pack,
                sums: &layer.sums,
                zero_runs: &layer.zero_runs,
            })
            .collect()
    }

    pub(crate) fn plan(&self, profile: Profile, size: Size) -> Result<Plan<'_>, PlanError> {
        Plan::new(
            &self.tree,
            profile,
            &identity(),
            size,
            &AtomicBool::new(false),
        )
    }

    /// Builds an image in a directory of its own.
    pub(crate) fn build(&self, profile: Profile, size: Size) -> Image {
        let plan = self.plan(profile, size).expect("the tree has a plan");
        Image::write(&plan, &self.sources())
    }
}

pub(crate) fn identity() -> Identity {
    Identity::derive(&[0x5a; 32], 1_600_000_000)
}

/// An image file; it disappears with the value.
pub(crate) struct Image {
    _directory: TempDir,
    pub(crate) path: PathBuf,
    pub(crate) written: Written,
}

impl Image {
    pub(crate) fn write(plan: &Plan<'_>, sources: &[Source<'_>]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("image.ext4");
        let file = create(&path);
        let written = plan
            .write(sources, &file, &|_, _| {}, &AtomicBool::new(false))
            .expect("the image can be written");
        Self {
            _directory: directory,
            path,
            written,
        }
    }
}

pub(crate) fn create(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("a new file")
}

/// The common form of CRC32C, bit by bit: slow, and independent of the code under test.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}
