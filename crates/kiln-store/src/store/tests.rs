use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc as blocking;
use std::time::Duration;

use kiln_domain::OperationId;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::migrations::newest;
use crate::names::{NameHolder, ReserveError};
use crate::testing::{image, image_id, name, operation_id, time};
use crate::{images, meta, names, users};

const READERS: usize = 3;

fn options() -> StoreOptions {
    StoreOptions {
        readers: NonZeroU32::new(3).unwrap(),
        busy_timeout: Duration::from_millis(10),
    }
}

fn opened() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("kiln.db"), &options()).unwrap();
    (folder, store)
}

async fn count_users(store: &Store) -> i64 {
    let count = store.read(|tx| {
        let count: Option<i64> = tx.value("count users", "SELECT count(*) FROM users", [])?;
        Ok::<_, StoreError>(count.unwrap())
    });
    count.await.unwrap()
}

async fn see(store: &Store, uid: u32) -> Result<(), StoreError> {
    store.write(move |tx| users::see(tx, uid, time(1))).await
}

/// Waits until the store's own threads are idle: a write behind all others, and every permit.
async fn settle(store: &Store) {
    see(store, 0).await.unwrap();
    let mut leases = Vec::new();
    for _ in 0..READERS {
        leases.push(store.shared.readers.lease().await.unwrap());
    }
}

#[tokio::test]
async fn what_a_write_returned_a_read_sees() {
    let (_folder, store) = opened();

    see(&store, 7).await.unwrap();

    assert_eq!(count_users(&store).await, 1);
    assert!(store.opened_fresh());
}

#[tokio::test]
async fn an_error_undoes_all_the_closure_did() {
    let (_folder, store) = opened();

    let failed = store.write(|tx| {
        users::see(tx, 7, time(1))?;
        images::insert(tx, &image(1, "web"))?;
        Err::<(), _>(StoreError::Closed)
    });

    assert!(matches!(failed.await, Err(StoreError::Closed)));
    assert_eq!(count_users(&store).await, 0);
}

#[tokio::test]
async fn a_broken_rule_that_shows_at_commit_undoes_all_too() {
    let (_folder, store) = opened();

    // The name's image is missing, which a deferred foreign key tells at the end.
    let failed = store.write(|tx| {
        users::see(tx, 7, time(1))?;
        names::give_to_image(tx, &name("web"), image_id(1), time(1))
    });

    let error = failed.await.unwrap_err();
    assert!(
        matches!(
            error,
            ReserveError::Store(StoreError::Sql { step: "commit", .. })
        ),
        "{error:?}"
    );
    assert_eq!(count_users(&store).await, 0);
    see(&store, 8).await.unwrap();
}

