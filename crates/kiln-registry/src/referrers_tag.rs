//! The stand-in for a registry's list of referrers: an index under the tag `sha256-<hex>` (OCI
//! distribution spec, "Referrers Tag Schema").
//!
//! Two who add to one list at the same time may lose an entry of one: the protocol has no
//! conditional write. The entry comes back with the next push of the same manifest.

use bytes::Bytes;
use kiln_domain::oci::DocumentError;
use kiln_domain::{Digest, Reference};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::Registry;
use crate::error::FetchError;

/// The media type of the list.
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Most referrers in one list; with their annotations they stay below 4 MiB.
const MAX_REFERRERS: usize = 4096;

/// What the list tells of a manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    artifact_type: Option<String>,
    config: Option<Config>,
    #[serde(default)]
    annotations: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: String,
}

impl Registry {
    /// Adds a manifest to the list of its subject, unless it stands there.
    pub(crate) async fn list_referrer(
        &self,
        reference: &Reference,
        subject: &Digest,
        media_type: &str,
        manifest: &Bytes,
    ) -> Result<(), FetchError> {
        let list = reference.referrers_tag(subject);
        let found = match self.manifest(&list).await {
            Ok(fetched) => Some(fetched.bytes),
            Err(FetchError::ReferenceNotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let entry = entry_of(media_type, manifest);
        let Some(bytes) = with_entry(found.as_ref(), entry, &list)? else {
            return Ok(());
        };
        self.put_manifest(&list, OCI_INDEX, &bytes).await?;
        Ok(())
    }
}

/// Describes a manifest as the list has it: with its artifact type, or its config's, and its
/// annotations.
fn entry_of(media_type: &str, manifest: &Bytes) -> Value {
    let mut entry = json!({
        "mediaType": media_type,
        "digest": Digest::of(manifest).to_string(),
        "size": manifest.len(),
    });
    let Ok(listed) = serde_json::from_slice::<Listed>(manifest) else {
        return entry;
    };
    let config_type = listed.config.map(|config| config.media_type);
    if let Some(artifact_type) = listed.artifact_type.or(config_type) {
        entry["artifactType"] = artifact_type.into();
    }
    if let Some(annotations) = listed.annotations.filter(|notes| !notes.is_empty()) {
        entry["annotations"] = annotations.into();
    }
    entry
}

/// Returns the list with the entry, or nothing where it has it. What else it says stays.
fn with_entry(
    found: Option<&Bytes>,
    entry: Value,
    list: &Reference,
) -> Result<Option<Bytes>, FetchError> {
    let mut document = match found {
        Some(bytes) => serde_json::from_slice(bytes).unwrap_or(Value::Null),
        None => json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
    };
    let Some(Value::Array(entries)) = document.get_mut("manifests") else {
        return Err(FetchError::Document {
            document: list.to_string(),
            source: DocumentError::Ambiguous {
                expected: "an index",
            },
        });
    };
    if entries
        .iter()
        .any(|known| known["digest"] == entry["digest"])
    {
        return Ok(None);
    }
    if entries.len() >= MAX_REFERRERS {
        return Err(FetchError::TooNested {
            reference: list.to_string(),
            limit: MAX_REFERRERS,
            of_what: "referrers",
        });
    }
    entries.push(entry);
    Ok(Some(document.to_string().into()))
}
