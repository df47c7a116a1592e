//! Says what a kernel file is, and takes the ELF file out of a bzImage.
//!
//! The file may come from anybody: every length is checked, everything unpacked is bounded, and
//! nothing is kept on the way but a few blocks.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicBool;

use kiln_domain::Digest;

use crate::arm64::{self, Arm64Scan};
use crate::bzimage::{self, BzImage};
use crate::compression::Streams;
use crate::elf::{self, ElfFacts, ElfScan};
use crate::error::KernelError;
use crate::facts::{Architecture, Compression, KernelFacts, KernelFormat};
use crate::pump::{FileSink, Hasher, Sink, pump};
use crate::source::{Section, Source};

/// Bytes by which a format is recognised.
const HEAD_BYTES: u64 = 1024;
/// Bytes of the unpacked length that the kernel's build appends to every payload but gzip's.
const APPENDED_LENGTH_BYTES: u64 = 4;

/// Finds out what a kernel file is. Its file position is neither used nor changed.
///
/// Reads all of it, and unpacks what is inside without keeping it.
pub fn inspect(file: &File, cancelled: &AtomicBool) -> Result<KernelFacts, KernelError> {
    let source = Source::open(file)?;
    let recognised = recognise(source, cancelled)?;
    Ok(KernelFacts {
        format: recognised.format,
        architecture: recognised.elf.architecture,
        compression: recognised.compression,
        release: recognised.elf.release,
        has_pvh_note: recognised.elf.has_pvh_note,
        sha256: hash(source, cancelled)?,
        size_bytes: source.size_bytes(),
    })
}

/// Writes the ELF file inside a bzImage to `out`, and says how long it is, in bytes.
///
/// The ELF file is checked like one that comes by itself. On failure `out` may hold a part of it.
pub fn extract_elf(file: &File, out: &File, cancelled: &AtomicBool) -> Result<u64, KernelError> {
    let source = Source::open(file)?;
    if !bzimage::is_boot_image(&source.head(HEAD_BYTES)?) {
        return Err(KernelError::NothingInside);
    }
    let image = BzImage::read(source)?;
    let mut scan = ElfScan::default();
    let (_, size_bytes) = unpack(
        image.payload,
        &mut (&mut scan, &mut FileSink(out)),
        cancelled,
    )?;
    scan.finish()?;
    Ok(size_bytes)
}

/// Passes the kernel proper, unpacked, to a sink. What is not recognised is passed as it is.
pub(crate) fn pass_through(
    file: &File,
    sink: &mut impl Sink,
    cancelled: &AtomicBool,
) -> Result<(), KernelError> {
    let source = Source::open(file)?;
    let head = source.head(HEAD_BYTES)?;
    if bzimage::is_boot_image(&head) {
        unpack(BzImage::read(source)?.payload, sink, cancelled)?;
    } else if Compression::of(&head)? == Some(Compression::Gzip) {
        unpack(source.whole(), sink, cancelled)?;
    } else {
        pump(source.whole(), sink, cancelled, cannot_read)?;
    }
    Ok(())
}

struct Recognised {
    format: KernelFormat,
    compression: Option<Compression>,
    elf: ElfFacts,
}

fn recognise(source: Source<'_>, cancelled: &AtomicBool) -> Result<Recognised, KernelError> {
    let head = source.head(HEAD_BYTES)?;
    if head.starts_with(elf::MAGIC) {
        recognise_elf(source, cancelled)
    } else if bzimage::is_boot_image(&head) {
        recognise_boot_image(source, cancelled)
    } else if arm64::is_image(&head) {
        let mut scan = Arm64Scan::default();
        pump(source.whole(), &mut scan, cancelled, cannot_read)?;
        arm64_image(scan, None)
    } else if head.starts_with(b"MZ") && head.get(4..8) == Some(b"zimg") {
        Err(KernelError::Unsupported {
            what: "an EFI zboot wrapper",
        })
    } else if Compression::of(&head)? == Some(Compression::Gzip) {
        let mut scan = Arm64Scan::default();
        unpack(source.whole(), &mut scan, cancelled)?;
        arm64_image(scan, Some(Compression::Gzip))
    } else {
        Err(KernelError::NotAKernel)
    }
}

fn recognise_elf(source: Source<'_>, cancelled: &AtomicBool) -> Result<Recognised, KernelError> {
    let mut scan = ElfScan::default();
    pump(source.whole(), &mut scan, cancelled, cannot_read)?;
    Ok(Recognised {
        format: KernelFormat::Elf,
        compression: None,
        elf: scan.finish()?,
    })
}

fn recognise_boot_image(
    source: Source<'_>,
    cancelled: &AtomicBool,
) -> Result<Recognised, KernelError> {
    let image = BzImage::read(source)?;
    let mut scan = ElfScan::default();
    let (compression, _) = unpack(image.payload, &mut scan, cancelled)?;
    let inside = scan.finish()?;
    if inside.architecture != Architecture::X86_64 {
        return Err(KernelError::Malformed {
            what: "the ELF file inside is not for x86-64",
        });
    }
    Ok(Recognised {
        format: KernelFormat::BzImage,
        compression,
        elf: ElfFacts {
            release: image.release.or(inside.release),
            ..inside
        },
    })
}

fn arm64_image(
    scan: Arm64Scan,
    compression: Option<Compression>,
) -> Result<Recognised, KernelError> {
    Ok(Recognised {
        format: KernelFormat::Arm64Image,
        compression,
        elf: ElfFacts {
            architecture: Architecture::Aarch64,
            release: scan.finish()?,
            has_pvh_note: false,
        },
    })
}

/// Unpacks a payload into a sink, and says how it was packed and how long it is. One that is an
/// ELF file already is passed on as it is.
fn unpack(
    payload: Section<'_>,
    sink: &mut impl Sink,
    cancelled: &AtomicBool,
) -> Result<(Option<Compression>, u64), KernelError> {
    let head = payload.head(8).map_err(cannot_read)?;
    if head.starts_with(elf::MAGIC) {
        return Ok((None, pump(payload, sink, cancelled, cannot_read)?));
    }
    let Some(compression) = Compression::of(&head)? else {
        return Err(KernelError::Malformed {
            what: "its payload is of no known compression",
        });
    };
    let payload = match compression {
        // The other decoders see for themselves where their data ends.
        Compression::Lz4 => payload.without_last(APPENDED_LENGTH_BYTES),
        _ => payload,
    };
    let corrupt = |source| KernelError::Corrupt {
        compression,
        source,
    };
    let decoder = compression
        .decoder(payload, Streams::One)
        .map_err(corrupt)?;
    Ok((Some(compression), pump(decoder, sink, cancelled, corrupt)?))
}

fn hash(source: Source<'_>, cancelled: &AtomicBool) -> Result<Digest, KernelError> {
    let mut hasher = Hasher::default();
    pump(source.whole(), &mut hasher, cancelled, cannot_read)?;
    Ok(hasher.finish())
}

fn cannot_read(source: io::Error) -> KernelError {
    KernelError::Io {
        step: "read",
        source,
    }
}

#[cfg(test)]
mod tests;
