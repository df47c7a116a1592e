//! The header of an x86 boot image, and where the kernel proper is in it.
//!
//! ```text
//! 0x1f1        0x1fe   0x202   0x206    0x20e           0x248            0x24c
//! │setup_sects │aa55   │"HdrS" │version │kernel_version │payload_offset  │payload_length
//!
//! │ boot sector │ setup_sects × 512 │ protected-mode code: … │ payload │ … │
//!                                   ▲                        ▲
//!                    (setup_sects + 1) × 512          + payload_offset
//! ```
//!
//! Source: `Documentation/arch/x86/boot.rst` of the kernel. Unpacking is not here.

use crate::banner;
use crate::error::KernelError;
use crate::source::{Section, Source};

/// Bytes of the header that are looked at.
const HEADER_BYTES: usize = 0x250;
/// Bytes of a sector.
const SECTOR_BYTES: u64 = 512;
/// What `setup_sects = 0` stands for, since the time of floppy disks.
const DEFAULT_SETUP_SECTORS: u64 = 4;
/// Protocol 2.08 (Linux 2.6.26) is the first that says where the payload is.
const MIN_PROTOCOL: u16 = 0x208;
/// Bytes read of the version text, which is one line.
const VERSION_BYTES: u64 = 256;

/// A boot image whose payload lies within the file.
#[derive(Debug)]
pub(crate) struct BzImage<'a> {
    /// The compressed kernel proper, followed by what the kernel's build appends to it.
    pub(crate) payload: Section<'a>,
    /// What `uname -r` will print.
    pub(crate) release: Option<String>,
}

/// Says whether a file that begins like this is an x86 boot image.
pub(crate) fn is_boot_image(head: &[u8]) -> bool {
    head.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && head.get(0x202..0x206) == Some(b"HdrS")
}

impl<'a> BzImage<'a> {
    /// Reads the header of a file that [`is_boot_image`] has recognised.
    pub(crate) fn read(source: Source<'a>) -> Result<Self, KernelError> {
        let head = source.head(HEADER_BYTES as u64)?;
        let Some(header) = head.first_chunk::<HEADER_BYTES>() else {
            return Err(KernelError::Malformed {
                what: "its boot header is cut short",
            });
        };
        if u16::from_le_bytes([header[0x206], header[0x207]]) < MIN_PROTOCOL {
            return Err(KernelError::Unsupported {
                what: "a boot protocol before 2.08",
            });
        }
        let setup_sectors = match header[0x1f1] {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => u64::from(sectors),
        };
        let setup_bytes = (setup_sectors + 1) * SECTOR_BYTES;
        let offset = u64::from(u32_at(header, 0x248));
        let payload = source.section(setup_bytes + offset, u64::from(u32_at(header, 0x24c)))?;
        let version_at = u64::from(u16::from_le_bytes([header[0x20e], header[0x20f]]));
        Ok(Self {
            payload,
            release: read_release(source, version_at, setup_bytes)?,
        })
    }
}

/// Reads the version text, whose place is given less 0x200; zero says that there is none.
fn read_release(
    source: Source<'_>,
    version_at: u64,
    setup_bytes: u64,
) -> Result<Option<String>, KernelError> {
    let start = version_at + 0x200;
    let end = (start + VERSION_BYTES)
        .min(setup_bytes)
        .min(source.size_bytes());
    if version_at == 0 || start >= end {
        return Ok(None);
    }
    let text = source.head(end)?;
    let text = usize::try_from(start)
        .ok()
        .and_then(|start| text.get(start..));
    Ok(text.and_then(banner::first_word))
}

fn u32_at(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}
