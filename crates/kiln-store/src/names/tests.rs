use super::*;
use crate::images;
use crate::testing::{Database, OWNER, image, image_id, name, operation_id, time, version};
use crate::versions;

fn taken(result: Result<(), ReserveError>) -> NameTaken {
    match result {
        Err(ReserveError::Taken(taken)) => taken,
        other => panic!("{other:?}"),
    }
}

fn holder(db: &mut Database, text: &str) -> Option<NameHolder> {
    db.read(|tx| holder_of(tx, &name(text))).unwrap()
}

#[test]
fn every_kind_of_holder_refuses_a_reservation_and_says_what_it_is() {
    let mut db = Database::new();
    db.add_image(1, "web");
    let mut pulled = version(1, 1, "amd64");
    pulled.source_reference = Some("docker.io/library/web:1".to_owned());
    db.write(|tx| versions::insert(tx, &pulled)).unwrap();
    db.write(|tx| add_alias(tx, &name("www"), "web", time(3)))
        .unwrap();
    db.write(|tx| reserve(tx, &name("soon"), operation_id(1), time(4)))
        .unwrap();
    let cases = [
        (
            "web",
            NameHolder::Image {
                id: image_id(1),
                owner_uid: OWNER,
                created_at: time(100),
                source_reference: Some("docker.io/library/web:1".to_owned()),
            },
            "an image named \"web\" already exists".to_owned(),
        ),
        (
            "www",
            NameHolder::Alias {
                target: "web".to_owned(),
            },
            "an alias named \"www\" already exists".to_owned(),
        ),
        (
            "soon",
            NameHolder::Reservation {
                operation_id: operation_id(1),
                owner_uid: None,
                since: time(4),
            },
            format!(
                "the name \"soon\" is held by the running operation {}",
                operation_id(1)
            ),
        ),
    ];
    for (text, by, message) in cases {
        let wanted = name(text);

        let found = taken(db.write(|tx| reserve(tx, &wanted, operation_id(2), time(9))));

        assert_eq!(found.to_string(), message);
        assert_eq!(found, NameTaken { name: wanted, by });
    }
}

#[test]
fn a_reservation_becomes_the_images_name() {
    let mut db = Database::new();
    let web = name("web");
    db.write(|tx| reserve(tx, &web, operation_id(1), time(1)))
        .unwrap();

    db.write(|tx| {
        claim_for_image(tx, &web, image_id(1), operation_id(1))?;
        images::insert(tx, &image(1, "web"))?;
        Ok::<_, ClaimError>(())
    })
    .unwrap();

    assert!(
        matches!(holder(&mut db, "web"), Some(NameHolder::Image { id, .. }) if id == image_id(1))
    );
    assert_eq!(db.write(clear_reservations).unwrap(), []);
}

#[test]
fn only_the_holder_claims() {
    let mut db = Database::new();
    let web = name("web");
    db.write(|tx| reserve(tx, &web, operation_id(1), time(1)))
        .unwrap();

    let error = db
        .write(|tx| claim_for_image(tx, &web, image_id(1), operation_id(2)))
        .unwrap_err();

    assert!(matches!(error, ClaimError::NotReserved { .. }), "{error:?}");
    assert!(matches!(
        holder(&mut db, "web"),
        Some(NameHolder::Reservation { .. })
    ));
}

#[test]
fn releasing_frees_all_names_of_that_operation_and_no_other() {
    let mut db = Database::new();
    for (text, operation) in [("a", 1), ("b", 1), ("c", 2)] {
        db.write(|tx| reserve(tx, &name(text), operation_id(operation), time(1)))
            .unwrap();
    }

    let released = db.write(|tx| release_reservation(tx, operation_id(1)));

    assert_eq!(released.unwrap(), 2);
    assert_eq!(holder(&mut db, "a"), None);
    assert!(holder(&mut db, "c").is_some());
}

