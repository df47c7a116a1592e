//! One part of an image to one blob.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_domain::Digest;
use kiln_domain::oci::Descriptor;
use kiln_domain::oci::bootable::{Compression, Part};
use zstd::stream::write::Encoder;

use crate::hashing::Hashing;

/// Level of compression: zstd's default. The documentation has what higher ones gain and cost.
const LEVEL: i32 = 3;

/// Bytes moved between two looks at the cancel flag.
const PIECE_BYTES: usize = 1 << 20;

/// The files of an image, open for reading. Their positions are neither used nor relied upon.
#[derive(Debug)]
pub struct ImageFiles {
    /// The root filesystem.
    pub rootfs: File,
    /// The kernel.
    pub kernel: File,
    /// The initial ramdisk.
    pub initrd: Option<File>,
    /// The modules, as a plain tar.
    pub modules: Option<File>,
    /// The checksums of the root filesystem's blocks.
    pub sums: Option<File>,
}

/// Why an image could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Somebody asked to stop.
    #[error("packing the image was cancelled")]
    Cancelled,
    /// A root filesystem ends within a block; it is none that Kiln made or took in.
    #[error("a root filesystem of {size_bytes} bytes ends within a block of 4096")]
    PartialBlock {
        /// Its length.
        size_bytes: u64,
    },
    /// A file of the image cannot be read.
    #[error("cannot read the image's {what}")]
    Read {
        /// Which one.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What was made of it cannot be written.
    #[error("cannot write the packed {what}")]
    Write {
        /// What of.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Returns what compresses the chunks: the same bytes come from the same.
pub fn compression() -> Compression {
    Compression {
        algorithm: "zstd".to_owned(),
        level: LEVEL,
        version: zstd::zstd_safe::version_string().to_owned(),
    }
}

/// Writes the blob of one part into `output` and describes it. The same part of the same files
/// gives the same bytes.
///
/// `progress` is told how many more bytes were read; `cancelled` is looked at for every MiB.
pub fn pack(
    part: Part,
    files: &ImageFiles,
    output: &mut dyn Write,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<Descriptor, PackError> {
    let whole = |what: &'static str, file: Option<&File>| -> Result<Stretch, PackError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let read = |source| PackError::Read { what, source };
        let file = file.ok_or_else(missing).map_err(read)?;
        let size_bytes = file.metadata().map_err(read)?.len();
        let file = file.try_clone().map_err(read)?;
        Ok(Stretch {
            what,
            file,
            offset_bytes: 0,
            size_bytes,
        })
    };
    let stretch = match part {
        Part::Chunk {
            offset_bytes,
            size_bytes,
        } => Stretch {
            offset_bytes,
            size_bytes,
            ..whole("root filesystem", Some(&files.rootfs))?
        },
        Part::Kernel => whole("kernel", Some(&files.kernel))?,
        Part::Initrd => whole("initrd", files.initrd.as_ref())?,
        Part::Modules => whole("modules", files.modules.as_ref())?,
        Part::Sums => whole("checksums", files.sums.as_ref())?,
    };
    let what = stretch.what;
    let writing = |source| PackError::Write { what, source };
    let mut stored = Hashing::new(output);
    let plain = match part {
        Part::Chunk { .. } | Part::Modules => {
            let mut encoder = Encoder::new(&mut stored, LEVEL).map_err(writing)?;
            let prepared = encoder
                .include_checksum(true)
                .and_then(|()| encoder.set_pledged_src_size(Some(stretch.size_bytes)));
            prepared.map_err(writing)?;
            let plain = stretch.pour(&mut encoder, progress, cancelled)?;
            encoder.finish().map_err(writing)?;
            plain
        }
        Part::Kernel | Part::Initrd | Part::Sums => {
            stretch.pour(&mut stored, progress, cancelled)?
        }
    };
    stored.flush().map_err(writing)?;
    let (digest, size_bytes) = stored.finish();
    Ok(part.descriptor(digest, size_bytes, plain))
}

/// A stretch of a file that is read.
struct Stretch {
    what: &'static str,
    file: File,
    offset_bytes: u64,
    size_bytes: u64,
}

impl Stretch {
    /// Moves all of it into `output` and returns what it hashes to.
    fn pour(
        &self,
        output: &mut dyn Write,
        progress: &dyn Fn(u64),
        cancelled: &AtomicBool,
    ) -> Result<Digest, PackError> {
        let what = self.what;
        let mut hashing = Hashing::new(output);
        let mut buffer = vec![0; PIECE_BYTES];
        let mut done = 0;
        while done < self.size_bytes {
            if cancelled.load(Ordering::Relaxed) {
                return Err(PackError::Cancelled);
            }
            let left = usize::try_from(self.size_bytes - done).unwrap_or(usize::MAX);
            let count = left.min(PIECE_BYTES);
            let piece = buffer.get_mut(..count).unwrap_or_default();
            self.file
                .read_exact_at(piece, self.offset_bytes + done)
                .map_err(|source| PackError::Read { what, source })?;
            hashing
                .write_all(piece)
                .map_err(|source| PackError::Write { what, source })?;
            done += count as u64;
            progress(count as u64);
        }
        Ok(hashing.finish().0)
    }
}
