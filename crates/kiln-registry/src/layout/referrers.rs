//! What a layout holds that refers to an image in it: signatures, lists of contents, scans.
//!
//! Two habits are read. Manifests with a `subject` stand in `index.json` beside what they belong to
//! (ORAS, skopeo); or an index with the name `sha256-<hex>` lists them (OCI distribution spec,
//! "Referrers Tag Schema"). A blob that nothing in the index leads to is no part of the layout.

use kiln_domain::Digest;
use kiln_domain::oci::{Descriptor, Document, StatedMediaTypes};

use super::{Layout, REF_NAME};
use crate::client::MAX_DOCUMENT_BYTES;
use crate::error::FetchError;

/// Most entries of one index that are looked at: each is a document that is read.
const MAX_ENTRIES: usize = 4096;

/// Something that refers to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Referrer {
    /// What it belongs to.
    pub(crate) subject: Digest,
    /// Itself.
    pub(crate) descriptor: Descriptor,
}

impl Layout {
    /// Lists everything in the layout that refers to something; blocking.
    pub(crate) fn referrers(&self) -> Result<Vec<Referrer>, FetchError> {
        let entries = self.shared.entries()?;
        if entries.len() > MAX_ENTRIES {
            return Err(FetchError::TooNested {
                reference: self.shared.place.display().to_string(),
                limit: MAX_ENTRIES,
                of_what: "images",
            });
        }
        let mut found = Vec::new();
        for entry in entries {
            let fetched = match self.document(&entry) {
                Ok(fetched) => fetched,
                // A layout may be a part of another.
                Err(FetchError::BlobNotFound { .. }) => continue,
                Err(error) => return Err(error),
            };
            let stated = StatedMediaTypes {
                descriptor: Some(&entry.media_type),
                response: None,
            };
            let parsed = Document::parse_any(&fetched.bytes, stated, MAX_DOCUMENT_BYTES);
            let subject = match parsed {
                Ok(Document::Index(index)) => {
                    if let Some(subject) = listed_subject(&entry) {
                        let children = index.manifests.into_iter();
                        found.extend(children.map(|descriptor| Referrer {
                            subject,
                            descriptor,
                        }));
                        continue;
                    }
                    index.subject
                }
                Ok(Document::Manifest(manifest)) => manifest.subject,
                // What is no document of a kind that is known refers to nothing.
                Err(_) => continue,
            };
            if let Some(subject) = subject {
                let subject = subject.digest;
                found.push(Referrer {
                    subject,
                    descriptor: entry,
                });
            }
        }
        Ok(found)
    }
}

/// Reads the name of a list of referrers.
fn listed_subject(entry: &Descriptor) -> Option<Digest> {
    let name = entry.annotations.get(REF_NAME)?;
    let hex = name.strip_prefix("sha256-")?;
    format!("sha256:{hex}").parse().ok()
}
