//! Which calls get a line, what it says, and how long it stays.

use std::sync::atomic::{AtomicI64, Ordering};

use kiln_api::codes;
use kiln_store::StoreOptions;
use tempfile::TempDir;

use super::flood::{BURST, REFILL_MICROS};
use super::*;

const UID: u32 = 1000;

#[derive(Debug, Default)]
struct HeldClock(AtomicI64);

impl Clock for HeldClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

struct House {
    desk: Audit,
    clock: Arc<HeldClock>,
    _folder: TempDir,
}

impl House {
    fn new(retention: AuditRetention) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        let store = Store::open(&path, &StoreOptions::default()).unwrap();
        let clock = Arc::new(HeldClock::default());
        Self {
            desk: Audit::new(store, clock.clone(), retention),
            clock,
            _folder: folder,
        }
    }

    fn keeping_much() -> Self {
        Self::new(AuditRetention {
            days: 30,
            lines: 1_000_000,
        })
    }

    fn pass(&self, micros: i64) {
        self.clock.0.fetch_add(micros, Ordering::SeqCst);
    }

    async fn lines(&self, actor: &Actor, params: ListParams) -> Vec<Line> {
        let limit = Some(1_000);
        let params = ListParams { limit, ..params };
        self.desk.list(actor, params).await.unwrap().items
    }

    async fn all(&self) -> Vec<Line> {
        self.lines(&root(), ListParams::default()).await
    }
}

fn root() -> Actor {
    Actor::from_peer(0, 0, None, 0)
}

fn call(uid: u32, method: &'static str, right: Right) -> Call {
    Call {
        actor: Actor::from_peer(uid, uid, None, 0),
        user_name: None,
        method,
        right,
        object_kind: Some("image"),
        object_name: Some("web".to_owned()),
        object_id: None,
        operation_id: None,
        request_id: "r1".to_owned(),
        is_dry_run: false,
    }
}

fn forget(uid: u32) -> Call {
    call(uid, "image.forget", Right::Change)
}

fn denied() -> Ending {
    Ending::failed(codes::request::DENIED)
}

#[tokio::test]
async fn changes_and_refusals_get_a_line_and_looks_do_not() {
    let house = House::keeping_much();
    let get = || call(UID, "image.get", Right::Read);
    let dry = || Call {
        is_dry_run: true,
        ..forget(UID)
    };
    let not_found = || Ending::failed(codes::image::NOT_FOUND);
    let cases = [
        (forget(UID), Ending::Well, true),
        (forget(UID), denied(), true),
        (forget(UID), not_found(), true),
        (forget(UID), Ending::Unknown, true),
        (get(), Ending::Well, false),
        (get(), not_found(), false),
        (get(), denied(), true),
        (dry(), Ending::Well, false),
        (dry(), denied(), true),
        (call(UID, "user.list", Right::Oversee), Ending::Well, false),
        (call(UID, "user.list", Right::Oversee), denied(), true),
    ];
    let mut want = 0;
    for (call, ending, is_told) in cases {
        let case = format!("{} {ending:?} {}", call.method, call.is_dry_run);
        house.desk.record(call, ending).await;

        want += usize::from(is_told);
        assert_eq!(house.all().await.len(), want, "{case}");
    }
}

#[tokio::test]
async fn a_line_says_who_what_and_how_and_no_password() {
    let house = House::keeping_much();
    let call = Call {
        user_name: Some("alice".to_owned()),
        object_name: Some("https://bob:secret@example.org/x\u{1b}[31m".to_owned()),
        operation_id: Some("o".to_owned()),
        ..forget(UID)
    };

    house.desk.record(call, denied()).await;

    let line = house.all().await.pop().unwrap();
    assert_eq!(line.actor, "unix:1000");
    assert_eq!(line.user_name.as_deref(), Some("alice"));
    assert_eq!((line.role, &*line.method), (Role::User, "image.forget"));
    assert_eq!(line.result, "request.denied");
    assert_eq!(line.operation_id.as_deref(), Some("o"));
    let name = line.object_name.unwrap();
    assert!(name.starts_with("https://…@example.org/x"), "{name}");
    assert!(
        !name.contains("secret") && !name.contains('\u{1b}'),
        "{name}"
    );
}

