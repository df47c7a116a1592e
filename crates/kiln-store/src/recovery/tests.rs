use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::events::{EventActor, NewEvent};
use crate::open::open_writer;
use crate::testing::{Database, image_id, time};
use crate::{Object, OpenError, Opened, StoreOptions, snapshot};

fn add_events(db: &mut Database, count: usize) {
    for _ in 0..count {
        let event = NewEvent {
            at: time(1),
            actor: EventActor::Daemon,
            kind: "image.created",
            object: Object::image(image_id(1)),
            data: json!({}),
        };
        db.write(|tx| events::append(tx, &event)).unwrap();
    }
}

/// A folder with snapshots of two and of four events, the older one written last, beside a
/// database that is noise.
fn damaged() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    let mut db = Database::new();
    add_events(&mut db, 2);
    let old = with_suffix(&path, ".before-2");
    snapshot::write(&db.connection, &with_suffix(&path, ".old")).unwrap();
    add_events(&mut db, 2);
    snapshot::write(&db.connection, &with_suffix(&path, ".snapshot-daily")).unwrap();
    fs::rename(with_suffix(&path, ".old"), old).unwrap();
    fs::write(&path, "noise").unwrap();
    fs::write(with_suffix(&path, "-wal"), "log").unwrap();
    (folder, path)
}

fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn newest_event(path: &Path) -> (i64, Opened) {
    let (connection, opened) = open_writer(path, &StoreOptions::default()).unwrap();
    let seq = events::newest_seq(&ReadTransaction::over(&connection)).unwrap();
    (seq, opened)
}

#[test]
fn the_snapshot_with_the_most_events_takes_the_place() {
    let (folder, path) = damaged();

    let recovered = replace_with_newest_snapshot(&path).unwrap();

    let want = Recovered {
        damaged: Some(with_suffix(&path, ".damaged-1")),
        snapshot: Some(with_suffix(&path, ".snapshot-daily")),
        unusable: vec![],
    };
    assert_eq!(recovered, want);
    let files = [
        "kiln.db",
        "kiln.db.before-2",
        "kiln.db.damaged-1",
        "kiln.db.damaged-1-wal",
        "kiln.db.snapshot-daily",
    ];
    assert_eq!(names(&folder), files);
    assert_eq!(newest_event(&path), (4, Opened::Existing { schema: 1 }));
    let evidence = fs::read(folder.path().join("kiln.db.damaged-1")).unwrap();
    assert_eq!(evidence, b"noise");
}

#[test]
fn a_damaged_snapshot_is_passed_over_and_named() {
    let (_folder, path) = damaged();
    let newest = with_suffix(&path, ".snapshot-daily");
    fs::write(&newest, "noise").unwrap();

    let recovered = replace_with_newest_snapshot(&path).unwrap();

    assert_eq!(recovered.snapshot, Some(with_suffix(&path, ".before-2")));
    assert_eq!(recovered.unusable, [newest]);
    assert_eq!(newest_event(&path).0, 2);
}

#[test]
fn without_a_snapshot_the_next_opening_is_fresh() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    fs::write(&path, "noise").unwrap();
    fs::write(folder.path().join("kiln.db.snapshot-x.partial"), "half").unwrap();
    assert!(matches!(
        open_writer(&path, &StoreOptions::default()),
        Err(OpenError::Corrupt { .. })
    ));

    let recovered = replace_with_newest_snapshot(&path).unwrap();

    let want = Recovered {
        damaged: Some(with_suffix(&path, ".damaged-1")),
        snapshot: None,
        unusable: vec![],
    };
    assert_eq!(recovered, want);
    assert_eq!(newest_event(&path), (0, Opened::Fresh));
}

#[test]
fn a_lost_database_comes_back_without_the_log_of_the_old_one() {
    let (folder, path) = damaged();
    fs::remove_file(&path).unwrap();

    let recovered = replace_with_newest_snapshot(&path).unwrap();

    assert_eq!(recovered.damaged, None);
    assert!(!names(&folder).contains(&"kiln.db-wal".to_owned()));
    assert_eq!(newest_event(&path).0, 4);
}

#[test]
fn evidence_is_never_overwritten() {
    let (folder, path) = damaged();
    replace_with_newest_snapshot(&path).unwrap();
    fs::write(&path, "noise again").unwrap();

    let recovered = replace_with_newest_snapshot(&path).unwrap();

    assert_eq!(recovered.damaged, Some(with_suffix(&path, ".damaged-2")));
    let first = fs::read(folder.path().join("kiln.db.damaged-1")).unwrap();
    assert_eq!(first, b"noise");
}

#[test]
fn a_newer_snapshot_is_not_used() {
    let (_folder, path) = damaged();
    let newest = with_suffix(&path, ".snapshot-daily");
    let connection = rusqlite::Connection::open(&newest).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    connection.close().unwrap();

    let recovered = replace_with_newest_snapshot(&path).unwrap();

    assert_eq!(recovered.unusable, [newest]);
    assert_eq!(newest_event(&path).0, 2);
}
