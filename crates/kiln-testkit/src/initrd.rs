//! What an initrd is made of: a cpio archive ("newc"), and the modules that lead to a disk; and the
//! smallest one that shows that a guest runs.
//!
//! It is for tests and benchmarks; the daemon composes its own.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::debs::{self, CloudKernel};
use crate::fixtures::Fixtures;

/// Modules between the kernel and a virtio disk, in load order, below the modules folder.
///
/// The package holds no `modules.dep`, so the order is stated here.
pub const MODULES: &[&str] = &[
    "kernel/drivers/virtio/virtio_ring.ko",
    "kernel/drivers/virtio/virtio.ko",
    "kernel/drivers/virtio/virtio_pci_modern_dev.ko",
    "kernel/drivers/virtio/virtio_pci_legacy_dev.ko",
    "kernel/drivers/virtio/virtio_pci.ko",
    "kernel/drivers/virtio/virtio_mmio.ko",
    "kernel/drivers/block/virtio_blk.ko",
];

/// Says that it runs and powers off: shows whether an accelerator can run guests at all.
const PROBE_SCRIPT: &str = "#!/bin/busybox sh\n\
    echo kiln-probe: the guest runs\n\
    /bin/busybox poweroff -f\n";

/// What the probe's guest prints.
pub const PROBE_MARKER: &str = "kiln-probe: the guest runs";

/// Returns the path of an initrd for `kernel` that needs no disk, prints a line and powers off.
pub fn for_probe(fixtures: &Fixtures, kernel: &CloudKernel) -> Result<PathBuf> {
    let busybox = debs::package(fixtures, "busybox-static")?;
    let recipe = format!("probe 1 {:?} {PROBE_SCRIPT}", busybox.deb.file_name());
    let folder = fixtures.obtain(&format!("probe-{}", kernel.release), &recipe, |folder| {
        let mut archive = Cpio::default();
        for directory in ["bin", "dev"] {
            archive.directory(directory)?;
        }
        // The kernel opens it before init runs and before /dev is mounted.
        archive.character_device("dev/console", 5, 1)?;
        archive.file("init", 0o755, PROBE_SCRIPT.as_bytes())?;
        let program = busybox.tree.join("bin/busybox");
        let program =
            fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
        archive.file("bin/busybox", 0o755, &program)?;

        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(&archive.finish()?)?;
        let path = folder.join("initrd.img");
        fs::write(&path, encoder.finish()?).with_context(|| path.display().to_string())
    })?;
    Ok(folder.join("initrd.img"))
}

/// A cpio archive in the kernel's format: a 110-byte header of hexadecimal fields, the name with
/// a NUL, padding to 4 bytes, the body, padding to 4 bytes; the entry `TRAILER!!!` ends it.
///
/// Source: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// Adds a directory of mode 0755.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, 0o040_755, (0, 0), &[])
    }

    /// Adds a file of root's.
    pub fn file(&mut self, name: &str, mode: u32, body: &[u8]) -> Result<()> {
        self.entry(name, 0o100_000 | mode, (0, 0), body)
    }

    /// Adds a device node of root's.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(name, 0o020_600, (major, minor), &[])
    }

    /// Ends the archive and returns its bytes.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), body: &[u8]) -> Result<()> {
        let Ok(size) = u32::try_from(body.len()) else {
            bail!(
                "{name} is too long for a cpio archive: {} bytes",
                body.len()
            );
        };
        self.entries += 1;
        let links = 1;
        let name_size = u32::try_from(name.len())? + 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08x}")?;
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(body);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_layout_the_kernel_documents() -> Result<()> {
        let mut archive = Cpio::default();
        archive.file("init", 0o755, b"12345")?;

        let bytes = archive.finish()?;

        // 110 + "init\0" is 115, padded to 116; 5 bytes of body, padded to 124.
        assert_eq!(bytes.get(..14), Some(&b"07070100000001"[..]));
        assert_eq!(bytes.get(14..22), Some(&b"000081ed"[..]));
        assert_eq!(bytes.get(54..62), Some(&b"00000005"[..]));
        assert_eq!(bytes.get(94..102), Some(&b"00000005"[..]));
        assert_eq!(bytes.get(110..124), Some(&b"init\0\x0012345\0\0\0"[..]));
        assert_eq!(bytes.len(), 124 + 110 + 11 + 3);
        Ok(())
    }
}
