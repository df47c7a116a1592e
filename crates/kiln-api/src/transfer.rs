//! What came of sending content to a registry: pushes and copies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::Started;

/// An image, or anything else, that is in a registry now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transfer {
    /// Where it is, by its digest.
    pub reference: String,
    /// Digest of its manifest or index.
    pub digest: String,
    /// The tags it got, in full.
    pub tags: Vec<String>,
    /// Manifests and indexes that were sent.
    pub documents: u64,
    /// Manifests that refer to it and went along, such as signatures.
    pub referrers: u64,
    /// Whether everything was there already: nothing was asked for but digests.
    pub is_up_to_date: bool,
    /// Blobs that were sent.
    pub sent: Amount,
    /// Blobs that the registry took over from another repository of its own.
    pub mounted: Amount,
    /// Blobs that were there.
    pub present: Amount,
}

/// Some blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Amount {
    /// How many.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// Counts one more.
    pub fn add(&mut self, size_bytes: u64) {
        self.blobs += 1;
        self.bytes = self.bytes.saturating_add(size_bytes);
    }
}

/// What a push or a copy answers: what came of it, or with `detach` the operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TransferOutcome {
    /// It is done.
    Transfer(Box<Transfer>),
    /// It goes on in the background.
    Started(Box<Started>),
}
