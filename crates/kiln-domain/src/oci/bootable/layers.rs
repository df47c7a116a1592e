//! Which layer of a bootable artifact is what, and whether the chunks can be as they say.

use std::collections::HashSet;

use super::super::{Descriptor, Manifest};
use super::{
    BLOCK_BYTES, BOOTABLE_CONFIG, BootableError, DIGEST, MAX_CHUNK_BYTES, MAX_FILE_BYTES,
    MAX_KERNEL_BYTES, MAX_RATIO, MAX_SUMS_BYTES, OFFSET, RATIO_FROM_BYTES, ROLE, SIZE,
};
use crate::digest::Digest;

/// A stretch of the root filesystem, compressed by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The blob.
    pub descriptor: Descriptor,
    /// Where its bytes begin in the root filesystem; a multiple of the block's 4 KiB.
    pub offset_bytes: u64,
    /// How many bytes it is unpacked; whole blocks, 512 MiB at most.
    pub size_bytes: u64,
    /// What it hashes to unpacked.
    pub digest: Digest,
}

/// The layers of a bootable artifact, told apart and judged.
///
/// Invariant: the chunks ascend, do not overlap, and lie inside the root filesystem; what none of
/// them covers is zeros. Their data is in proportion to their blobs. No part is announced longer than an image's may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootableLayers {
    /// The data of the root filesystem.
    pub chunks: Vec<Chunk>,
    /// The kernel.
    pub kernel: Descriptor,
    /// The initial ramdisk, where there is one.
    pub initrd: Option<Descriptor>,
    /// The modules, as tar in zstd, where there are some.
    pub modules: Option<Descriptor>,
    /// The checksums of the root filesystem's blocks, where there are some.
    pub sums: Option<Descriptor>,
}

impl Manifest {
    /// Tells whether it is a bootable artifact: its config says so.
    pub fn is_bootable(&self) -> bool {
        self.config.media_type == BOOTABLE_CONFIG
    }
}

impl BootableLayers {
    /// Tells the layers of a manifest apart, for a root filesystem of `rootfs_bytes`. Layers of
    /// unknown roles are passed over.
    pub fn of(manifest: &Manifest, rootfs_bytes: u64) -> Result<Self, BootableError> {
        let has_role = |layer: &&Descriptor, role: &str| {
            layer.annotations.get(ROLE).map(String::as_str) == Some(role)
        };
        let only = |role: &'static str, limit_bytes: u64| {
            let mut found = manifest.layers.iter().filter(|layer| has_role(layer, role));
            let Some(first) = found.next() else {
                return Ok(None);
            };
            let others = found.count();
            if others > 0 {
                let count = others + 1;
                return Err(BootableError::Role { role, count });
            }
            if first.size_bytes > limit_bytes {
                return Err(BootableError::TooLarge {
                    role,
                    size_bytes: first.size_bytes,
                    limit_bytes,
                });
            }
            Ok(Some(first.clone()))
        };
        let kernel = only("kernel", MAX_KERNEL_BYTES)?;
        let layers = manifest.layers.iter().enumerate();
        let chunks = layers.filter(|(_, layer)| has_role(layer, "rootfs"));
        Ok(Self {
            chunks: check_chunks(chunks, rootfs_bytes)?,
            kernel: kernel.ok_or(BootableError::Role {
                role: "kernel",
                count: 0,
            })?,
            initrd: only("initrd", MAX_FILE_BYTES)?,
            modules: only("modules", MAX_FILE_BYTES)?,
            sums: only("sums", most_sums(rootfs_bytes))?,
        })
    }

    /// Lists the layers that are fetched whole, each once: all but the chunks.
    pub fn files(&self) -> impl Iterator<Item = &Descriptor> {
        let others = [&self.initrd, &self.modules, &self.sums];
        std::iter::once(&self.kernel).chain(others.into_iter().flatten())
    }

    /// Adds up the bytes of the root filesystem that are data.
    pub fn data_bytes(&self) -> u64 {
        data_bytes(&self.chunks)
    }
}

