//! Opening files of an image for a caller, who takes the descriptors at the second socket.
//!
//! Who may see an image may open its files. What the receiver does with them is not here.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use kiln_api::image::{GetParams, ImageFile, OpenParams, OpenedImage};
use kiln_api::{Failure, HandleId, codes};
use kiln_artifacts::names::{INITRD, KERNEL, ROOTFS};
use kiln_artifacts::{ArtifactError, Artifacts};
use kiln_domain::access::Actor;

use super::Images;
use crate::blocking::Pool;
use crate::failures::{artifact_failure, host_file_failure, pool_failure};
use crate::host_files::HostFiles;

/// What files of images are opened with.
#[derive(Clone, Debug)]
pub struct ImageFiles {
    artifacts: Artifacts,
    host_files: Arc<HostFiles>,
    look_pool: Pool,
}

impl ImageFiles {
    /// Opens in `artifacts`, on `look_pool`, and leaves the descriptors with `host_files`.
    pub fn new(artifacts: Artifacts, host_files: Arc<HostFiles>, look_pool: Pool) -> Self {
        Self {
            artifacts,
            host_files,
            look_pool,
        }
    }

    async fn open(
        &self,
        version: String,
        wanted: Vec<ImageFile>,
    ) -> Result<Vec<(ImageFile, File)>, Failure> {
        let artifacts = self.artifacts.clone();
        let opened = self
            .look_pool
            .run(move || open_all(&artifacts, &version, &wanted))
            .await;
        opened
            .map_err(|error| pool_failure(&error))?
            .map_err(|error| failure(&error))
    }
}

/// Why a file of an image could not be opened.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the {file} of version {version} is gone")]
    Gone { file: ImageFile, version: String },
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
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
            ImageFile::ALL.to_vec()
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
) -> Result<Vec<(ImageFile, File)>, OpenError> {
    let mut opened = Vec::with_capacity(wanted.len());
    for &file in wanted {
        let name = match file {
            ImageFile::Rootfs => ROOTFS,
            ImageFile::Kernel => KERNEL,
            ImageFile::Initrd => INITRD,
        };
        match artifacts.open_file(version, name)? {
            Some(found) => opened.push((file, found)),
            None if file == ImageFile::Initrd => {}
            None => {
                let version = version.to_owned();
                return Err(OpenError::Gone { file, version });
            }
        }
    }
    Ok(opened)
}

fn failure(error: &OpenError) -> Failure {
    match error {
        OpenError::Gone { .. } => Failure::from_error(codes::storage::FAILED, error)
            .with_hint("forget the image and pull it again", None),
        OpenError::Artifact(error) => artifact_failure(error),
    }
}