#[tokio::test]
async fn a_panic_ends_its_closure_and_nothing_else() {
    let (_folder, store) = opened();

    let written = store.write(|tx| -> Result<(), StoreError> {
        users::see(tx, 7, time(1))?;
        panic!("bug {}", 1)
    });
    let read = store.read(|_| -> Result<(), StoreError> { panic!("bug") });

    let error = written.await.unwrap_err();
    assert!(matches!(error, StoreError::Panicked { message } if message == "bug 1"));
    let error = read.await.unwrap_err();
    assert!(matches!(error, StoreError::Panicked { message } if message == "bug"));
    assert_eq!(count_users(&store).await, 0);
    settle(&store).await;
    assert_eq!(store.shared.readers.idle_count(), READERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_race_for_a_name_one_wins_and_the_other_hears_who() {
    let (_folder, store) = opened();
    let reserve = |operation: OperationId| {
        let store = store.clone();
        tokio::spawn(async move {
            let reserved =
                store.write(move |tx| names::reserve(tx, &name("web"), operation, time(5)));
            (operation, reserved.await)
        })
    };

    let racers = [reserve(operation_id(1)), reserve(operation_id(2))];
    let mut ended = Vec::new();
    for racer in racers {
        ended.push(racer.await.unwrap());
    }

    let winners: Vec<_> = ended.iter().filter(|(_, end)| end.is_ok()).collect();
    let [(winner, _)] = winners[..] else {
        panic!("{ended:?}");
    };
    let loser = ended.iter().find_map(|(_, end)| end.as_ref().err());
    let Some(ReserveError::Taken(taken)) = loser else {
        panic!("{ended:?}");
    };
    let by = NameHolder::Reservation {
        operation_id: *winner,
        owner_uid: None,
        since: time(5),
    };
    assert_eq!((&taken.name, &taken.by), (&name("web"), &by));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_aborted_readers_leak_nothing() {
    let (_folder, store) = opened();
    let (release, gate) = blocking::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let (began, mut beginnings) = mpsc::unbounded_channel();

    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (store, gate, began) = (store.clone(), Arc::clone(&gate), began.clone());
            tokio::spawn(async move {
                let read = store.read(move |tx| {
                    began.send(()).unwrap();
                    // Held open until every task was aborted, then free for all.
                    gate.lock().unwrap().recv().ok();
                    meta::store_id(tx)
                });
                read.await
            })
        })
        .collect();
    // Some are aborted while they read, the others while they wait for a connection.
    for _ in 0..READERS {
        beginnings.recv().await.unwrap();
    }
    for task in &tasks {
        task.abort();
    }
    drop(release);
    for task in tasks {
        let ended = task.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }

    settle(&store).await;
    assert_eq!(store.shared.readers.idle_count(), READERS);
    store.read(meta::store_id).await.unwrap();
}

#[tokio::test]
async fn a_read_sees_one_state_while_writes_go_on() {
    let (_folder, store) = opened();
    let (at_the_middle, middle) = tokio::sync::oneshot::channel();
    let (go_on, gate) = blocking::channel::<()>();
    let reader = store.clone();
    let count = "SELECT count(*) FROM users";
    let reading = tokio::spawn(async move {
        let read = reader.read(move |tx| {
            let before: Option<i64> = tx.value("count", count, [])?;
            at_the_middle.send(()).unwrap();
            gate.recv().unwrap();
            let after: Option<i64> = tx.value("count", count, [])?;
            Ok::<_, StoreError>((before, after))
        });
        read.await
    });

    middle.await.unwrap();
    see(&store, 7).await.unwrap();
    go_on.send(()).unwrap();

    assert_eq!(reading.await.unwrap().unwrap(), (Some(0), Some(0)));
    assert_eq!(count_users(&store).await, 1);
}

#[tokio::test]
async fn closing_leaves_one_file_and_refuses_what_comes_later() {
    let (folder, store) = opened();
    see(&store, 7).await.unwrap();
    let clone = store.clone();

    store.close().await.unwrap();

    assert!(matches!(see(&clone, 8).await, Err(StoreError::Closed)));
    let read = clone.read(meta::store_id).await;
    assert!(matches!(read, Err(StoreError::Closed)));
    assert!(matches!(clone.close().await, Err(StoreError::Closed)));
    let files: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(files, ["kiln.db"]);
}

#[tokio::test]
async fn opening_again_finds_what_was_written() {
    let (folder, store) = opened();
    see(&store, 7).await.unwrap();
    let id = store.read(meta::store_id).await.unwrap();
    store.close().await.unwrap();

    let again = Store::open(&folder.path().join("kiln.db"), &options()).unwrap();

    assert_eq!(again.opened(), Opened::Existing { schema: newest() });
    assert_eq!(count_users(&again).await, 1);
    assert_eq!(again.read(meta::store_id).await.unwrap(), id);
}

#[tokio::test]
async fn a_full_disk_is_told_apart_and_undoes_the_write() {
    let (_folder, store) = opened();
    see(&store, 7).await.unwrap();
    let limit = store.write(|tx| {
        let pages: Option<i64> = tx.value("limit", "PRAGMA max_page_count = 1", [])?;
        Ok::<_, StoreError>(pages)
    });
    limit.await.unwrap();

    let heard = store.write(|tx| images::insert(tx, &big_image())).await;

    assert!(matches!(heard, Err(StoreError::Full { .. })), "{heard:?}");
    let found = store.read(|tx| images::get(tx, image_id(1))).await;
    assert_eq!(found.unwrap(), None);
    // The owner was entered first, and is gone too.
    assert_eq!(count_users(&store).await, 1);
}

#[tokio::test]
async fn nothing_commits_alone_once_sqlite_has_rolled_back_by_itself() {
    let (_folder, store) = opened();

    let ignoring = store.write(|tx| {
        users::see(tx, 7, time(1))?;
        tx.execute("roll back", "ROLLBACK", [])?;
        // A closure that ignores the error it gets must not hear "done" either.
        let refused = users::see(tx, 8, time(1));
        assert!(matches!(refused, Err(StoreError::Sql { .. })));
        Ok::<_, StoreError>(())
    });

    let error = ignoring.await.unwrap_err();
    assert!(
        matches!(error, StoreError::Sql { step: "commit", .. }),
        "{error:?}"
    );
    assert_eq!(count_users(&store).await, 0);
    see(&store, 9).await.unwrap();
}

fn big_image() -> images::NewImage {
    images::NewImage {
        limits: Some("x".repeat(4 << 20).into()),
        ..image(1, "big")
    }
}

/// What a daemon leaves that is killed in the middle of a write: its files as they are now.
#[tokio::test]
async fn a_killed_daemon_leaves_what_was_answered_and_nothing_of_what_was_not() {
    let (folder, store) = opened();
    see(&store, 7).await.unwrap();
    let (began, beginning) = tokio::sync::oneshot::channel();
    let (go_on, gate) = blocking::channel::<()>();
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            let write = store.write(move |tx| {
                users::see(tx, 8, time(1))?;
                images::insert(tx, &big_image())?;
                began.send(()).unwrap();
                gate.recv().unwrap();
                Ok::<_, StoreError>(())
            });
            write.await
        }
    });
    beginning.await.unwrap();

    // By another process: this one must not open the file itself.
    let left = folder.path().join("left");
    std::fs::create_dir(&left).unwrap();
    let copied = std::process::Command::new("cp")
        .arg(folder.path().join("kiln.db"))
        .arg(folder.path().join("kiln.db-wal"))
        .arg(&left)
        .status();
    assert!(copied.unwrap().success());
    go_on.send(()).unwrap();
    writing.await.unwrap().unwrap();

    let revived = Store::open(&left.join("kiln.db"), &options()).unwrap();
    assert_eq!(revived.opened(), Opened::Existing { schema: newest() });
    assert_eq!(count_users(&revived).await, 1);
    assert_eq!(count_users(&store).await, 3);
}