fn data_bytes(chunks: &[Chunk]) -> u64 {
    chunks.iter().map(|chunk| chunk.size_bytes).sum()
}

/// Refuses chunks that say they unpack to far more than any real ones. A blob that is named for
/// several chunks is there once.
fn check_ratio(chunks: &[Chunk]) -> Result<(), BootableError> {
    let data_bytes = data_bytes(chunks);
    let mut seen = HashSet::new();
    let distinct = chunks.iter().map(|chunk| &chunk.descriptor);
    let distinct = distinct.filter(|blob| seen.insert(blob.digest));
    let packed_bytes = distinct.map(|blob| blob.size_bytes).sum::<u64>();
    if data_bytes > RATIO_FROM_BYTES && data_bytes > packed_bytes.saturating_mul(MAX_RATIO) {
        return Err(BootableError::Ratio {
            data_bytes,
            packed_bytes,
        });
    }
    Ok(())
}

/// Most bytes of checksums that a root filesystem can have: one of 4 bytes for every block, and
/// 16 for a run of its own.
fn most_sums(rootfs_bytes: u64) -> u64 {
    (24 + rootfs_bytes.div_ceil(BLOCK_BYTES) * 20).min(MAX_SUMS_BYTES)
}

fn check_chunks<'a>(
    layers: impl Iterator<Item = (usize, &'a Descriptor)>,
    rootfs_bytes: u64,
) -> Result<Vec<Chunk>, BootableError> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut end = 0;
    for (layer, descriptor) in layers {
        let wrong = |problem| BootableError::Chunk { layer, problem };
        let chunk = read_chunk(descriptor).map_err(wrong)?;
        if chunk.offset_bytes < end {
            return Err(wrong("begins before the one in front of it ends"));
        }
        end = chunk
            .offset_bytes
            .checked_add(chunk.size_bytes)
            .filter(|end| *end <= rootfs_bytes)
            .ok_or_else(|| wrong("ends behind the root filesystem"))?;
        chunks.push(chunk);
    }
    if chunks.is_empty() {
        return Err(BootableError::Role {
            role: "rootfs",
            count: 0,
        });
    }
    check_ratio(&chunks)?;
    Ok(chunks)
}

fn read_chunk(descriptor: &Descriptor) -> Result<Chunk, &'static str> {
    let offset_bytes = number(descriptor, OFFSET).ok_or("does not say where it begins")?;
    let size_bytes = number(descriptor, SIZE).ok_or("does not say how long it is")?;
    let digest = descriptor.annotations.get(DIGEST);
    let digest = digest.and_then(|text| text.parse().ok());
    let digest = digest.ok_or("does not say what it hashes to")?;
    let is_whole = |bytes: u64| bytes.is_multiple_of(BLOCK_BYTES);
    if !is_whole(offset_bytes) || !is_whole(size_bytes) || size_bytes == 0 {
        return Err("is not of whole blocks");
    }
    if size_bytes > MAX_CHUNK_BYTES {
        return Err("is longer than 512 MiB");
    }
    // What cannot be compressed grows by one part in 256 at most (zstd.h, ZSTD_COMPRESSBOUND).
    if descriptor.size_bytes > size_bytes + (size_bytes >> 8) + 1024 {
        return Err("is compressed to more bytes than it has");
    }
    Ok(Chunk {
        descriptor: descriptor.clone(),
        offset_bytes,
        size_bytes,
        digest,
    })
}

/// Reads a number that is written in the one way numbers are: no sign, no leading zero.
fn number(descriptor: &Descriptor, key: &str) -> Option<u64> {
    let text = descriptor.annotations.get(key)?;
    let number: u64 = text.parse().ok()?;
    (number.to_string() == *text).then_some(number)
}
