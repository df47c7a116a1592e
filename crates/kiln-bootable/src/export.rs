//! A whole image into one archive.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use kiln_domain::Digest;
use kiln_domain::oci::Descriptor;
use kiln_domain::oci::bootable::{BootableConfig, BootableManifest, Part, UnreadableError};

use crate::archive::{Archive, ArchiveError};
use crate::pack::{ImageFiles, PackError, pack};
use crate::plan::plan;

/// Most parts that are packed at a time: each takes a processor, and the room of a packed chunk.
const MAX_WORKERS: usize = 4;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Digest of the artifact's manifest.
    pub manifest_digest: Digest,
    /// Its layers.
    pub layers: usize,
    /// Their bytes, as they are stored.
    pub stored_bytes: u64,
}

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It could not be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The archive could not be written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There was no place for what is packed on its way to the archive.
    #[error("cannot keep a packed part of the image for a moment")]
    Scratch(#[source] io::Error),
    /// The documents cannot be written. This is a defect.
    #[error("the artifact's documents cannot be written")]
    Documents(#[source] kiln_domain::oci::JsonError),
    /// Nobody could read the archive: the image is beyond what an artifact can be.
    #[error(transparent)]
    Unreadable(#[from] UnreadableError),
    /// The machine gave no thread, or a thread panicked.
    #[error("no thread could pack the image")]
    Thread,
}

/// Writes the archive of an image to `output`, from front to end. The same image gives the same
/// bytes, however many processors there are.
///
/// Packed parts wait in files of `scratch` for their turn, which is told how long one may get. `progress`
/// is told how many bytes of how many were read.
pub fn export(
    files: &ImageFiles,
    config: &BootableConfig,
    output: impl Write,
    scratch: &(dyn Fn(u64) -> io::Result<File> + Sync),
    progress: &(dyn Fn(u64, u64) + Sync),
    cancelled: &AtomicBool,
) -> Result<Exported, ExportError> {
    let parts = plan(files)?;
    let total = parts.iter().map(|part| length(*part, files)).sum();
    let done = AtomicU64::new(0);
    let tell = |count: u64| progress(done.fetch_add(count, Ordering::Relaxed) + count, total);
    let pack_one = |part: Part| -> Result<(Descriptor, File), ExportError> {
        let most = most_packed(length(part, files));
        let mut file = scratch(most).map_err(ExportError::Scratch)?;
        let layer = pack(part, files, &mut file, &tell, cancelled)?;
        file.seek(SeekFrom::Start(0))
            .map_err(ExportError::Scratch)?;
        Ok((layer, file))
    };
    let mut archive = Archive::new(output)?;
    let mut layers = Vec::with_capacity(parts.len());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    for group in parts.chunks(workers.clamp(1, MAX_WORKERS)) {
        let packed: Vec<_> = thread::scope(|scope| {
            let packing: Vec<_> = group
                .iter()
                .map(|part| {
                    let work = || pack_one(*part);
                    thread::Builder::new().spawn_scoped(scope, work)
                })
                .collect();
            packing
                .into_iter()
                .map(|thread| {
                    let thread = thread.map_err(|_| ExportError::Thread)?;
                    thread.join().map_err(|_| ExportError::Thread)?
                })
                .collect()
        });
        for part in packed {
            let (layer, file) = part?;
            archive.blob(&layer, file)?;
            layers.push(layer);
        }
    }
    let documents = BootableManifest::write(config, &layers).map_err(ExportError::Documents)?;
    documents.check()?;
    archive.finish(&documents)?;
    Ok(Exported {
        manifest_digest: documents.manifest_descriptor.digest,
        layers: layers.len(),
        stored_bytes: layers.iter().map(|layer| layer.size_bytes).sum(),
    })
}

/// How long a part gets at most when it is packed: what cannot be compressed grows by a header for
/// every block of 128 KiB, and what holds them.
fn most_packed(size_bytes: u64) -> u64 {
    size_bytes
        .saturating_add(size_bytes / 256)
        .saturating_add(1024)
}

/// How many bytes of the image a part is; a file that cannot be looked at is refused when it is
/// read.
pub fn length(part: Part, files: &ImageFiles) -> u64 {
    let of = |file: Option<&File>| {
        let found = file.and_then(|file| file.metadata().ok());
        found.map_or(0, |found| found.len())
    };
    match part {
        Part::Chunk { size_bytes, .. } => size_bytes,
        Part::Kernel => of(Some(&files.kernel)),
        Part::Initrd => of(files.initrd.as_ref()),
        Part::Modules => of(files.modules.as_ref()),
        Part::Sums => of(files.sums.as_ref()),
    }
}
