//! What a start makes of a database that was lost or damaged, and of one that was not.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use kiln_api::image::{ForgetParams, GetParams, Image, ListParams};
use kiln_artifacts::Artifacts;
use kiln_domain::{
    Architecture, ImageState, OperationId, OperationKind, OperationState, Timestamp, VersionId,
};
use kiln_kernel::{Catalogue, Import, KernelFiles};
use kiln_service::{Images, Naming, SystemClock, open_database};
use kiln_store::events::{self, EventActor, EventFilter, EventRow, NewEvent};
use kiln_store::operations::{self, NewOperation};
use kiln_store::{Object, Store, StoreOptions, kernels, version_blobs, versions};
use tempfile::TempDir;

use crate::house::{House, eventually, root};
use crate::stand_ins::{Act, OneLayer};

const REFERENCE: &str = "debian:bookworm";

/// A version that no database knows.
const STRAY: &str = "0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1";

async fn with_an_image() -> Result<(House, Image, Arc<OneLayer>)> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;
    let image = house.pull(house.params(REFERENCE)).await?;
    Ok((house, image, source))
}

fn images(house: &House) -> Images {
    Images::new(
        house.store.clone(),
        Arc::new(SystemClock),
        house.images().to_owned(),
        Naming::of_host(Architecture::Amd64),
        30,
        house.image_files(),
    )
}

async fn get(house: &House, named: &str) -> Result<Image> {
    let params = GetParams {
        image: named.to_owned(),
        architecture: None,
    };
    Ok(images(house).get(&root(), params).await?)
}

async fn names(house: &House, all: bool) -> Result<Vec<String>> {
    let params = ListParams {
        all,
        ..ListParams::default()
    };
    let page = images(house).list(&root(), params).await?;
    Ok(page
        .items
        .iter()
        .map(|image| image.name.to_string())
        .collect())
}

async fn forget(house: &House, named: &str) -> Result<Image> {
    let params = ForgetParams {
        architecture: None,
        image: named.to_owned(),
        dry_run: false,
        force: false,
    };
    let forgotten = images(house).forget(&root(), params).await?;
    assert!(!forgotten.already_forgotten);
    Ok(forgotten.image)
}

async fn events_of(store: &Store, prefix: &str) -> Result<Vec<EventRow>> {
    let filter = EventFilter {
        actor: None,
        kind_prefix: Some(prefix.to_owned()),
        object: None,
    };
    let page = store.read(move |tx| events::page(tx, 0, 100, &filter));
    Ok(page.await?.rows)
}

