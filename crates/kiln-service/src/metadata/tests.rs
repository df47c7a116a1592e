use std::collections::{BTreeMap, BTreeSet};

use kiln_api::image::modify::{LabelChanges, Modifier};
use kiln_domain::{ImageId, ImageName, VersionId, VersionKind, VersionNumber, Visibility};
use kiln_store::images::{Custody, NewImage};
use kiln_store::versions::NewVersion;
use kiln_store::{StoreOptions, names, versions};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::clock::SystemClock;

const OWNER: u32 = 1000;

/// A store with two images of one user, and the desk over it.
struct House {
    desk: Metadata,
    store: Store,
    _folder: TempDir,
}

fn id_of(n: u128) -> ImageId {
    ImageId::new(Uuid::from_u128(n))
}

fn actor(uid: u32) -> Actor {
    Actor::from_peer(uid, uid, None, 0)
}

fn add(tx: &WriteTransaction<'_>, n: u128, name: &str) -> Result<(), ReserveError> {
    let now = SystemClock.now();
    let name: ImageName = name.parse().unwrap();
    let image = NewImage {
        id: id_of(n),
        name: name.clone(),
        owner_id: OWNER,
        org_id: None,
        visibility: Visibility::Public,
        kind: VersionKind::Rootfs,
        custody: Custody::Managed,
        labels: BTreeMap::new(),
        keywords: BTreeSet::new(),
        limits: None,
        created_at: now,
    };
    images::insert(tx, &image)?;
    let config = json!({"Labels": {
        "dev.kiln.limits.cpu": "2", "dev.kiln.limits.memory": "a lot",
    }});
    let version = NewVersion {
        id: VersionId::new(Uuid::from_u128(n + 100)),
        image_id: id_of(n),
        number: VersionNumber::FIRST,
        architecture: "amd64".to_owned(),
        kind: VersionKind::Rootfs,
        source_kind: "oci".to_owned(),
        source_reference: None,
        manifest_digest: None,
        config_digest: None,
        derivation: None,
        rootfs_size_bytes: 4096,
        rootfs_sha256: None,
        kernel_sha256: None,
        initrd_sha256: None,
        has_modules: false,
        kernel_name: None,
        image_config: Some(config),
        boot: None,
        original: None,
        created_at: now,
        created_by: OWNER,
    };
    versions::insert(tx, &version)?;
    names::give_to_image(tx, &name, id_of(n), now)
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        let store = Store::open(&path, &StoreOptions::default()).unwrap();
        let filled = store.write(|tx| {
            add(tx, 1, "web")?;
            add(tx, 2, "other")
        });
        filled.await.unwrap();
        let limits = [("gpu".parse().unwrap(), "1".parse().unwrap())];
        let desk = Metadata::new(
            store.clone(),
            Arc::new(SystemClock),
            folder.path().to_owned(),
            Naming::of_host(Architecture::Amd64),
            limits.into(),
            Arc::new(Remotes::new(kiln_registry::routes::Network::default())),
        );
        Self {
            desk,
            store,
            _folder: folder,
        }
    }

    async fn modify(&self, uid: u32, params: ModifyParams) -> Result<Modified, Failure> {
        self.desk.modify(&actor(uid), params).await
    }

    async fn limits(&self) -> Vec<String> {
        let told = self.desk.limits(&actor(OWNER), one()).await.unwrap();
        let limits = told.limits.iter();
        limits
            .map(|limit| format!("{}={} {}", limit.slot, limit.value, limit.origin))
            .collect()
    }

    /// The image as it stands, to compare with.
    async fn row(&self) -> ImageRow {
        let row = self.store.read(|tx| images::get(tx, id_of(1))).await;
        row.unwrap().unwrap()
    }
}

fn one() -> OneImageParams {
    OneImageParams {
        image: id_of(1).to_string(),
        ..OneImageParams::default()
    }
}

fn web() -> ModifyParams {
    ModifyParams {
        image: "web".to_owned(),
        ..ModifyParams::default()
    }
}

fn read(params: Value) -> ModifyParams {
    serde_json::from_value(params).unwrap()
}

fn code(refused: Result<Modified, Failure>) -> String {
    refused.unwrap_err().code
}

#[tokio::test]
async fn several_things_change_together_in_either_form_and_once() {
    let house = House::new().await;
    let params = read(json!({
        "image": id_of(1), "if_revision": 1,
        "modifier": {
            "name": "renamed", "labels": {"version": "2.0"}, "tags": ["gpu", "ml"],
            "resource_limits": {"cpu": 4, "memory": "8G"}, "size": 1_024_000_000_u64,
        },
    }));

    let modified = house.modify(0, params.clone()).await.unwrap();

    let image = &modified.image;
    assert_eq!((image.name.as_str(), image.revision), ("renamed", 2));
    assert_eq!(image.labels["version"], "2.0");
    assert_eq!(image.declared_size_bytes, Some(1_024_000_000));
    assert_eq!(image.rootfs.size_bytes, 4096);
    let fields: Vec<&str> = modified.changes.iter().map(|c| c.field.as_str()).collect();
    let want = [
        "name",
        "labels.version",
        "keywords",
        "limits.cpu",
        "limits.memory",
        "declared_size_bytes",
    ];
    assert_eq!(fields, want);
    let limits = ["cpu=4 custom", "gpu=1 daemon", "memory=8589934592 custom"];
    assert_eq!(house.limits().await, limits);

    // The old name leads to it, and the same once more changes nothing.
    let again = ModifyParams {
        image: "web".to_owned(),
        if_revision: Some(2),
        ..params
    };
    let again = house.modify(0, again).await.unwrap();
    assert_eq!((again.changes, again.image.revision), (Vec::new(), 2));

    let history = HistoryParams {
        image: "web".to_owned(),
        ..HistoryParams::default()
    };
    let history = house.desk.history(&actor(OWNER), history).await.unwrap();
    let [entry] = &history.items[..] else {
        panic!("{history:?}");
    };
    assert_eq!(entry.actor, "unix:0");
    assert_eq!(entry.changes, modified.changes);
    assert_eq!(entry.changes[0].from, "web");
}

