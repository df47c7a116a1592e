//! Platforms: operating system, architecture and variant, as image indexes name them.
//!
//! Not here: which platform the host has, and choosing from an index (`oci`).

use std::fmt;
use std::str::FromStr;

/// A processor architecture Kiln builds images for. Its text is Go's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// 64-bit x86, also read as `x86_64` and `x86-64`.
    Amd64,
    /// 64-bit ARM, also read as `aarch64`.
    Arm64,
    /// 32-bit ARM, also read as `armhf` and `armv7l`.
    Arm,
    /// 64-bit RISC-V.
    Riscv64,
}

/// What an image must run on, such as `linux/arm64`. The system is always Linux.
///
/// Invariant: the variant is a known one of the architecture; one that is not written is the
/// usual one (`v1` for amd64, `v8` for arm64, `v7` for arm), so `linux/arm64/v8` equals `arm64`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    architecture: Architecture,
    level: u8,
}

/// Why a text is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// The operating system is not Linux.
    #[error("{system:?} is not an operating system that boots here, only linux is")]
    System {
        /// The word, cut to 80 characters.
        system: String,
    },
    /// The architecture is not one Kiln builds for.
    #[error("{architecture:?} is not a known architecture (amd64, arm64, arm, riscv64)")]
    Architecture {
        /// The word, cut to 80 characters.
        architecture: String,
    },
    /// The architecture has no such variant.
    #[error("{architecture} has no variant {variant:?}")]
    Variant {
        /// The architecture.
        architecture: Architecture,
        /// The word, cut to 80 characters.
        variant: String,
    },
    /// The text has more than three parts.
    #[error("{text:?} is not a platform such as linux/arm64/v8")]
    Parts {
        /// The text, cut to 80 characters.
        text: String,
    },
}

impl Architecture {
    /// Every architecture, the common ones first.
    pub const ALL: [Self; 4] = [Self::Amd64, Self::Arm64, Self::Arm, Self::Riscv64];

    /// Returns Go's name: `amd64`, `arm64`, `arm`, `riscv64`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Arm => "arm",
            Self::Riscv64 => "riscv64",
        }
    }

    /// The variant an image means that names none.
    fn usual_level(self) -> u8 {
        match self {
            Self::Amd64 => 1,
            Self::Arm64 => 8,
            Self::Arm => 7,
            Self::Riscv64 => 0,
        }
    }

    /// The variants that exist: amd64's micro-architecture levels, ARM's versions.
    fn levels(self) -> std::ops::RangeInclusive<u8> {
        match self {
            Self::Amd64 => 1..=4,
            Self::Arm64 => 8..=9,
            Self::Arm => 5..=7,
            Self::Riscv64 => 0..=0,
        }
    }
}

impl Platform {
    /// Returns Linux on `architecture` in its usual variant.
    pub fn linux(architecture: Architecture) -> Self {
        Self {
            architecture,
            level: architecture.usual_level(),
        }
    }

    /// Parses the three words an index or an image config holds; an absent or empty variant is
    /// the usual one.
    pub fn from_words(
        system: &str,
        architecture: &str,
        variant: Option<&str>,
    ) -> Result<Self, PlatformError> {
        if system != "linux" {
            return Err(PlatformError::System {
                system: shown(system),
            });
        }
        let architecture = architecture.parse::<Architecture>()?;
        let Some(variant) = variant.filter(|variant| !variant.is_empty()) else {
            return Ok(Self::linux(architecture));
        };
        let level = parse_level(variant)
            .filter(|level| architecture.levels().contains(level))
            .ok_or_else(|| PlatformError::Variant {
                architecture,
                variant: shown(variant),
            })?;
        Ok(Self {
            architecture,
            level,
        })
    }

