//! What is known about a kernel file.
//!
//! How it is found out is not here.

use std::fmt;

use kiln_domain::Digest;
use serde::{Deserialize, Serialize};

/// What a kernel file is, as far as booting it is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// How the file is built.
    pub format: KernelFormat,
    /// What it runs on.
    pub architecture: Architecture,
    /// How the kernel proper inside is compressed; `None` when it is not.
    pub compression: Option<Compression>,
    /// What `uname -r` prints once it runs, and what its directory below `/lib/modules` is
    /// called. `None` when the file does not tell.
    pub release: Option<String>,
    /// Whether the ELF file, or the one inside, has a PVH entry point (the Xen note
    /// `PHYS32_ENTRY`), by which QEMU and Cloud Hypervisor start an uncompressed kernel.
    pub has_pvh_note: bool,
    /// SHA-256 of the whole file.
    pub sha256: Digest,
    /// Length of the whole file, in bytes.
    pub size_bytes: u64,
}

impl KernelFacts {
    /// Describes the form in which monitors start it: the ELF file inside a bzImage, where that has
    /// the entry point by which they do.
    #[must_use]
    pub fn as_started(&self) -> Self {
        let format = match self.format {
            KernelFormat::BzImage if self.has_pvh_note => KernelFormat::Elf,
            format => format,
        };
        Self {
            format,
            ..self.clone()
        }
    }
}

/// How a kernel file is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFormat {
    /// An ELF file, `vmlinux`: what every virtual machine monitor takes on x86-64.
    Elf,
    /// An x86 boot image with the kernel proper compressed inside.
    BzImage,
    /// An arm64 boot image, `Image`; with a compression, the whole file is compressed.
    #[serde(rename = "arm64-image")]
    Arm64Image,
}

/// What a kernel runs on, in Kiln's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// Also known as amd64.
    #[serde(rename = "x86_64")]
    X86_64,
    /// Also known as arm64.
    #[serde(rename = "aarch64")]
    Aarch64,
}

/// A compression that Kiln unpacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// The legacy frame of LZ4, which the kernel's build uses (`lz4 -l`).
    Lz4,
    /// The `.xz` file format.
    Xz,
    /// RFC 8878.
    Zstd,
}

impl fmt::Display for KernelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf => "ELF",
            Self::BzImage => "bzImage",
            Self::Arm64Image => "arm64 Image",
        })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        })
    }
}
