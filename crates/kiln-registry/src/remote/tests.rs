use std::fmt::Write as _;
use std::path::Path;

use super::*;
use crate::blob::BlobBody;
use crate::config::Config;
use crate::routes::{Network, Rules, TlsVerify};
use crate::source::ImageSource;
use crate::testing::{ADA, Content, OCI_MANIFEST, Reply, Server, ada, impatient};

/// A network in which `origin` has the mirrors that `conf` says.
fn network(conf: &str) -> Network {
    let mut rules = Rules::default();
    rules.add_own(conf, Path::new("/c")).unwrap();
    Network {
        config: Arc::new(Config::clone(&impatient())),
        rules,
        ..Network::default()
    }
}

fn mirrored(origin: &Server, mirrors: &[(&Server, &str)], identities: &Identities) -> Remote {
    let mut conf = format!("[[registry]]\nprefix='{}'\n", origin.authority());
    for (mirror, keys) in mirrors {
        let place = mirror.authority();
        write!(
            conf,
            "[[registry.mirror]]\nlocation='{place}/copy'\n{keys}\n"
        )
        .unwrap();
    }
    let route = network(&conf).route(&origin.reference(), TlsVerify::AsConfigured);
    Remote::new(route, identities).unwrap()
}

async fn down() -> Server {
    Server::start(|_, _| Reply::status(503)).await
}

async fn read(remote: &Remote, reference: &Reference, blob: &Descriptor) -> Vec<u8> {
    let mut stream = remote.blob(reference, blob, 0).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(stream.position(), bytes.len() as u64);
    bytes
}

fn whole() -> (Content, Descriptor, Descriptor) {
    let mut content = Content::default();
    let layer = content.add("application/vnd.oci.image.layer.v1.tar", "a layer");
    let image = content.image("linux/amd64", "another");
    (content, image, layer)
}

#[tokio::test]
async fn a_mirror_serves_everything_when_the_origin_is_down() {
    let (content, image, layer) = whole();
    let mirror = content.serve(&image).await;
    let origin = down().await;
    let remote = mirrored(&origin, &[(&mirror, "")], &Identities::default());

    let manifest = remote.manifest(&origin.reference()).await.unwrap();
    let bytes = read(&remote, &origin.reference(), &layer).await;

    assert_eq!(manifest.digest, image.digest);
    assert_eq!(bytes, b"a layer");
    assert_eq!(origin.targets(), Vec::<String>::new());
    let under_its_own_name = mirror.targets();
    assert_eq!(under_its_own_name[0], "/v2/copy/app/manifests/1");
}

#[tokio::test]
async fn a_mirror_without_a_word_on_tags_is_asked_for_digests_only() {
    let (content, image, layer) = whole();
    let origin = content.clone().serve(&image).await;
    let mirror = content.serve(&image).await;
    let remote = mirrored(
        &origin,
        &[(&mirror, "resolve=false")],
        &Identities::default(),
    );

    let by_tag = remote.manifest(&origin.reference()).await.unwrap();
    let pinned = origin.reference().with_digest(by_tag.digest);
    remote.manifest(&pinned).await.unwrap();
    read(&remote, &origin.reference(), &layer).await;

    assert_eq!(origin.targets(), ["/v2/app/manifests/1"]);
    assert_eq!(mirror.targets().len(), 2);
}

#[tokio::test]
async fn a_mirror_that_lies_about_a_digest_is_not_believed() {
    let (content, image, layer) = whole();
    let origin = content.serve(&image).await;
    let lie = |asked: &crate::testing::Asked, _| {
        let is_blob = asked.target.contains("/blobs/");
        let body = if is_blob { "a LAYER" } else { "{}" };
        Reply::ok(body).with("content-type", OCI_MANIFEST)
    };
    let mirror = Server::start(lie).await;
    let remote = mirrored(
        &origin,
        &[(&mirror, "resolve=false")],
        &Identities::default(),
    );
    let pinned = origin.reference().with_digest(image.digest);

    let manifest = remote.manifest(&pinned).await.unwrap();
    let source = ImageSource::Registry {
        registry: remote.clone(),
        reference: pinned.clone(),
    };
    let small = source.small_blob(&layer).await.unwrap();

    assert_eq!(manifest.digest, image.digest);
    assert_eq!(&small.bytes[..], b"a layer");
    assert_eq!(mirror.targets().len(), 2);
    // The last one has nobody behind it.
    assert!(!remote.has_others(&layer.digest));
    let BlobBody::Stream(_) = source.blob(&layer, 0).await.unwrap() else {
        panic!("a registry streams");
    };
    assert_eq!(mirror.targets().len(), 2, "a liar was asked again");
}