    /// Returns the operating system's name, `linux`.
    pub fn system(self) -> &'static str {
        "linux"
    }

    /// Returns the architecture.
    pub fn architecture(self) -> Architecture {
        self.architecture
    }

    /// Returns the variant, such as `v8`, or nothing where the architecture has none.
    pub fn variant(self) -> Option<String> {
        (self.level > 0).then(|| format!("v{}", self.level))
    }

    /// Says whether a machine of this platform runs images of `other`: the same architecture, in
    /// this variant or an older one.
    pub fn runs(self, other: Self) -> bool {
        self.architecture == other.architecture && other.level <= self.level
    }

    /// The variant as a number that grows with what the processor can do.
    pub(crate) fn level(self) -> u8 {
        self.level
    }
}

/// Reads `v7`, `7`, and `v8.0` as some ARM images write it.
fn parse_level(variant: &str) -> Option<u8> {
    let digits = variant.strip_prefix('v').unwrap_or(variant);
    let digits = digits.strip_suffix(".0").unwrap_or(digits);
    match digits.as_bytes() {
        [digit @ b'1'..=b'9'] => Some(digit - b'0'),
        _ => None,
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Architecture {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "amd64" | "x86_64" | "x86-64" => Ok(Self::Amd64),
            "arm64" | "aarch64" => Ok(Self::Arm64),
            "arm" | "armhf" | "armv7l" => Ok(Self::Arm),
            "riscv64" => Ok(Self::Riscv64),
            _ => Err(PlatformError::Architecture {
                architecture: shown(text),
            }),
        }
    }
}

impl fmt::Display for Platform {
    /// Writes `linux/<architecture>`, with the variant when it is not the usual one; for 32-bit
    /// ARM always, because its variants do differ in practice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture)?;
        if self.level != self.architecture.usual_level() || self.architecture == Architecture::Arm {
            write!(f, "/v{}", self.level)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Platform({self})")
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [architecture] => Self::from_words("linux", architecture, None),
            [system, architecture] => Self::from_words(system, architecture, None),
            [system, architecture, variant] => {
                Self::from_words(system, architecture, Some(variant))
            }
            _ => Err(PlatformError::Parts { text: shown(text) }),
        }
    }
}

crate::text::serde_through_text!(Architecture);
crate::text::serde_through_text!(Platform);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_and_usual_variants_become_one_text() {
        let cases = [
            ("amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/x86-64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v8.0", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("riscv64", "linux/riscv64"),
        ];
        for (text, want) in cases {
            let platform: Platform = text.parse().unwrap();
            assert_eq!(platform.to_string(), want, "parsing {text:?}");
            assert_eq!(want.parse(), Ok(platform), "reading {want:?} again");
        }
    }

    #[test]
    fn unknown_words_are_refused_by_name() {
        let variant = |architecture, variant: &str| PlatformError::Variant {
            architecture,
            variant: variant.to_owned(),
        };
        let cases: Vec<(&str, PlatformError)> = vec![
            (
                "windows/amd64",
                PlatformError::System {
                    system: "windows".to_owned(),
                },
            ),
            (
                "linux/mips",
                PlatformError::Architecture {
                    architecture: "mips".to_owned(),
                },
            ),
            (
                "",
                PlatformError::Architecture {
                    architecture: String::new(),
                },
            ),
            ("linux/amd64/v9", variant(Architecture::Amd64, "v9")),
            ("linux/arm/v", variant(Architecture::Arm, "v")),
            ("linux/arm/v77", variant(Architecture::Arm, "v77")),
            ("linux/riscv64/v1", variant(Architecture::Riscv64, "v1")),
            (
                "linux/arm/v7/x",
                PlatformError::Parts {
                    text: "linux/arm/v7/x".to_owned(),
                },
            ),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Platform>(), Err(want), "parsing {text:?}");
        }
    }

    #[test]
    fn a_machine_runs_its_own_variant_and_older_ones() {
        let cases = [
            ("arm", "linux/arm/v6", true),
            ("linux/arm/v6", "arm", false),
            ("amd64", "linux/amd64/v2", false),
            ("linux/amd64/v3", "amd64", true),
            ("arm64", "arm", false),
        ];
        for (machine, image, want) in cases {
            let (machine, image): (Platform, Platform) =
                (machine.parse().unwrap(), image.parse().unwrap());
            assert_eq!(machine.runs(image), want, "{machine} runs {image}");
        }
    }
}