#[tokio::test]
async fn a_lock_that_another_process_holds_is_busy_and_retryable() {
    let (folder, store) = opened();
    let mut other = Connection::open(folder.path().join("kiln.db")).unwrap();
    let held = other
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();

    let error = see(&store, 7).await.unwrap_err();

    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    assert!(error.is_retryable());
    drop(held);
    see(&store, 7).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_a_private_whole_database_and_replaces_the_last() {
    let (folder, store) = opened();
    let target = folder.path().join("kiln.db.daily");
    store.snapshot_to(&target).await.unwrap();
    see(&store, 7).await.unwrap();

    store.snapshot_to(&target).await.unwrap();

    let mode = std::fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let copy = Store::open(&target, &options()).unwrap();
    assert_eq!(count_users(&copy).await, 1);
    assert!(!copy.opened_fresh());
}

#[tokio::test]
async fn a_snapshot_that_fails_leaves_nothing_and_names_the_place() {
    let (folder, store) = opened();
    let target = folder.path().join("missing/kiln.db.daily");

    let error = store.snapshot_to(&target).await.unwrap_err();

    assert!(
        matches!(&error, SnapshotError::File { step: "create", .. }),
        "{error:?}"
    );
    assert!(!folder.path().join("missing").exists());
}

#[tokio::test]
async fn a_snapshot_never_replaces_the_database_itself() {
    let (folder, store) = opened();
    let detour = folder
        .path()
        .join("../")
        .join(folder.path().file_name().unwrap());

    let error = store
        .snapshot_to(&detour.join("kiln.db"))
        .await
        .unwrap_err();

    assert!(matches!(error, SnapshotError::Itself { .. }), "{error:?}");
    see(&store, 7).await.unwrap();
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let (_folder, store) = opened();

    let written = store.read(|tx| {
        let sql = "INSERT INTO users (uid, first_seen_at) VALUES (7, 1) RETURNING uid";
        tx.value::<i64>("write anyway", sql, [])
    });

    assert!(matches!(written.await, Err(StoreError::Sql { .. })));
    assert_eq!(count_users(&store).await, 0);
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_tear_its_write() {
    let (_folder, store) = opened();
    let (began, beginning) = tokio::sync::oneshot::channel();
    let (go_on, gate) = blocking::channel::<()>();
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            let write = store.write(move |tx| {
                users::see(tx, 7, time(1))?;
                began.send(()).unwrap();
                gate.recv().unwrap();
                users::see(tx, 8, time(1))
            });
            write.await
        }
    });

    beginning.await.unwrap();
    writing.abort();
    assert!(writing.await.is_err_and(|error| error.is_cancelled()));
    go_on.send(()).unwrap();

    settle(&store).await;
    // Both of the abandoned write, and the one that settling adds.
    assert_eq!(count_users(&store).await, 3);
}