#[tokio::test]
async fn a_download_that_breaks_at_a_mirror_goes_on_elsewhere() {
    let (content, image, layer) = whole();
    let origin = content.serve(&image).await;
    let cut = Server::start(|_, _| Reply::ok("a layer").cut_after(3)).await;
    let remote = mirrored(&origin, &[(&cut, "")], &Identities::default());

    let bytes = read(&remote, &origin.reference(), &layer).await;

    assert_eq!(bytes, b"a layer");
    assert_eq!(origin.targets().len(), 1);
}

#[tokio::test]
async fn one_that_does_not_answer_is_asked_once() {
    let (content, image, layer) = whole();
    let origin = content.serve(&image).await;
    let gone = Server::start(|_, _| Reply::status(404)).await;
    let conf = format!(
        "[[registry]]\nprefix='{}'\n[[registry.mirror]]\nlocation='127.0.0.1:1'\n\
         [[registry.mirror]]\nlocation='{}'\n",
        origin.authority(),
        gone.authority()
    );
    let route = network(&conf).route(&origin.reference(), TlsVerify::AsConfigured);
    let remote = Remote::new(route, &Identities::default()).unwrap();

    remote.manifest(&origin.reference()).await.unwrap();
    read(&remote, &origin.reference(), &layer).await;

    assert_eq!(
        gone.targets().len(),
        2,
        "what it lacks today it may have tomorrow"
    );
    let outs = remote.shared.mirrors.iter();
    let outs: Vec<bool> = outs
        .map(|stop| stop.is_out.load(Ordering::Relaxed))
        .collect();
    assert_eq!(outs, [true, false]);
}

#[tokio::test]
async fn credentials_of_one_host_never_reach_another() {
    let demanding = || async {
        Server::start(|asked, _| match asked.header("authorization") {
            Some(_) => Reply::status(404),
            None => Reply::demand("Basic realm=\"x\""),
        })
        .await
    };
    let (origin, mirror) = (demanding().await, demanding().await);
    let mut identities = Identities::default();
    identities.add(origin.authority().parse().unwrap(), ada());
    let remote = mirrored(&origin, &[(&mirror, "")], &identities);

    remote.manifest(&origin.reference()).await.unwrap_err();

    let sent = |server: &Server| {
        let asked = server.asked().into_iter();
        let sent = asked.filter_map(|asked| asked.header("authorization").map(str::to_owned));
        sent.collect::<Vec<_>>()
    };
    assert_eq!(sent(&origin), [ADA]);
    assert_eq!(sent(&mirror), Vec::<String>::new());
}

#[tokio::test]
async fn the_last_ones_error_counts() {
    let origin = Server::start(|_, _| Reply::status(404)).await;
    let mirror = down().await;
    let remote = mirrored(&origin, &[(&mirror, "")], &Identities::default());

    let error = remote.manifest(&origin.reference()).await.unwrap_err();

    assert!(
        matches!(error, FetchError::ReferenceNotFound { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn other_work_has_all_the_patience_and_asks_everybody_again() {
    let origin = down().await;
    let conf = format!(
        "[[registry]]\nprefix='{}'\n[[registry.mirror]]\nlocation='127.0.0.1:1'\n",
        origin.authority(),
    );
    let mut network = network(&conf);
    let config = Config {
        attempts: 2,
        backoff: std::time::Duration::from_millis(1),
        ..(*impatient()).clone()
    };
    network.config = Arc::new(config.clone());
    let route = network.route(&origin.reference(), TlsVerify::AsConfigured);
    let remote = Remote::new(route, &Identities::default()).unwrap();
    let left = |remote: &Remote| {
        let location = &remote.shared.location;
        location.registry.patience().left(&config)
    };
    let is_out = |remote: &Remote| remote.shared.mirrors[0].is_out.load(Ordering::Relaxed);
    let all = left(&remote);

    remote.manifest(&origin.reference()).await.unwrap_err();
    let other = remote.for_other_work();

    assert!(left(&remote) < all);
    assert!(is_out(&remote));
    assert_eq!(left(&other), all);
    assert!(!is_out(&other));
    other.manifest(&origin.reference()).await.unwrap_err();
    assert!(left(&other) < all);
}
