use kiln_domain::Visibility;

use super::*;
use crate::images;
use crate::testing::{Database, OWNER, image, image_id, name, time, version, version_id};

/// What a lookup came to, short enough for a table: the version's number in the tests, the
/// images of an ambiguity, or nothing.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Version(u128),
    Several(Vec<String>),
    Nothing,
}
use Got::{Nothing, Several, Version};

fn query(text: &str) -> Query<'_> {
    Query {
        text,
        canonical_reference: None,
        architecture: "amd64",
        caller: None,
        visible_to: None,
        forgotten: Forgotten::Hidden,
    }
}

/// The words of the tests become canonical as short Docker names do.
fn canonical(text: &str) -> String {
    format!("docker.io/library/{text}")
}

fn look(db: &mut Database, query: &Query<'_>) -> Got {
    let reference = canonical(query.text);
    let query = Query {
        canonical_reference: Some(query.canonical_reference.unwrap_or(&reference)),
        ..*query
    };
    match db.read_or(|tx| super::image(tx, &query)) {
        Ok(found) => {
            let row = db.read(|tx| versions::get(tx, found.version_id));
            assert_eq!(row.unwrap().unwrap().image_id, found.image_id);
            let number = (1..100).find(|n| version_id(*n) == found.version_id);
            Version(number.unwrap())
        }
        Err(ResolveError::NotFound { .. }) => Nothing,
        Err(ResolveError::Ambiguous { candidates, .. }) => Several(
            candidates
                .iter()
                .map(|candidate| candidate.name.to_string())
                .collect(),
        ),
        Err(error) => panic!("{error:?}"),
    }
}

fn check(db: &mut Database, cases: &[(&str, Got)]) {
    for (text, want) in cases {
        assert_eq!(look(db, &query(text)), *want, "looking for {text:?}");
    }
}

fn add_version(db: &mut Database, image: u128, n: u128, architecture: &str, reference: &str) {
    let mut new = version(image, n, architecture);
    new.source_reference = (!reference.is_empty()).then(|| reference.to_owned());
    db.write(|tx| versions::insert(tx, &new)).unwrap();
}

fn tag(db: &mut Database, image: u128, tag: &str, n: u128) {
    let tag = tag.parse().unwrap();
    let set = db.write(|tx| tags::set(tx, image_id(image), &tag, version_id(n), time(1)));
    assert!(set.unwrap());
}

fn alias(db: &mut Database, text: &str, target: &str) {
    db.write(|tx| names::add_alias(tx, &name(text), target, time(1)))
        .unwrap();
}

fn forget(db: &mut Database, n: u128) {
    let forgotten = db.write(|tx| images::mark_deleted(tx, image_id(n), time(5), time(9)));
    assert!(forgotten.unwrap());
}

/// Image 1, `web`: versions v1.1.0 (tagged `old`), v1.2.0 (tagged `latest`), v1.3.0, and v1.4.0
/// for arm64. Image 2, `api`: v1.5.0 from a registry, no tag.
fn filled() -> Database {
    let mut db = Database::new();
    db.add_image(1, "web");
    db.add_image(2, "api");
    for (n, architecture) in [(1, "amd64"), (2, "amd64"), (3, "amd64"), (4, "arm64")] {
        add_version(&mut db, 1, n, architecture, "");
    }
    add_version(&mut db, 2, 5, "amd64", "docker.io/library/ubuntu:20.04");
    tag(&mut db, 1, "old", 1);
    tag(&mut db, 1, "latest", 2);
    db
}

