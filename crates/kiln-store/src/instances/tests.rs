use serde_json::json;

use super::*;
use crate::testing::{Database, OWNER, image_id, instance, instance_id, time, version_id};

const ALL: InstanceFilter = InstanceFilter {
    ended: true,
    owner_uid: None,
};

fn under() -> RunningUnder {
    RunningUnder {
        monitor: "qemu-microvm".to_owned(),
        accelerator: "kvm".to_owned(),
    }
}

fn add(db: &mut Database, n: u128, name: &str) -> Result<i64, InsertInstanceError> {
    db.write(|tx| insert(tx, &instance(n, name)))
}

fn add_of(db: &mut Database, n: u128, name: &str, owner_uid: u32) {
    let instance = NewInstance {
        owner_uid,
        ..instance(n, name)
    };
    db.write(|tx| insert(tx, &instance)).unwrap();
}

fn end(db: &mut Database, n: u128, at: i64) -> bool {
    db.write(|tx| finish(tx, instance_id(n), &InstanceEnd::default(), time(at)))
        .unwrap()
}

fn ids(rows: &[InstanceRow]) -> Vec<InstanceId> {
    rows.iter().map(|row| row.id).collect()
}

fn seqs(db: &mut Database, filter: InstanceFilter) -> Vec<i64> {
    let page = db.read(|tx| page(tx, 0, 100, filter)).unwrap();
    page.rows.iter().map(|row| row.seq).collect()
}

#[test]
fn a_machine_comes_back_as_it_went_in_and_as_it_went_on() {
    let mut db = Database::new();
    let seq = add(&mut db, 1, "web").unwrap();
    let get_one = |db: &mut Database| db.read(|tx| get(tx, instance_id(1))).unwrap().unwrap();
    let want = InstanceRow {
        seq,
        id: instance_id(1),
        name: "web".parse().unwrap(),
        state: InstanceState::Starting,
        owner_uid: OWNER,
        image_id: image_id(1),
        image_name: "team/web".parse().unwrap(),
        version_id: version_id(1),
        process: ProcessRow {
            pid: 4_000_000,
            started: ProcessStart::new(77_123),
            boot_id: "boot".to_owned(),
        },
        running: None,
        directory: "/run/user/1000/kiln/1".to_owned(),
        console_path: "/run/user/1000/kiln/1/console.log".to_owned(),
        cpus: 2,
        memory_bytes: 256 << 20,
        ports: json!([{"host_port": 8080}]),
        end: InstanceEnd::default(),
        created_at: time(1),
        started_at: None,
        ended_at: None,
    };
    assert_eq!(get_one(&mut db), want);

    let started = db.write(|tx| start(tx, instance_id(1), &under(), time(5)));
    assert!(started.unwrap());
    let want = InstanceRow {
        state: InstanceState::Running,
        running: Some(under()),
        started_at: Some(time(5)),
        ..want
    };
    assert_eq!(get_one(&mut db), want);

    let how = InstanceEnd {
        exit_code: Some(3),
        reason: Some("it was told to".to_owned()),
    };
    let ended = db.write(|tx| finish(tx, instance_id(1), &how, time(9)));
    assert!(ended.unwrap());
    let want = InstanceRow {
        state: InstanceState::Ended,
        end: how,
        ended_at: Some(time(9)),
        ..want
    };
    assert_eq!(get_one(&mut db), want);
}

#[test]
fn the_first_word_about_an_end_counts() {
    let mut db = Database::new();
    add(&mut db, 1, "web").unwrap();

    assert!(end(&mut db, 1, 5));
    assert!(!end(&mut db, 1, 9));
    let started = db.write(|tx| start(tx, instance_id(1), &under(), time(9)));

    assert!(!started.unwrap());
    let row = db.read(|tx| get(tx, instance_id(1))).unwrap().unwrap();
    assert_eq!(
        (row.state, row.ended_at),
        (InstanceState::Ended, Some(time(5)))
    );
    assert!(!end(&mut db, 2, 5));
}

#[test]
fn a_name_is_one_owners_until_the_machine_has_ended() {
    let mut db = Database::new();
    add(&mut db, 1, "web").unwrap();
    add_of(&mut db, 2, "web", 7);

    let taken = add(&mut db, 3, "web").unwrap_err();
    end(&mut db, 1, 5);
    let free = add(&mut db, 3, "web");

    assert!(
        matches!(&taken, InsertInstanceError::NameTaken { name } if name.as_str() == "web"),
        "{taken:?}"
    );
    free.unwrap();
    let again = add(&mut db, 3, "other").unwrap_err();
    assert!(
        matches!(again, InsertInstanceError::IdTaken { id } if id == instance_id(3)),
        "{again:?}"
    );
    let of = |db: &mut Database, owner| {
        let rows = db.read(|tx| named(tx, &"web".parse().unwrap(), owner));
        ids(&rows.unwrap())
    };
    let [one, two, three] = [1, 2, 3].map(instance_id);
    assert_eq!(of(&mut db, Some(OWNER)), [three, one]);
    assert_eq!(of(&mut db, None), [three, two, one]);
}

