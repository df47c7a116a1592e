use std::sync::Mutex;

use kiln_store::events::{EventActor, NewEvent};
use kiln_store::{Object, ObjectKind, StoreOptions};
use tempfile::TempDir;

use super::*;

const DAY: Duration = Duration::from_hours(24);

/// A clock that stands until it is moved.
#[derive(Debug)]
struct Held(Mutex<i64>);

impl Held {
    fn pass(&self, time: Duration) {
        *self.0.lock().unwrap() += i64::try_from(time.as_micros()).unwrap();
    }

    fn go_back(&self, time: Duration) {
        *self.0.lock().unwrap() -= i64::try_from(time.as_micros()).unwrap();
    }
}

impl Clock for Held {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(*self.0.lock().unwrap()).unwrap()
    }
}

struct Setting {
    snapshots: Snapshots,
    clock: Arc<Held>,
    folder: TempDir,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        let store = Store::open(&path, &StoreOptions::default()).unwrap();
        let clock = Arc::new(Held(Mutex::new(1_700_000_000_000_000)));
        let schedule = SnapshotSchedule {
            interval: DAY,
            events: 10,
        };
        let snapshots = Snapshots::new(store, clock.clone(), schedule);
        Self {
            snapshots,
            clock,
            folder,
        }
    }

    /// Looks as often as needed to see what is due, and tells whether a snapshot was made.
    async fn look(&self) -> bool {
        let first = self.snapshots.work_once().await.unwrap();
        let second = self.snapshots.work_once().await.unwrap();
        assert!(!(first && second), "one is enough");
        first || second
    }

    async fn happen(&self, count: usize) {
        let now = self.clock.now();
        let written = self.snapshots.store.write(move |tx| {
            let event = NewEvent {
                at: now,
                actor: EventActor::Daemon,
                kind: "daemon.tested",
                object: Object::new(ObjectKind::Daemon, "kilnd"),
                data: serde_json::json!({}),
            };
            (0..count).try_for_each(|_| events::append(tx, &event).map(drop))
        });
        written.await.unwrap();
    }

    fn files(&self) -> usize {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_str().unwrap().contains(".snapshot-"))
            .count()
    }
}

#[tokio::test]
async fn one_is_made_at_once_and_then_each_day() {
    let setting = Setting::new();

    assert!(setting.look().await);
    setting.happen(1).await;
    assert!(!setting.look().await);
    let nearly = DAY.saturating_sub(Duration::from_secs(1));
    setting.clock.pass(nearly);
    assert!(!setting.look().await);
    setting.clock.pass(Duration::from_secs(1));
    assert!(setting.look().await);
    assert_eq!(setting.files(), 2);
}

#[tokio::test]
async fn many_events_do_not_wait_for_the_day() {
    let setting = Setting::new();
    assert!(setting.look().await);

    setting.happen(9).await;
    assert!(!setting.look().await);
    setting.happen(1).await;
    assert!(setting.look().await);
    setting.happen(9).await;
    assert!(!setting.look().await, "it counts anew");
}

#[tokio::test]
async fn no_more_than_three_are_kept() {
    let setting = Setting::new();
    for _ in 0..6 {
        setting.happen(10).await;
        assert!(setting.look().await);
    }

    assert_eq!(setting.files(), 3);
}

#[tokio::test]
async fn a_clock_that_was_wrong_does_not_put_it_off_for_ever() {
    let setting = Setting::new();
    setting.clock.pass(DAY * 10_000);
    assert!(setting.look().await);

    setting.clock.go_back(DAY * 10_000);

    assert!(setting.look().await);
    assert!(!setting.look().await);
}

#[tokio::test]
async fn a_failure_waits_before_the_next_try_and_harms_nothing() {
    let setting = Setting::new();
    assert!(setting.look().await);
    setting.happen(10).await;
    // A directory where the copy is to be written.
    let name = "kiln.db.snapshot-00000000000000000010.partial";
    let place = setting.folder.path().join(name);
    std::fs::create_dir(&place).unwrap();

    let failed = setting.snapshots.work_once().await;

    assert!(
        matches!(failed, Err(SnapshotError::File { .. })),
        "{failed:?}"
    );
    std::fs::remove_dir(&place).unwrap();
    assert!(!setting.look().await);
    assert_eq!(setting.files(), 1);
    setting.clock.pass(RETRY);
    assert!(setting.look().await);
    assert_eq!(setting.files(), 2);
}
