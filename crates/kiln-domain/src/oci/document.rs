//! Manifests and indexes, and the rule that every statement about what a document is agrees.
//!
//! The same bytes must not be read as a manifest by one party and as an index by another
//! (CVE-2021-41190). So the response header, the document itself and the descriptor that led to
//! it have to name one type, and a document with the members of both is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::json::JsonError;
use super::media_type::{is_image_config, is_schema1};
use super::{
    Descriptor, DocumentType, LayerCompression, LayerError, MAX_LAYER_BYTES, MAX_LAYERS, json,
};
use crate::digest::Digest;

/// What others say a document is, before it is opened. Absent statements do not count.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatedMediaTypes<'a> {
    /// The `Content-Type` of the response, parameters included.
    pub response: Option<&'a str>,
    /// The media type of the descriptor that led here.
    pub descriptor: Option<&'a str>,
}

/// A document that stands under a tag or in an index.
#[derive(Clone, Debug)]
pub enum Document {
    /// An image of one platform.
    Manifest(Manifest),
    /// A list of documents.
    Index(Index),
}

/// An image or an artifact of one platform: its config and its layers, bottom first.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Which form the document has.
    pub document_type: DocumentType,
    /// The config; that of an image unless artifacts were asked for.
    pub config: Descriptor,
    /// The layers, bottom first, at most 1,024, each of at most 1 TiB, of any media type.
    pub layers: Vec<Descriptor>,
    /// What kind of artifact it says it is.
    pub artifact_type: Option<String>,
    /// The document it is about, such as the image a signature signs.
    pub subject: Option<Descriptor>,
    /// Notes.
    pub annotations: BTreeMap<String, String>,
}

/// A list of documents, usually one per platform.
#[derive(Clone, Debug)]
pub struct Index {
    /// Which form the document has.
    pub document_type: DocumentType,
    /// The documents, in the order written.
    pub manifests: Vec<Descriptor>,
    /// What kind of artifact it says it is.
    pub artifact_type: Option<String>,
    /// The document it is about.
    pub subject: Option<Descriptor>,
    /// Notes.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are not a document of an image.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The document is larger than allowed.
    #[error("the document has {size_bytes} bytes, {limit_bytes} are allowed")]
    TooLarge {
        /// Its size in bytes.
        size_bytes: u64,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The bytes are not JSON, hold a key twice, or lack a member.
    #[error("the document is malformed")]
    Malformed(#[from] JsonError),
    /// The schema version is neither 2 nor absent.
    #[error("the document has the schema version {found}, only 2 is read")]
    SchemaVersion {
        /// The version.
        found: i64,
    },
    /// A manifest of Docker's schema 1.
    #[error("the document is a docker schema 1 manifest, which is obsolete: push the image again")]
    Schema1,
    /// Two statements about the type disagree.
    #[error("{one_says} calls the document {one:?}, {other_says} calls it {other:?}")]
    MediaTypesDisagree {
        /// Who says the one.
        one_says: &'static str,
        /// The one media type, cut to 80 characters.
        one: String,
        /// Who says the other.
        other_says: &'static str,
        /// The other media type, cut to 80 characters.
        other: String,
    },
    /// The type is none of a manifest or an index.
    #[error("{says} calls the document {media_type:?}, which is no image manifest or index")]
    UnknownMediaType {
        /// Who says so.
        says: &'static str,
        /// The media type, cut to 80 characters.
        media_type: String,
    },
    /// The document has the members of a manifest and of an index, or of neither, or not those
    /// of its type.
    #[error("the document does not have the members of {expected}, or also those of another type")]
    Ambiguous {
        /// `a manifest`, `an index`, or `a manifest or an index`.
        expected: &'static str,
    },
    /// The manifest is an artifact, not an image.
    #[error("the manifest is not an image: its config is {media_type:?}")]
    NotAnImage {
        /// The media type of its config, cut to 80 characters.
        media_type: String,
    },
    /// The image has more layers than allowed.
    #[error("the image has {count} layers, {MAX_LAYERS} are allowed")]
    TooManyLayers {
        /// Their number.
        count: usize,
    },
    /// A layer is announced longer than any layer is.
    #[error("the layer {digest} has {size_bytes} bytes, {MAX_LAYER_BYTES} are allowed")]
    LayerTooLarge {
        /// Which one.
        digest: Digest,
        /// Its length in bytes, compressed, as the manifest has it.
        size_bytes: u64,
    },
    /// The config counts other layers than the manifest.
    #[error("the manifest has {layers} layers, the config has {diff_ids} diff ids")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Diff ids of the config.
        diff_ids: usize,
    },
    /// The config's root filesystem is not made of layers.
    #[error("the config's rootfs has the type {found:?}, only \"layers\" is read")]
    RootfsType {
        /// The type, cut to 80 characters.
        found: String,
    },
}

/// A manifest or index as it lies on the wire; which one is decided afterwards.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<i64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
    artifact_type: Option<String>,
    subject: Option<serde_json::Value>,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: BTreeMap<String, String>,
}

/// What manifests and indexes both say about themselves.
struct About {
    artifact_type: Option<String>,
    subject: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
}

