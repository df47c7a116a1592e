//! Kernels that travel as artifacts: which layer of a manifest is the kernel, and which its
//! initrd.
//!
//! ```text
//! apple/containerization   the layer's media type
//! LF Edge ECI              the layer's media type, or the annotation org.lfedge.eci.role
//! oras and others          the file name in org.opencontainers.image.title
//! ```
//! What the bytes are is decided by whoever reads them, never by these words. Kernels inside the
//! root filesystem of an ordinary image are not here.

use super::{Descriptor, Manifest};

const APPLE_KERNEL: &str = "application/vnd.apple.containerization.kernel";
const ECI_KERNEL: &str = "application/vnd.lfedge.eci.kernel.layer.v1+kernel";
const ECI_INITRD: &str = "application/vnd.lfedge.eci.initrd.layer.v1+cpio";
const ECI_ROLE: &str = "org.lfedge.eci.role";
const TITLE: &str = "org.opencontainers.image.title";

/// What a layer is to a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelRole {
    /// The kernel itself.
    Kernel,
    /// Its initial ramdisk.
    Initrd,
}

/// The layers of a manifest that are a kernel's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLayers<'a> {
    /// The kernel.
    pub kernel: &'a Descriptor,
    /// The initial ramdisk, where there is one.
    pub initrd: Option<&'a Descriptor>,
}

/// Several layers say that they are the same file of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the artifact has {count} layers that are each {role}")]
pub struct KernelLayersError {
    /// `a kernel` or `an initrd`.
    pub role: &'static str,
    /// How many.
    pub count: usize,
}

impl KernelRole {
    /// Tells what a layer says it is; nothing when it says neither.
    pub fn of(layer: &Descriptor) -> Option<Self> {
        match layer.media_type.as_str() {
            APPLE_KERNEL | ECI_KERNEL => return Some(Self::Kernel),
            ECI_INITRD => return Some(Self::Initrd),
            _ => {}
        }
        match layer.annotations.get(ECI_ROLE).map(String::as_str) {
            Some("kernel") => return Some(Self::Kernel),
            Some("initrd") => return Some(Self::Initrd),
            // It says what it is, and that is something else.
            Some(_) => return None,
            None => {}
        }
        let title = layer.annotations.get(TITLE)?;
        let name = title.rsplit('/').next().unwrap_or_default();
        let is = |names: &[&str]| {
            names.iter().any(|known| {
                let rest = name.strip_prefix(known);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
            })
        };
        if is(&["vmlinux", "vmlinuz", "bzImage", "Image"]) {
            return Some(Self::Kernel);
        }
        is(&["initrd", "initramfs"]).then_some(Self::Initrd)
    }
}

impl<'a> KernelLayers<'a> {
    /// Finds the files of a kernel among the layers of a manifest; nothing when no layer is a
    /// kernel.
    pub fn of(manifest: &'a Manifest) -> Result<Option<Self>, KernelLayersError> {
        let only = |wanted, role| {
            let mut found = manifest
                .layers
                .iter()
                .filter(|layer| KernelRole::of(layer) == Some(wanted));
            let first = found.next();
            match found.count() {
                0 => Ok(first),
                others => Err(KernelLayersError {
                    role,
                    count: others + 1,
                }),
            }
        };
        let Some(kernel) = only(KernelRole::Kernel, "a kernel")? else {
            return Ok(None);
        };
        let initrd = only(KernelRole::Initrd, "an initrd")?;
        Ok(Some(Self { kernel, initrd }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Document, StatedMediaTypes};
    use super::*;
    use crate::Digest;

    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

    fn layer(media_type: &str, annotation: Option<(&str, &str)>) -> Descriptor {
        let mut layer = Descriptor::new(media_type, Digest::of(media_type.as_bytes()), 9);
        let annotation = annotation.map(|(key, value)| (key.to_owned(), value.to_owned()));
        layer.annotations.extend(annotation);
        layer
    }

    #[test]
    fn media_type_role_and_title_tell_in_this_order() {
        let title = |name| Some((TITLE, name));
        let role = |name| Some((ECI_ROLE, name));
        let (kernel, initrd) = (Some(KernelRole::Kernel), Some(KernelRole::Initrd));
        let cases = [
            (APPLE_KERNEL, None, kernel),
            (ECI_KERNEL, None, kernel),
            (ECI_INITRD, None, initrd),
            (TAR, role("kernel"), kernel),
            (TAR, role("initrd"), initrd),
            (TAR, role("disk-root"), None),
            (TAR, title("vmlinux"), kernel),
            (TAR, title("boot/vmlinuz-6.1.0"), kernel),
            (TAR, title("vmlinux.bin"), kernel),
            (TAR, title("bzImage"), kernel),
            (TAR, title("Image"), kernel),
            (TAR, title("initrd.img-6.1.0"), initrd),
            (TAR, title("initramfs.cpio.gz"), initrd),
            (TAR, title("ImageMagick"), None),
            (TAR, title("README"), None),
            (TAR, None, None),
        ];
        for (media_type, annotation, want) in cases {
            let layer = layer(media_type, annotation);
            assert_eq!(KernelRole::of(&layer), want, "{media_type} {annotation:?}");
        }
    }

    fn manifest(layers: &[Descriptor]) -> Manifest {
        let config = Descriptor::new("application/vnd.oci.empty.v1+json", Digest::of(b"{}"), 2);
        let document = serde_json::json!({
            "schemaVersion": 2,
            "config": config,
            "layers": layers,
        });
        let bytes = document.to_string();
        let parsed = Document::parse_any(bytes.as_bytes(), StatedMediaTypes::default(), 1 << 20);
        match parsed.unwrap() {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn one_kernel_and_at_most_one_initrd_are_found() {
        let kernel = layer(APPLE_KERNEL, None);
        let initrd = layer(ECI_INITRD, None);
        let other = layer(TAR, None);
        let none = manifest(&[other.clone(), initrd.clone()]);
        let both = manifest(&[other, initrd.clone(), kernel.clone()]);
        let two = manifest(&[kernel.clone(), layer(ECI_KERNEL, None)]);

        assert_eq!(KernelLayers::of(&none), Ok(None));
        let found = KernelLayers::of(&both).unwrap().unwrap();
        assert_eq!((found.kernel, found.initrd), (&kernel, Some(&initrd)));
        assert!(!both.is_image());
        let refused = KernelLayers::of(&two).unwrap_err();
        assert_eq!((refused.role, refused.count), ("a kernel", 2));
    }
}
