//! Disks that travel as artifacts of others: which layer of a manifest is the disk.
//!
//! ```text
//! Red Hat, flightctl     the layer's media type: application/vnd.diskimage.…
//! LF Edge ECI            the layer's media type, or the annotation org.lfedge.eci.role
//! podman machine         the file name in org.opencontainers.image.title: ….raw.zst, ….qcow2.xz
//! tart                   the config's media type; named, and refused
//! ```
//! What the bytes are is decided by whoever reads them, never by these words. Artifacts of Kiln's own
//! are in `bootable`, kernels in `kernel`.

use super::{Descriptor, KernelLayers, KernelLayersError, Manifest};

/// Red Hat's family of media types.
const DISKIMAGE: &str = "application/vnd.diskimage.";
/// LF Edge's.
const ECI_DISK: &str = "application/vnd.lfedge.disk.layer.v1+";
const ECI_ROLE: &str = "org.lfedge.eci.role";
const TITLE: &str = "org.opencontainers.image.title";
/// The family of tart's media types.
const TART: &str = "application/vnd.cirruslabs.tart.";

/// How files with a disk end, compressed or not.
const ENDINGS: [&str; 7] = [".raw", ".img", ".ext4", ".qcow2", ".vmdk", ".vhdx", ".vhd"];
const PACKINGS: [&str; 4] = [".zst", ".gz", ".xz", ".bz2"];

/// The layers of a manifest that are a disk and what boots it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskLayers<'a> {
    /// The disk.
    pub disk: &'a Descriptor,
    /// A kernel that comes along, and its initial ramdisk.
    pub kernel: Option<KernelLayers<'a>>,
}

/// Why the disk of an artifact cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskLayersError {
    /// Several layers are each the disk, and none says that it is the one with the root.
    #[error("the artifact has {count} layers that are each a disk")]
    Several {
        /// How many.
        count: usize,
    },
    /// It is a virtual machine of tart, whose disk has partitions and a boot loader of its own.
    #[error(
        "the artifact is a virtual machine of tart, whose disk has partitions and is no root filesystem"
    )]
    Tart,
    /// It cannot be told which layer is the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelLayersError),
}

impl<'a> DiskLayers<'a> {
    /// Finds the disk among the layers of a manifest; nothing when no layer is one.
    pub fn of(manifest: &'a Manifest) -> Result<Option<Self>, DiskLayersError> {
        let mut layers = manifest.layers.iter();
        if manifest.config.media_type.starts_with(TART)
            || layers.any(|layer| layer.media_type.starts_with(TART))
        {
            return Err(DiskLayersError::Tart);
        }
        let disks: Vec<&Descriptor> = manifest.layers.iter().filter(|one| is_disk(one)).collect();
        let is_root = |layer: &&&Descriptor| {
            layer.annotations.get(ECI_ROLE).map(String::as_str) == Some("disk-root")
        };
        let disk = match (disks.iter().find(is_root), disks.as_slice()) {
            (Some(root), _) => root,
            (None, []) => return Ok(None),
            (None, [disk]) => disk,
            (None, several) => {
                let count = several.len();
                return Err(DiskLayersError::Several { count });
            }
        };
        Ok(Some(Self {
            disk,
            kernel: KernelLayers::of(manifest)?,
        }))
    }
}

fn is_disk(layer: &Descriptor) -> bool {
    if [DISKIMAGE, ECI_DISK]
        .iter()
        .any(|family| layer.media_type.starts_with(family))
    {
        return true;
    }
    if let Some(role) = layer.annotations.get(ECI_ROLE) {
        // It says what it is; other disks than the root are not what is looked for.
        return role == "disk-root";
    }
    let Some(title) = layer.annotations.get(TITLE) else {
        return false;
    };
    let packed = PACKINGS
        .iter()
        .find_map(|ending| title.strip_suffix(ending));
    let title = packed.unwrap_or(title);
    ENDINGS.iter().any(|ending| title.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::super::{Document, StatedMediaTypes};
    use super::*;
    use crate::Digest;

    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    const EMPTY: &str = "application/vnd.oci.empty.v1+json";

    fn layer(media_type: &str, annotation: Option<(&str, &str)>) -> Descriptor {
        let mut layer = Descriptor::new(media_type, Digest::of(media_type.as_bytes()), 9);
        let annotation = annotation.map(|(key, value)| (key.to_owned(), value.to_owned()));
        layer.annotations.extend(annotation);
        layer
    }

    fn manifest(config: &str, layers: &[Descriptor]) -> Manifest {
        let document = serde_json::json!({
            "schemaVersion": 2,
            "config": Descriptor::new(config, Digest::of(b"{}"), 2),
            "layers": layers,
        });
        let bytes = document.to_string();
        let stated = StatedMediaTypes::default();
        match Document::parse_any(bytes.as_bytes(), stated, 1 << 20).unwrap() {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn media_type_role_and_title_tell() {
        let title = |name| Some((TITLE, name));
        let role = |name| Some((ECI_ROLE, name));
        let cases = [
            ("application/vnd.diskimage.raw.zstd", None, true),
            ("application/vnd.diskimage.qcow2", None, true),
            ("application/vnd.lfedge.disk.layer.v1+raw", None, true),
            (TAR, role("disk-root"), true),
            (TAR, role("disk-additional"), false),
            (TAR, title("fedora.raw.zst"), true),
            (TAR, title("podman-machine.x86_64.qemu.qcow2.xz"), true),
            (TAR, title("rootfs.ext4"), true),
            (TAR, title("vmlinux"), false),
            (TAR, None, false),
        ];
        for (media_type, annotation, want) in cases {
            let layer = layer(media_type, annotation);
            assert_eq!(is_disk(&layer), want, "{media_type} {annotation:?}");
        }
    }

    #[test]
    fn the_root_disk_and_its_kernel_are_found_among_others() {
        let raw = "application/vnd.lfedge.disk.layer.v1+raw";
        let root = layer(raw, Some((ECI_ROLE, "disk-root")));
        let data = layer(raw, Some((ECI_ROLE, "disk-additional")));
        let kernel = layer("application/vnd.lfedge.eci.kernel.layer.v1+kernel", None);
        let all = manifest(EMPTY, &[data.clone(), kernel.clone(), root.clone()]);
        let several = manifest(EMPTY, &[data.clone(), data.clone()]);
        let none = manifest(EMPTY, std::slice::from_ref(&kernel));
        let tart = manifest(
            "application/vnd.cirruslabs.tart.config.v1",
            std::slice::from_ref(&root),
        );

        let found = DiskLayers::of(&all).unwrap().unwrap();

        assert_eq!(found.disk, &root);
        assert_eq!(found.kernel.unwrap().kernel, &kernel);
        let refused = DiskLayersError::Several { count: 2 };
        assert_eq!(DiskLayers::of(&several), Err(refused));
        assert_eq!(DiskLayers::of(&none), Ok(None));
        assert_eq!(DiskLayers::of(&tart), Err(DiskLayersError::Tart));
    }
}
