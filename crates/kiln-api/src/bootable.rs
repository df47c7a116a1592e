//! What an image's view says to a bootable artifact of it: the same for the daemon, which pushes
//! one, and for its client, which exports one.

use std::collections::BTreeMap;

use kiln_domain::oci::bootable::{BootWords, BootableConfig, BootableSource, Compression};
use serde::Serialize;

use crate::image::{Boot, Image};

/// The label of a containerDisk that holds what is to be told to the kernel beside the disk.
const KERNEL_ARGUMENTS_LABEL: &str = "dev.kiln.kernel_arguments";

impl Image {
    /// Returns the config of the image as an artifact, with `compression` for its chunks.
    ///
    /// Nothing in it is of this host or its users: an image that travelled here gives the config it
    /// came with.
    pub fn bootable_config(&self, compression: Compression) -> BootableConfig {
        let mut config = BootableConfig::new(&self.architecture, self.rootfs.size_bytes);
        let container = self.config.clone();
        config.config = container.and_then(|config| serde_json::from_value(config).ok());
        config.boot = self.boot.as_ref().map(words);
        let source = match &self.source.original {
            Some(original) => BootableSource {
                reference: original.reference.clone(),
                manifest_digest: original.manifest_digest.as_deref().and_then(digest),
            },
            None => BootableSource {
                // A path says something on its own host only.
                reference: (self.source.kind == "registry").then(|| self.source.reference.clone()),
                manifest_digest: self.source.manifest_digest.as_deref().and_then(digest),
            },
        };
        config.source = Some(source).filter(|source| *source != BootableSource::default());
        config.compression = Some(compression);
        config
    }
}

impl Image {
    /// Says in labels how a containerDisk of the image boots: in Kiln's words, and what is to be told
    /// to its kernel, for whoever starts that.
    pub fn container_disk_labels(&self) -> BTreeMap<String, String> {
        let words = self.boot.as_ref().map(words);
        let words = words.and_then(|words| words.to_label().ok());
        let words = words.map(|words| (BootWords::LABEL.to_owned(), words));
        let arguments = (
            KERNEL_ARGUMENTS_LABEL.to_owned(),
            self.kernel_arguments.clone(),
        );
        words.into_iter().chain([arguments]).collect()
    }
}

fn digest(text: &str) -> Option<kiln_domain::Digest> {
    text.parse().ok()
}

fn words(boot: &Boot) -> BootWords {
    BootWords {
        choice: word(boot.choice),
        mode: word(boot.mode),
        init_path: boot.init_path.clone(),
        reason: boot.reason.clone(),
        monitors: boot.monitors.clone(),
    }
}

/// Writes a choice as it stands on the wire.
fn word(choice: impl Serialize) -> String {
    let text = serde_json::to_value(choice).ok();
    let text = text.and_then(|text| text.as_str().map(str::to_owned));
    text.unwrap_or_default()
}