#[test]
fn the_beginning_of_an_id_finds_its_machines() {
    let mut db = Database::new();
    add(&mut db, 0x1a, "a").unwrap();
    add(&mut db, 0x1b, "b").unwrap();
    add_of(&mut db, 0x2a, "c", 7);
    let text = instance_id(0x1a).to_string();
    let find = |db: &mut Database, digits: &str, owner, limit| {
        let rows = db.read(|tx| beginning_with(tx, digits, owner, limit));
        ids(&rows.unwrap())
    };
    let [a, b, c] = [0x1a, 0x1b, 0x2a].map(instance_id);

    assert_eq!(find(&mut db, &text[..35], None, 9), [a, b]);
    assert_eq!(find(&mut db, &text, None, 9), [a]);
    assert_eq!(find(&mut db, &text[..9], None, 9), [a, b, c]);
    assert_eq!(find(&mut db, &text[..9], None, 2), [a, b]);
    assert_eq!(find(&mut db, &text[..9], Some(7), 9), [c]);
    assert_eq!(find(&mut db, "f", None, 9), []);
}

#[test]
fn lists_hide_what_has_ended_and_what_is_others_on_demand() {
    let mut db = Database::new();
    for n in 1..=4 {
        add_of(
            &mut db,
            n,
            &format!("m{n}"),
            10 + u32::try_from(n % 2).unwrap(),
        );
    }
    end(&mut db, 1, 5);
    end(&mut db, 2, 5);
    let cases: [(bool, Option<u32>, &[i64]); 4] = [
        (true, None, &[1, 2, 3, 4]),
        (false, None, &[3, 4]),
        (true, Some(11), &[1, 3]),
        (false, Some(10), &[4]),
    ];
    for (ended, owner_uid, want) in cases {
        let filter = InstanceFilter { ended, owner_uid };
        assert_eq!(seqs(&mut db, filter), want, "{filter:?}");
    }
    let page = db.read(|tx| page(tx, 1, 2, ALL)).unwrap();
    assert_eq!((page.rows.len(), page.next_after), (2, Some(3)));
    let live = db.read(live).unwrap();
    assert_eq!(ids(&live), [instance_id(3), instance_id(4)]);
}

#[test]
fn only_what_has_ended_is_removed() {
    let mut db = Database::new();
    add(&mut db, 1, "web").unwrap();

    let running = db.write(|tx| delete(tx, instance_id(1))).unwrap();
    end(&mut db, 1, 5);
    let ended = db.write(|tx| delete(tx, instance_id(1))).unwrap();

    assert_eq!((running, ended), (false, true));
    assert_eq!(seqs(&mut db, ALL), Vec::<i64>::new());
}

#[test]
fn pruning_takes_the_old_and_the_surplus_and_no_live_one() {
    let cases: [(u32, i64, &[i64]); 4] = [
        (9, 0, &[1, 2, 3, 4, 5]),
        (9, 22, &[1, 3, 4, 5]),
        (2, 0, &[1, 4, 5]),
        (0, 99, &[1, 4]),
    ];
    for (keep, older_than, want) in cases {
        let mut db = Database::new();
        for n in 1..=5 {
            add(&mut db, n, &format!("m{n}")).unwrap();
        }
        let ended: &[u128] = if keep == 2 { &[2, 3, 4, 5] } else { &[2, 3, 5] };
        for n in ended {
            end(&mut db, *n, 19 + i64::try_from(*n).unwrap());
        }

        let pruned = db.write(|tx| prune(tx, keep, time(older_than))).unwrap();

        assert_eq!(
            seqs(&mut db, ALL),
            want,
            "keeping {keep}, older than {older_than}"
        );
        assert_eq!(pruned, 5 - want.len());
    }
}

#[test]
fn pruning_counts_the_surplus_of_each_owner_apart() {
    let mut db = Database::new();
    for (n, owner_uid) in [
        (1, 7),
        (2, OWNER),
        (3, OWNER),
        (4, 7),
        (5, OWNER),
        (6, OWNER),
    ] {
        add_of(&mut db, n, &format!("m{n}"), owner_uid);
        end(&mut db, n, 20);
    }

    let pruned = db.write(|tx| prune(tx, 2, time(0))).unwrap();

    assert_eq!(seqs(&mut db, ALL), [1, 4, 5, 6]);
    assert_eq!(pruned, 2);
}

#[test]
fn a_damaged_row_is_an_error_that_names_it() {
    let mut db = Database::new();
    add(&mut db, 1, "web").unwrap();
    db.damage("UPDATE instances SET exit_code = 256");

    let error = db.read(|tx| get(tx, instance_id(1))).unwrap_err();

    assert!(
        matches!(&error, StoreError::RowInvalid { table: "instances", column: "exit_code", key, .. }
            if *key == instance_id(1).to_string()),
        "{error:?}"
    );
}
