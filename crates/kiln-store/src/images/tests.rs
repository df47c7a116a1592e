use serde_json::json;

use super::*;
use crate::names::{self, NameHolder};
use crate::testing::{Database, OWNER, image, image_id, name, org_id, time, version};
use crate::versions;

fn seqs(page: &Page<ImageRow>) -> Vec<i64> {
    page.rows.iter().map(|image| image.seq).collect()
}

fn list(db: &mut Database, filter: &ImageFilter) -> Vec<i64> {
    seqs(&db.read(|tx| page(tx, 0, 100, filter)).unwrap())
}

fn forget(db: &mut Database, n: u128) -> bool {
    db.write(|tx| mark_deleted(tx, image_id(n), time(500), time(900)))
        .unwrap()
}

#[test]
fn an_image_comes_back_as_it_went_in() {
    let mut db = Database::new();
    let new = NewImage {
        org_id: Some(org_id(1)),
        visibility: Visibility::Public,
        custody: Custody::Unmanaged,
        labels: BTreeMap::from([("tier".to_owned(), "\"gold\"".to_owned())]),
        keywords: BTreeSet::from(["gpu".to_owned(), "ml".to_owned()]),
        limits: Some(json!({"cpus": 2})),
        ..image(1, "team/web")
    };
    db.write(|tx| insert(tx, &new)).unwrap();

    let row = db.read(|tx| get(tx, new.id)).unwrap().unwrap();

    let want = ImageRow {
        seq: 1,
        id: new.id,
        name: new.name,
        owner_id: OWNER,
        org_id: new.org_id,
        visibility: Visibility::Public,
        revision: 1,
        kind: VersionKind::Rootfs,
        state: ImageState::Available,
        custody: Custody::Unmanaged,
        labels: new.labels,
        keywords: new.keywords,
        limits: new.limits,
        description: None,
        declared_size_bytes: None,
        created_at: time(100),
        updated_at: time(100),
        deleted_at: None,
        purge_after: None,
    };
    assert_eq!(row, want);
}

#[test]
fn forgetting_marks_the_row_and_frees_the_name_once() {
    let mut db = Database::new();
    db.add_image(1, "web");

    assert!(forget(&mut db, 1));
    assert!(!forget(&mut db, 1));
    assert!(!forget(&mut db, 2));

    let row = db.read(|tx| get(tx, image_id(1))).unwrap().unwrap();
    assert_eq!(row.state, ImageState::Deleted);
    assert_eq!(row.deleted_at, Some(time(500)));
    assert_eq!(row.purge_after, Some(time(900)));
    assert_eq!((row.revision, row.updated_at), (2, time(500)));
    assert_eq!(db.read(count_active).unwrap(), 0);
    db.add_image(2, "web");
    let holder = db.read(|tx| names::holder_of(tx, &name("web"))).unwrap();
    assert!(matches!(holder, Some(NameHolder::Image { id, .. }) if id == image_id(2)));
}

#[test]
fn an_inactive_image_keeps_its_name_until_it_is_forgotten() {
    let mut db = Database::new();
    db.add_image(1, "web");
    let deactivate = |db: &mut Database| {
        let done = db.write(|tx| deactivate(tx, image_id(1), time(300)));
        done.unwrap()
    };

    assert!(deactivate(&mut db));
    assert!(!deactivate(&mut db));

    let row = db.read(|tx| get(tx, image_id(1))).unwrap().unwrap();
    assert_eq!(row.state, ImageState::Inactive);
    assert_eq!((row.revision, row.updated_at), (2, time(300)));
    assert_eq!(db.read(count_active).unwrap(), 0);
    let holder = |db: &mut Database| db.read(|tx| names::holder_of(tx, &name("web"))).unwrap();
    assert!(holder(&mut db).is_some());
    assert!(forget(&mut db, 1));
    assert_eq!(holder(&mut db), None);
    assert!(!deactivate(&mut db), "what is forgotten stays so");
}

#[test]
fn touching_raises_the_revision() {
    let mut db = Database::new();
    db.add_image(1, "web");

    let revision = db.write(|tx| touch(tx, image_id(1), time(300))).unwrap();

    assert_eq!(revision, Some(2));
    let row = db.read(|tx| get(tx, image_id(1))).unwrap().unwrap();
    assert_eq!((row.revision, row.updated_at), (2, time(300)));
    assert_eq!(
        db.write(|tx| touch(tx, image_id(9), time(300))).unwrap(),
        None
    );
}

