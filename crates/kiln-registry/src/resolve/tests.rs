use super::*;
use crate::blob::BlobBody;
use crate::testing::{Content, OCI_INDEX, OCI_MANIFEST, Server};

fn amd64() -> Platform {
    "amd64".parse().unwrap()
}

fn source_of(server: &Server) -> ImageSource {
    ImageSource::Registry {
        registry: server.registry(None).into(),
        reference: server.reference(),
    }
}

/// Resolves `root` of the content for amd64 from a registry.
async fn resolve_root(content: Content, root: &Descriptor) -> Result<Resolved, FetchError> {
    let server = content.serve(root).await;
    resolve(&source_of(&server), amd64()).await
}

#[tokio::test]
async fn an_index_leads_to_the_image_of_the_platform() {
    let mut content = Content::default();
    let intel = content.image("linux/amd64", "intel");
    let arm = content.image("linux/arm64", "arm");
    let root = content.index(&[
        (arm, Some("linux/arm64/v8")),
        (intel.clone(), Some("linux/amd64")),
    ]);
    let server = content.serve(&root).await;

    let resolved = resolve(&source_of(&server), amd64()).await.unwrap();

    assert_eq!(resolved.index_digest, Some(root.digest));
    assert_eq!(resolved.manifest_digest, intel.digest);
    assert_eq!(Digest::of(&resolved.manifest_bytes), intel.digest);
    assert_eq!(
        Digest::of(&resolved.config_bytes),
        resolved.manifest.config.digest
    );
    assert_eq!(resolved.platform, amd64());
    let reference = server.reference().with_digest(intel.digest);
    assert_eq!(resolved.reference, Some(reference));
    let layer = Digest::of(b"intel");
    assert_eq!(resolved.layers.len(), 1);
    assert_eq!(resolved.layers[0].descriptor.digest, layer);
    assert_eq!(resolved.layers[0].diff_id, layer);
    assert_eq!(resolved.layers[0].compression, LayerCompression::None);
    assert_eq!(server.asked().len(), 3, "index, manifest and config");
}

#[tokio::test]
async fn a_layer_of_a_resolved_image_can_be_read() {
    let mut content = Content::default();
    let root = content.image("linux/amd64", "layer text");
    let server = content.serve(&root).await;
    let source = source_of(&server);
    let resolved = resolve(&source, amd64()).await.unwrap();

    let body = source
        .blob(&resolved.layers[0].descriptor, 6)
        .await
        .unwrap();

    let BlobBody::Stream(mut stream) = body else {
        panic!("a registry gives a stream");
    };
    assert_eq!(stream.next().await.unwrap().unwrap(), "text");
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test]
async fn an_image_without_index_is_checked_against_the_platform() {
    let mut content = Content::default();
    let root = content.image("linux/arm64", "arm");

    let error = resolve_root(content, &root).await.unwrap_err();

    assert_eq!(
        error.to_string(),
        "no image for linux/amd64, there is linux/arm64"
    );
}

#[tokio::test]
async fn nested_indexes_are_walked_in_order() {
    let mut content = Content::default();
    let wrong = content.image("linux/arm64", "arm");
    let right = content.image("linux/amd64", "intel");
    let inner = content.index(&[(wrong.clone(), None), (right.clone(), None)]);
    let middle = content.index(&[(inner, None)]);
    let root = content.index(&[(wrong, None), (middle, None)]);

    let resolved = resolve_root(content, &root).await.unwrap();

    assert_eq!(resolved.manifest_digest, right.digest);
    assert_eq!(resolved.index_digest, Some(root.digest));
}

#[tokio::test]
async fn deep_and_wide_indexes_are_given_up() {
    let mut content = Content::default();
    let mut deep = content.image("linux/amd64", "intel");
    for _ in 0..5 {
        deep = content.index(&[(deep, None)]);
    }
    let error = resolve_root(content, &deep).await.unwrap_err();
    assert!(
        matches!(error, FetchError::TooNested { limit: 4, .. }),
        "{error}"
    );

    let mut content = Content::default();
    let many: Vec<(Descriptor, Option<&str>)> = (0..70)
        .map(|number| (content.image("linux/arm64", &number.to_string()), None))
        .collect();
    let wide = content.index(&many);
    let server = content.serve(&wide).await;
    let error = resolve(&source_of(&server), amd64()).await.unwrap_err();
    assert!(
        matches!(error, FetchError::TooNested { limit: 64, .. }),
        "{error}"
    );
    let manifests = server.targets();
    let manifests = manifests.iter().filter(|path| path.contains("/manifests/"));
    assert_eq!(manifests.count(), 64);
}