#[test]
fn each_step_finds_what_it_is_for() {
    let mut db = filled();
    alias(&mut db, "www", "web");
    alias(&mut db, "site", "www");
    alias(&mut db, "pinned", "web:old");
    alias(&mut db, "by-id", &image_id(2).to_string());
    alias(&mut db, "by-version", &version_id(3).to_string());
    alias(&mut db, "by-reference", "docker.io/library/ubuntu:20.04");
    alias(&mut db, "dangling", "nobody");
    let cases = [
        // UUIDs, of images and of versions, whatever their architecture.
        (image_id(1).to_string(), Version(2)),
        (image_id(2).to_string(), Version(5)),
        (format!("{}:old", image_id(1)), Version(1)),
        (version_id(1).to_string(), Version(1)),
        (version_id(4).to_string(), Version(4)),
        (version_id(99).to_string(), Nothing),
        (format!("{}:old", version_id(1)), Nothing),
        // Names, with tags and with numbers.
        ("web".to_owned(), Version(2)),
        ("web:latest".to_owned(), Version(2)),
        ("web:old".to_owned(), Version(1)),
        ("web:v1.3.0".to_owned(), Version(3)),
        ("web:v1.4.0".to_owned(), Nothing),
        ("web:v9.0.0".to_owned(), Nothing),
        ("web:none".to_owned(), Nothing),
        ("api".to_owned(), Version(5)),
        ("api:latest".to_owned(), Nothing),
        // Aliases, with tags unless they mean one version.
        ("www".to_owned(), Version(2)),
        ("site".to_owned(), Version(2)),
        ("site:old".to_owned(), Version(1)),
        ("www:v1.3.0".to_owned(), Version(3)),
        ("pinned".to_owned(), Version(1)),
        ("pinned:latest".to_owned(), Nothing),
        ("by-id".to_owned(), Version(5)),
        ("by-version".to_owned(), Version(3)),
        ("by-reference".to_owned(), Version(5)),
        ("dangling".to_owned(), Nothing),
        // References.
        ("ubuntu:20.04".to_owned(), Version(5)),
        ("ubuntu:22.04".to_owned(), Nothing),
        // Texts that are nothing.
        (String::new(), Nothing),
        (":".to_owned(), Nothing),
        ("web:".to_owned(), Nothing),
        ("../../etc".to_owned(), Nothing),
        ("é".repeat(1000), Nothing),
    ];
    for (text, want) in cases {
        assert_eq!(look(&mut db, &query(&text)), want, "looking for {text:?}");
    }
}

#[test]
fn the_earlier_step_wins() {
    // An image and a reference of the same text: the name wins.
    let mut db = filled();
    db.add_image(3, "ubuntu");
    add_version(&mut db, 3, 6, "amd64", "");
    tag(&mut db, 3, "20.04", 6);
    check(&mut db, &[("ubuntu:20.04", Version(6))]);

    // An alias and a reference of the same text: the alias wins.
    let mut db = filled();
    alias(&mut db, "ubuntu", "web");
    tag(&mut db, 1, "20.04", 3);
    check(&mut db, &[("ubuntu:20.04", Version(3))]);

    // A tag that looks like a number: the tag wins.
    let mut db = filled();
    tag(&mut db, 1, "v1.3.0", 1);
    check(&mut db, &[("web:v1.3.0", Version(1))]);
}

/// Names that read as ids are given no more; databases may have some.
#[test]
fn what_reads_as_an_id_is_one_whatever_is_called_so() {
    let mut db = filled();
    let ids = [1, 2, 77].map(|n| image_id(n).to_string());
    db.add_image(3, "taker");
    add_version(&mut db, 3, 6, "amd64", "");
    db.damage(&format!(
        "UPDATE images SET name = '{0}' WHERE id = '{3}'; \
         UPDATE names SET name = '{0}' WHERE image_id = '{3}'; \
         INSERT INTO names (name, kind, target, created_at) VALUES \
         ('{1}', 'alias', 'web', 1), ('{2}', 'alias', 'web', 1);",
        ids[0],
        ids[1],
        ids[2],
        image_id(3)
    ));
    let asked = |text| Query {
        forgotten: Forgotten::Shown,
        ..query(text)
    };
    let taker = image_id(3).to_string();
    let cases = |db: &mut Database, wants: [Got; 3]| {
        for (id, want) in ids.iter().zip(wants) {
            assert_eq!(look(db, &asked(id)), want, "{id}");
        }
    };

    cases(&mut db, [Version(2), Version(5), Nothing]);
    assert_eq!(look(&mut db, &asked(&taker)), Version(6));

    // Forgotten, an id is still itself and no name.
    forget(&mut db, 1);
    forget(&mut db, 2);
    cases(&mut db, [Version(2), Version(5), Nothing]);
    assert_eq!(look(&mut db, &query(&ids[0])), Nothing);
}

