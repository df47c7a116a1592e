use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::events::{EventActor, NewEvent};
use crate::health::Health;
use crate::migrations::newest;
use crate::open::open_writer;
use crate::testing::{Database, image_id, operation, time, version_id};
use crate::{Object, OpenError, Opened, StoreOptions, operations, snapshot, writer};

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

fn damage() -> Cause {
    Cause::Damaged {
        finding: "file is not a database".to_owned(),
    }
}

/// Returns what the database at `path` owes.
fn owed(path: &Path) -> Option<Replacement> {
    let (connection, _) = open_writer(path, &StoreOptions::default()).unwrap();
    meta::reconciliation_owed(&ReadTransaction::over(&connection)).unwrap()
}

#[test]
fn the_snapshot_with_the_most_events_takes_the_place() {
    let (folder, path) = damaged();

    let replacement = replace(&path, damage()).unwrap();

    let want = Replacement {
        cause: damage(),
        damaged: Some("kiln.db.damaged-1".to_owned()),
        snapshot: Some("kiln.db.snapshot-daily".to_owned()),
        unusable: vec![],
    };
    assert_eq!(replacement, want);
    let files = [
        "kiln.db",
        "kiln.db.before-2",
        "kiln.db.damaged-1",
        "kiln.db.damaged-1-wal",
        "kiln.db.snapshot-daily",
    ];
    assert_eq!(names(&folder), files);
    assert_eq!(owed(&path), Some(want));
    assert_eq!(
        newest_event(&path),
        (4, Opened::Existing { schema: newest() })
    );
    let evidence = fs::read(folder.path().join("kiln.db.damaged-1")).unwrap();
    assert_eq!(evidence, b"noise");
}

#[test]
fn a_damaged_snapshot_is_passed_over_and_named() {
    let (_folder, path) = damaged();
    let newest = with_suffix(&path, ".snapshot-daily");
    fs::write(&newest, "noise").unwrap();

    let replacement = replace(&path, damage()).unwrap();

    assert_eq!(replacement.snapshot.as_deref(), Some("kiln.db.before-2"));
    assert_eq!(replacement.unusable, ["kiln.db.snapshot-daily"]);
    assert_eq!(newest_event(&path).0, 2);
}

#[test]
fn without_a_snapshot_an_empty_database_takes_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    fs::write(&path, "noise").unwrap();
    fs::write(folder.path().join("kiln.db.snapshot-x.partial"), "half").unwrap();
    assert!(matches!(
        open_writer(&path, &StoreOptions::default()),
        Err(OpenError::Corrupt { .. })
    ));

    let replacement = replace(&path, damage()).unwrap();

    let want = Replacement {
        cause: damage(),
        damaged: Some("kiln.db.damaged-1".to_owned()),
        snapshot: None,
        unusable: vec![],
    };
    assert_eq!(replacement, want);
    assert_eq!(owed(&path), Some(want));
    assert_eq!(
        newest_event(&path),
        (0, Opened::Existing { schema: newest() })
    );
}

/// An empty database would hide what the newer build still has.
#[test]
fn a_newer_snapshot_is_never_traded_for_an_empty_database() {
    let (folder, path) = damaged();
    for suffix in [".before-2", ".snapshot-daily"] {
        let connection = Connection::open(with_suffix(&path, suffix)).unwrap();
        connection.pragma_update(None, "user_version", 999).unwrap();
    }
    fs::remove_file(&path).unwrap();
    let before = names(&folder);

    for _ in 0..2 {
        let error = replace(&path, Cause::Lost).unwrap_err();

        let is_newer = matches!(
            &error,
            ReplaceError::Newer(OpenError::Newer { found: 999, .. })
        );
        assert!(is_newer, "{error:?}");
        assert_eq!(names(&folder), before);
    }
    // One healthy snapshot is enough.
    let connection = Connection::open(with_suffix(&path, ".before-2")).unwrap();
    connection
        .pragma_update(None, "user_version", newest())
        .unwrap();
    drop(connection);
    let replacement = replace(&path, Cause::Lost).unwrap();
    assert_eq!(replacement.snapshot.as_deref(), Some("kiln.db.before-2"));
    assert_eq!(replacement.unusable, ["kiln.db.snapshot-daily"]);
}