/// Five images: two of the owner's, one public and one private of another user, one forgotten.
fn mixed() -> Database {
    let mut db = Database::new();
    let mut public = image(3, "team/web-public");
    public.owner_id = 1;
    public.visibility = Visibility::Public;
    let mut private = image(4, "secret");
    private.owner_id = 1;
    for image in [
        image(1, "web"),
        image(2, "api"),
        public,
        private,
        image(5, "web-old"),
    ] {
        db.write(|tx| insert(tx, &image)).unwrap();
    }
    let mut pulled = version(2, 1, "amd64");
    pulled.source_reference = Some("docker.io/library/api:1".to_owned());
    db.write(|tx| versions::insert(tx, &pulled)).unwrap();
    forget(&mut db, 5);
    db
}

#[test]
fn filters_combine() {
    let mut db = mixed();
    let all = ImageFilter::default;
    let named = |name| ImageFilter {
        name: Some(name),
        ..all()
    };
    let cases = [
        (all(), vec![1, 2, 3, 4]),
        (
            ImageFilter {
                forgotten: Forgotten::Shown,
                ..all()
            },
            vec![1, 2, 3, 4, 5],
        ),
        (
            ImageFilter {
                owner_id: Some(OWNER),
                ..all()
            },
            vec![1, 2],
        ),
        (named(NameMatch::Prefix("web".to_owned())), vec![1]),
        (named(NameMatch::Contains("web".to_owned())), vec![1, 3]),
        (named(NameMatch::Contains("%".to_owned())), vec![]),
        (
            ImageFilter {
                source_reference: Some("docker.io/library/api:1".to_owned()),
                ..all()
            },
            vec![2],
        ),
        (
            ImageFilter {
                visible_to: Some(OWNER),
                ..all()
            },
            vec![1, 2, 3],
        ),
        (
            ImageFilter {
                visible_to: Some(77),
                ..all()
            },
            vec![3],
        ),
        (
            ImageFilter {
                visible_to: Some(1),
                owner_id: Some(1),
                ..all()
            },
            vec![3, 4],
        ),
        (
            ImageFilter {
                visible_to: Some(OWNER),
                forgotten: Forgotten::Shown,
                name: Some(NameMatch::Prefix("web".to_owned())),
                ..all()
            },
            vec![1, 5],
        ),
    ];
    for (filter, want) in cases {
        assert_eq!(list(&mut db, &filter), want, "{filter:?}");
    }
}

#[test]
fn an_organisation_shows_its_images_to_its_members_and_all_to_its_administrators() {
    use kiln_domain::access::Standing;
    let mut db = Database::new();
    // Of organisation 1 a private and a shown one, of organisation 2 a shown one, of none a fourth.
    let owned = [
        (1, Some(1), Visibility::Private),
        (2, Some(1), Visibility::Organization),
        (3, Some(2), Visibility::Organization),
        (4, None, Visibility::Organization),
    ];
    db.write(|tx| {
        for n in [1, 2] {
            let org = format!("org-{n}").parse().unwrap();
            orgs::insert(tx, org_id(n), &org, 0, time(1)).unwrap();
        }
        for (n, org, visibility) in owned {
            let mut new = image(n, &format!("image-{n}"));
            (new.org_id, new.visibility) = (org.map(org_id), visibility);
            insert(tx, &new)?;
            names::give_to_image(tx, &new.name, new.id, new.created_at).unwrap();
        }
        for (org, uid, standing) in [
            (1, 7, Standing::Member),
            (1, 8, Standing::Admin),
            (2, 8, Standing::Member),
        ] {
            orgs::set_member(tx, org_id(org), uid, standing, time(1)).unwrap();
        }
        Ok::<_, StoreError>(())
    })
    .unwrap();
    let seen = |db: &mut Database, uid| {
        let filter = ImageFilter {
            visible_to: Some(uid),
            ..ImageFilter::default()
        };
        list(db, &filter)
    };

    assert_eq!(seen(&mut db, 7), [2]);
    assert_eq!(seen(&mut db, 8), [1, 2, 3]);
    assert_eq!(seen(&mut db, 9), Vec::<i64>::new());
    assert_eq!(seen(&mut db, OWNER), [1, 2, 3, 4]);
    // What a list shows is found by its name as well, and nothing else is.
    for uid in [7, 8, 9] {
        let shown = seen(&mut db, uid);
        for n in 1..=4 {
            db.write(|tx| {
                let number = u128::try_from(n).unwrap();
                match versions::get(tx, crate::testing::version_id(number))? {
                    Some(_) => Ok(0),
                    None => versions::insert(tx, &version(number, number, "amd64")),
                }
            })
            .unwrap();
            let text = format!("image-{n}");
            let query = crate::resolve::Query {
                text: &text,
                canonical_reference: None,
                architecture: "amd64",
                caller: None,
                visible_to: Some(uid),
                forgotten: Forgotten::Shown,
            };
            let found = db.read_or(|tx| crate::resolve::image(tx, &query));
            assert_eq!(found.is_ok(), shown.contains(&n), "{uid} {text}");
        }
    }
}