#[test]
fn start_up_clears_reservations_and_tells_whose_they_were() {
    let mut db = Database::new();
    db.add_image(1, "web");
    db.write(|tx| reserve(tx, &name("soon"), operation_id(2), time(1)))
        .unwrap();

    let cleared = db.write(clear_reservations).unwrap();

    let want = Reservation {
        name: name("soon"),
        operation_id: operation_id(2),
    };
    assert_eq!(cleared, [want]);
    assert_eq!(holder(&mut db, "soon"), None);
    assert!(holder(&mut db, "web").is_some());
}

#[test]
fn an_image_has_one_name_at_most() {
    let mut db = Database::new();
    db.add_image(1, "web");

    let error = db
        .write(|tx| give_to_image(tx, &name("second"), image_id(1), time(1)))
        .unwrap_err();

    assert!(matches!(error, ReserveError::Store(_)), "{error:?}");
}

#[test]
fn aliases_are_listed_by_target_and_removed_one_by_one() {
    let mut db = Database::new();
    db.add_image(1, "web");
    for text in ["www", "site"] {
        db.write(|tx| add_alias(tx, &name(text), "web", time(3)))
            .unwrap();
    }

    assert!(db.write(|tx| remove_alias(tx, &name("www"))).unwrap());
    assert!(!db.write(|tx| remove_alias(tx, &name("www"))).unwrap());
    assert!(!db.write(|tx| remove_alias(tx, &name("web"))).unwrap());

    let left = db.read(|tx| aliases_of(tx, "web")).unwrap();
    let names: Vec<_> = left.iter().map(|alias| alias.name.as_str()).collect();
    assert_eq!(names, ["site"]);
}

#[test]
fn freeing_takes_whatever_holds_the_name() {
    let mut db = Database::new();
    db.add_image(1, "web");

    assert!(db.write(|tx| free(tx, &name("web"))).unwrap());
    assert!(!db.write(|tx| free(tx, &name("web"))).unwrap());

    db.write(|tx| reserve(tx, &name("web"), operation_id(1), time(1)))
        .unwrap();
}

#[test]
fn a_damaged_row_is_an_error_with_its_place() {
    let mut db = Database::new();
    db.write(|tx| reserve(tx, &name("web"), operation_id(1), time(1)))
        .unwrap();
    db.damage("UPDATE names SET operation_id = 'nonsense'");

    let error = db.read(|tx| holder_of(tx, &name("web"))).unwrap_err();

    assert_eq!(
        error.to_string(),
        "the row \"web\" of names holds a operation_id that cannot be read"
    );
}

#[test]
fn no_name_is_given_that_reads_as_an_id() {
    let mut db = Database::new();
    db.add_image(1, "web");
    let id = name(&image_id(9).to_string());
    let held = [
        db.write(|tx| reserve(tx, &id, operation_id(1), time(1))),
        db.write(|tx| give_to_image(tx, &id, image_id(1), time(1))),
        db.write(|tx| add_alias(tx, &id, "web", time(1))),
        db.write(|tx| {
            let (old, owner) = (name("web"), (image_id(1), OWNER));
            crate::images::rename(tx, owner, (&old, &id), time(1))
        }),
    ];

    for refused in held {
        assert!(matches!(refused, Err(ReserveError::Name(_))), "{refused:?}");
    }
    assert_eq!(db.read(|tx| holder_of(tx, &id)).unwrap(), None);
}

#[test]
fn an_image_is_renamed_away_from_a_name_that_reads_as_an_id() {
    let mut db = Database::new();
    db.add_image(1, "web");
    let old = name(&image_id(9).to_string());
    db.damage(&format!(
        "UPDATE images SET name = '{old}'; UPDATE names SET name = '{old}';"
    ));

    let new = name("site");
    db.write(|tx| crate::images::rename(tx, (image_id(1), OWNER), (&old, &new), time(1)))
        .unwrap();

    let row = db.read(|tx| crate::images::get(tx, image_id(1))).unwrap();
    assert_eq!(row.unwrap().name, new);
    assert_eq!(db.read(|tx| holder_of(tx, &old)).unwrap(), None);
}