fn lose_database(folder: &TempDir) -> Result<()> {
    for entry in fs::read_dir(folder.path())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("kiln.db") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn database(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("kiln.db")
}

/// Opens the database and stops right there, as a daemon that is killed does.
async fn open_and_die(folder: &TempDir) -> Result<()> {
    let artifacts = Artifacts::open(&folder.path().join("images"))?;
    let store = open_database(&database(folder), &StoreOptions::default(), &artifacts)?;
    Ok(store.close().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_every_image_is_adopted() -> Result<()> {
    let (house, was, source) = with_an_image().await?;
    let version: VersionId = was.version.id;
    let blobs = house
        .store
        .read(move |tx| version_blobs::of_version(tx, version))
        .await?;
    let recorded = house
        .store
        .read(move |tx| versions::get(tx, version))
        .await?;
    let folder = house.leave().await?;
    lose_database(&folder)?;

    let (house, recovered) = House::enter(folder, source).await?;

    assert_eq!(
        (recovered.adopted_images, recovered.left_unrecorded),
        (1, 0)
    );
    let replaced = recovered.replaced_database.context("not told")?;
    assert_eq!(replaced.cause, "lost");
    assert_eq!((replaced.damaged, replaced.snapshot), (None, None));
    assert_eq!(names(&house, false).await?, Vec::<String>::new());
    assert_eq!(names(&house, true).await?, ["debian-bookworm-recovered"]);
    let now = get(&house, "debian-bookworm-recovered").await?;
    assert_eq!((now.state, now.owner_uid), (ImageState::Inactive, 0));
    assert_eq!((now.id, &now.rootfs.path), (was.id, &was.rootfs.path));
    assert_eq!((&now.source, &now.config), (&was.source, &was.config));
    assert_eq!(get(&house, REFERENCE).await?.id, was.id);
    let adopted = house
        .store
        .read(move |tx| versions::get(tx, version))
        .await?;
    let (adopted, recorded) = adopted.zip(recorded).context("no version")?;
    assert_eq!(adopted.derivation, recorded.derivation);
    assert_eq!(adopted.kernel_sha256, recorded.kernel_sha256);
    let kept = house
        .store
        .read(move |tx| version_blobs::of_version(tx, version))
        .await?;
    assert_eq!(kept, blobs);
    let told = events_of(&house.store, "").await?;
    let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["image.adopted", "database.replaced"]);
    assert_eq!(told[0].data["recorded_name"], "debian-bookworm");
    assert_eq!(told[1].data["adopted_images"], 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_image_can_be_forgotten_and_its_name_is_pulled_again() -> Result<()> {
    let (house, was, source) = with_an_image().await?;
    let folder = house.leave().await?;
    lose_database(&folder)?;
    let (house, _) = House::enter(folder, source).await?;

    let again = house.pull(house.params(REFERENCE)).await?;
    assert_ne!(again.id, was.id);
    assert_eq!(get(&house, REFERENCE).await?.id, again.id);
    let forgotten = forget(&house, "debian-bookworm-recovered").await?;

    assert_eq!(
        (forgotten.id, forgotten.state),
        (was.id, ImageState::Deleted)
    );
    assert_eq!(names(&house, false).await?, ["debian-bookworm"]);
    assert!(Path::new(&was.rootfs.path).exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_had_one_name_get_numbers() -> Result<()> {
    let (house, _, source) = with_an_image().await?;
    for _ in 0..2 {
        forget(&house, "debian-bookworm").await?;
        house.pull(house.params(REFERENCE)).await?;
    }
    let folder = house.leave().await?;
    lose_database(&folder)?;

    let (house, recovered) = House::enter(folder, source).await?;

    assert_eq!(recovered.adopted_images, 3);
    let want = ["", "-2", "-3"].map(|number| format!("debian-bookworm-recovered{number}"));
    assert_eq!(names(&house, true).await?, want);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_after_replacing_leaves_the_comparison_to_the_next() -> Result<()> {
    let (house, was, source) = with_an_image().await?;
    let folder = house.leave().await?;
    fs::write(database(&folder), "noise")?;

    open_and_die(&folder).await?;
    open_and_die(&folder).await?;
    let (house, recovered) = House::enter(folder, source.clone()).await?;

    assert_eq!(recovered.adopted_images, 1);
    let replaced = recovered.replaced_database.context("not told")?;
    assert_eq!(replaced.damaged.as_deref(), Some("kiln.db.damaged-1"));
    assert_eq!(get(&house, "debian-bookworm-recovered").await?.id, was.id);
    let folder = house.leave().await?;
    assert_eq!(fs::read(folder.path().join("kiln.db.damaged-1"))?, b"noise");
    let (_house, recovered) = House::enter(folder, source).await?;
    assert_eq!(recovered.replaced_database, None, "told once");
    assert_eq!(recovered.adopted_images, 0);
    Ok(())
}

/// A daemon may also die between the two renames: then there is no database at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_while_replacing_leaves_a_lost_database() -> Result<()> {
    let (house, was, source) = with_an_image().await?;
    house
        .store
        .rotate_snapshots(std::num::NonZeroUsize::MIN)
        .await?;
    let folder = house.leave().await?;
    fs::rename(database(&folder), folder.path().join("kiln.db.damaged-1"))?;
    fs::write(folder.path().join("kiln.db.partial"), "half")?;

    let (house, recovered) = House::enter(folder, source).await?;

    assert!(
        recovered
            .replaced_database
            .context("not told")?
            .snapshot
            .is_some()
    );
    assert_eq!(recovered.adopted_images, 0);
    let now = get(&house, "debian-bookworm").await?;
    assert_eq!((now.id, now.state), (was.id, ImageState::Available));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_knows_keeps_its_state_and_the_rest_is_adopted() -> Result<()> {
    let (house, first, source) = with_an_image().await?;
    let gone = house.pull(kiln_api::image::PullParams {
        name: Some("gone".parse()?),
        ..house.params(REFERENCE)
    });
    let gone = gone.await?;
    house
        .store
        .rotate_snapshots(std::num::NonZeroUsize::MIN)
        .await?;
    // After the snapshot: one forgotten, its name taken by another, one directory removed.
    forget(&house, "debian-bookworm").await?;
    let second = house.pull(house.params(REFERENCE)).await?;
    fs::remove_dir_all(&gone.artifact_dir)?;
    let folder = house.leave().await?;
    let mut bytes = fs::read(database(&folder))?;
    bytes[..4096].fill(0);
    fs::write(database(&folder), &bytes)?;

    let (house, recovered) = House::enter(folder, source).await?;

    assert_eq!(get(&house, "debian-bookworm").await?.id, first.id);
    let adopted = get(&house, "debian-bookworm-recovered").await?;
    assert_eq!(
        (adopted.id, adopted.state),
        (second.id, ImageState::Inactive)
    );
    assert_eq!(
        (recovered.adopted_images, recovered.missing_versions),
        (1, 1)
    );
    let missing = events_of(&house.store, "version.missing").await?;
    assert_eq!(missing[0].object, Object::version(gone.version.id));
    assert_eq!(get(&house, "gone").await?.state, ImageState::Available);
    Ok(())
}

/// An operation that a snapshot shows as running may have succeeded since: its image stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_running_in_the_snapshot_is_adopted_not_removed() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;
    let snapshot = house.path("kiln.db.snapshot-mine");
    house.store.snapshot_to(&snapshot).await?;
    let image = house.pull(house.params(REFERENCE)).await?;
    let folder = house.leave().await?;
    let old = Store::open(&snapshot, &StoreOptions::default())?;
    let operation = NewOperation {
        id: OperationId::new(uuid::Uuid::new_v4()),
        kind: OperationKind::ImagePull,
        owner_uid: 0,
        object: Some(Object::version(image.version.id)),
        subject: REFERENCE.to_owned(),
        params: serde_json::json!({}),
        created_at: Timestamp::EPOCH,
    };
    old.write(move |tx| operations::insert(tx, &operation))
        .await?;
    old.close().await?;
    fs::remove_file(database(&folder))?;

    let (house, recovered) = House::enter(folder, source).await?;

    assert_eq!(recovered.interrupted_operations, 1);
    assert_eq!(
        (recovered.adopted_images, recovered.removed_unrecorded),
        (1, 0)
    );
    assert_eq!(get(&house, "debian-bookworm-recovered").await?.id, image.id);
    assert!(Path::new(&image.rootfs.path).exists());
    Ok(())
}

/// A config may be as long as any, and nest what means nothing as deep as it likes.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_an_extravagant_config_is_adopted() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let nested = (0..60).fold(serde_json::json!([]), |inner, _| serde_json::json!([inner]));
    let ports: serde_json::Map<_, _> = (0..4_000)
        .map(|port| (format!("{port}"), nested.clone()))
        .collect();
    source.set_container(serde_json::json!({"Cmd": ["/bin/sh"], "ExposedPorts": ports}));
    let house = House::new(source.clone())?;
    let was = house.pull(house.params(REFERENCE)).await?;
    let document = fs::metadata(Path::new(&was.artifact_dir).join("image.json"))?;
    let folder = house.leave().await?;
    lose_database(&folder)?;

    let (house, recovered) = House::enter(folder, source).await?;

    assert!(document.len() < 1 << 20, "{} bytes", document.len());
    assert_eq!(
        (recovered.adopted_images, recovered.left_unrecorded),
        (1, 0)
    );
    let now = get(&house, "debian-bookworm-recovered").await?;
    assert_eq!(now.config, was.config);
    let ports = now.config.context("no config")?;
    assert_eq!(ports["ExposedPorts"]["3999"], serde_json::json!({}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_registered_from_a_path_with_a_new_line_is_adopted() -> Result<()> {
    let (house, was, source) = with_an_image().await?;
    fs::copy(&was.rootfs.path, house.path("root\nfs"))?;
    let params = kiln_api::image::RegisterParams {
        name: "odd".parse()?,
        rootfs_path: house.file("root\nfs"),
        kernel_ref: None,
        kernel_path: Some(house.file("vmlinux")),
        initrd_path: None,
        modules_dir: None,
        boot: kiln_api::image::BootChoice::Auto,
        architecture: None,
        detach: false,
    };
    house.pulls.register(&root(), params).await?;
    let odd = get(&house, "odd").await?;
    let folder = house.leave().await?;
    lose_database(&folder)?;

    let (house, recovered) = House::enter(folder, source).await?;

    assert_eq!(
        (recovered.adopted_images, recovered.left_unrecorded),
        (2, 0)
    );
    let now = get(&house, "odd-recovered").await?;
    assert_eq!(now.source, odd.source);
    let shown = format!("{:?}", now.source);
    assert!(shown.contains(r"root\\nfs"), "{shown}");
    Ok(())
}

/// Somebody puts a copy back by hand that was made while a pull ran: what that pull published and
/// answered afterwards stays, though the copy calls the pull interrupted.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_running_in_a_copy_put_back_by_hand_stays() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let (until, gate) = tokio::sync::oneshot::channel();
    source.then(Act::Wait(gate));
    let house = House::new(source.clone())?;
    let started = house.start(house.params(REFERENCE)).await?;
    eventually("the layers are asked for", async || {
        Ok(source.calls().1 == 1)
    })
    .await?;
    let copy = house.path("copy.db");
    house.store.snapshot_to(&copy).await?;
    assert!(until.send(()).is_ok());
    eventually("the pull is done", async || {
        let done = house.operations_in(OperationState::Succeeded).await?;
        Ok(done.iter().any(|operation| operation.id == started.id))
    })
    .await?;
    let image = get(&house, REFERENCE).await?;
    let mut folder = house.leave().await?;
    lose_database(&folder)?;
    fs::rename(&copy, database(&folder))?;

    for (interrupted, adopted) in [(1, 1), (0, 0)] {
        let (house, recovered) = House::enter(folder, source.clone()).await?;

        assert_eq!(recovered.interrupted_operations, interrupted);
        assert_eq!(
            (recovered.adopted_images, recovered.removed_unrecorded),
            (adopted, 0)
        );
        assert!(Path::new(&image.rootfs.path).exists());
        folder = house.leave().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_gone_are_told_until_their_image_is_forgotten() -> Result<()> {
    let (house, was, source) = with_an_image().await?;
    fs::remove_dir_all(&was.artifact_dir)?;
    let folder = house.leave().await?;

    let (house, recovered) = House::enter(folder, source.clone()).await?;
    assert_eq!(recovered.missing_versions, 1);
    forget(&house, "debian-bookworm").await?;
    let folder = house.leave().await?;

    let (_house, recovered) = House::enter(folder, source).await?;
    assert_eq!(recovered.missing_versions, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_directory_stays_until_it_can_be_read() -> Result<()> {
    let (house, was, source) = with_an_image().await?;
    let folder = house.leave().await?;
    lose_database(&folder)?;
    let document = Path::new(&was.artifact_dir).join("image.json");
    let whole = fs::read(&document)?;
    fs::remove_file(&document)?;
    fs::write(&document, &whole[..whole.len() / 2])?;

    let mut folder = folder;
    for _ in 0..2 {
        let (house, recovered) = House::enter(folder, source.clone()).await?;
        assert_eq!(
            (recovered.adopted_images, recovered.left_unrecorded),
            (0, 1)
        );
        assert!(Path::new(&was.rootfs.path).exists());
        folder = house.leave().await?;
    }
    fs::write(&document, &whole)?;
    let (house, recovered) = House::enter(folder, source).await?;

    assert_eq!(
        (recovered.adopted_images, recovered.left_unrecorded),
        (1, 0)
    );
    assert_eq!(get(&house, "debian-bookworm-recovered").await?.id, was.id);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_database_adopts_nothing() -> Result<()> {
    let (house, was, source) = with_an_image().await?;
    let folder = house.leave().await?;
    let stray = folder.path().join("images").join(STRAY);
    fs::create_dir(&stray)?;
    fs::copy(
        Path::new(&was.artifact_dir).join("image.json"),
        stray.join("image.json"),
    )?;

    let (house, recovered) = House::enter(folder, source).await?;

    assert_eq!(
        (recovered.adopted_images, recovered.left_unrecorded),
        (0, 1)
    );
    assert_eq!(recovered.replaced_database, None);
    assert_eq!(names(&house, true).await?, ["debian-bookworm"]);
    assert!(stray.exists());
    Ok(())
}

/// An operation of the new database vouches for what it left, as ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_database_still_removes_what_its_own_operations_left() -> Result<()> {
    let (house, _, source) = with_an_image().await?;
    let folder = house.leave().await?;
    lose_database(&folder)?;
    let (house, _) = House::enter(folder, source.clone()).await?;
    let left: VersionId = STRAY.parse()?;
    let operation = NewOperation {
        id: OperationId::new(uuid::Uuid::new_v4()),
        kind: OperationKind::ImagePull,
        owner_uid: 0,
        object: Some(Object::version(left)),
        subject: REFERENCE.to_owned(),
        params: serde_json::json!({}),
        created_at: Timestamp::EPOCH,
    };
    house
        .store
        .write(move |tx| operations::insert(tx, &operation))
        .await?;
    let folder = house.leave().await?;
    let stray = folder.path().join("images").join(left.to_string());
    fs::create_dir(&stray)?;
    fs::write(stray.with_extension("unanswered"), "")?;

    let (_house, recovered) = House::enter(folder, source).await?;

    assert_eq!(
        (recovered.removed_unrecorded, recovered.adopted_images),
        (1, 0)
    );
    assert!(!stray.exists());
    Ok(())
}

/// An image that an earlier start adopted counts, though that start died before it could tell.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_that_died_adopted_is_told_by_the_next() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(database(&folder), "noise")?;
    let artifacts = Artifacts::open(&folder.path().join("images"))?;
    let store = open_database(&database(&folder), &StoreOptions::default(), &artifacts)?;
    let adopted = store.write(|tx| {
        let event = NewEvent {
            at: Timestamp::EPOCH,
            actor: EventActor::Daemon,
            kind: "image.adopted",
            object: Object::version(STRAY.parse().unwrap()),
            data: serde_json::json!({}),
        };
        events::append(tx, &event)
    });
    adopted.await?;
    store.close().await?;

    let (house, recovered) = House::enter(folder, OneLayer::new(&[])?).await?;

    assert_eq!(recovered.adopted_images, 1);
    let told = events_of(&house.store, "database.replaced").await?;
    assert_eq!(told[0].data["adopted_images"], 1);
    Ok(())
}

/// Puts a kernel called `linux` into a catalogue, and the row when it is asked for.
async fn with_a_kernel(is_recorded: bool) -> Result<(TempDir, Arc<OneLayer>)> {
    let source = OneLayer::new(&[])?;
    let (house, _) = House::enter(tempfile::tempdir()?, source.clone()).await?;
    let kernel = KernelFiles {
        kernel: fs::File::open(house.path("vmlinux"))?,
        initrd: None,
        modules: None,
    };
    let catalogue = catalogue(&house.path("kernels"))?;
    catalogue.import(
        "linux",
        Import::Files {
            files: kernel,
            config: None,
        },
        &AtomicBool::new(false),
    )?;
    let mut folder = house.leave().await?;
    if is_recorded {
        let (house, recovered) = House::enter(folder, source.clone()).await?;
        assert_eq!(recovered.adopted_kernels, 1);
        let told = events_of(&house.store, "kernel.").await?;
        let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["kernel.adopted"]);
        folder = house.leave().await?;
    }
    Ok((folder, source))
}

fn catalogue(path: &Path) -> Result<Catalogue> {
    Ok(Catalogue::open(path)?)
}

async fn kernels_of(store: &Store) -> Result<usize> {
    Ok(store.read(kernels::list).await?.len())
}

/// The row goes first: a daemon that is killed then must not bring the kernel back.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_cut_short_is_finished() -> Result<()> {
    let (folder, source) = with_a_kernel(true).await?;
    let kernels_folder = folder.path().join("kernels");
    catalogue(&kernels_folder)?.announce_removal("linux")?;
    let store = Store::open(&database(&folder), &StoreOptions::default())?;
    let removed = store.write(|tx| {
        let name = "linux".parse().unwrap();
        kernels::delete(tx, &name)?;
        let event = NewEvent {
            at: Timestamp::EPOCH,
            actor: EventActor::Unix(0),
            kind: "kernel.removed",
            object: Object::kernel(&name),
            data: serde_json::json!({}),
        };
        events::append(tx, &event)
    });
    removed.await?;
    store.close().await?;

    let (house, recovered) = House::enter(folder, source).await?;

    assert_eq!(recovered.adopted_kernels, 0);
    assert_eq!(kernels_of(&house.store).await?, 0);
    assert_eq!(fs::read_dir(kernels_folder)?.count(), 0);
    Ok(())
}

/// Announced is not removed: with its row, or in a database that never heard of it, a kernel stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_only_announced_is_withdrawn() -> Result<()> {
    for is_recorded in [true, false] {
        let (folder, source) = with_a_kernel(is_recorded).await?;
        let kernels_folder = folder.path().join("kernels");
        catalogue(&kernels_folder)?.announce_removal("linux")?;

        let (house, recovered) = House::enter(folder, source).await?;

        assert_eq!(recovered.adopted_kernels, u64::from(!is_recorded));
        assert_eq!(kernels_of(&house.store).await?, 1);
        let names: Vec<_> = fs::read_dir(kernels_folder)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<_>>()?;
        assert_eq!(names, ["linux"]);
    }
    Ok(())
}
