//! Descriptors: a media type, a digest and a size that point at content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Points at content by digest (OCI image spec, "Content Descriptors").
///
/// The `urls` of foreign content are not kept: Kiln never follows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is said to be.
    #[serde(default)]
    pub media_type: String,
    /// What its bytes hash to.
    pub digest: Digest,
    /// How many bytes it has.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// Which platform it is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformWords>,
    /// What kind of artifact it is, in an index or a list of referrers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Notes, such as the tag of an image in a layout.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "super::document::null_as_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// A platform as an index writes it: any words, known to Kiln or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformWords {
    /// The operating system.
    #[serde(default)]
    pub os: String,
    /// The architecture, in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// The variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Descriptor {
    /// Creates a descriptor without platform and annotations.
    pub fn new(media_type: &str, digest: Digest, size_bytes: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size_bytes,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}

impl std::fmt::Display for PlatformWords {
    /// Writes `os/architecture/variant` for people: unprintable characters escaped, each word
    /// cut to 40 characters.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |word: &str| {
            word.chars()
                .take(40)
                .collect::<String>()
                .escape_debug()
                .to_string()
        };
        write!(f, "{}/{}", shown(&self.os), shown(&self.architecture))?;
        if let Some(variant) = &self.variant {
            write!(f, "/{}", shown(variant))?;
        }
        Ok(())
    }
}
