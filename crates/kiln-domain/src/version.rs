//! Version numbers of images: `vMAJOR.MINOR.PATCH`.
//!
//! OCI tags are not here; they stay with the source an image was pulled from.

use std::fmt;
use std::str::FromStr;

/// The number of one version of an image, such as `v1.0.0`.
///
/// Two texts with the same numbers are one version: `v22.04.3` equals `v22.4.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionNumber {
    /// Incompatible change, decided by people.
    pub major: u32,
    /// A later build of the same image.
    pub minor: u32,
    /// A repair of a build.
    pub patch: u32,
}

/// Why a text is not a version number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a version such as v1.0.0")]
pub struct VersionNumberError {
    text: String,
}

impl VersionNumber {
    /// What a first pull or registration gets.
    pub const FIRST: Self = Self {
        major: 1,
        minor: 0,
        patch: 0,
    };
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for VersionNumber {
    type Err = VersionNumberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| VersionNumberError {
            text: text.chars().take(80).collect(),
        })
    }
}

fn parse(text: &str) -> Option<VersionNumber> {
    let mut numbers = text.strip_prefix('v')?.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u32>().ok()).flatten()
    });
    let number = VersionNumber {
        major: numbers.next()??,
        minor: numbers.next()??,
        patch: numbers.next()??,
    };
    numbers.next().is_none().then_some(number)
}

crate::text::serde_through_text!(VersionNumber);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_numbers_behind_a_v_are_a_version() {
        let number = |major, minor, patch| {
            Some(VersionNumber {
                major,
                minor,
                patch,
            })
        };
        let cases = [
            ("v1.0.0", number(1, 0, 0)),
            ("v22.04.3", number(22, 4, 3)),
            ("1.0.0", None),
            ("v1.0", None),
            ("v1.0.0.0", None),
            ("v1.+0.0", None),
            ("v1..0", None),
            ("v99999999999.0.0", None),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse().ok(), want, "parsing {text:?}");
        }
    }
}