#[test]
fn a_lost_database_comes_back_without_the_log_of_the_old_one() {
    let (folder, path) = damaged();
    fs::remove_file(&path).unwrap();
    assert!(is_lost(&path));

    let replacement = replace(&path, Cause::Lost).unwrap();

    assert_eq!(replacement.damaged, None);
    assert!(!is_lost(&path));
    assert!(!names(&folder).contains(&"kiln.db-wal".to_owned()));
    assert_eq!(newest_event(&path).0, 4);
}

#[test]
fn evidence_is_never_overwritten() {
    let (folder, path) = damaged();
    replace(&path, damage()).unwrap();
    fs::write(&path, "noise again").unwrap();

    let replacement = replace(&path, damage()).unwrap();

    assert_eq!(replacement.damaged.as_deref(), Some("kiln.db.damaged-2"));
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

    let replacement = replace(&path, damage()).unwrap();

    assert_eq!(replacement.unusable, ["kiln.db.snapshot-daily"]);
    assert_eq!(newest_event(&path).0, 2);
}

#[test]
fn what_an_attempt_left_is_not_mixed_into_the_next() {
    let (folder, path) = damaged();
    let partial = partial_path(&path);
    fs::write(&partial, "half").unwrap();
    for suffix in COMPANIONS {
        fs::write(with_suffix(&partial, suffix), "of another").unwrap();
    }

    replace(&path, damage()).unwrap();

    let left = names(&folder);
    assert!(
        left.iter().all(|name| !name.contains(".partial")),
        "{left:?}"
    );
    assert_eq!(newest_event(&path).0, 4);
}

/// Pages that are cut off a database, or overwritten in it, are found by opening it or by looking
/// whether it is lost. Pages have no checksums: a changed letter of a text is not found.
#[test]
fn no_damaged_database_passes_for_a_healthy_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    let mut db = Database::new();
    add_events(&mut db, 500);
    snapshot::write(&db.connection, &path).unwrap();
    let whole = fs::read(&path).unwrap();
    let half = whole.len() / 2;
    let mut holed = whole.clone();
    holed[half..half + 4096].fill(0xff);
    let mut headless = whole.clone();
    headless[..16].fill(0);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("a part of the header", whole[..50].to_vec()),
        ("the header alone", whole[..100].to_vec()),
        ("one page", whole[..4096].to_vec()),
        ("half", whole[..half].to_vec()),
        ("all but a page", whole[..whole.len() - 4096].to_vec()),
        ("a page overwritten", holed),
        ("no magic", headless),
        ("noise", b"noise ".repeat(2000)),
    ];
    for (what, bytes) in cases {
        fs::write(&path, &bytes).unwrap();

        let lost = is_lost(&path);
        let opened = open_writer(&path, &StoreOptions::default());

        let found = lost || matches!(opened, Err(OpenError::Corrupt { .. }));
        assert!(found, "{what}: {:?}", opened.map(|(_, opened)| opened));
    }
}

#[test]
fn an_operation_of_the_snapshot_tells_nothing_of_directories() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    let mut db = Database::new();
    let object = Object::version(version_id(7));
    let at_work = |n| crate::operations::NewOperation {
        object: Some(object.clone()),
        ..operation(n)
    };
    db.write(|tx| operations::insert(tx, &at_work(1))).unwrap();
    assert!(db.read(|tx| operations::left_behind(tx, &object)).unwrap());
    snapshot::write(&db.connection, &with_suffix(&path, ".snapshot-1")).unwrap();

    replace(&path, Cause::Lost).unwrap();

    let (mut connection, _) = open_writer(&path, &StoreOptions::default()).unwrap();
    let left_behind = |connection: &rusqlite::Connection| {
        operations::left_behind(&ReadTransaction::over(connection), &object).unwrap()
    };
    assert!(!left_behind(&connection));
    let health = Health::of(&path).unwrap();
    let insert = |tx: &crate::WriteTransaction<'_>| operations::insert(tx, &at_work(2));
    let later = writer::in_transaction(&mut connection, &health, insert);
    later.unwrap();
    assert!(left_behind(&connection), "its own operations do tell");
}
