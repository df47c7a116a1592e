//! Documents of a registry, as they are and as they read.

use kiln_api::registry::{DocumentKind, ImageConfig, ManifestParams, ManifestView, Pointer};
use kiln_api::{Failure, codes};
use kiln_domain::oci::{self, Descriptor, Document, StatedMediaTypes};
use kiln_domain::{Platform, Reference};
use kiln_registry::{Fetched, ImageSource, find_manifest};

use super::Registries;
use crate::failures::{document_failure, source_failure};

/// Longest document that is taken, in bytes; the registry's transport takes no more either.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

impl Registries {
    /// Fetches a manifest or index and tells what it says.
    pub async fn manifest(&self, params: ManifestParams) -> Result<ManifestView, Failure> {
        let reference = self.read(&params.reference)?;
        let platform = params.platform.as_deref().map(str::parse::<Platform>);
        let platform = platform
            .transpose()
            .map_err(|error| Failure::from_error(codes::source::INVALID_PLATFORM, &error))?;
        let registry = self.remote_for(
            &reference,
            params.credentials,
            params.mirror_credentials,
            params.tls_verify,
        )?;
        let source = ImageSource::Registry {
            registry: registry.clone(),
            reference: reference.clone(),
        };
        let wanted = match platform {
            None => reference.clone(),
            Some(platform) => {
                let found = find_manifest(&source, platform).await;
                reference.with_digest(found.map_err(|error| source_failure(&error))?.digest)
            }
        };
        let fetched = registry.manifest(&wanted).await;
        let fetched = fetched.map_err(|error| source_failure(&error))?;
        let pinned = reference.with_digest(fetched.digest);
        let document = parse(&fetched, &pinned)?;
        let config = match &document {
            Document::Manifest(manifest) if manifest.is_image() => {
                let config = source.small_blob(&manifest.config).await;
                let bytes = config.map_err(|error| source_failure(&error))?.bytes;
                let layers = manifest.layers.len();
                // One that breaks a rule is no reason to hide the manifest: it is left out.
                oci::ImageConfig::parse(&bytes, layers, MAX_DOCUMENT_BYTES).ok()
            }
            _ => None,
        };
        view(&pinned, &fetched, document, config)
    }
}

fn parse(fetched: &Fetched, reference: &Reference) -> Result<Document, Failure> {
    let stated = StatedMediaTypes {
        response: fetched.media_type.as_deref(),
        descriptor: None,
    };
    Document::parse_any(&fetched.bytes, stated, MAX_DOCUMENT_BYTES)
        .map_err(|error| document_failure(&reference.to_string(), &error))
}

fn view(
    reference: &Reference,
    fetched: &Fetched,
    document: Document,
    config: Option<oci::ImageConfig>,
) -> Result<ManifestView, Failure> {
    let content = String::from_utf8(fetched.bytes.to_vec()).map_err(|error| {
        // JSON is UTF-8 (RFC 8259, 8.1), so the parser refused it before.
        Failure::from_error(codes::source::MALFORMED_MANIFEST, &error)
    })?;
    let size_bytes = content.len() as u64;
    let empty = ManifestView {
        reference: reference.to_string(),
        digest: fetched.digest.to_string(),
        media_type: String::new(),
        size_bytes,
        kind: DocumentKind::Index,
        artifact_type: None,
        subject: None,
        manifests: Vec::new(),
        config: None,
        layers: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
        image: None,
        content,
    };
    Ok(match document {
        Document::Index(index) => ManifestView {
            media_type: index.document_type.as_str().to_owned(),
            artifact_type: index.artifact_type,
            subject: index.subject.as_ref().map(pointer),
            manifests: index.manifests.iter().map(pointer).collect(),
            annotations: index.annotations,
            ..empty
        },
        Document::Manifest(manifest) => {
            let kind = if manifest.is_image() {
                DocumentKind::Image
            } else {
                DocumentKind::Artifact
            };
            // What states no type of its own is told by its config (OCI image spec, "Guidelines for
            // Artifact Usage").
            let of_config =
                || (kind == DocumentKind::Artifact).then(|| manifest.config.media_type.clone());
            ManifestView {
                media_type: manifest.document_type.as_str().to_owned(),
                kind,
                artifact_type: manifest.artifact_type.clone().or_else(of_config),
                subject: manifest.subject.as_ref().map(pointer),
                config: Some(pointer(&manifest.config)),
                layers: manifest.layers.iter().map(pointer).collect(),
                annotations: manifest.annotations,
                image: config.map(image),
                ..empty
            }
        }
    })
}

fn image(config: oci::ImageConfig) -> ImageConfig {
    let run = config.config;
    ImageConfig {
        platform: config.platform.to_string(),
        created: config.created,
        entrypoint: run.entrypoint,
        cmd: run.cmd,
        env: run.env,
        user: run.user,
        working_dir: run.working_dir,
        labels: run.labels,
    }
}

/// Shows a descriptor.
pub(super) fn pointer(descriptor: &Descriptor) -> Pointer {
    Pointer {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size_bytes: descriptor.size_bytes,
        platform: descriptor.platform.as_ref().map(ToString::to_string),
        artifact_type: descriptor.artifact_type.clone(),
        annotations: descriptor.annotations.clone(),
    }
}