#[test]
fn a_step_without_that_tag_falls_through() {
    // The image `ubuntu` lacks the tag; the reference has it.
    let mut db = filled();
    db.add_image(3, "ubuntu");
    add_version(&mut db, 3, 6, "amd64", "");
    check(
        &mut db,
        &[("ubuntu:20.04", Version(5)), ("ubuntu", Version(6))],
    );

    // The alias `ubuntu` leads to an image without it.
    let mut db = filled();
    alias(&mut db, "ubuntu", "web");
    check(
        &mut db,
        &[("ubuntu:20.04", Version(5)), ("ubuntu", Version(2))],
    );
}

#[test]
fn the_architecture_decides_among_versions() {
    let mut db = filled();
    let on = |text, architecture| Query {
        architecture,
        ..query(text)
    };
    let cases = [
        (on("web", "arm64"), Version(4)),
        (on("web:v1.4.0", "arm64"), Version(4)),
        (on("web:old", "arm64"), Nothing),
        (on("ubuntu:20.04", "arm64"), Nothing),
        (on("web", "riscv64"), Nothing),
    ];
    for (query, want) in cases {
        assert_eq!(look(&mut db, &query), want, "{query:?}");
    }
}

#[test]
fn what_exists_for_other_architectures_is_told() {
    let mut db = filled();
    let query = Query {
        architecture: "riscv64",
        ..query("web")
    };

    let error = db.read_or(|tx| super::image(tx, &query)).unwrap_err();

    assert_eq!(
        error.to_string(),
        "no image answers to \"web\" for this architecture, only for amd64, arm64"
    );
}

#[test]
fn a_reference_of_several_images_is_ambiguous_and_its_newest_version_counts() {
    let reference = "docker.io/library/ubuntu:20.04";
    let mut db = filled();
    add_version(&mut db, 2, 7, "amd64", reference);
    check(&mut db, &[("ubuntu:20.04", Version(7))]);

    add_version(&mut db, 1, 8, "amd64", reference);
    let both = Several(vec!["web".to_owned(), "api".to_owned()]);
    check(&mut db, &[("ubuntu:20.04", both)]);

    forget(&mut db, 2);
    check(&mut db, &[("ubuntu:20.04", Version(8))]);
}

#[test]
fn forgotten_images_answer_only_when_asked_for_and_no_active_one_does() {
    let mut db = filled();
    alias(&mut db, "www", "api");
    forget(&mut db, 2);
    let texts = [
        image_id(2).to_string(),
        version_id(5).to_string(),
        "api".to_owned(),
        "www".to_owned(),
        "ubuntu:20.04".to_owned(),
    ];
    let asked = |text| Query {
        forgotten: Forgotten::Shown,
        ..query(text)
    };
    for text in &texts {
        assert_eq!(look(&mut db, &query(text)), Nothing, "{text:?}");
        assert_eq!(look(&mut db, &asked(text)), Version(5), "{text:?}");
    }

    // An active image takes the name, then the source too.
    db.add_image(3, "api");
    add_version(&mut db, 3, 6, "amd64", "docker.io/library/ubuntu:20.04");
    assert_eq!(look(&mut db, &asked("api")), Version(6));
    assert_eq!(look(&mut db, &asked("ubuntu:20.04")), Version(6));

    // Two forgotten ones of one name.
    forget(&mut db, 3);
    let both = Several(vec!["api".to_owned(), "api".to_owned()]);
    assert_eq!(look(&mut db, &asked("api")), both);
}