#[tokio::test]
async fn what_is_refused_changes_nothing_at_all() {
    let house = House::new().await;
    let before = house.row().await;
    let label = json!({"set": {"a": "b"}});
    let many: BTreeMap<String, String> = (0..257).map(|n| (n.to_string(), String::new())).collect();
    let cases = [
        (json!({"name": "other"}), "image.already_exists"),
        (json!({"name": "Not A Name"}), "image.name_invalid"),
        (json!({"name": "new:v7"}), "image.name_invalid"),
        (
            json!({"name": "'; DROP TABLE images"}),
            "image.name_invalid",
        ),
        (json!({"limits": {"cpu": 0}}), "image.limit_invalid"),
        (json!({"limits": {"memory": "4"}}), "image.limit_invalid"),
        (json!({"limits": {"CPU": 4}}), "image.limit_invalid"),
        (json!({"limits": {"cpu": [4]}}), "image.limit_invalid"),
        (json!({"keywords": ["a b"]}), "image.label_invalid"),
        (
            json!({"labels": {"set": {"a=b": "c"}}}),
            "image.label_invalid",
        ),
        (json!({"labels": {"set": many}}), "image.label_invalid"),
        (json!({"description": ""}), "image.label_invalid"),
        (json!({"if_revision": 7}), "image.revision_conflict"),
        (
            json!({"name": "a", "modifier": {"name": "b"}}),
            "request.invalid_params",
        ),
        (
            json!({"labels": {"set": {"x": "y"}, "unset": ["x"]}}),
            "request.invalid_params",
        ),
        (json!({"declared_size_bytes": 1}), "request.denied"),
        (json!({"image": "none"}), "image.not_found"),
        (json!({"architecture": "vax"}), "source.invalid_platform"),
    ];
    for (mut params, want) in cases {
        params["image"] = params.get("image").cloned().unwrap_or(json!("web"));
        if params.get("labels").is_none() {
            params["labels"] = label.clone();
        }
        let refused = house.modify(OWNER, read(params.clone())).await;
        assert_eq!(code(refused), want, "{params}");
        assert_eq!(house.row().await, before, "{params}");
    }
    // Who sees it does not change it for that.
    let named = ModifyParams {
        name: Some("mine".to_owned()),
        ..web()
    };
    assert_eq!(code(house.modify(1001, named).await), "request.denied");
    assert_eq!(house.row().await, before);
}

#[tokio::test]
async fn limits_come_from_four_places_and_custom_ones_can_be_cleared() {
    let house = House::new().await;
    let defaults = ["cpu=2 label", "gpu=1 daemon", "memory=536870912 built-in"];
    assert_eq!(house.limits().await, defaults);
    let told = house.desk.limits(&actor(OWNER), one()).await.unwrap();
    assert_eq!(told.ignored_labels, ["dev.kiln.limits.memory"]);

    let params = read(json!({"image": "web", "limits": {"cpu": 8, "memory": "32G", "gpu": 2}}));
    house.modify(OWNER, params).await.unwrap();
    let want = ["cpu=8 custom", "gpu=2 custom", "memory=34359738368 custom"];
    assert_eq!(house.limits().await, want);

    let cleared = house.desk.clear_limits(&actor(OWNER), one()).await.unwrap();
    assert_eq!(cleared.changes.len(), 3);
    assert_eq!(house.limits().await, defaults);
    let again = house.desk.clear_limits(&actor(OWNER), one()).await.unwrap();
    assert_eq!(again.changes, []);
    assert_eq!(again.image.revision, cleared.image.revision);
    assert_eq!(house.row().await.limits, None);
}

#[tokio::test]
async fn labels_are_set_and_unset_and_null_is_not_absence() {
    let house = House::new().await;
    let set = ModifyParams {
        labels: Some(LabelChanges {
            set: [
                ("a".to_owned(), "1".to_owned()),
                ("b".to_owned(), "2".to_owned()),
            ]
            .into(),
            unset: ["never-there".to_owned()].into(),
        }),
        description: Some(Some("a web server".to_owned())),
        ..web()
    };
    house.modify(OWNER, set).await.unwrap();
    let change = ModifyParams {
        modifier: Some(Modifier {
            labels: [("a".to_owned(), None)].into(),
            ..Modifier::default()
        }),
        ..web()
    };
    let kept = house.modify(OWNER, change).await.unwrap().image;
    assert_eq!(kept.labels, [("b".to_owned(), "2".to_owned())].into());
    assert_eq!(kept.description.as_deref(), Some("a web server"));

    let gone = read(json!({"image": "web", "description": null}));
    let gone = house.modify(OWNER, gone).await.unwrap().image;
    assert_eq!(gone.description, None);
}

#[tokio::test]
async fn a_forgotten_image_stays_as_it_is() {
    let house = House::new().await;
    let now = SystemClock.now();
    let forgotten = house
        .store
        .write(move |tx| images::mark_deleted(tx, id_of(1), now, now));
    assert!(forgotten.await.unwrap());

    let refused = house.modify(OWNER, web()).await;
    assert_eq!(code(refused), "image.is_forgotten");
    let refused = house.desk.clear_limits(&actor(OWNER), one()).await;
    assert_eq!(code(refused), "image.is_forgotten");
}
