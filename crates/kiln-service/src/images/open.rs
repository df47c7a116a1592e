//! Opening files of an image for a caller, who takes the descriptors at the second socket.
//!
//! Who may see an image may open its files. What the receiver does with them is not here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_api::image::{GetParams, ImageFile, OpenParams, OpenedImage};
use kiln_api::{Failure, HandleId, codes};
use kiln_artifacts::names::{INITRD, KERNEL, MODULES, ROOTFS, ROOTFS_SUMS};
use kiln_artifacts::{ArtifactError, Artifacts};
use kiln_domain::access::Actor;
use kiln_kernel::{ModulesError, write_modules_tar};

use super::Images;
use crate::blocking::Pool;
use crate::failures::{artifact_failure, host_file_failure, pool_failure};
use crate::host_files::HostFiles;

/// Bytes of an archive that are written at a time.
const WRITE_BYTES: usize = 256 << 10;

/// How many callers' modules are put into archives at a time.
const ARCHIVES_AT_A_TIME: usize = 2;

/// What files of images are opened with.
#[derive(Clone, Debug)]
pub struct ImageFiles {
    artifacts: Artifacts,
    host_files: Arc<HostFiles>,
    look_pool: Pool,
    /// Threads that put modules into archives: long work, which no look may wait behind.
    archive_pool: Pool,
}

/// Ends the work for a caller that has gone.
struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ImageFiles {
    /// Opens in `artifacts`, on `look_pool`, and leaves the descriptors with `host_files`.
    pub fn new(artifacts: Artifacts, host_files: Arc<HostFiles>, look_pool: Pool) -> Self {
        Self {
            artifacts,
            host_files,
            look_pool,
            archive_pool: Pool::new("archive", ARCHIVES_AT_A_TIME),
        }
    }

    async fn open(
        &self,
        version: String,
        wanted: Vec<ImageFile>,
    ) -> Result<Vec<(ImageFile, File)>, Failure> {
        let artifacts = self.artifacts.clone();
        let pool = if wanted.contains(&ImageFile::Modules) {
            &self.archive_pool
        } else {
            &self.look_pool
        };
        let gone = Arc::new(AtomicBool::new(false));
        let _stop = StopWhenDropped(gone.clone());
        let opened = pool
            .run(move || open_all(&artifacts, &version, &wanted, &gone))
            .await;
        opened
            .map_err(|error| pool_failure(&error))?
            .map_err(|error| open_failure(&error))
    }
}

/// Why a file of an image could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the {file} of version {version} is gone")]
    Gone { file: ImageFile, version: String },
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("the modules of version {version} cannot be put into an archive")]
    Modules {
        version: String,
        source: ModulesError,
    },
}

impl Images {
    /// Opens files of one image for reading and leaves their descriptors at the second socket,
    /// for the caller alone.
    pub async fn open(&self, actor: &Actor, params: OpenParams) -> Result<OpenedImage, Failure> {
        let OpenParams {
            image,
            architecture,
            files,
        } = params;
        let named = GetParams {
            image,
            architecture,
        };
        let image = self.get(actor, named).await?;
        let wanted = if files.is_empty() {
            ImageFile::OF_A_MACHINE.to_vec()
        } else {
            files.into_iter().collect()
        };
        let opened = self
            .files
            .open(image.version.id.to_string(), wanted)
            .await?;
        let lay_out = |(name, file)| {
            let handle = self.files.host_files.lay_out(actor.uid, file)?;
            Ok((name, handle))
        };
        let handles: Result<BTreeMap<ImageFile, HandleId>, _> =
            opened.into_iter().map(lay_out).collect();
        Ok(OpenedImage {
            image,
            handles: handles.map_err(|error| host_file_failure(&error))?,
        })
    }
}

/// Opens each file anew: whoever receives it shares its position with nobody.
fn open_all(
    artifacts: &Artifacts,
    version: &str,
    wanted: &[ImageFile],
    cancelled: &AtomicBool,
) -> Result<Vec<(ImageFile, File)>, OpenError> {
    let mut opened = Vec::with_capacity(wanted.len());
    for &file in wanted {
        let found = match file {
            ImageFile::Rootfs => artifacts.open_file(version, ROOTFS)?,
            ImageFile::Kernel => artifacts.open_file(version, KERNEL)?,
            ImageFile::Initrd => artifacts.open_file(version, INITRD)?,
            ImageFile::Sums => artifacts.open_file(version, ROOTFS_SUMS)?,
            ImageFile::Modules => modules_tar(artifacts, version, cancelled)?,
        };
        match found {
            Some(found) => opened.push((file, found)),
            None if file.is_everywhere() => {
                let version = version.to_owned();
                return Err(OpenError::Gone { file, version });
            }
            None => {}
        }
    }
    Ok(opened)
}

/// Puts the modules of a version into a file without a name, open for reading alone; nothing where
/// it has none.
pub(crate) fn modules_tar(
    artifacts: &Artifacts,
    version: &str,
    cancelled: &AtomicBool,
) -> Result<Option<File>, OpenError> {
    if !artifacts.has_directory(version, MODULES)? {
        return Ok(None);
    }
    let from = artifacts.path(version)?.join(MODULES);
    let scratch = artifacts.scratch()?;
    let written = write_modules_tar(
        &from,
        BufWriter::with_capacity(WRITE_BYTES, &scratch),
        cancelled,
    );
    written.map_err(|source| OpenError::Modules {
        version: version.to_owned(),
        source,
    })?;
    Ok(Some(
        kiln_artifacts::read_only(&scratch).map_err(ArtifactError::from)?,
    ))
}

pub(crate) fn open_failure(error: &OpenError) -> Failure {
    match error {
        OpenError::Gone { .. } => Failure::from_error(codes::storage::FAILED, error)
            .with_hint("forget the image and pull it again", None),
        OpenError::Artifact(error) => artifact_failure(error),
        OpenError::Modules { source, .. } => {
            let code = if source.is_no_space() {
                codes::storage::FULL
            } else {
                codes::storage::FAILED
            };
            Failure::from_error(code, error)
        }
    }
}
