//! How images go and come back, by a clock that the test holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Result;
use kiln_api::alias::AliasParams;
use kiln_api::image::removal::{PurgeByIdParams, Purged, RestoreParams};
use kiln_api::image::{ForgetParams, Forgotten, GetParams, Image};
use kiln_api::lease::{Lease, ReleaseParams, RenewParams, TakeParams};
use kiln_api::{Failure, codes};
use kiln_artifacts::Artifacts;
use kiln_domain::{Architecture, Timestamp};
use kiln_service::{
    Aliases, Clock, Images, Leases, Naming, Pool, PurgeFiles, Purges, Retention, RetentionSwept,
};
use kiln_store::events::{self, EventActor, EventFilter};
use kiln_store::holders::{self, Holder, HolderKind, HolderRow};
use kiln_store::{Object, images, outbox};

use crate::house::{House, root};
use crate::stand_ins::OneLayer;

const DAY: i64 = 86_400_000_000;

#[derive(Debug, Default)]
struct HeldClock(AtomicI64);

impl HeldClock {
    fn pass(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for HeldClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst)).unwrap_or(Timestamp::EPOCH)
    }
}

/// Desks around one house, all with one clock.
struct Desks {
    house: House,
    clock: Arc<HeldClock>,
    images: Images,
    aliases: Aliases,
    leases: Leases,
    purges: Purges,
}

impl Desks {
    fn around(house: House) -> Result<Self> {
        let clock = Arc::new(HeldClock(AtomicI64::new(1_800_000_000_000_000)));
        let naming = Naming::of_host(Architecture::Amd64);
        let (store, folder) = (house.store.clone(), house.images().to_owned());
        let files = PurgeFiles::new(
            Artifacts::open(&folder)?,
            folder.clone(),
            Pool::new("purge", 1),
        );
        Ok(Self {
            images: Images::new(
                store.clone(),
                clock.clone(),
                folder,
                naming,
                30,
                house.image_files(),
            ),
            aliases: Aliases::new(store.clone(), clock.clone(), naming),
            leases: Leases::new(store.clone(), clock.clone(), naming),
            purges: Purges::new(store, clock.clone(), naming, files),
            house,
            clock,
        })
    }

    async fn forget(&self, named: &str) -> Result<Forgotten, Failure> {
        let params = ForgetParams {
            image: named.to_owned(),
            architecture: None,
            dry_run: false,
            force: false,
        };
        self.images.forget(&root(), params).await
    }

    async fn restore(&self, named: &str, name: Option<&str>) -> Result<Image, Failure> {
        let params = RestoreParams {
            image: named.to_owned(),
            architecture: None,
            name: name.map(str::to_owned),
            dry_run: false,
        };
        Ok(self.images.restore(&root(), params).await?.image)
    }

    async fn get(&self, named: &str) -> Result<Image, Failure> {
        let params = GetParams {
            image: named.to_owned(),
            architecture: None,
        };
        self.images.get(&root(), params).await
    }

    async fn alias(&self, alias: &str, target: &str) -> Result<(), Failure> {
        let params = AliasParams {
            alias: alias.to_owned(),
            target: target.to_owned(),
            architecture: None,
        };
        self.aliases.add(&root(), params).await.map(|_| ())
    }

    async fn lease(&self, image: &str, seconds: u64) -> Result<Lease, Failure> {
        let params = TakeParams {
            image: image.to_owned(),
            architecture: None,
            ttl_seconds: Some(seconds),
            purpose: "backup".to_owned(),
        };
        self.leases.take(&root(), params).await
    }

    async fn purge(&self, params: PurgeByIdParams) -> Result<Purged, Failure> {
        self.purges.purge_by_id(&root(), params).await
    }

    async fn sweep(&self) -> Result<RetentionSwept> {
        let retention = Retention::new(self.purges.clone(), root());
        Ok(retention.sweep().await?)
    }
}

fn purge_of(image: &Image) -> PurgeByIdParams {
    PurgeByIdParams {
        image_id: image.id.to_string(),
        force: false,
        confirm_token: None,
        dry_run: false,
    }
}