#[tokio::test]
async fn files_that_are_gone_or_replaced_are_not_written_until_they_are_back() {
    let (folder, store) = opened();
    see(&store, 7).await.unwrap();
    for name in ["kiln.db", "kiln.db-wal"] {
        let (file, away) = (folder.path().join(name), folder.path().join("away"));
        for stands_in in [false, true] {
            std::fs::rename(&file, &away).unwrap();
            if stands_in {
                std::fs::copy(&away, &file).unwrap();
            }
            let refused = see(&store, 8).await.unwrap_err();
            assert!(matches!(&refused, StoreError::Replaced { path } if *path == file));
            // What is open can be read all the same.
            assert_eq!(count_users(&store).await, 1);
            std::fs::rename(&away, &file).unwrap();
            store.check_writable(Duration::MAX).await.unwrap();
        }
    }
    see(&store, 8).await.unwrap();
    assert_eq!(count_users(&store).await, 2);
}

#[tokio::test]
async fn a_removed_database_leaves_a_snapshot_of_all_it_was() {
    let (folder, store) = opened();
    see(&store, 7).await.unwrap();
    let path = folder.path().join("kiln.db");
    for end in ["", "-wal", "-shm"] {
        std::fs::remove_file(folder.path().join(format!("kiln.db{end}"))).unwrap();
    }
    see(&store, 8).await.unwrap_err();

    store.close().await.ok();
    crate::recovery::replace(&path, meta::Cause::Lost).unwrap();

    let again = Store::open(&path, &options()).unwrap();
    assert_eq!(count_users(&again).await, 1);
}

#[tokio::test]
async fn writability_is_known_from_the_last_write_or_found_out_by_one() {
    let (_folder, store) = opened();
    let probes = async || {
        let sql = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'probe'";
        let count = store.read(|tx| tx.value("count probes", sql, []));
        count.await.unwrap().unwrap_or(0_i64)
    };

    store.check_writable(Duration::MAX).await.unwrap();
    assert_eq!(probes().await, 1, "nothing was written before");
    store.check_writable(Duration::MAX).await.unwrap();
    assert_eq!(probes().await, 1, "a probe is a write too");
    store.check_writable(Duration::ZERO).await.unwrap();
    assert_eq!(probes().await, 2);

    // After a failure nothing is known, whatever was written before it.
    store.shared.health.failed();
    store.check_writable(Duration::MAX).await.unwrap();
    assert_eq!(probes().await, 3);
}