#[test]
fn what_a_user_may_not_see_does_not_exist() {
    let reference = "docker.io/library/ubuntu:20.04";
    let mut db = filled();
    let mut public = image(3, "open");
    public.owner_id = 1;
    public.visibility = Visibility::Public;
    db.write(|tx| {
        images::insert(tx, &public)?;
        names::give_to_image(tx, &public.name, public.id, public.created_at)
    })
    .unwrap();
    add_version(&mut db, 3, 6, "amd64", reference);
    alias(&mut db, "www", "web");
    let texts = [
        image_id(1).to_string(),
        version_id(1).to_string(),
        "web".to_owned(),
        "www".to_owned(),
    ];
    let seen_by = |text, uid| Query {
        visible_to: Some(uid),
        ..query(text)
    };
    for text in &texts {
        assert_eq!(look(&mut db, &seen_by(text, 77)), Nothing, "{text:?}");
        assert_ne!(look(&mut db, &seen_by(text, OWNER)), Nothing, "{text:?}");
    }
    // Two images of one source, of which a stranger knows one.
    assert_eq!(look(&mut db, &seen_by("ubuntu:20.04", 77)), Version(6));
    let both = Several(vec!["api".to_owned(), "open".to_owned()]);
    assert_eq!(look(&mut db, &seen_by("ubuntu:20.04", OWNER)), both);
    assert_eq!(look(&mut db, &seen_by("open", 77)), Version(6));
}

/// Gives an image to a user, and to an organisation of which user 5 is a member.
fn give(db: &mut Database, n: u128, owner: u32, visibility: &str) {
    let org = match visibility {
        "organization" => "'00000000-0000-0000-0000-0000000000aa'",
        _ => "NULL",
    };
    db.damage(&format!(
        "UPDATE images SET owner_id = {owner}, visibility = '{visibility}', org_id = {org} \
         WHERE id = '{}';",
        image_id(n)
    ));
}

/// Whoever calls: what is nearest is meant, whichever step finds it.
#[test]
fn what_is_nearer_to_the_caller_is_meant_first() {
    const ROOT: u32 = 0;
    const MEMBER: u32 = 5;
    const STRANGER: u32 = 6;
    const TOOL: &str = "docker.io/acme/tool:latest";
    const MINE: &str = "docker.io/library/mine:latest";
    let reference = "docker.io/acme/app:latest";
    let mut db = Database::new();
    for uid in [ROOT, MEMBER, STRANGER, 7] {
        db.write(|tx| crate::users::see(tx, uid, time(1))).unwrap();
    }
    db.write(|tx| {
        let (id, name) = ("00000000-0000-0000-0000-0000000000aa", "team".parse());
        crate::orgs::insert(tx, id.parse().unwrap(), &name.unwrap(), ROOT, time(1))?;
        let standing = kiln_domain::access::Standing::Member;
        crate::orgs::set_member(tx, id.parse().unwrap(), MEMBER, standing, time(1))?;
        Ok::<_, Box<dyn std::error::Error>>(())
    })
    .unwrap();
    // 1: root's, pulled. 2: the organisation's, pulled. 3: a stranger's, public, called like the
    // reference. 4: a stranger's, public, to which an alias of the stranger's leads.
    let images = [
        (1, "rootapp", ROOT, "private", reference),
        (2, "ours", 7, "organization", reference),
        (3, "docker.io/acme/app", STRANGER, "public", ""),
        (4, "bait", STRANGER, "public", ""),
        (5, "members", MEMBER, "private", TOOL),
    ];
    for (n, name, owner, visibility, source) in images {
        db.add_image(n, name);
        give(&mut db, n, owner, visibility);
        add_version(&mut db, n, n, "amd64", source);
    }
    let alias = |db: &mut Database, text: &str, target: &str, owner_id: u32, image: u128| {
        let new = aliases::NewAlias {
            name: name(text),
            target: target.to_owned(),
            owner_id,
            image_id: image_id(image),
            created_at: time(1),
        };
        db.write(|tx| aliases::insert(tx, &new)).unwrap();
    };
    alias(&mut db, "docker.io/acme/tool", "bait", STRANGER, 4);
    alias(&mut db, "mine", "docker.io/acme/app", MEMBER, 2);
    let cases: &[(&str, &str, u32, bool, Got)] = &[
        // A name of a stranger's against a reference: root's own, the organisation's, nothing.
        ("docker.io/acme/app", reference, ROOT, true, Version(1)),
        ("docker.io/acme/app", reference, MEMBER, false, Version(2)),
        ("docker.io/acme/app", reference, 7, false, Version(2)),
        ("docker.io/acme/app", reference, STRANGER, false, Version(3)),
        ("docker.io/acme/app", reference, 8, false, Version(3)),
        // An alias of a stranger's against a reference.
        ("docker.io/acme/tool", TOOL, MEMBER, false, Version(5)),
        ("docker.io/acme/tool", TOOL, STRANGER, false, Version(4)),
        // An alias means to its maker what its text means to the maker.
        ("mine", MINE, MEMBER, false, Version(2)),
        ("mine", MINE, ROOT, true, Version(1)),
        // What is nobody's nearer is found as ever.
        (
            "bait",
            "docker.io/library/bait:latest",
            ROOT,
            true,
            Version(4),
        ),
        (
            "members",
            "docker.io/library/members:latest",
            ROOT,
            true,
            Version(5),
        ),
    ];
    for (text, canonical, caller, sees_all, want) in cases {
        let query = Query {
            canonical_reference: Some(canonical),
            caller: Some(*caller),
            visible_to: (!sees_all).then_some(*caller),
            ..query(text)
        };
        // Aliases are followed by their text, as a reference too.
        assert_eq!(look(&mut db, &query), *want, "{text} for {caller}");
    }
}