async fn with_an_image() -> Result<(Desks, Image, Arc<OneLayer>)> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;
    let params = kiln_api::image::PullParams {
        name: Some("web".parse()?),
        ..house.params("debian:bookworm")
    };
    let image = house.pull(params).await?;
    Ok((Desks::around(house)?, image, source))
}

#[tokio::test]
async fn what_was_forgotten_goes_when_its_time_is_over_and_nothing_uses_it() -> Result<()> {
    let (desks, image, _source) = with_an_image().await?;
    desks.alias("www", "web").await?;
    desks.forget("web").await?;
    let hold = HolderRow {
        object: Object::version(image.version.id),
        holder: Holder {
            kind: HolderKind::Instance,
            id: "machine".to_owned(),
        },
        created_at: desks.clock.now(),
        expires_at: None,
    };
    let machine = hold.clone();
    let store = &desks.house.store;
    store.write(move |tx| holders::add(tx, &machine)).await?;

    desks.clock.pass(30 * DAY - 1);
    assert_eq!(desks.sweep().await?, RetentionSwept::default());
    desks.clock.pass(1);
    let waits = desks.sweep().await?;
    assert_eq!((waits.purged, waits.in_use), (0, 1));
    assert_eq!(desks.house.in_images()?.len(), 1);

    store
        .write(move |tx| holders::remove(tx, &hold.object, &hold.holder))
        .await?;
    let swept = desks.sweep().await?;
    assert_eq!((swept.purged, swept.in_use), (1, 0));
    assert!(swept.freed_bytes > 0);
    assert_eq!(desks.house.in_images()?, Vec::<String>::new());
    assert_eq!(desks.house.holder("www").await?, None);
    let gone = desks.get(&image.id.to_string()).await.unwrap_err();
    assert!(gone.is(codes::image::NOT_FOUND), "{gone:?}");
    let filter = EventFilter {
        kind_prefix: Some("image.purged".to_owned()),
        ..EventFilter::default()
    };
    let told = store
        .read(move |tx| events::page(tx, 0, 10, &filter))
        .await?;
    assert_eq!(told.rows.len(), 1);
    assert_eq!(told.rows[0].actor, EventActor::Daemon);
    Ok(())
}

#[tokio::test]
async fn an_image_that_was_restored_starts_its_time_anew() -> Result<()> {
    let (desks, image, _source) = with_an_image().await?;
    desks.forget("web").await?;
    desks.clock.pass(29 * DAY);
    // Forgetting twice gives no more time.
    assert!(desks.forget("web").await?.already_forgotten);

    let restored = desks.restore("web", None).await?;
    desks.clock.pass(2 * DAY);
    assert_eq!(desks.sweep().await?.purged, 0);
    assert_eq!((restored.id, restored.deleted_at), (image.id, None));

    desks.forget("web").await?;
    desks.clock.pass(29 * DAY);
    assert_eq!(desks.sweep().await?.purged, 0);
    desks.clock.pass(DAY);
    assert_eq!(desks.sweep().await?.purged, 1);
    Ok(())
}

#[tokio::test]
async fn a_used_name_is_not_restored_onto_and_aliases_follow_to_the_new_one() -> Result<()> {
    let (desks, image, _source) = with_an_image().await?;
    desks.alias("www", "web").await?;
    desks.forget("web").await?;
    let params = kiln_api::image::PullParams {
        name: Some("web".parse()?),
        ..desks.house.params("debian:bookworm")
    };
    let second = desks.house.pull(params).await?;
    let id = image.id.to_string();

    let refused = desks.restore(&id, None).await.unwrap_err();
    assert!(refused.is(codes::image::ALREADY_EXISTS), "{refused:?}");
    let onto_alias = desks.restore(&id, Some("www")).await.unwrap_err();
    assert!(onto_alias.is(codes::image::ALREADY_EXISTS));
    let restored = desks.restore(&id, Some("web-old")).await?;
    assert_eq!(restored.name.as_str(), "web-old");
    assert_eq!(desks.get("www").await?.id, second.id);

    // An alias goes with the image that it leads to: it jumps to no other.
    desks.purge(purge_of(&second)).await?;
    let gone = desks.get("www").await.unwrap_err();
    assert!(gone.is(codes::image::NOT_FOUND), "{gone:?}");
    assert_eq!(desks.get("web-old").await?.id, image.id);
    Ok(())
}

