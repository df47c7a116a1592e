//! The config of a bootable artifact.

use serde::{Deserialize, Serialize};

use super::super::document::shown;
use super::super::{ContainerConfig, PlatformWords, json};
use super::{BLOCK_BYTES, BootableError, FORMAT, MAX_ROOTFS_BYTES};
use crate::digest::Digest;
use crate::platform::Platform;

/// Longest text, in bytes: a reference, or why an image boots as it does.
const MAX_TEXT_BYTES: usize = 4096;

/// Most monitors that are named: more than there are.
const MAX_MONITORS: usize = 16;

/// What an artifact says about the image in it.
///
/// It names nothing of the host or the user it was made by, no id and no time: the same image
/// gives the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootableConfig {
    /// What it runs on. Registries and their clients look for this in every config.
    #[serde(flatten)]
    pub platform: PlatformWords,
    /// Number of the format.
    pub format: u32,
    /// The root filesystem.
    pub rootfs: BootableRootfs,
    /// How the container was meant to run; nothing where the root filesystem came from no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ContainerConfig>,
    /// How it boots with the kernel that comes along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootWords>,
    /// The OCI image it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<BootableSource>,
    /// What compressed the chunks: other bytes come from another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// A root filesystem in chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootableRootfs {
    /// Its length in bytes, holes included.
    pub size_bytes: u64,
    /// What it is: `ext4`.
    pub filesystem: String,
}

/// How an image boots, in words: see `image.get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootWords {
    /// What was asked for.
    pub choice: String,
    /// What it came to.
    pub mode: String,
    /// The image's own init, where it is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_path: Option<String>,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Monitors that nothing is known to keep from booting it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<String>,
}

/// The OCI image that a root filesystem was built from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootableSource {
    /// Its reference, where it came from a registry: a path of somebody's host says nothing
    /// elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Digest of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<Digest>,
}

/// What compressed the chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compression {
    /// `zstd`.
    pub algorithm: String,
    /// Its level.
    pub level: i32,
    /// The version of the library.
    pub version: String,
}

impl BootableConfig {
    /// Makes a config of the format that this code writes.
    pub fn new(architecture: &str, size_bytes: u64) -> Self {
        Self {
            platform: PlatformWords {
                os: "linux".to_owned(),
                architecture: architecture.to_owned(),
                variant: None,
            },
            format: FORMAT,
            rootfs: BootableRootfs {
                size_bytes,
                filesystem: "ext4".to_owned(),
            },
            config: None,
            boot: None,
            source: None,
            compression: None,
        }
    }

    /// Reads a config whose length was bounded before, and judges every word of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, BootableError> {
        #[derive(Deserialize)]
        struct Numbered {
            format: u32,
        }
        let Numbered { format } = json::parse(bytes)?;
        if format != FORMAT {
            return Err(BootableError::Format { found: format });
        }
        let config: Self = json::parse(bytes)?;
        config.platform()?;
        let BootableRootfs {
            size_bytes,
            filesystem,
        } = &config.rootfs;
        if filesystem != "ext4" {
            let found = shown(filesystem);
            return Err(BootableError::Filesystem { found });
        }
        let is_whole = size_bytes.is_multiple_of(BLOCK_BYTES);
        if *size_bytes == 0 || !is_whole || *size_bytes > MAX_ROOTFS_BYTES {
            let size_bytes = *size_bytes;
            return Err(BootableError::RootfsSize { size_bytes });
        }
        config.check_texts()?;
        Ok(config)
    }

    /// Returns what it runs on.
    pub fn platform(&self) -> Result<Platform, crate::PlatformError> {
        let PlatformWords {
            os,
            architecture,
            variant,
        } = &self.platform;
        Platform::from_words(os, architecture, variant.as_deref())
    }

    /// Returns its bytes: the same for the same image.
    pub fn to_bytes(&self) -> Result<Vec<u8>, super::JsonError> {
        Ok(serde_json::to_vec(self)?)
    }

    fn check_texts(&self) -> Result<(), BootableError> {
        let reference = self.source.as_ref();
        if let Some(reference) = reference.and_then(|source| source.reference.as_ref()) {
            check("the reference", reference)?;
        }
        self.boot.as_ref().map_or(Ok(()), BootWords::check)
    }
}

/// Texts are shown to people, and kept.
fn check(noun: &'static str, text: &str) -> Result<(), BootableError> {
    if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return Err(BootableError::Text { noun });
    }
    Ok(())
}

impl BootWords {
    /// The label that holds them as JSON where an image is no bootable artifact.
    pub const LABEL: &str = "dev.kiln.boot";

    /// Reads the label's value; nothing where it is not to be shown to people.
    pub fn of_label(value: &str) -> Option<Self> {
        let words: Self = json::parse(value.as_bytes()).ok()?;
        words.check().ok().map(|()| words)
    }

    /// Writes the label's value.
    pub fn to_label(&self) -> Result<String, super::JsonError> {
        Ok(serde_json::to_string(self)?)
    }

    fn check(&self) -> Result<(), BootableError> {
        if self.monitors.len() > MAX_MONITORS {
            return Err(BootableError::Text {
                noun: "the list of monitors",
            });
        }
        for monitor in &self.monitors {
            check("a monitor", monitor)?;
        }
        check("the init", self.init_path.as_deref().unwrap_or_default())?;
        check("why it boots as it does", &self.reason)?;
        check("how it boots", &self.mode)?;
        check("how it boots", &self.choice)
    }
}
