//! Tells whether a file is a raw ext4 filesystem, and names what it is otherwise.
//!
//! Only the first sectors are read; whether the filesystem is whole is not judged here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Where the superblock lies (kernel documentation, ext4 "Super Block").
const SUPERBLOCK: usize = 1024;

/// Bytes read: the superblock and every other format's magic.
const HEAD_BYTES: usize = 72 * 1024;

/// Formats that may have a root filesystem in them.
const QCOW2: &str = "a qcow2 disk";
const PARTITIONED: &str = "a partitioned disk";
const BOOT_SECTOR: &str = "a disk with a boot sector";

/// Formats that people have in files, by their magic.
const OTHERS: &[(&str, usize, &[u8])] = &[
    (QCOW2, 0, b"QFI\xfb"),
    ("a VMDK disk", 0, b"KDMV"),
    ("a VMDK descriptor", 0, b"# Disk DescriptorFile"),
    ("a VHDX disk", 0, b"vhdxfile"),
    ("a VHD disk", 0, b"conectix"),
    ("a VDI disk", 64, b"\x7f\x10\xda\xbe"),
    ("a squashfs filesystem", 0, b"hsqs"),
    ("an XFS filesystem", 0, b"XFSB"),
    ("an EROFS filesystem", 1024, b"\xe2\xe1\xf5\xe0"),
    ("a btrfs filesystem", 65_600, b"_BHRfS_M"),
    ("an ISO 9660 filesystem", 32_769, b"CD001"),
    ("a gzip file", 0, b"\x1f\x8b"),
    ("a zstd file", 0, b"\x28\xb5\x2f\xfd"),
    ("an xz file", 0, b"\xfd7zXZ"),
    ("a tar archive", 257, b"ustar"),
    ("an ELF file", 0, b"\x7fELF"),
    (PARTITIONED, 512, b"EFI PART"),
    (BOOT_SECTOR, 510, b"\x55\xaa"),
];

/// Why a file cannot be registered as a root filesystem.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It is something else that is known.
    #[error("the file is {found}, not a raw ext4 filesystem")]
    OtherFormat {
        /// What it is.
        found: &'static str,
    },
    /// It is something else.
    #[error("the file is not a raw ext4 filesystem")]
    Unknown,
    /// It is cut off.
    #[error("the filesystem is {wanted_bytes} bytes long and the file {found_bytes}")]
    Truncated {
        /// Length of the filesystem.
        wanted_bytes: u64,
        /// Length of the file.
        found_bytes: u64,
    },
    /// It cannot be read.
    #[error("cannot read the root filesystem")]
    Io(#[from] io::Error),
}

impl ProbeError {
    /// Tells whether what was found may have a root filesystem in it.
    pub(crate) fn is_wrapping(&self) -> bool {
        matches!(
            self,
            Self::OtherFormat {
                found: QCOW2 | PARTITIONED | BOOT_SECTOR
            }
        )
    }
}

/// Checks a file and returns its size in bytes.
pub(super) fn probe(file: &File) -> Result<u64, ProbeError> {
    let found_bytes = file.metadata()?.len();
    let wanted_bytes = probe_head(&read_head(file)?)?;
    if wanted_bytes > found_bytes {
        return Err(ProbeError::Truncated {
            wanted_bytes,
            found_bytes,
        });
    }
    Ok(found_bytes)
}

/// Checks the beginning of a file and returns how long the filesystem in it says it is.
pub(crate) fn probe_head(head: &[u8]) -> Result<u64, ProbeError> {
    if let Some(wanted_bytes) = ext4_size(head) {
        return Ok(wanted_bytes);
    }
    let found = OTHERS
        .iter()
        .find(|(_, at, magic)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    Err(
        found.map_or(ProbeError::Unknown, |(found, ..)| ProbeError::OtherFormat {
            found,
        }),
    )
}

fn read_head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// Reads how large an ext4 filesystem says it is; `None` when it is none.
///
/// ext2 and ext3 share the magic: what makes it ext4 is the extents feature (incompat 0x40).
fn ext4_size(head: &[u8]) -> Option<u64> {
    let superblock = head.get(SUPERBLOCK..SUPERBLOCK + 1024)?;
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(
            superblock.get(at..at + 4)?.try_into().ok()?,
        ))
    };
    let magic = superblock.get(0x38..0x3a)?;
    let incompat = word(0x60)?;
    if magic != [0x53, 0xef] || incompat & 0x40 == 0 {
        return None;
    }
    let log_block_size = word(0x18).filter(|log| *log <= 6)?;
    let high = if incompat & 0x80 == 0 {
        0
    } else {
        word(0x150)?
    };
    let blocks = u64::from(high) << 32 | u64::from(word(0x04)?);
    blocks.checked_mul(1024 << log_block_size)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn probed(content: &[u8], length: u64) -> Result<u64, ProbeError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.set_len(length).unwrap();
        probe(&file)
    }

    fn superblock(blocks: u32, incompat: u32) -> Vec<u8> {
        let mut head = vec![0; 2048];
        head[1024 + 0x04..1024 + 0x08].copy_from_slice(&blocks.to_le_bytes());
        head[1024 + 0x18] = 2;
        head[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        head[1024 + 0x60..1024 + 0x64].copy_from_slice(&incompat.to_le_bytes());
        head
    }

    #[test]
    fn a_whole_ext4_is_taken_and_a_cut_one_refused() {
        assert!(matches!(probed(&superblock(16, 0x42), 65_536), Ok(65_536)));
        assert!(matches!(
            probed(&superblock(17, 0x42), 65_536),
            Err(ProbeError::Truncated {
                wanted_bytes: 69_632,
                found_bytes: 65_536
            })
        ));
    }

    #[test]
    fn other_formats_are_named() {
        let cases: [(&[u8], &str); 3] = [
            (b"QFI\xfb", "a qcow2 disk"),
            (b"hsqs", "a squashfs filesystem"),
            (b"\x1f\x8b", "a gzip file"),
        ];
        for (head, want) in cases {
            let error = probed(head, 4096).unwrap_err();

            assert!(error.to_string().contains(want), "{error}");
        }
        assert!(matches!(probed(b"hello", 5), Err(ProbeError::Unknown)));
        assert!(matches!(
            probed(&superblock(16, 0x2), 65_536),
            Err(ProbeError::Unknown)
        ));
    }
}