#[test]
fn a_circle_of_aliases_ends() {
    let mut db = filled();
    alias(&mut db, "a", "b");
    alias(&mut db, "b", "a");

    let error = db.read_or(|tx| super::image(tx, &query("a"))).unwrap_err();

    assert!(matches!(error, ResolveError::AliasTooDeep { text } if text == "a"));
}

#[test]
fn a_chain_as_long_as_allowed_is_followed() {
    let mut db = filled();
    alias(&mut db, "alias-1", "web");
    for n in 2..=ALIAS_DEPTH_MAX + 1 {
        alias(&mut db, &format!("alias-{n}"), &format!("alias-{}", n - 1));
    }

    let longest = format!("alias-{ALIAS_DEPTH_MAX}");
    check(&mut db, &[(&longest, Version(2))]);

    let text = format!("alias-{}", ALIAS_DEPTH_MAX + 1);
    let error = db.read_or(|tx| super::image(tx, &query(&text)));
    assert!(matches!(error, Err(ResolveError::AliasTooDeep { .. })));
}

#[test]
fn a_reserved_name_is_no_image() {
    let mut db = filled();
    db.write(|tx| names::reserve(tx, &name("soon"), crate::testing::operation_id(1), time(1)))
        .unwrap();

    check(&mut db, &[("soon", Nothing)]);
}

#[test]
fn inactive_images_come_after_active_and_before_forgotten_ones() {
    let mut db = Database::new();
    for (n, text) in [(1, "web"), (2, "web-recovered"), (3, "web-recovered-2")] {
        db.add_image(n, text);
        add_version(&mut db, n, n, "amd64", &canonical("web:1"));
    }
    for n in [2, 3] {
        let done = db.write(|tx| images::deactivate(tx, image_id(n), time(5)));
        assert!(done.unwrap());
    }
    let shown = |text| Query {
        forgotten: Forgotten::Shown,
        ..query(text)
    };

    check(
        &mut db,
        &[("web-recovered", Nothing), ("web:1", Version(1))],
    );
    assert_eq!(look(&mut db, &shown("web-recovered")), Version(2));
    assert_eq!(look(&mut db, &shown("web:1")), Version(1));
    let id = image_id(3).to_string();
    assert_eq!(look(&mut db, &shown(&id)), Version(3));
    forget(&mut db, 1);
    let both = ["web-recovered", "web-recovered-2"].map(str::to_owned);
    assert_eq!(look(&mut db, &shown("web:1")), Several(both.into()));
    assert_eq!(look(&mut db, &shown("web")), Version(1));
}