#[test]
fn pages_neither_repeat_nor_leave_out_while_rows_come_and_go() {
    for visible_to in [None, Some(OWNER)] {
        let mut db = Database::new();
        for n in 1..=7 {
            db.add_image(n, &format!("image-{n}"));
        }
        let filter = ImageFilter {
            visible_to,
            ..ImageFilter::default()
        };
        let read = |db: &mut Database, after| db.read(|tx| page(tx, after, 3, &filter)).unwrap();

        let first = read(&mut db, 0);
        // The cursor's own row goes, one behind it goes, and one is added.
        forget(&mut db, 3);
        forget(&mut db, 5);
        db.add_image(8, "image-8");
        let second = read(&mut db, first.next_after.unwrap());
        let third = read(&mut db, second.next_after.unwrap());

        assert_eq!(seqs(&first), [1, 2, 3]);
        assert_eq!(seqs(&second), [4, 6, 7]);
        assert_eq!((seqs(&third), third.next_after), (vec![8], None));
    }
}

#[test]
fn a_full_last_page_has_no_next() {
    let mut db = Database::new();
    for n in 1..=3 {
        db.add_image(n, &format!("image-{n}"));
    }

    let page = db
        .read(|tx| page(tx, 0, 3, &ImageFilter::default()))
        .unwrap();

    assert_eq!((seqs(&page), page.next_after), (vec![1, 2, 3], None));
}

#[test]
fn every_damaged_column_is_an_error_that_names_it() {
    let cases = [
        ("id", "'x'"),
        ("name", "'../etc'"),
        ("owner_id", "-1"),
        ("visibility", "'secret'"),
        ("revision", "-1"),
        ("kind", "'tape'"),
        ("state", "'lost'"),
        ("limits", "'{'"),
        ("created_at", "9223372036854775807"),
        ("purge_after", "-9223372036854775808"),
    ];
    for (column, value) in cases {
        let mut db = Database::new();
        db.add_image(1, "web");
        db.damage(&format!(
            "PRAGMA foreign_keys = OFF; UPDATE images SET {column} = {value}"
        ));

        let filter = ImageFilter {
            forgotten: Forgotten::Shown,
            ..ImageFilter::default()
        };
        let error = db.read(|tx| page(tx, 0, 10, &filter)).unwrap_err();

        let StoreError::RowInvalid {
            table,
            column: found,
            ..
        } = error
        else {
            panic!("{column}: {error:?}");
        };
        assert_eq!((table, found), ("images", column));
    }
}

/// Two thousand images, in a list that changes under whoever reads it: what was there before and is
/// there still is seen once, what went is not missed, and what came is at the end or not yet seen.
#[test]
fn pages_are_stable_while_images_come_and_go() {
    let mut db = Database::new();
    db.write(|tx| (1..=2_000).try_for_each(|n| add(tx, n)))
        .unwrap();
    let filter = ImageFilter::default();
    let (mut seen, mut gone, mut after) = (Vec::new(), BTreeSet::new(), 0);
    for round in 1_u128.. {
        let page = db.read(|tx| page(tx, after, 100, &filter)).unwrap();
        seen.extend(page.rows.iter().map(|row| row.id));
        let Some(next) = page.next_after else { break };
        after = next;
        // One behind the cursor and one before it go, one comes, one is touched.
        let [behind, before] = [round * 50, 2_000 - round * 10].map(image_id);
        db.write(|tx| {
            for id in [behind, before] {
                if purge(tx, id)? {
                    gone.insert(id);
                }
            }
            add(tx, 10_000 + round)?;
            touch(tx, image_id(round * 60), time(7)).map(drop)
        })
        .unwrap();
    }

    let unique: BTreeSet<_> = seen.iter().copied().collect();
    assert_eq!(unique.len(), seen.len(), "an image was listed twice");
    let missed: Vec<_> = (1..=2_000)
        .map(image_id)
        .filter(|id| !unique.contains(id) && !gone.contains(id))
        .collect();
    assert_eq!(missed, []);
    assert!(seen.len() > 1_900, "{}", seen.len());
}

fn add(tx: &WriteTransaction<'_>, n: u128) -> Result<(), StoreError> {
    insert(tx, &image(n, &format!("image-{n}"))).map(drop)
}