#[tokio::test]
async fn a_lease_keeps_an_image_until_it_ends_by_the_clock() -> Result<()> {
    let (desks, image, _source) = with_an_image().await?;
    let lease = desks.lease("web", 60).await?;

    let refused = desks.forget("web").await.unwrap_err();
    assert!(refused.is(codes::image::IN_USE), "{refused:?}");
    assert!(refused.message.contains("1 lease"), "{refused:?}");
    let refused = desks.purge(purge_of(&image)).await.unwrap_err();
    assert!(refused.is(codes::image::IN_USE));
    assert_eq!(desks.get("web").await?.leases.len(), 1);

    desks.clock.pass(59_000_000);
    let renew = |id: String| RenewParams {
        lease_id: id,
        ttl_seconds: Some(60),
    };
    let id = lease.id.to_string();
    desks.leases.renew(&root(), renew(id.clone())).await?;
    desks.clock.pass(59_000_000);
    desks.forget("web").await.unwrap_err();
    desks.clock.pass(1_000_000);

    assert_eq!(desks.get("web").await?.leases, []);
    let dead = desks.leases.renew(&root(), renew(id.clone())).await;
    assert!(dead.unwrap_err().is(codes::lease::NOT_FOUND));
    let params = ReleaseParams { lease_id: id };
    let dead = desks.leases.release(&root(), params).await;
    assert!(dead.unwrap_err().is(codes::lease::NOT_FOUND));
    desks.forget("web").await?;
    Ok(())
}

#[tokio::test]
async fn a_forced_purge_needs_what_a_fresh_look_answered() -> Result<()> {
    let (desks, image, _source) = with_an_image().await?;
    desks.lease("web", 3_600).await?;
    let forced = |token: Option<String>| PurgeByIdParams {
        force: true,
        confirm_token: token,
        ..purge_of(&image)
    };
    let look = PurgeByIdParams {
        dry_run: true,
        ..forced(None)
    };
    let is_unconfirmed = |told: Result<Purged, Failure>| {
        told.is_err_and(|failure| failure.is(codes::image::CONFIRMATION_NEEDED))
    };

    assert!(is_unconfirmed(desks.purge(forced(None)).await));
    let stale = desks.purge(look.clone()).await?;
    assert_eq!((stale.in_use, stale.dry_run), (1, true));
    desks.clock.pass(301 * 1_000_000);
    assert!(is_unconfirmed(
        desks.purge(forced(stale.confirm_token)).await
    ));
    // What has changed since was not looked at.
    let before = desks.purge(look.clone()).await?;
    let store = &desks.house.store;
    let (id, now) = (image.id, desks.clock.now());
    store.write(move |tx| images::touch(tx, id, now)).await?;
    assert!(is_unconfirmed(
        desks.purge(forced(before.confirm_token)).await
    ));

    let seen = desks.purge(look).await?;
    let purged = desks.purge(forced(seen.confirm_token)).await?;

    assert_eq!((purged.versions, purged.in_use), (1, 1));
    assert_eq!(purged.freed_bytes, seen.freed_bytes);
    assert_eq!(desks.house.in_images()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_purge_that_was_cut_short_is_finished_by_the_start() -> Result<()> {
    let (desks, image, source) = with_an_image().await?;
    let (id, version, now) = (image.id, image.version.id, desks.clock.now());
    // What is there after the transaction, and before the first file is gone.
    let cut = desks.house.store.write(move |tx| {
        images::purge(tx, id)?;
        outbox::put(
            tx,
            "image.files",
            &serde_json::json!({ "versions": [version] }),
            now,
        )
    });
    cut.await?;
    assert_eq!(desks.house.in_images()?.len(), 1);

    let Desks {
        house,
        images,
        aliases,
        leases,
        purges,
        ..
    } = desks;
    drop((images, aliases, leases, purges));
    let (house, recovered) = House::enter(house.leave().await?, source).await?;

    assert_eq!(recovered.adopted_images, 0);
    assert_eq!(house.in_images()?, Vec::<String>::new());
    let waiting = house.store.read(|tx| outbox::pending(tx, 9)).await?;
    assert_eq!(waiting, []);
    let listed = house.store.read(images::count_active).await?;
    assert_eq!(listed, 0);
    Ok(())
}
