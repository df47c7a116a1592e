//! The initrd that comes along with a bootable artifact, judged where the artifact says that Kiln's
//! init is in it: without one the kernel finds no root filesystem, and nobody would know before the
//! first boot.
//!
//! An initrd of somebody else's init, or one of which nothing is said, is not looked at: kernels take
//! more formats than are read here.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use kiln_api::image::{Boot, BootChoice};
use kiln_api::{Failure, codes};
use kiln_kernel::{CpioEntry, CpioError, CpioLimits, CpioNode, read_initramfs};

use super::Pulls;
use crate::failures::{pool_failure, storage_code};

/// Longest initrd that is read as a whole, in bytes. Kiln's own are a few megabytes, 64 MiB of
/// modules at most; of a longer one the beginning is looked at.
const MAX_READ_BYTES: u64 = 128 << 20;

/// The most that is unpacked to judge one.
const LIMITS: CpioLimits = CpioLimits {
    entries: 100_000,
    bytes: 256 << 20,
};

/// Why a bootable artifact cannot boot as it says.
#[derive(Debug, thiserror::Error)]
enum InitrdFault {
    #[error("the artifact says that Kiln's init boots it, and has no initial ramdisk for it")]
    Missing,
    #[error("the initial ramdisk of the artifact cannot be used")]
    Archive(#[source] CpioError),
    #[error("the initial ramdisk of the artifact is empty, or has no program /init")]
    NoInit,
    #[error("cannot read the initial ramdisk of the artifact")]
    Read(#[from] std::io::Error),
}

impl Pulls {
    /// Refuses an artifact that needs Kiln's init and has no initrd where that could be.
    pub(super) async fn check_initrd(
        &self,
        boot: &Boot,
        initrd: Option<&File>,
    ) -> Result<(), Failure> {
        match boot.mode {
            BootChoice::Entrypoint | BootChoice::Init => {}
            BootChoice::Auto | BootChoice::None => return Ok(()),
        }
        let Some(initrd) = initrd else {
            return Err(initrd_failure(&InitrdFault::Missing));
        };
        let initrd = initrd.try_clone();
        let initrd = initrd.map_err(|error| Failure::from_error(storage_code(&error), &error))?;
        let judge = move || judge(initrd).map_err(|fault| initrd_failure(&fault));
        let judged = self.inspections.run(judge).await;
        judged.map_err(|error| pool_failure(&error))?
    }
}

/// Reads an initrd and looks for its init; the file is left at its beginning. It blocks.
fn judge(mut initrd: File) -> Result<(), InitrdFault> {
    let mut bytes = Vec::new();
    (&mut initrd).take(MAX_READ_BYTES).read_to_end(&mut bytes)?;
    // The position is shared with whoever copies it next.
    initrd.seek(SeekFrom::Start(0))?;
    let is_whole = (bytes.len() as u64) < MAX_READ_BYTES;
    match read_initramfs(&bytes, LIMITS) {
        Ok(entries) if entries.iter().any(is_init) => Ok(()),
        Ok(_) => Err(InitrdFault::NoInit),
        // What is beyond this reader is not what the kernel refuses.
        Err(CpioError::Unsupported { .. } | CpioError::TooMuch { .. }) => Ok(()),
        // It was cut here.
        Err(error) if is_whole || is_at_the_beginning(&error) => Err(InitrdFault::Archive(error)),
        Err(_) => Ok(()),
    }
}

fn is_at_the_beginning(error: &CpioError) -> bool {
    matches!(error, CpioError::Malformed { offset: 0, .. })
}

fn is_init(entry: &CpioEntry<'_>) -> bool {
    let is_program = matches!(entry.node, CpioNode::File(_) | CpioNode::Link(_));
    entry.path.as_os_str() == "init" && is_program
}

fn initrd_failure(fault: &InitrdFault) -> Failure {
    if let InitrdFault::Read(source) = fault {
        return Failure::from_error(storage_code(source), fault);
    }
    Failure::from_error(codes::boot::NO_INITRD, fault).with_hint(
        "name a kernel of this host with --kernel: the initial ramdisk is then made here",
        None,
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use kiln_kernel::{BaseInitrd, CpioWriter, InitrdCompression, compose, image_archive};

    use super::*;

    fn check(bytes: &[u8]) -> Result<(), String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let judged = judge(file.try_clone().unwrap());
        assert_eq!(file.stream_position().unwrap(), 0);
        judged.map_err(|fault| initrd_failure(&fault).code)
    }

    #[test]
    fn what_kiln_composes_is_taken() {
        for compression in [
            InitrdCompression::Zstd,
            InitrdCompression::Gzip,
            InitrdCompression::None,
        ] {
            let base = BaseInitrd::without_modules(b"init", compression).build();
            let image = image_archive(b"{}").unwrap();
            assert_eq!(check(&compose(&base.unwrap(), &[&image])), Ok(()));
        }
        // Not read here, and the kernel takes it.
        assert_eq!(check(&[0x02, 0x21, 0x4c, 0x18, 0, 0, 0, 0]), Ok(()));
    }

    #[test]
    fn what_has_no_init_is_refused() {
        let base = BaseInitrd::without_modules(b"init", InitrdCompression::Gzip).build();
        let mut broken = base.unwrap();
        let middle = broken.len() / 2;
        broken[middle] ^= 0xff;
        let mut other = CpioWriter::new(CpioLimits::default());
        other.file("sbin", 0o755, &b"no init"[..]).unwrap();
        let other = other.to_bytes();
        let cases: [&[u8]; 6] = [
            b"",
            &[0; 4096],
            b"garbage",
            b"\x1f\x8b garbage",
            &broken,
            &other,
        ];
        for bytes in cases {
            let start = String::from_utf8_lossy(bytes.get(..8.min(bytes.len())).unwrap());
            assert_eq!(check(bytes), Err("boot.no_initrd".to_owned()), "{start:?}");
        }
    }
}
