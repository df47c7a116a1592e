//! How a call names a file of the host: by a handle for a passed descriptor, or by path.
//!
//! Who may use which is decided by the daemon: descriptors serve everybody, paths only root and
//! the daemon's own user.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A single-use name for a descriptor passed over `kiln-files.sock`: 128 random bits.
///
/// Calls and answers write it as `fd:` and 32 hex digits, the second socket as the digits alone.
/// Its `Debug` form is hidden: whoever knows it may use the descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleId([u8; 16]);

impl HandleId {
    /// Takes 16 random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for HandleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for HandleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandleId(…)")
    }
}

/// Why a text is no handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a handle is 32 hexadecimal digits")]
pub struct HandleError;

impl FromStr for HandleId {
    type Err = HandleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_handle(text).ok_or(HandleError)
    }
}

impl Serialize for HandleId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        HostFile::Handle(*self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for HandleId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match HostFile::deserialize(deserializer)? {
            HostFile::Handle(handle) => Ok(handle),
            HostFile::Path(_) => Err(serde::de::Error::custom(HandleError)),
        }
    }
}

impl JsonSchema for HandleId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HandleId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`fd:` and the handle of a descriptor that waits to be taken",
            "pattern": "^fd:[0-9a-f]{32}$",
        })
    }
}

/// A file or directory of the host that a call names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostFile {
    /// `fd:<32 hex digits>`: a descriptor that was passed before the call.
    Handle(HandleId),
    /// An absolute path, opened by the daemon: root and the daemon's own user only.
    Path(PathBuf),
}

/// Why a text names no file of the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither an absolute path nor fd: with 32 hexadecimal digits")]
pub struct HostFileError {
    text: String,
}

impl FromStr for HostFile {
    type Err = HostFileError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || HostFileError {
            text: text.chars().take(200).collect(),
        };
        if let Some(hex) = text.strip_prefix("fd:") {
            return parse_handle(hex).map(Self::Handle).ok_or_else(wrong);
        }
        let path = Path::new(text);
        if path.is_absolute() && !text.contains('\0') {
            return Ok(Self::Path(path.to_owned()));
        }
        Err(wrong())
    }
}

impl fmt::Display for HostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handle(handle) => write!(f, "fd:{handle}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Serialize for HostFile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostFile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for HostFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HostFile".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`fd:` and the handle of a passed descriptor, or an absolute path (root and the daemon's own user only)",
            "pattern": "^(fd:[0-9a-f]{32}|/.*)$",
        })
    }
}

fn parse_handle(hex: &str) -> Option<HandleId> {
    if hex.len() != 32 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(hex, 16)
        .ok()
        .map(|number| HandleId(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_and_absolute_paths_are_host_files() {
        let cases = [
            ("fd:000102030405060708090a0b0c0d0e0f", true),
            ("/boot/vmlinuz", true),
            ("fd:00", false),
            ("fd:000102030405060708090A0B0C0D0E0F", false),
            ("fd:+00102030405060708090a0b0c0d0e0f", false),
            ("relative/path", false),
            ("/nul\0", false),
            ("", false),
        ];
        for (text, good) in cases {
            let parsed = text.parse::<HostFile>();

            assert_eq!(parsed.is_ok(), good, "parsing {text:?}");
            if let Ok(file) = parsed {
                assert_eq!(file.to_string(), text);
            }
        }
    }

    #[test]
    fn a_handle_is_bare_as_text_and_marked_in_json() {
        let hex = "000102030405060708090a0b0c0d0e0f";
        let handle: HandleId = hex.parse().unwrap();

        assert_eq!(handle.to_string(), hex);
        let json = serde_json::to_value(handle).unwrap();
        assert_eq!(json, format!("fd:{hex}"));
        assert_eq!(serde_json::from_value::<HandleId>(json).unwrap(), handle);
        let path = serde_json::json!("/boot/vmlinuz");
        serde_json::from_value::<HandleId>(path).unwrap_err();
        assert_eq!(format!("fd:{hex}").parse::<HandleId>(), Err(HandleError));
    }
}
