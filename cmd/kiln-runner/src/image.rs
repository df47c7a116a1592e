//! The image that is run: what the daemon says of it, and its files, open.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kiln_api::image::{Get, GetParams, Image};
use kiln_client::Client;
use kiln_vmm::{Architecture, RunOrder};

use crate::error::RunError;

/// Largest initrd that is read, in bytes.
const INITRD_BYTES: u64 = 1 << 30;

/// An image, open. Whatever happens to its record, these files stay what they are.
#[derive(Debug)]
pub(crate) struct OpenImage {
    /// What the daemon says of it.
    pub(crate) view: Image,
    /// Its processor.
    pub(crate) architecture: Architecture,
    /// The root filesystem.
    pub(crate) rootfs: File,
    /// The kernel.
    pub(crate) kernel: File,
    /// The initrd, where it has one.
    pub(crate) initrd: Option<Vec<u8>>,
}

impl OpenImage {
    /// Asks for an image and opens its files.
    pub(crate) async fn open(client: &Client, order: &RunOrder) -> Result<Self, RunError> {
        let params = GetParams {
            image: order.image.clone(),
            architecture: None,
        };
        let view = client.call::<Get>(&params).await?;
        let architecture = view.architecture.parse();
        let architecture = architecture.map_err(|_| RunError::Architecture {
            architecture: view.architecture.clone(),
        })?;
        Ok(Self {
            architecture,
            rootfs: open("root filesystem", &view.rootfs.path)?,
            kernel: open("kernel", &view.kernel.path)?,
            initrd: view.kernel.initrd_path.as_deref().map(read).transpose()?,
            view,
        })
    }

    /// Opens the same files once more, for another thread.
    pub(crate) fn share(&self) -> Result<Self, RunError> {
        let copy = |file: &File| {
            let copied = file.try_clone();
            copied.map_err(|source| RunError::host("copy a descriptor", source))
        };
        Ok(Self {
            view: self.view.clone(),
            architecture: self.architecture,
            rootfs: copy(&self.rootfs)?,
            kernel: copy(&self.kernel)?,
            initrd: self.initrd.clone(),
        })
    }

    /// Returns the path of the root filesystem.
    pub(crate) fn rootfs_path(&self) -> PathBuf {
        PathBuf::from(&self.view.rootfs.path)
    }
}

fn open(what: &'static str, path: &str) -> Result<File, RunError> {
    File::open(path).map_err(|source| RunError::ImageFile {
        what,
        path: PathBuf::from(path),
        source,
    })
}

fn read(path: &str) -> Result<Vec<u8>, RunError> {
    let file = open("initrd", path)?;
    let mut bytes = Vec::new();
    let read = file.take(INITRD_BYTES).read_to_end(&mut bytes);
    read.map_err(|source| RunError::ImageFile {
        what: "initrd",
        path: Path::new(path).to_owned(),
        source,
    })?;
    Ok(bytes)
}