#[tokio::test]
async fn an_index_of_four_levels_is_walked() {
    let mut content = Content::default();
    let image = content.image("linux/amd64", "intel");
    let mut root = image.clone();
    for _ in 0..4 {
        root = content.index(&[(root, None)]);
    }

    let resolved = resolve_root(content, &root).await.unwrap();

    assert_eq!(resolved.manifest_digest, image.digest);
}

#[tokio::test]
async fn a_missing_platform_lists_what_there_is() {
    let mut content = Content::default();
    let image = content.image("linux/arm64", "arm");
    let root = content.index(&[
        (image.clone(), Some("linux/arm64/v8")),
        (image.clone(), Some("windows/amd64")),
        (image, Some("unknown/unknown")),
    ]);

    let error = resolve_root(content, &root).await.unwrap_err();

    assert_eq!(
        error.to_string(),
        "no image for linux/amd64, there is linux/arm64/v8, windows/amd64"
    );
}

#[tokio::test]
async fn an_index_cannot_pass_another_architecture_off() {
    let mut content = Content::default();
    let image = content.image("linux/arm64", "arm");
    let root = content.index(&[(image, Some("linux/amd64"))]);

    let error = resolve_root(content, &root).await.unwrap_err();

    assert!(matches!(error, FetchError::PlatformNotFound(_)), "{error}");
}

#[tokio::test]
async fn documents_that_are_not_what_they_are_called_are_refused() {
    let mut content = Content::default();
    let image = content.image("linux/amd64", "intel");
    let mut called_index = image.clone();
    called_index.media_type = OCI_INDEX.to_owned();
    let root = content.index(&[(called_index, None)]);
    let error = resolve_root(content, &root).await.unwrap_err();
    assert!(
        matches!(
            error,
            FetchError::Document {
                source: DocumentError::MediaTypesDisagree { .. },
                ..
            }
        ),
        "{error:?}"
    );

    let mut content = Content::default();
    let mut image = content.image("linux/amd64", "intel");
    image.size_bytes += 1;
    let root = content.index(&[(image, Some("linux/amd64"))]);
    let error = resolve_root(content, &root).await.unwrap_err();
    assert!(
        matches!(error, FetchError::SizeMismatch { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn layers_that_cannot_be_built_from_are_refused_before_the_config_is_fetched() {
    let mut content = Content::default();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(b"c"),
            "size": 1
        },
        "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": Digest::of(b"l"),
            "size": 1,
            "urls": ["http://169.254.169.254/"]
        }],
    });
    let root = content.add(OCI_MANIFEST, manifest.to_string());
    let server = content.serve(&root).await;

    let error = resolve(&source_of(&server), amd64()).await.unwrap_err();

    assert!(matches!(error, FetchError::Layer(_)), "{error:?}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_config_of_other_bytes_or_size_is_refused() {
    for (digest, size, want) in [
        (Digest::of(b"other"), 300, "SizeMismatch"),
        (Digest::of(b"{}"), 5 << 20, "Document"),
    ] {
        let mut content = Content::default();
        content.add("", "other");
        content.add("", "{}");
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest,
                "size": size
            },
            "layers": [],
        });
        let root = content.add(OCI_MANIFEST, manifest.to_string());

        let error = resolve_root(content, &root).await.unwrap_err();

        assert!(format!("{error:?}").starts_with(want), "{error:?}");
    }
}

#[tokio::test]
async fn the_future_can_travel_between_threads() {
    let mut content = Content::default();
    let root = content.image("linux/amd64", "intel");
    let server = content.serve(&root).await;
    let source = source_of(&server);

    let resolved = tokio::spawn(async move { resolve(&source, amd64()).await });

    resolved.await.unwrap().unwrap();
}
