//! What can be wrong with a kernel file.

use std::io;

use kiln_files::is_no_space;

use crate::facts::Compression;

/// Why a kernel file was not understood.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It is none of the formats Kiln knows.
    #[error("this is not a kernel: neither an ELF file, a bzImage nor an arm64 Image")]
    NotAKernel,
    /// It is not a regular file.
    #[error("a kernel must be a regular file")]
    NotRegular,
    /// It, or what is inside, is longer than any kernel.
    #[error("{what} is longer than {limit_bytes} bytes")]
    TooLarge {
        /// Which of the two.
        what: &'static str,
        /// The longest that is accepted.
        limit_bytes: u64,
    },
    /// It has the shape of a kernel, and breaks a rule of that shape.
    #[error("the kernel is damaged: {what}")]
    Malformed {
        /// The rule that is broken.
        what: &'static str,
    },
    /// It is a kernel of a kind that Kiln does not unpack.
    #[error("kernels with {what} are not supported")]
    Unsupported {
        /// The kind.
        what: &'static str,
    },
    /// It is a kernel for an architecture that Kiln does not know.
    #[error("kernels for ELF machine {machine} are not supported")]
    UnsupportedArchitecture {
        /// The number of the machine in the ELF header.
        machine: u16,
    },
    /// The compressed part cannot be unpacked.
    #[error("cannot unpack the {compression} data of the kernel")]
    Corrupt {
        /// How it is compressed.
        compression: Compression,
        /// What the decoder says.
        source: io::Error,
    },
    /// There is nothing to extract: the file is not a bzImage.
    #[error("only a bzImage has an ELF file inside")]
    NothingInside,
    /// The caller asked to stop.
    #[error("cancelled while reading the kernel")]
    Cancelled,
    /// The operating system refused a step.
    #[error("cannot {step} the kernel")]
    Io {
        /// What was tried, as a verb.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl KernelError {
    /// Says whether the fault is in the file's content, and not in the circumstances.
    pub fn is_about_content(&self) -> bool {
        !matches!(self, Self::Cancelled | Self::Io { .. })
    }

    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}
