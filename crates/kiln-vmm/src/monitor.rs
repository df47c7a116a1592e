//! The words for monitors, accelerators and processors, as they stand on the wire and in flags.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A virtual machine monitor, with the machine it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Monitor {
    /// QEMU with `-M microvm`: few devices, all on virtio-mmio.
    QemuMicrovm,
    /// QEMU with `-M q35`: a computer with PCI.
    #[serde(rename = "qemu-q35")]
    QemuQ35,
    /// Firecracker.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
}

/// What executes a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The host's processor, by the kernel's virtual machine.
    Kvm,
    /// QEMU's emulation: on any host, many times slower.
    Tcg,
}

/// A guest's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

/// A text is none of the words that are known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a known {what}; known are {known}")]
pub struct UnknownWord {
    /// What it should have been.
    pub what: &'static str,
    /// The text.
    pub text: String,
    /// The words.
    pub known: String,
}

impl Monitor {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 4] = [
        Self::QemuMicrovm,
        Self::QemuQ35,
        Self::Firecracker,
        Self::CloudHypervisor,
    ];

    /// Returns its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QemuMicrovm => "qemu-microvm",
            Self::QemuQ35 => "qemu-q35",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    /// Tells whether it is QEMU.
    pub fn is_qemu(self) -> bool {
        matches!(self, Self::QemuMicrovm | Self::QemuQ35)
    }

    /// Returns the name of its program.
    pub fn program(self, architecture: Architecture) -> &'static str {
        match (self, architecture) {
            (Self::QemuMicrovm | Self::QemuQ35, Architecture::Amd64) => "qemu-system-x86_64",
            (Self::QemuMicrovm | Self::QemuQ35, Architecture::Arm64) => "qemu-system-aarch64",
            (Self::Firecracker, _) => "firecracker",
            (Self::CloudHypervisor, _) => "cloud-hypervisor",
        }
    }
}

impl Accelerator {
    /// Returns its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl Architecture {
    /// The one this program was built for; nothing on processors that no monitor here knows.
    pub const HOST: Option<Self> = if cfg!(target_arch = "x86_64") {
        Some(Self::Amd64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Arm64)
    } else {
        None
    };

    /// Returns its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

fn find<T: Copy>(
    what: &'static str,
    text: &str,
    all: &[T],
    word: impl Fn(T) -> &'static str,
) -> Result<T, UnknownWord> {
    let found = all.iter().copied().find(|one| word(*one) == text);
    found.ok_or_else(|| {
        let known: Vec<&str> = all.iter().copied().map(word).collect();
        UnknownWord {
            what,
            text: text.chars().take(80).collect(),
            known: known.join(", "),
        }
    })
}

macro_rules! words {
    ($name:ident, $what:literal, $all:expr) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                find($what, text, &$all, Self::as_str)
            }
        }
    };
}

words!(Monitor, "monitor", Monitor::ALL);
words!(Accelerator, "accelerator", [Self::Kvm, Self::Tcg]);
words!(Architecture, "architecture", [Self::Amd64, Self::Arm64]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_are_the_same_in_json() {
        for monitor in Monitor::ALL {
            assert_eq!(monitor.as_str().parse(), Ok(monitor));
            let json = serde_json::to_value(monitor).unwrap();
            assert_eq!(json, monitor.as_str());
        }
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            assert_eq!(accelerator.as_str().parse(), Ok(accelerator));
            assert_eq!(
                serde_json::to_value(accelerator).unwrap(),
                accelerator.as_str()
            );
        }
        for architecture in [Architecture::Amd64, Architecture::Arm64] {
            assert_eq!(architecture.as_str().parse(), Ok(architecture));
            assert_eq!(
                serde_json::to_value(architecture).unwrap(),
                architecture.as_str()
            );
        }
    }

    #[test]
    fn an_unknown_word_is_told_the_known_ones() {
        let error = "xen".parse::<Monitor>().unwrap_err();

        assert_eq!(
            error.to_string(),
            "\"xen\" is not a known monitor; known are qemu-microvm, qemu-q35, firecracker, \
             cloud-hypervisor"
        );
    }
}