/// Reads `null` as an empty value, as Go's encoder writes empty maps and lists.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Document {
    /// Reads a manifest or an index of at most `limit_bytes`.
    ///
    /// A document that nobody names the type of, as in some layouts, is told by its members.
    pub fn parse(
        bytes: &[u8],
        stated: StatedMediaTypes<'_>,
        limit_bytes: u64,
    ) -> Result<Self, DocumentError> {
        match Self::parse_any(bytes, stated, limit_bytes)? {
            Self::Manifest(manifest) if !manifest.is_image() => Err(DocumentError::NotAnImage {
                media_type: shown(&manifest.config.media_type),
            }),
            document => Ok(document),
        }
    }

    /// Reads what [`parse`](Self::parse) reads, and manifests of artifacts too: those whose
    /// config is not that of an image.
    pub fn parse_any(
        bytes: &[u8],
        stated: StatedMediaTypes<'_>,
        limit_bytes: u64,
    ) -> Result<Self, DocumentError> {
        check_size(bytes, limit_bytes)?;
        let response = stated.response.map(without_parameters);
        if response.is_some_and(is_schema1) {
            return Err(DocumentError::Schema1);
        }
        let raw: RawDocument = json::parse(bytes)?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(DocumentError::Schema1);
        }
        let document_type = agreed_type(&[
            ("the response", response),
            ("the document", raw.media_type.as_deref()),
            ("the descriptor", stated.descriptor),
        ])?;
        if let Some(found) = raw.schema_version.filter(|version| *version != 2) {
            return Err(DocumentError::SchemaVersion { found });
        }
        raw.into_document(document_type)
    }
}

impl RawDocument {
    fn into_document(self, stated: Option<DocumentType>) -> Result<Document, DocumentError> {
        let about = About {
            artifact_type: self.artifact_type.filter(|text| !text.is_empty()),
            // Nothing is fetched by it, so one that cannot be read, with another kind of digest for
            // instance, is no reason to refuse the image.
            subject: self
                .subject
                .and_then(|subject| serde_json::from_value(subject).ok()),
            annotations: self.annotations,
        };
        match (self.manifests, self.config, self.layers) {
            (Some(manifests), None, None) if stated.is_none_or(DocumentType::is_index) => {
                Ok(Document::Index(Index {
                    document_type: stated.unwrap_or(DocumentType::OciIndex),
                    manifests,
                    artifact_type: about.artifact_type,
                    subject: about.subject,
                    annotations: about.annotations,
                }))
            }
            (None, Some(config), Some(layers)) if !stated.is_some_and(DocumentType::is_index) => {
                let document_type = stated.unwrap_or(DocumentType::OciManifest);
                Manifest::checked(document_type, config, layers, about).map(Document::Manifest)
            }
            _ => Err(DocumentError::Ambiguous {
                expected: match stated {
                    None => "a manifest or an index",
                    Some(stated) if stated.is_index() => "an index",
                    Some(_) => "a manifest",
                },
            }),
        }
    }
}

impl Manifest {
    fn checked(
        document_type: DocumentType,
        config: Descriptor,
        layers: Vec<Descriptor>,
        about: About,
    ) -> Result<Self, DocumentError> {
        if layers.len() > MAX_LAYERS {
            return Err(DocumentError::TooManyLayers {
                count: layers.len(),
            });
        }
        let too_large = |layer: &&Descriptor| layer.size_bytes > MAX_LAYER_BYTES;
        if let Some(layer) = layers.iter().find(too_large) {
            return Err(DocumentError::LayerTooLarge {
                digest: layer.digest,
                size_bytes: layer.size_bytes,
            });
        }
        Ok(Self {
            document_type,
            config,
            layers,
            artifact_type: about.artifact_type,
            subject: about.subject,
            annotations: about.annotations,
        })
    }

    /// Tells whether it is an image, not another kind of artifact: its config says so.
    pub fn is_image(&self) -> bool {
        is_image_config(&self.config.media_type)
    }

    /// Returns every layer with its compression, or why one cannot be built from.
    pub fn compressions(&self) -> Result<Vec<LayerCompression>, LayerError> {
        self.layers.iter().map(LayerCompression::of_layer).collect()
    }
}

/// Refuses documents larger than the caller allows.
pub(super) fn check_size(bytes: &[u8], limit_bytes: u64) -> Result<(), DocumentError> {
    let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size_bytes > limit_bytes {
        return Err(DocumentError::TooLarge {
            size_bytes,
            limit_bytes,
        });
    }
    Ok(())
}

/// Returns the one type that all present statements name.
fn agreed_type(
    statements: &[(&'static str, Option<&str>)],
) -> Result<Option<DocumentType>, DocumentError> {
    let mut agreed: Option<(&'static str, DocumentType)> = None;
    for (says, media_type) in statements {
        let Some(media_type) = media_type.filter(|text| !text.is_empty()) else {
            continue;
        };
        if is_schema1(media_type) {
            return Err(DocumentError::Schema1);
        }
        let Some(found) = DocumentType::recognise(media_type) else {
            return Err(DocumentError::UnknownMediaType {
                says,
                media_type: shown(media_type),
            });
        };
        match agreed {
            Some((one_says, one)) if one != found => {
                return Err(DocumentError::MediaTypesDisagree {
                    one_says,
                    one: one.as_str().to_owned(),
                    other_says: says,
                    other: shown(media_type),
                });
            }
            _ => agreed = Some((says, found)),
        }
    }
    Ok(agreed.map(|(_, found)| found))
}

fn without_parameters(content_type: &str) -> &str {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim_matches([' ', '\t'])
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
