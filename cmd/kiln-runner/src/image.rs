//! The image that is run: what the daemon says of it, and its files, open.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use kiln_api::image::modify::Limit;
use kiln_api::image::{Image, ImageFile};
use kiln_client::Client;
use kiln_domain::limits::{DEFAULT_CPUS, DEFAULT_MEMORY_BYTES};
use kiln_vmm::{Architecture, Monitor, RunOrder};

use crate::error::RunError;

/// Largest initrd that is read, in bytes.
const INITRD_BYTES: u64 = 1 << 30;

/// An image, open. Whatever happens to its record, these files stay what they are.
///
/// The daemon opens them for reading alone, so nothing here could write to them.
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
    /// Asks for an image and takes its files, open.
    pub(crate) async fn open(client: &Client, order: &RunOrder) -> Result<Self, RunError> {
        let files = [ImageFile::Rootfs, ImageFile::Kernel, ImageFile::Initrd];
        let mut opened = client.open_image(&order.image, None, &files).await?;
        let mut take = |file: ImageFile| {
            let taken = opened.take(file);
            taken.ok_or(RunError::ImageFile { file })
        };
        let (rootfs, kernel) = (take(ImageFile::Rootfs)?, take(ImageFile::Kernel)?);
        let initrd = opened.take(ImageFile::Initrd).map(read).transpose();
        let view = opened.image;
        let architecture = view.architecture.parse();
        Ok(Self {
            architecture: architecture.map_err(|_| RunError::Architecture {
                architecture: view.architecture.clone(),
            })?,
            rootfs,
            kernel,
            initrd: initrd.map_err(|source| RunError::host("read the image's initrd", source))?,
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

    /// Returns the monitors that nothing is known to keep from booting it; none where nothing is
    /// known.
    pub(crate) fn bootable(&self) -> Vec<Monitor> {
        let known = self.view.boot.iter().flat_map(|boot| &boot.monitors);
        // A daemon that is newer may know others.
        known.filter_map(|word| word.parse().ok()).collect()
    }

    /// Decides how many processors the machine gets: part of one takes a whole one.
    pub(crate) fn cpus(&self, order: &RunOrder) -> u32 {
        order.cpus.unwrap_or_else(|| cpus(&self.view.limits))
    }

    /// Decides how much memory the machine gets, in MiB.
    pub(crate) fn memory_mib(&self, order: &RunOrder) -> u64 {
        let memory = order.memory_mib;
        memory.unwrap_or_else(|| memory_mib(&self.view.limits))
    }

    /// Returns the path of the root filesystem.
    pub(crate) fn rootfs_path(&self) -> PathBuf {
        PathBuf::from(&self.view.rootfs.path)
    }
}

fn cpus(limits: &[Limit]) -> u32 {
    let limit = limit(limits, "cpu").and_then(|count| u32::try_from(count).ok());
    limit.unwrap_or(DEFAULT_CPUS)
}

fn memory_mib(limits: &[Limit]) -> u64 {
    let bytes = limit(limits, "memory").unwrap_or(DEFAULT_MEMORY_BYTES);
    bytes.div_ceil(1 << 20)
}

/// Finds a limit that the daemon told; one that is older tells none.
fn limit(limits: &[Limit], slot: &str) -> Option<u64> {
    let limit = limits.iter().find(|limit| limit.slot == slot)?;
    Some(limit.value.rounded_up())
}

fn read(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(INITRD_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use kiln_domain::limits::Origin;

    use super::*;

    #[test]
    fn a_machine_gets_what_its_image_is_limited_to() {
        let limit = |slot: &str, value: &str| Limit {
            slot: slot.to_owned(),
            value: value.parse().unwrap(),
            origin: Origin::Custom,
        };
        let limits = [
            limit("cpu", "1.5"),
            limit("gpu", "2"),
            limit("memory", "2G"),
        ];

        assert_eq!((cpus(&limits), memory_mib(&limits)), (2, 2048));
        assert_eq!((cpus(&[]), memory_mib(&[])), (1, 512));
    }
}
