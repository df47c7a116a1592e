use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::migrations::newest;
use crate::testing::{Database, image_id};
use crate::{ReadTransaction, images};

fn open(path: &Path) -> Result<(Connection, Opened), OpenError> {
    open_writer(path, &StoreOptions::default())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Makes a closed database with some rows and returns its bytes.
fn filled(path: &Path) -> Vec<u8> {
    let mut db = Database::new();
    for n in 1..=50 {
        db.add_image(n, &format!("image-{n}"));
    }
    crate::snapshot::write(&db.connection, path).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn the_pragmas_that_durability_rests_on_are_set() {
    let db = Database::new();
    let schema = newest().to_string();
    let cases = [
        ("journal_mode", "wal"),
        ("synchronous", "2"),
        ("foreign_keys", "1"),
        ("application_id", "1263094862"),
        ("user_version", schema.as_str()),
        ("trusted_schema", "0"),
    ];
    for (pragma, want) in cases {
        let sql = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
        let got: String = db.connection.query_row(&sql, [], |row| row.get(0)).unwrap();

        assert_eq!(got, want, "{pragma}");
    }
}

#[test]
fn only_the_owner_may_read_any_of_the_files() {
    let db = Database::new();
    let sibling = |suffix: &str| PathBuf::from(format!("{}{suffix}", db.path.display()));

    for path in [db.path.clone(), sibling("-wal"), sibling("-shm")] {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_file_others_could_read_is_closed_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    filled(&path);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();

    let (_connection, opened) = open(&path).unwrap();

    assert_eq!(mode(&path), 0o600);
    assert_eq!(opened, Opened::Existing { schema: newest() });
}

#[test]
fn a_newer_database_is_refused_with_its_number_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    filled(&path);
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    newer.close().unwrap();
    let before = fs::read(&path).unwrap();

    let error = open(&path).unwrap_err();

    let known = migrations::newest();
    assert!(
        matches!(error, OpenError::Newer { found: 99, known: k, .. } if k == known),
        "{error:?}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE x (y)").unwrap();
    foreign.close().unwrap();
    let before = fs::read(&path).unwrap();

    let error = open(&path).unwrap_err();

    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn an_empty_file_is_a_fresh_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    fs::write(&path, "").unwrap();

    assert_eq!(open(&path).unwrap().1, Opened::Fresh);
}

#[test]
fn what_is_no_database_at_all_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    fs::write(&path, "text ".repeat(1000)).unwrap();

    let error = open(&path).unwrap_err();

    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_schema_that_lacks_something_is_damaged() {
    for change in [
        "DROP TABLE holders",
        "ALTER TABLE users RENAME COLUMN first_seen_at TO first_seen_au",
        "DROP INDEX events_by_actor",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        filled(&path);
        Connection::open(&path)
            .and_then(|connection| connection.execute_batch(change))
            .unwrap();

        let error = open(&path).unwrap_err();

        assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
        assert!(check(&path).is_err(), "{change}");
    }
}

#[test]
fn a_page_of_noise_is_found_at_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    let good = filled(&path);
    let pages = good.len() / 4096;
    let mut found = 0;
    for page in 1..pages {
        let mut bytes = good.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0xa5);
        fs::write(&path, &bytes).unwrap();

        let damaged = matches!(open(&path), Err(OpenError::Corrupt { .. }));
        found += usize::from(damaged);
    }

    assert!(pages > 10);
    assert_eq!(found, pages - 1);
}

/// Whatever one byte becomes, opening and reading end in values or errors.
#[test]
fn no_damaged_byte_makes_it_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    let good = filled(&path);
    let mut refused = 0;
    // The header byte by byte, where most fields are, then a prime stride through the rest.
    for at in (0..100).chain((100..good.len()).step_by(1021)) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        let Ok((connection, _)) = open(&path) else {
            refused += 1;
            continue;
        };
        let tx = ReadTransaction::over(&connection);
        let listed = images::page(&tx, 0, 1000, &images::ImageFilter::default());
        let read = images::get(&tx, image_id(1));
        refused += usize::from(listed.is_err() || read.is_err());
    }

    assert!(refused > 20, "only {refused} damages were noticed");
}

#[test]
fn a_missing_folder_is_told_with_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none/kiln.db");

    let error = open(&path).unwrap_err();

    assert_eq!(
        error.to_string(),
        format!("cannot create {}", path.display())
    );
}

#[test]
fn a_page_that_cannot_be_read_is_no_damage() {
    let cases = [
        ("Page 3: never used", None),
        ("Page 3: unable to get the page. error code=266", Some(266)),
        ("unable to get the page. error code=7 and more", Some(7)),
        ("unable to get the page. error code=11", None),
        ("error code=", None),
    ];
    for (finding, want) in cases {
        assert_eq!(unreadable_page(finding), want, "{finding}");
    }
}

/// In a mode that leaves a log beside the file, what is written would not move along with it.
#[test]
fn a_database_that_somebody_else_has_open_is_not_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kiln.db");
    let (other, _) = open_writer(&path, &StoreOptions::default()).unwrap();

    let refused = alone(&path).map(drop);

    assert!(refused.is_err());
    drop(other);
    alone(&path).unwrap();
    let mut beside = path.into_os_string();
    beside.push("-wal");
    assert!(!Path::new(&beside).exists());
}
