use super::*;
use crate::images;
use crate::tags;
use crate::testing::{Database, image_id, time, version, version_id};

fn full(image: u128, n: u128) -> NewVersion {
    NewVersion {
        source_reference: Some("docker.io/library/debian:bookworm".to_owned()),
        config_digest: Some(Digest::of(b"config")),
        derivation: Some(Digest::of(b"derivation")),
        initrd_sha256: Some(Digest::of(b"initrd")),
        has_modules: true,
        kernel_name: Some("debian-6.1".parse().unwrap()),
        ..version(image, n, "amd64")
    }
}

fn filled() -> Database {
    let mut db = Database::new();
    db.add_image(1, "web");
    db.add_image(2, "api");
    db
}

fn insert_all(db: &mut Database, list: &[NewVersion]) {
    for version in list {
        db.write(|tx| insert(tx, version)).unwrap();
    }
}

fn ids(rows: &[VersionRow]) -> Vec<VersionId> {
    rows.iter().map(|row| row.id).collect()
}

#[test]
fn a_version_comes_back_as_it_went_in() {
    let mut db = filled();
    let new = full(1, 1);
    insert_all(&mut db, std::slice::from_ref(&new));

    let row = db.read(|tx| get(tx, new.id)).unwrap().unwrap();

    let want = VersionRow {
        seq: 1,
        id: new.id,
        image_id: new.image_id,
        number: new.number,
        architecture: new.architecture,
        kind: new.kind,
        source_kind: new.source_kind,
        source_reference: new.source_reference,
        manifest_digest: new.manifest_digest,
        config_digest: new.config_digest,
        derivation: new.derivation,
        rootfs_size_bytes: new.rootfs_size_bytes,
        rootfs_sha256: None,
        kernel_sha256: new.kernel_sha256,
        initrd_sha256: new.initrd_sha256,
        has_modules: true,
        kernel_name: new.kernel_name,
        image_config: new.image_config,
        boot: new.boot,
        original: new.original,
        created_at: new.created_at,
        created_by: new.created_by,
    };
    assert_eq!(row, want);
}

#[test]
fn a_number_is_unique_per_image_and_architecture() {
    let mut db = filled();
    insert_all(&mut db, &[version(1, 1, "amd64")]);
    let same_number = |image, architecture: &str| NewVersion {
        number: version(1, 1, "amd64").number,
        ..version(image, 9, architecture)
    };
    let cases = [(1, "amd64", false), (1, "arm64", true), (2, "amd64", true)];
    for (image, architecture, good) in cases {
        let inserted = db.write(|tx| {
            insert(tx, &same_number(image, architecture))?;
            // Undone, so that the cases do not meet.
            Err::<(), _>(StoreError::Closed)
        });

        let was_accepted = matches!(inserted, Err(StoreError::Closed));
        assert_eq!(was_accepted, good, "image {image}, {architecture}");
    }
}

#[test]
fn the_newest_number_is_the_highest_not_the_last() {
    let mut db = filled();
    let numbered = |n, text: &str| NewVersion {
        number: text.parse().unwrap(),
        ..version(1, n, "amd64")
    };
    insert_all(
        &mut db,
        &[
            numbered(1, "v1.9.0"),
            numbered(2, "v1.10.0"),
            numbered(3, "v1.2.7"),
        ],
    );

    let newest = |db: &mut Database, architecture: &str| {
        db.read(|tx| newest_number(tx, image_id(1), architecture))
            .unwrap()
            .map(|number| number.to_string())
    };

    assert_eq!(newest(&mut db, "amd64").as_deref(), Some("v1.10.0"));
    assert_eq!(newest(&mut db, "arm64"), None);
    let last = db.read(|tx| newest_of_image(tx, image_id(1), "amd64"));
    assert_eq!(last.unwrap().unwrap().id, version_id(3));
    let number = "v1.9.0".parse().unwrap();
    let by_number = db.read(|tx| by_number(tx, image_id(1), number, "amd64"));
    assert_eq!(by_number.unwrap().unwrap().id, version_id(1));
}

#[test]
fn an_artifact_leads_to_the_versions_that_came_as_it_and_were_not_built_here() {
    let mut db = filled();
    let manifest = Digest::of(b"artifact");
    let came = |image, n| NewVersion {
        manifest_digest: Some(manifest),
        derivation: None,
        ..full(image, n)
    };
    let built_here = NewVersion {
        manifest_digest: Some(manifest),
        ..full(1, 3)
    };
    insert_all(&mut db, &[came(1, 1), came(2, 2), built_here, full(2, 4)]);
    let find = |db: &mut Database| {
        let found = db.read(|tx| by_artifact(tx, &manifest)).unwrap();
        ids(&found)
    };

    assert_eq!(find(&mut db), [version_id(2), version_id(1)]);
    db.write(|tx| images::mark_deleted(tx, image_id(2), time(5), time(6)))
        .unwrap();
    assert_eq!(find(&mut db), [version_id(1)]);
}

