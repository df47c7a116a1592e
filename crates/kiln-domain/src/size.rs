//! Sizes as people write them, and as Kiln shows them.
//!
//! Inside Kiln and on the wire a size is a number of bytes; this is the edge only.

use std::fmt;
use std::str::FromStr;

/// A number of bytes with a text form: `4GiB`, `4G`, `500 MB`, `1.5 GiB`, `1073741824`.
///
/// `kB`, `MB`, `GB`, `TB` are decimal, `KiB`, `MiB`, `GiB`, `TiB` binary, and so are `Ki`, `Mi`,
/// `Gi`, `Ti` and a bare `K`, `M`, `G` or `T`. Case does not matter. Shown with the largest binary unit that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// It is not a number with a unit.
    #[error("{text:?} is not a size such as 4GiB, 4G or 500MB")]
    Text {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// It is larger than 2⁶⁴ − 1 bytes, or not a whole number of bytes.
    #[error("{text:?} is not a whole number of bytes that 64 bits can hold")]
    Range {
        /// The text, cut to 80 characters.
        text: String,
    },
}

/// Units in lower case, and how many bytes, or of whatever is counted, each is.
pub(crate) const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("ki", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mi", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gi", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("ti", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(80).collect::<String>();
        let wrong = || ByteSizeError::Text { text: shown() };
        let trimmed = text.trim();
        let end = trimmed
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let unit = unit.trim().to_ascii_lowercase();
        let (_, factor) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.len() > 9 {
            return Err(wrong());
        }
        bytes(whole, fraction, *factor)
            .map(Self)
            .ok_or_else(|| ByteSizeError::Range { text: shown() })
    }
}

fn bytes(whole: &str, fraction: &str, factor: u64) -> Option<u64> {
    let factor = u128::from(factor);
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let total = u128::from(whole.parse::<u64>().ok()?)
        .checked_mul(factor)?
        .checked_mul(scale)?;
    let total = total.checked_add(part.checked_mul(factor)?)?;
    if !total.is_multiple_of(scale) {
        return None;
    }
    u64::try_from(total / scale).ok()
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let Some((shift, unit)) = units.iter().find(|(shift, _)| self.0 >> shift > 0) else {
            return f.pad(&format!("{} B", self.0));
        };
        // Tenths, rounded half up, in integers: a float would lose bytes above 2^53.
        let tenths = (u128::from(self.0) * 10 + (1 << (shift - 1))) >> shift;
        f.pad(&format!("{}.{} {unit}", tenths / 10, tenths % 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_binary_and_bare_units_are_told_apart() {
        let cases: &[(&str, Option<u64>)] = &[
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("4G", Some(4 << 30)),
            ("4GiB", Some(4 << 30)),
            ("4 gib", Some(4 << 30)),
            ("512Mi", Some(512 << 20)),
            ("4GB", Some(4_000_000_000)),
            ("1.5GiB", Some(3 << 29)),
            ("1.5 GB", Some(1_500_000_000)),
            ("16383T", Some(16_383 << 40)),
            ("16777216T", None),
            ("0.3B", None),
            ("1e9", None),
            ("-1", None),
            ("G", None),
            ("1.", None),
            ("1.2.3G", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(
                text.parse::<ByteSize>().ok().map(|size| size.0),
                *want,
                "parsing {text:?}"
            );
        }
    }

    #[test]
    fn shown_in_binary_units() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (4 << 30, "4.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ];
        for (size, want) in cases {
            assert_eq!(ByteSize(size).to_string(), want);
        }
    }
}
