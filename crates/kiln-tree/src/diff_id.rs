//! The identity of an uncompressed layer.
//!
//! Hashing is not here: whoever inflates a layer hashes it.

use std::fmt;
use std::str::FromStr;

/// The SHA-256 of a layer's uncompressed archive, written `sha256:<64 lower-case hex digits>`
/// (OCI image specification, "Layer `DiffID`").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiffId([u8; 32]);

/// Why a text is not a diff id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not sha256: and 64 lower-case hexadecimal digits")]
pub struct DiffIdError {
    /// The text, cut to 80 characters.
    text: String,
}

impl DiffId {
    /// Takes the 32 bytes a SHA-256 hash function gave.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiffId({self})")
    }
}

impl FromStr for DiffId {
    type Err = DiffIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("sha256:")
            .and_then(parse_hex)
            .map(Self)
            .ok_or_else(|| DiffIdError {
                text: text.chars().take(80).collect(),
            })
    }
}

fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_sha256_is_a_diff_id() {
        let hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let cases: &[(String, bool)] = &[
            (format!("sha256:{hex}"), true),
            (format!("sha512:{hex}"), false),
            (format!("sha256:{}", hex.to_uppercase()), false),
            (format!("sha256:{}", &hex[1..]), false),
            (hex.to_owned(), false),
            (String::new(), false),
        ];
        for (text, good) in cases {
            let parsed = text.parse::<DiffId>();
            assert_eq!(parsed.is_ok(), *good, "parsing {text:?}");
            if let Ok(diff_id) = parsed {
                assert_eq!(diff_id.to_string(), *text);
            }
        }
    }
}
