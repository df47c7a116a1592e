//! Fills a new database with many images, each with a version, its blobs, two tags and an alias, for
//! who measures a large store.
//!
//! ```text
//! cargo run --release -p kiln-store --example fill -- kiln.db 100000
//! ```
//! Image `n` is called `image-<n>`, its alias `alias-<n>`, its tags `latest` and `t<n % 10>`. All of
//! them are user 0's.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;

use kiln_domain::{
    Digest, ImageId, ImageName, TagName, Timestamp, VersionId, VersionKind, VersionNumber,
    Visibility,
};
use kiln_store::aliases::{self, NewAlias};
use kiln_store::images::{self, Custody, NewImage};
use kiln_store::names::ReserveError;
use kiln_store::version_blobs::{self, BlobRole, VersionBlob};
use kiln_store::versions::{self, NewVersion};
use kiln_store::{Store, StoreOptions, WriteTransaction, names, tags};
use uuid::Uuid;

/// Base layers that the images share.
const BASES: u128 = 500;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut words = std::env::args().skip(1);
    let path = words.next().ok_or("name the database")?;
    let count: u128 = words.next().map_or(Ok(100_000), |text| text.parse())?;
    let store = Store::open(Path::new(&path), &StoreOptions::default())?;
    store
        .write(move |tx| (1..=count).try_for_each(|n| add(tx, n)))
        .await?;
    store.close().await?;
    Ok(())
}

/// Adds image `n` and what belongs to it.
fn add(tx: &WriteTransaction<'_>, n: u128) -> Result<(), ReserveError> {
    let at = Timestamp::EPOCH;
    let image_id = ImageId::new(scattered(2 * n));
    let version_id = VersionId::new(scattered(2 * n + 1));
    let name: ImageName = word(&format!("image-{n}"));
    images::insert(
        tx,
        &NewImage {
            id: image_id,
            name: name.clone(),
            owner_id: 0,
            org_id: None,
            visibility: Visibility::Private,
            kind: VersionKind::Rootfs,
            custody: Custody::Managed,
            labels: BTreeMap::from([("team".to_owned(), format!("t-{}", n % 50))]),
            keywords: BTreeSet::from([format!("k-{}", n % 20)]),
            limits: None,
            created_at: at,
        },
    )?;
    names::give_to_image(tx, &name, image_id, at)?;
    let digest = |what: &str| Digest::of(format!("{what} {n}").as_bytes());
    versions::insert(
        tx,
        &NewVersion {
            id: version_id,
            image_id,
            number: VersionNumber::FIRST,
            architecture: "amd64".to_owned(),
            kind: VersionKind::Rootfs,
            source_kind: "registry".to_owned(),
            source_reference: Some(format!("registry.example/team/image:{n}")),
            manifest_digest: Some(digest("manifest")),
            config_digest: Some(digest("config")),
            derivation: Some(digest("derivation")),
            rootfs_size_bytes: 1 << 30,
            rootfs_sha256: None,
            kernel_sha256: Some(Digest::of(b"kernel")),
            initrd_sha256: None,
            has_modules: false,
            kernel_name: None,
            image_config: Some(serde_json::json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]})),
            boot: None,
            original: None,
            created_at: at,
            created_by: 0,
        },
    )?;
    let blob = |role, position, digest: Digest| VersionBlob {
        digest,
        role,
        position,
        size_bytes: 1 << 20,
        diff_id: (role == BlobRole::Layer).then(|| Digest::of(digest.as_bytes())),
    };
    let base = Digest::of(format!("base {}", n % BASES).as_bytes());
    let blobs = [
        blob(BlobRole::Manifest, 0, digest("manifest")),
        blob(BlobRole::Config, 0, digest("config")),
        blob(BlobRole::Layer, 0, base),
        blob(BlobRole::Layer, 1, digest("layer")),
    ];
    version_blobs::insert_all(tx, version_id, &blobs)?;
    for tag in [TagName::latest(), word::<TagName>(&format!("t{}", n % 10))] {
        tags::set(tx, image_id, &tag, version_id, at)?;
    }
    aliases::insert(
        tx,
        &NewAlias {
            name: word::<ImageName>(&format!("alias-{n}")),
            target: format!("image-{n}"),
            owner_id: 0,
            image_id,
            created_at: at,
        },
    )
}

/// Makes ids that lie apart as random ones do, and are the same in each run.
fn scattered(n: u128) -> Uuid {
    let digest = Digest::of(&n.to_le_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Reads a word that follows its grammar by construction.
#[expect(clippy::expect_used, reason = "the words above are names and tags")]
fn word<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name or a tag")
}
