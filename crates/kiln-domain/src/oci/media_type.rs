//! The media types of image documents and layers, OCI's and Docker's.

use super::Descriptor;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// The four kinds of document a registry may answer with under a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DocumentType {
    /// An image of one platform, OCI's form.
    OciManifest,
    /// A list of manifests, OCI's form.
    OciIndex,
    /// An image of one platform, Docker's schema 2.
    DockerManifest,
    /// A list of manifests, Docker's.
    DockerList,
}

/// How the tar of a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerCompression {
    /// A plain tar.
    None,
    /// Gzip, of one or several members.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Why a descriptor is not a layer Kiln can build from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// The layer may not be distributed: its bytes lie outside the registry.
    #[error("layer {digest} is a foreign layer ({media_type:?}), only registry layers are used")]
    Foreign {
        /// The layer.
        digest: crate::Digest,
        /// Its media type, cut to 80 characters.
        media_type: String,
    },
    /// The layer is encrypted.
    #[error("layer {digest} is encrypted ({media_type:?})")]
    Encrypted {
        /// The layer.
        digest: crate::Digest,
        /// Its media type, cut to 80 characters.
        media_type: String,
    },
    /// The media type is not one of an image layer.
    #[error("layer {digest} has the media type {media_type:?}, which is not an image layer's")]
    MediaType {
        /// The layer.
        digest: crate::Digest,
        /// Its media type, cut to 80 characters.
        media_type: String,
    },
}

/// Returns every media type to ask a registry for, the preferred first.
pub fn document_media_types() -> [&'static str; 4] {
    [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST]
}

impl DocumentType {
    /// Returns the media type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OciManifest => OCI_MANIFEST,
            Self::OciIndex => OCI_INDEX,
            Self::DockerManifest => DOCKER_MANIFEST,
            Self::DockerList => DOCKER_LIST,
        }
    }

    /// Recognises a media type, without parameters, in any case (RFC 9110, 8.3.1).
    pub fn recognise(media_type: &str) -> Option<Self> {
        [
            Self::OciManifest,
            Self::OciIndex,
            Self::DockerManifest,
            Self::DockerList,
        ]
        .into_iter()
        .find(|known| known.as_str().eq_ignore_ascii_case(media_type))
    }

    /// Says whether documents of this type list other documents.
    pub fn is_index(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }
}

/// Says whether `media_type` is that of an image's config, not of some other artifact's.
pub(super) fn is_image_config(media_type: &str) -> bool {
    media_type == OCI_CONFIG || media_type == DOCKER_CONFIG
}

/// Says whether `media_type` is one of Docker's schema 1, which no registry stores any more.
pub(super) fn is_schema1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

impl LayerCompression {
    /// Reads the compression off a layer's media type; refuses by name what is not a layer that
    /// the registry itself holds.
    pub fn of_layer(layer: &Descriptor) -> Result<Self, LayerError> {
        let digest = layer.digest;
        let media_type = || layer.media_type.chars().take(80).collect();
        let name = layer.media_type.as_str();
        if name.contains(".nondistributable.") || name.contains(".foreign.") {
            return Err(LayerError::Foreign {
                digest,
                media_type: media_type(),
            });
        }
        if name.ends_with("+encrypted") {
            return Err(LayerError::Encrypted {
                digest,
                media_type: media_type(),
            });
        }
        let ending = name
            .strip_prefix(OCI_LAYER)
            .or_else(|| name.strip_prefix(DOCKER_LAYER));
        match ending {
            Some("") => Ok(Self::None),
            Some("+gzip" | ".gzip") => Ok(Self::Gzip),
            Some("+zstd" | ".zstd") => Ok(Self::Zstd),
            _ => Err(LayerError::MediaType {
                digest,
                media_type: media_type(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_media_types_tell_the_compression_or_why_not() {
        let digest = crate::Digest::of(b"");
        let foreign = |media_type: &str| LayerError::Foreign {
            digest,
            media_type: media_type.to_owned(),
        };
        let cases: Vec<(&str, Result<LayerCompression, LayerError>)> = vec![
            (
                "application/vnd.oci.image.layer.v1.tar",
                Ok(LayerCompression::None),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Ok(LayerCompression::Gzip),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Ok(LayerCompression::Zstd),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar",
                Ok(LayerCompression::None),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Ok(LayerCompression::Gzip),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                Ok(LayerCompression::Zstd),
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                Err(foreign(
                    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                )),
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar",
                Err(foreign(
                    "application/vnd.oci.image.layer.nondistributable.v1.tar",
                )),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                Err(LayerError::Encrypted {
                    digest,
                    media_type: "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".to_owned(),
                }),
            ),
            (
                "application/vnd.in-toto+json",
                Err(LayerError::MediaType {
                    digest,
                    media_type: "application/vnd.in-toto+json".to_owned(),
                }),
            ),
        ];
        for (media_type, want) in cases {
            let layer = Descriptor::new(media_type, digest, 1);
            assert_eq!(
                LayerCompression::of_layer(&layer),
                want,
                "reading {media_type}"
            );
        }
    }
}