#[test]
fn a_derivation_leads_to_the_newest_version_of_an_active_image() {
    let mut db = filled();
    let derivation = Digest::of(b"derivation");
    insert_all(&mut db, &[full(1, 1), full(2, 2), version(1, 3, "amd64")]);
    let find = |db: &mut Database| {
        let found = db.read(|tx| by_derivation(tx, &derivation)).unwrap();
        found.map(|row| row.id)
    };

    assert_eq!(find(&mut db), Some(version_id(2)));
    for (image, want) in [(2, Some(version_id(1))), (1, None)] {
        db.write(|tx| images::mark_deleted(tx, image_id(image), time(5), time(6)))
            .unwrap();
        assert_eq!(find(&mut db), want);
    }
}

#[test]
fn a_source_reference_leads_to_active_versions_newest_first() {
    let mut db = filled();
    insert_all(&mut db, &[full(1, 1), full(2, 2), version(2, 3, "amd64")]);
    let find = |db: &mut Database| {
        let found = db.read(|tx| by_source_reference(tx, "docker.io/library/debian:bookworm"));
        ids(&found.unwrap())
    };

    assert_eq!(find(&mut db), [version_id(2), version_id(1)]);
    db.write(|tx| images::mark_deleted(tx, image_id(2), time(5), time(6)))
        .unwrap();
    assert_eq!(find(&mut db), [version_id(1)]);
}

#[test]
fn forgotten_images_keep_their_versions_known() {
    let mut db = filled();
    insert_all(&mut db, &[full(1, 1), full(2, 2)]);
    db.write(|tx| images::mark_deleted(tx, image_id(1), time(5), time(6)))
        .unwrap();

    let mut known = db.read(known_ids).unwrap();

    known.sort();
    assert_eq!(known, [version_id(1), version_id(2)]);
    assert_eq!(db.read(ids_in_use).unwrap(), [version_id(2)]);
    let of_image = db.read(|tx| of_image(tx, image_id(1))).unwrap();
    assert_eq!(ids(&of_image), [version_id(1)]);
}

#[test]
fn the_checksum_is_recorded_later() {
    let mut db = filled();
    insert_all(&mut db, &[version(1, 1, "amd64")]);
    let sha256 = Digest::of(b"rootfs");

    assert!(
        db.write(|tx| set_rootfs_sha256(tx, version_id(1), &sha256))
            .unwrap()
    );
    assert!(
        !db.write(|tx| set_rootfs_sha256(tx, version_id(2), &sha256))
            .unwrap()
    );

    let row = db.read(|tx| get(tx, version_id(1))).unwrap().unwrap();
    assert_eq!(row.rootfs_sha256, Some(sha256));
}

#[test]
fn every_damaged_column_is_an_error_that_names_it() {
    let cases = [
        ("image_id", "'x'"),
        ("major", "-1"),
        ("minor", "4294967296"),
        ("kind", "'tape'"),
        ("manifest_digest", "'sha512:00'"),
        ("rootfs_size_bytes", "-5"),
        ("rootfs_sha256", "''"),
        ("kernel_name", "'../x'"),
        ("image_config", "'{'"),
        ("boot", "'{'"),
        ("original", "'{'"),
        ("created_at", "9223372036854775807"),
    ];
    for (column, value) in cases {
        let mut db = filled();
        insert_all(&mut db, &[full(1, 1)]);
        db.damage(&format!(
            "PRAGMA foreign_keys = OFF; UPDATE versions SET {column} = {value}"
        ));

        let error = db.read(|tx| get(tx, version_id(1))).unwrap_err();

        let StoreError::RowInvalid {
            table,
            key,
            column: found,
            ..
        } = error
        else {
            panic!("{column}: {error:?}");
        };
        assert_eq!((table, found), ("versions", column));
        assert_eq!(key, version_id(1).to_string());
    }
}

#[test]
fn a_page_of_images_has_the_versions_that_stand_for_them() {
    let mut db = filled();
    db.add_image(3, "empty");
    let [first, second, foreign] = [full(1, 1), full(1, 2), version(2, 3, "arm64")];
    insert_all(&mut db, &[first.clone(), second.clone(), foreign.clone()]);
    let latest = TagName::latest();
    db.write(|tx| {
        tags::set(tx, image_id(1), &latest, version_id(1), time(1))?;
        tags::set(
            tx,
            image_id(1),
            &"old".parse().unwrap(),
            version_id(1),
            time(1),
        )
    })
    .unwrap();
    let images = [image_id(1), image_id(2), image_id(3), image_id(4)];

    let found = db
        .read(|tx| standing_for(tx, &images, &latest, "amd64"))
        .unwrap();
    let tagged = db
        .read(|tx| tags::of_versions(tx, &[version_id(1), version_id(2)]))
        .unwrap();

    // The tag decides; without one the newest does, of whatever architecture.
    assert_eq!(found.len(), 2);
    assert_eq!(found[&image_id(1)].id, first.id);
    assert_eq!(found[&image_id(1)].image_config, None);
    assert_eq!(found[&image_id(1)].boot, first.boot);
    assert_eq!(found[&image_id(2)].id, foreign.id);
    let names: Vec<_> = tagged.iter().map(|(_, tag)| tag.as_str()).collect();
    assert_eq!(names, ["latest", "old"]);
}