#[tokio::test]
async fn others_see_their_own_calls_only() {
    let house = House::keeping_much();
    for uid in [UID, 7] {
        house.desk.record(forget(uid), Ending::Well).await;
    }
    let me = Actor::from_peer(UID, UID, None, 0);
    let of = |user: &str| ListParams {
        user: Some(user.to_owned()),
        ..ListParams::default()
    };

    assert_eq!(house.all().await.len(), 2);
    assert_eq!(house.lines(&root(), of("7")).await.len(), 1);
    assert_eq!(house.lines(&me, ListParams::default()).await.len(), 1);
    assert_eq!(house.lines(&me, of("1000")).await.len(), 1);
    assert_eq!(house.lines(&me, of("7")).await, []);
    house.desk.list(&root(), of("nobody")).await.unwrap_err();
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_and_holds_up_nobody_else() {
    let house = House::keeping_much();
    let burst = usize::try_from(BURST).unwrap();
    for _ in 0..burst + 50 {
        house.desk.record(forget(UID), denied()).await;
    }
    assert_eq!(house.all().await.len(), burst);

    // Neither another user nor what ended well is held back; the latter tells of the rest.
    house.desk.record(forget(7), denied()).await;
    house.desk.record(forget(UID), Ending::Well).await;
    let lines = house.all().await;
    assert_eq!(lines.len(), burst + 2);
    assert_eq!(
        (lines[burst].unwritten, lines[burst + 1].unwritten),
        (0, 50)
    );

    house.pass(REFILL_MICROS);
    for _ in 0..3 {
        house.desk.record(forget(UID), denied()).await;
    }
    assert_eq!(house.all().await.len(), burst + 3);
    // What is held back is written in the end: the newest, which tells of the one before.
    house.desk.work_once().await;
    let lines = house.all().await;
    assert_eq!(lines.len(), burst + 4);
    assert_eq!(lines.last().unwrap().unwritten, 1);
    let told: u64 = lines.iter().map(|line| 1 + line.unwritten).sum();
    assert_eq!(told, u64::from(BURST) + 50 + 1 + 1 + 3);
}

#[tokio::test]
async fn old_lines_go_and_the_gap_is_told_of() {
    let house = House::keeping_much();
    house.desk.record(forget(UID), Ending::Well).await;
    house.pass(20 * DAY_MICROS);
    house.desk.record(forget(UID), Ending::Well).await;

    house.desk.work_once().await;
    assert_eq!(house.all().await.len(), 2);
    house.pass(11 * DAY_MICROS);
    house.desk.work_once().await;

    let left: Vec<_> = house.all().await.iter().map(|line| line.seq).collect();
    assert_eq!(left, [2]);
    let swept = house.desk.store.read(|tx| {
        let filter = events::EventFilter {
            kind_prefix: Some("audit.swept".to_owned()),
            ..Default::default()
        };
        events::page(tx, 0, 10, &filter)
    });
    let swept = swept.await.unwrap().rows;
    assert_eq!(swept.len(), 1);
    assert_eq!(swept[0].data["lines"], 1);
}

#[tokio::test]
async fn too_many_lines_go_oldest_first() {
    let house = House::new(AuditRetention { days: 30, lines: 3 });
    for _ in 0..5 {
        house.desk.record(forget(UID), Ending::Well).await;
    }

    house.desk.work_once().await;

    let left: Vec<_> = house.all().await.iter().map(|line| line.seq).collect();
    assert_eq!(left, [3, 4, 5]);
}

#[tokio::test]
async fn without_a_database_the_answer_stands() {
    let house = House::keeping_much();
    house.desk.store.clone().close().await.unwrap();

    // It logs and returns; the call was over before.
    house.desk.record(forget(UID), Ending::Well).await;
}

/// Changes something in the way a desk does, and tells of it.
async fn change(house: &House) {
    let event = NewEvent {
        at: Timestamp::EPOCH,
        actor: EventActor::Unix(UID),
        kind: "image.modified",
        object: Object::new(ObjectKind::Image, "i"),
        data: serde_json::json!({}),
    };
    let written = house.desk.store.write(move |tx| events::append(tx, &event));
    written.await.map(drop).unwrap();
}

#[tokio::test]
async fn a_change_takes_its_line_along_and_the_end_corrects_it() {
    let not_found = || Ending::failed(codes::image::NOT_FOUND);
    let cases = [
        (Ending::Well, Some("i"), "ok"),
        // It changed something and failed behind that: the line says how it ended.
        (not_found(), Some("j"), "image.not_found"),
    ];
    for (ending, id, result) in cases {
        let house = House::keeping_much();
        let followed = house.desk.follow(&forget(UID));
        followed.call(change(&house)).await;
        let before = house.all().await;
        assert_eq!(before.len(), 1);
        assert_eq!(before[0].object_id.as_deref(), Some("i"));

        let call = Call {
            object_id: id.map(str::to_owned),
            ..forget(UID)
        };
        house.desk.end(&followed, call, ending).await;

        let lines = house.all().await;
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].object_id.as_deref(), id);
        assert_eq!(lines[0].result, result);
    }
}

#[tokio::test]
async fn a_call_without_a_change_and_one_that_was_left_get_their_line_at_the_end() {
    let house = House::keeping_much();
    let looked = house.desk.follow(&forget(UID));
    looked.call(async {}).await;
    house.desk.end(&looked, forget(UID), denied()).await;
    let left = house.desk.follow(&forget(UID));
    house.desk.give_up(&left, forget(UID)).await;
    // What is done for it later takes nothing along; what was done before has told of it.
    left.call(change(&house)).await;
    let done = house.desk.follow(&forget(UID));
    done.call(change(&house)).await;
    house.desk.give_up(&done, forget(UID)).await;
    let dry = Call {
        is_dry_run: true,
        ..forget(UID)
    };
    house.desk.follow(&dry).call(change(&house)).await;

    let results: Vec<String> = house
        .all()
        .await
        .into_iter()
        .map(|line| line.result)
        .collect();
    assert_eq!(results, ["request.denied", "unknown", "ok"]);
}

#[tokio::test]
async fn what_was_held_back_is_told_by_a_change_too() {
    let house = House::keeping_much();
    for _ in 0..BURST + 5 {
        house.desk.record(forget(UID), denied()).await;
    }
    let followed = house.desk.follow(&forget(UID));
    followed.call(change(&house)).await;

    house.desk.end(&followed, forget(UID), Ending::Well).await;

    assert_eq!(house.all().await.last().unwrap().unwritten, 5);
}
