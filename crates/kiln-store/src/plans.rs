//! Checks that queries stay quick however much the store holds: SQLite's own plan must search an
//! index, not scan a table, and must not sort what it could read in order.

use kiln_domain::{Digest, OperationState, TagName, VersionNumber};

use crate::audit::{LineFilter, LineResult};
use crate::events::{EventActor, EventFilter};
use crate::holders::{Holder, HolderKind};
use crate::images::{Forgotten, ImageFilter, NameMatch};
use crate::instances::{InstanceEnd, InstanceFilter, RunningUnder};
use crate::operations::{OperationFilter, Outcome};
use crate::testing::{
    Database, image, image_id, instance, instance_id, name, operation, operation_id, org_id, time,
    version, version_id,
};
use crate::{
    Object, StoreError, WriteTransaction, agents, audit, disk, events, holders, images, instances,
    jobs, kernels, names, operations, orgs, outbox, resolve, tags, users, version_blobs, versions,
};

const TABLES: &[&str] = &[
    "images",
    "versions",
    "names",
    "tags",
    "events",
    "operations",
    "instances",
    "holders",
    "jobs",
    "outbox",
    "version_blobs",
    "image_labels",
    "image_keywords",
    "users",
    "orgs",
    "org_members",
    "audit",
    "agents",
];

/// A database with 100,000 images of two owners, a version each, and as many events and
/// operations.
fn large() -> Database {
    let db = Database::new();
    db.damage(
        "INSERT INTO users (uid, first_seen_at) VALUES (1, 0), (2, 0);
         CREATE TEMP TABLE n AS
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
             SELECT i, printf('00000000-0000-4000-8000-%012d', i) AS id, 1 + (i % 2) AS uid FROM n;
         INSERT INTO images (id, name, owner_id, visibility, kind, state, managed, created_at,
                             updated_at)
             SELECT id, 'image-' || i, uid, iif(i % 10, 'private', 'public'), 'rootfs',
                    'available', 1, 0, 0 FROM n;
         INSERT INTO names (name, kind, image_id, created_at)
             SELECT 'image-' || i, 'image', id, 0 FROM n;
         INSERT INTO versions (id, image_id, major, minor, patch, architecture, kind, source_kind,
                               source_reference, derivation, rootfs_size_bytes, has_modules,
                               created_at, created_by)
             SELECT id, id, 1, 0, 0, 'amd64', 'rootfs', 'registry', 'ref-' || i, printf('sha256:%064d', i), 1, 0,
                    0, uid FROM n;
         INSERT INTO operations (id, kind, state, owner_uid, subject, params, created_at,
                                 updated_at, finished_at)
             SELECT id, 'image.pull', 'succeeded', uid, '', '{}', 0, 0, i FROM n;
         INSERT INTO events (at, actor, kind, object_kind, object_id, data)
             SELECT i, 'unix:' || uid, 'image.created', 'image', id, '{}' FROM n;
         INSERT INTO instances (id, name, state, owner_uid, image_id, image_name, version_id, pid,
                                pid_started, boot_id, directory, console_path, cpus, memory_bytes,
                                ports, created_at, ended_at)
             SELECT id, iif(i > 90000, 'l-' || i, 'm-' || (i % 500)),
                    iif(i > 90000, 'running', 'ended'), uid, id,
                    'image-' || i, id, i, i, '', '', '', 1, 1, '[]', 0, iif(i > 90000, NULL, i)
             FROM n;
         INSERT INTO users (uid, first_seen_at) SELECT i + 10, 0 FROM n WHERE i <= 1000;
         INSERT INTO orgs (id, name, created_at, created_by)
             SELECT id, 'org-' || i, 0, 0 FROM n WHERE i <= 1000;
         INSERT INTO org_members (org_id, uid, standing, added_at)
             SELECT id, 1, iif(i % 2, 'admin', 'member'), 0 FROM n WHERE i <= 3
             UNION ALL SELECT id, i + 10, 'member', 0 FROM n WHERE i <= 1000;
         UPDATE images SET org_id = printf('00000000-0000-4000-8000-%012d', seq % 5)
             WHERE seq % 3 = 0;
         INSERT INTO audit (at, actor, role, method, object_name, object_id, result, request_id)
             SELECT i, 'unix:' || uid, 'user', 'image.forget', 'image-' || (i % 500), id, 'ok',
                    'r' || i FROM n;
         DROP TABLE n;",
    );
    db
}

