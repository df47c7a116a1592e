//! Content digests as the OCI image specification writes them.
//!
//! Hashing bytes is not here: whoever reads the bytes hashes them and compares.

use std::fmt;
use std::str::FromStr;

/// A SHA-256 digest, written `sha256:<64 lower-case hex digits>`.
///
/// Invariant: it holds exactly 32 bytes, so its text form never needs escaping in a path, a URL
/// or a shell. There is no other way to turn text from outside into a blob's path or URL
/// (OCI image spec, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text has no `algorithm:` in front or names an algorithm other than SHA-256.
    #[error("{text:?} is not a sha256 digest")]
    Algorithm {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// The part behind the colon is not 64 lower-case hexadecimal digits.
    #[error("{text:?} does not have 64 lower-case hexadecimal digits behind sha256:")]
    Hex {
        /// The text, cut to 80 characters.
        text: String,
    },
}

impl Digest {
    /// Takes the 32 bytes a SHA-256 hash function gave.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 hexadecimal digits, without the algorithm: a blob's file name.
    pub fn to_hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
    }

    /// Returns the first 12 hexadecimal digits, for people.
    pub fn to_short_hex(&self) -> String {
        let mut hex = self.to_hex();
        hex.truncate(12);
        hex
    }

    /// Hashes `bytes`, which must be at hand in whole; streams are hashed where they are read.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(80).collect::<String>();
        let Some(hex) = text.strip_prefix("sha256:") else {
            return Err(DigestError::Algorithm { text: shown() });
        };
        parse_hex(hex)
            .map(Self)
            .ok_or_else(|| DigestError::Hex { text: shown() })
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

crate::text::serde_through_text!(Digest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_sha256_is_a_digest() {
        let hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let cases: &[(String, bool)] = &[
            (format!("sha256:{hex}"), true),
            (format!("sha512:{hex}"), false),
            (format!("sha256:{}", hex.to_uppercase()), false),
            (format!("sha256:{}", &hex[1..]), false),
            ("sha256:../../../../etc/passwd".to_owned(), false),
            (hex.to_owned(), false),
            (String::new(), false),
        ];
        for (text, good) in cases {
            assert_eq!(text.parse::<Digest>().is_ok(), *good, "parsing {text:?}");
        }
    }

    #[test]
    fn text_round_trips() {
        let digest = Digest::of(b"test");

        assert_eq!(
            digest.to_string(),
            "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_short_hex(), "9f86d081884c");
    }
}
