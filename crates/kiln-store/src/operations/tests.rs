use serde_json::json;

use super::*;
use crate::testing::{Database, OWNER, image_id, operation, operation_id, time};

fn filled(count: u128) -> Database {
    let mut db = Database::new();
    for n in 1..=count {
        db.write(|tx| insert(tx, &operation(n))).unwrap();
    }
    db
}

fn seqs(db: &mut Database, filter: &OperationFilter) -> Vec<i64> {
    let page = db.read(|tx| page(tx, 0, 100, filter)).unwrap();
    page.rows.iter().map(|operation| operation.seq).collect()
}

fn succeeded() -> Outcome {
    Outcome::Succeeded {
        result: json!({"id": 1}),
    }
}

#[test]
fn a_new_operation_runs_and_says_what_it_was_asked() {
    let mut db = filled(1);

    let row = db.read(|tx| get(tx, operation_id(1))).unwrap().unwrap();

    assert_eq!(row.state, OperationState::Running);
    assert_eq!((row.seq, row.owner_uid), (1, OWNER));
    assert_eq!(row.params, json!({"ref": "debian:bookworm"}));
    assert_eq!((row.object, row.finished_at), (None, None));
}

#[test]
fn what_is_recorded_while_it_runs_is_read_back() {
    let mut db = filled(1);
    let id = operation_id(1);
    let object = Object::image(image_id(7));

    let recorded = db.write(|tx| {
        Ok::<_, StoreError>([
            set_progress(tx, id, &json!({"done": 5}), time(10))?,
            set_object(tx, id, &object, time(11))?,
        ])
    });

    assert_eq!(recorded.unwrap(), [true, true]);
    let row = db.read(|tx| get(tx, id)).unwrap().unwrap();
    assert_eq!(row.progress, Some(json!({"done": 5})));
    assert_eq!(row.object, Some(object));
    assert_eq!(row.updated_at, time(11));
}

#[test]
fn each_outcome_has_its_state_and_its_column() {
    let error = json!({"code": "network"});
    let part = json!({"id": 2});
    let cases = [
        (
            succeeded(),
            OperationState::Succeeded,
            Some(json!({"id": 1})),
        ),
        (
            Outcome::Failed {
                error: error.clone(),
                result: None,
            },
            OperationState::Failed,
            None,
        ),
        (
            Outcome::Cancelled {
                error: error.clone(),
                result: Some(part.clone()),
            },
            OperationState::Cancelled,
            Some(part),
        ),
    ];
    for (outcome, state, result) in cases {
        let mut db = filled(1);

        let was_running = db.write(|tx| finish(tx, operation_id(1), &outcome, time(9)));

        assert!(was_running.unwrap());
        let row = db.read(|tx| get(tx, operation_id(1))).unwrap().unwrap();
        assert_eq!((row.state, row.finished_at), (state, Some(time(9))));
        let is_good = state == OperationState::Succeeded;
        assert_eq!(row.result, result);
        assert_eq!(row.error, (!is_good).then(|| error.clone()));
    }
}

#[test]
fn what_is_final_never_changes() {
    let mut db = filled(1);
    let id = operation_id(1);
    db.write(|tx| finish(tx, id, &succeeded(), time(9)))
        .unwrap();
    let before = db.read(|tx| get(tx, id)).unwrap();

    let late = Outcome::Cancelled {
        error: json!({}),
        result: None,
    };
    let changed = db.write(|tx| {
        Ok::<_, StoreError>([
            finish(tx, id, &late, time(20))?,
            set_progress(tx, id, &json!(1), time(20))?,
            set_object(tx, id, &Object::image(image_id(1)), time(20))?,
        ])
    });

    assert_eq!(changed.unwrap(), [false, false, false]);
    assert_eq!(db.write(|tx| interrupt_running(tx, time(20))).unwrap(), []);
    assert_eq!(db.read(|tx| get(tx, id)).unwrap(), before);
}

#[test]
fn start_up_interrupts_what_was_running() {
    let mut db = filled(3);
    db.write(|tx| finish(tx, operation_id(2), &succeeded(), time(9)))
        .unwrap();

    let interrupted = db.write(|tx| interrupt_running(tx, time(30))).unwrap();

    assert_eq!(interrupted, [operation_id(1), operation_id(3)]);
    let row = db.read(|tx| get(tx, operation_id(3))).unwrap().unwrap();
    assert_eq!(row.state, OperationState::Interrupted);
    assert_eq!(row.finished_at, Some(time(30)));
}

#[test]
fn pages_filter_by_state_and_owner() {
    let mut db = filled(2);
    let other = NewOperation {
        owner_uid: 1,
        ..operation(3)
    };
    db.write(|tx| insert(tx, &other)).unwrap();
    db.write(|tx| finish(tx, operation_id(1), &succeeded(), time(9)))
        .unwrap();
    let cases = [
        (None, None, vec![1, 2, 3]),
        (Some(OperationState::Running), None, vec![2, 3]),
        (Some(OperationState::Running), Some(OWNER), vec![2]),
        (None, Some(1), vec![3]),
        (Some(OperationState::Failed), None, vec![]),
    ];
    for (state, owner_uid, want) in cases {
        let filter = OperationFilter { state, owner_uid };

        assert_eq!(seqs(&mut db, &filter), want, "{filter:?}");
    }
}

#[test]
fn pruning_takes_the_old_and_the_surplus_but_never_what_runs() {
    // Operations 1 to 6 end at times 10 to 60; operation 2 goes on.
    let cases = [
        (100, 0, vec![1, 2, 3, 4, 5, 6]),
        (100, 40, vec![2, 4, 5, 6]),
        (2, 0, vec![2, 5, 6]),
        (0, 0, vec![2]),
    ];
    for (keep, older_than, want) in cases {
        let mut db = filled(6);
        for n in [1, 3, 4, 5, 6] {
            let at = time(i64::try_from(n * 10).unwrap());
            db.write(|tx| finish(tx, operation_id(n), &succeeded(), at))
                .unwrap();
        }

        let pruned = db.write(|tx| prune(tx, keep, time(older_than))).unwrap();

        let left = seqs(&mut db, &OperationFilter::default());
        assert_eq!(left, want, "keeping {keep}, older than {older_than}");
        assert_eq!(pruned, 6 - want.len());
    }
}

#[test]
fn a_sequence_number_is_never_used_twice() {
    let mut db = filled(2);
    db.write(|tx| finish(tx, operation_id(2), &succeeded(), time(9)))
        .unwrap();
    db.write(|tx| prune(tx, 0, time(0))).unwrap();

    let seq = db.write(|tx| insert(tx, &operation(3))).unwrap();

    assert_eq!(seq, 3);
}