fn check<T, E: std::fmt::Debug + From<StoreError>>(
    db: &mut Database,
    work: impl FnOnce(&WriteTransaction<'_>) -> Result<T, E>,
) {
    let plans = db.plans(work);
    assert!(!plans.is_empty(), "no query was noted");
    for plan in plans {
        let scans = TABLES.iter().any(|table| {
            let is_scan = |line: &str| {
                line.strip_prefix("SCAN ")
                    .and_then(|rest| rest.split(' ').next())
                    .is_some_and(|found| found == *table)
            };
            plan.lines().any(is_scan)
        });
        assert!(!scans, "{plan}");
    }
}

/// Checks a list in the order of its sequence numbers.
fn check_page<T>(db: &mut Database, work: impl Fn(&WriteTransaction<'_>) -> Result<T, StoreError>) {
    check(db, &work);
    for plan in db.plans(work) {
        assert!(!plan.contains("FOR ORDER BY"), "{plan}");
    }
}

#[test]
fn no_page_of_images_scans_or_sorts() {
    let mut db = large();
    let all = ImageFilter::default;
    // Each with the ranges that are to be read, the narrowest there are.
    let cases: [(ImageFilter, &[&str]); 5] = [
        (all(), &["images_by_state (state=? AND rowid>?)"]),
        (
            ImageFilter {
                forgotten: Forgotten::Shown,
                ..all()
            },
            &["INTEGER PRIMARY KEY (rowid>?)"],
        ),
        (
            ImageFilter {
                owner_id: Some(1),
                ..all()
            },
            &["images_by_owner (owner_id=? AND rowid>?)"],
        ),
        (
            ImageFilter {
                visible_to: Some(1),
                ..all()
            },
            &[
                "images_by_owner (owner_id=? AND rowid>?)",
                "images_by_visibility (visibility=? AND rowid>?)",
            ],
        ),
        (
            ImageFilter {
                visible_to: Some(1),
                name: Some(NameMatch::Contains("9".to_owned())),
                ..all()
            },
            &[
                "images_by_owner (owner_id=? AND rowid>?)",
                "images_by_visibility (visibility=? AND rowid>?)",
                "images_by_org (org_id=? AND rowid>?)",
            ],
        ),
    ];
    // Few images share a source; those may be sorted.
    let of_source = ImageFilter {
        source_reference: Some("ref-50".to_owned()),
        ..all()
    };
    for (filter, ranges) in &cases {
        let plan = db.plans(|tx| images::page(tx, 50_000, 100, filter));
        for range in *ranges {
            assert!(plan.concat().contains(range), "{range}: {plan:?}");
        }
    }
    // With statistics, SQLite may prefer the whole table's order to a word most rows have.
    for statistics in ["", "ANALYZE"] {
        db.damage(statistics);
        for (filter, _) in &cases {
            check_page(&mut db, |tx| images::page(tx, 50_000, 100, filter));
        }
        check(&mut db, |tx| images::page(tx, 0, 100, &of_source));
    }
}

#[test]
fn no_page_of_audit_lines_or_organisations_scans_or_sorts() {
    let mut db = large();
    let all = LineFilter::default;
    let actor = Some(EventActor::Unix(1));
    let filters = [
        all(),
        LineFilter { actor, ..all() },
        LineFilter {
            actor,
            result: Some(LineResult::Failed),
            since: Some(time(10)),
            until: Some(time(20_000)),
            ..all()
        },
        LineFilter {
            object_name: Some("image-7".to_owned()),
            method_prefix: Some("image.".to_owned()),
            ..all()
        },
        LineFilter {
            object_id: Some(image_id(7).to_string()),
            ..all()
        },
        LineFilter {
            since: Some(time(10)),
            ..all()
        },
    ];
    for statistics in ["", "ANALYZE"] {
        db.damage(statistics);
        for filter in &filters {
            check_page(&mut db, |tx| audit::page(tx, 50_000, 100, filter));
        }
        for plan in db.plans(|tx| audit::page(tx, 50_000, 100, &filters[1])) {
            let range = "audit_by_actor (actor=? AND rowid>?)";
            assert!(plan.contains(range), "{statistics} {plan}");
        }
        check_page(&mut db, |tx| orgs::page(tx, 500, 100, None));
        check_page(&mut db, |tx| agents::page(tx, 0, 100));
        check(&mut db, |tx| orgs::page(tx, 0, 100, Some(1)));
        check(&mut db, |tx| audit::prune(tx, time(1), 1_000_000, 10));
    }
}

#[test]
fn no_page_of_operations_machines_or_events_scans_or_sorts() {
    let mut db = large();
    let states = [
        None,
        Some(OperationState::Running),
        Some(OperationState::Succeeded),
    ];
    let objects = [None, Some(Object::image(image_id(1)))];
    for statistics in ["", "ANALYZE"] {
        db.damage(statistics);
        for state in states {
            for owner_uid in [None, Some(1)] {
                let filter = OperationFilter { state, owner_uid };
                check_page(&mut db, |tx| operations::page(tx, 50_000, 100, &filter));
            }
        }
        for ended in [false, true] {
            for owner_uid in [None, Some(1)] {
                let filter = InstanceFilter { ended, owner_uid };
                check_page(&mut db, |tx| instances::page(tx, 50_000, 100, filter));
            }
        }
        let own = EventFilter {
            actor: Some(EventActor::Unix(1)),
            ..EventFilter::default()
        };
        for plan in db.plans(|tx| events::page(tx, 50_000, 100, &own)) {
            let range = "events_by_actor (actor=? AND rowid>?)";
            assert!(plan.contains(range), "{statistics} {plan}");
        }
        for object in &objects {
            for actor in [None, Some(EventActor::Unix(1))] {
                let filter = EventFilter {
                    kind_prefix: Some("image.".to_owned()),
                    object: object.clone(),
                    actor,
                };
                check_page(&mut db, |tx| events::page(tx, 50_000, 100, &filter));
            }
        }
    }
}

#[test]
fn no_step_of_resolving_scans() {
    let mut db = large();
    db.write(|tx| {
        names::add_alias(tx, &name("www"), "image-7", time(1))?;
        images::mark_deleted(tx, image_id_in_sql(8), time(1), time(2))?;
        Ok::<_, names::ReserveError>(())
    })
    .unwrap();
    for statistics in ["", "ANALYZE"] {
        db.damage(statistics);
        for text in ["image-7", "www", "image-8", "ref-50", "image-7:v1.0.0"] {
            let query = resolve::Query {
                text,
                canonical_reference: Some(text),
                architecture: "amd64",
                caller: Some(1),
                visible_to: Some(1 + 7 % 2),
                forgotten: Forgotten::Shown,
            };
            check(&mut db, |tx| {
                // Whether it is found is not what this asks.
                drop(resolve::image(tx, &query));
                Ok::<_, StoreError>(())
            });
        }
    }
}

#[test]
fn what_may_lead_to_an_image_is_searched() {
    let mut db = large();
    for statistics in ["", "ANALYZE"] {
        db.damage(statistics);
        check(&mut db, |tx| {
            crate::aliases::near_image(tx, image_id_in_sql(7), &name("image-7"))
        });
    }
}

/// Returns the id that [`large`] gave image `n`.
fn image_id_in_sql(n: u32) -> kiln_domain::ImageId {
    format!("00000000-0000-4000-8000-{n:012}").parse().unwrap()
}

#[test]
fn no_lookup_scans() {
    let mut db = large();
    let digest = Digest::of(b"x");
    let holder = Holder {
        kind: HolderKind::Lease,
        id: "l".to_owned(),
    };
    let object = Object::image(image_id(1));
    let under = RunningUnder {
        monitor: "qemu-q35".to_owned(),
        accelerator: "tcg".to_owned(),
    };
    for statistics in ["", "ANALYZE"] {
        db.damage(statistics);
        check(&mut db, |tx| {
            images::get(tx, image_id(1))?;
            versions::get(tx, version_id(1))?;
            versions::of_image(tx, image_id(1))?;
            versions::newest_of_image(tx, image_id(1), "amd64")?;
            versions::standing_for(tx, &[image_id(1)], &TagName::latest(), "amd64")?;
            tags::of_versions(tx, &[version_id(1)])?;
            disk::users_of(tx, &digest, 10)?;
            disk::held_images(tx, time(1))?;
            versions::by_number(tx, image_id(1), VersionNumber::FIRST, "amd64")?;
            versions::newest_number(tx, image_id(1), "amd64")?;
            versions::by_derivation(tx, &digest)?;
            versions::by_artifact(tx, &digest)?;
            versions::by_source_reference(tx, "ref-50")?;
            tags::of_image(tx, image_id(1))?;
            tags::resolve(tx, image_id(1), &TagName::latest(), "amd64")?;
            version_blobs::of_version(tx, version_id(1))?;
            version_blobs::versions_with(tx, &digest)?;
            names::holder_of(tx, &name("image-50"))?;
            names::aliases_of(tx, "image-50")?;
            operations::get(tx, operation_id(1))?;
            holders::of_object(tx, &object, time(1))?;
            holders::of_versions_of(tx, image_id(1), time(1))?;
            holders::count_of_versions_of(tx, image_id(1), time(1))?;
            instances::get(tx, instance_id(1))?;
            instances::named(tx, &"web".parse().unwrap(), Some(1))?;
            instances::named(tx, &"web".parse().unwrap(), None)?;
            instances::beginning_with(tx, "0000", Some(1), 3)?;
            instances::live(tx)?;
            jobs::due(tx, time(1), 10)?;
            users::get(tx, 1)?;
            users::named(tx, &"alice".parse().unwrap())?;
            users::page(tx, -1, 10)?;
            orgs::get(tx, org_id(1))?;
            orgs::named(tx, &"org-5".parse().unwrap())?;
            orgs::has_images(tx, org_id(1))?;
            orgs::standing_of(tx, org_id(1), 1)?;
            orgs::members(tx, org_id(1))?;
            orgs::memberships(tx, 1)?;
            orgs::administers_any(tx, 1)?;
            kernels::get(tx, &"debian".parse().unwrap())?;
            agents::named(tx, &"agent-1".parse().unwrap())?;
            Ok::<_, StoreError>(())
        });
        check(&mut db, |tx| {
            holders::remove(tx, &object, &holder)?;
            holders::remove_all_of(tx, &holder)?;
            holders::drop_expired(tx, time(1))?;
            names::release_reservation(tx, operation_id(1))?;
            names::clear_reservations(tx)?;
            operations::interrupt_running(tx, time(1))?;
            instances::start(tx, instance_id(1), &under, time(1))?;
            instances::finish(tx, instance_id(1), &InstanceEnd::default(), time(1))?;
            instances::delete(tx, instance_id(1))?;
            operations::set_progress(tx, operation_id(1), &1.into(), time(1))?;
            images::touch(tx, image_id(1), time(1))?;
            images::mark_deleted(tx, image_id(1), time(1), time(2))?;
            versions::set_rootfs_sha256(tx, version_id(1), &digest)?;
            outbox::mark_done(tx, 1, time(1))
        });
    }
}

#[test]
fn what_a_pull_records_scans_nothing() {
    let mut db = large();
    let web = name("web");

    check(&mut db, |tx| {
        operations::insert(tx, &operation(1))?;
        names::reserve(tx, &web, operation_id(1), time(1)).unwrap();
        images::insert(tx, &image(1, "web"))?;
        names::claim_for_image(tx, &web, image_id(1), operation_id(1)).unwrap();
        versions::insert(tx, &version(1, 1, "amd64"))?;
        tags::set(tx, image_id(1), &TagName::latest(), version_id(1), time(1))?;
        let outcome = Outcome::Succeeded { result: 1.into() };
        operations::finish(tx, operation_id(1), &outcome, time(1))
    });
}

#[test]
fn what_a_machine_records_scans_nothing() {
    let mut db = large();

    check(&mut db, |tx| {
        instances::insert(tx, &instance(1, "web")).unwrap();
        let end = InstanceEnd::default();
        instances::finish(tx, instance_id(1), &end, time(1))
    });
}
