//! Aliases: other names of images, whose they are, and which image each led to.
//!
//! ```text
//! names (alias, target text) ── 1:1 ── aliases (owner, image)
//! ```
//! The text decides what an alias means; the image is what it means where the text leads nowhere any
//! more, because that image was restored under another name. It has no foreign key: when an image is
//! purged, whoever purges it asks what each of its aliases means without it. Whether a chain closes
//! is the caller's to check before [`insert`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use kiln_domain::{ImageId, ImageName, Timestamp};
use rusqlite::Row;

use crate::columns::{Columns, Text};
use crate::images::SHOWN_BY_ORG;
use crate::names::{self, ReserveError};
use crate::page::{Conditions, probe_limit};
use crate::{Page, ReadTransaction, StoreError, WriteTransaction, users};

/// An alias to be inserted.
#[derive(Clone, Debug)]
pub struct NewAlias {
    /// The name.
    pub name: ImageName,
    /// What it leads to, as it was given.
    pub target: String,
    /// Who made it.
    pub owner_id: u32,
    /// The image it leads to now.
    pub image_id: ImageId,
    /// When it is made.
    pub created_at: Timestamp,
}

/// An alias as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasRow {
    /// Its place in the order of all aliases.
    pub seq: i64,
    /// The name.
    pub name: ImageName,
    /// What it leads to: an id, a name, or a reference, with or without a tag.
    pub target: String,
    /// Who made it.
    pub owner_id: u32,
    /// The image it led to when that was last looked at.
    pub image_id: ImageId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Which aliases a page holds; the default is every one.
#[derive(Clone, Debug, Default)]
pub struct AliasFilter {
    /// Only those that this user made, or whose image the user may see; `None` hides nothing.
    pub visible_to: Option<u32>,
}

macro_rules! select {
    () => {
        "SELECT aliases.seq, aliases.name, names.target, aliases.owner_id, aliases.image_id, \
         names.created_at FROM aliases JOIN names ON names.name = aliases.name"
    };
}

/// Makes a free name an alias, and enters its owner.
pub fn insert(tx: &WriteTransaction<'_>, alias: &NewAlias) -> Result<(), ReserveError> {
    users::see(tx, alias.owner_id, alias.created_at)?;
    names::add_alias(tx, &alias.name, &alias.target, alias.created_at)?;
    let sql = "INSERT INTO aliases (name, owner_id, image_id) VALUES (?1, ?2, ?3)";
    let params = (alias.name.as_str(), alias.owner_id, Text(alias.image_id));
    tx.execute("insert an alias", sql, params)?;
    Ok(())
}

/// Returns an alias by its name.
pub fn get(tx: &ReadTransaction<'_>, name: &ImageName) -> Result<Option<AliasRow>, StoreError> {
    let sql = concat!(select!(), " WHERE aliases.name = ?1");
    tx.first("read an alias", sql, [name.as_str()], read)
}

/// Returns the aliases behind `after`, oldest first, at most `limit` of them.
pub fn page(
    tx: &ReadTransaction<'_>,
    after: i64,
    limit: u32,
    filter: &AliasFilter,
) -> Result<Page<AliasRow>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.bind("aliases.seq > :after", ":after", after);
    conditions.set(":limit", probe_limit(limit));
    if let Some(uid) = filter.visible_to {
        conditions.set(":viewer", uid);
    }
    let clauses = conditions.to_sql();
    let visible = filter.visible_to.map_or_else(String::new, |_| visible());
    let sql = format!(
        concat!(select!(), " WHERE {}{} ORDER BY aliases.seq LIMIT :limit"),
        clauses, visible
    );
    let rows = tx.all("list aliases", &sql, &*conditions.params(), read)?;
    Ok(Page::cut(rows, limit, |alias| alias.seq))
}

/// What `:viewer` made, or whose image is shown to `:viewer`.
fn visible() -> String {
    format!(
        " AND (aliases.owner_id = :viewer OR EXISTS (SELECT 1 FROM images \
         WHERE images.id = aliases.image_id AND (images.owner_id = :viewer \
            OR images.visibility = 'public' OR {SHOWN_BY_ORG})))"
    )
}

/// Returns, oldest first, every alias that may lead to an image, and some that do not: those that
/// remember it or an image of the same source, those whose text is its name, and those that lead to
/// one of these. Who wants to know asks [`crate::resolve`] about each.
///
/// None is left out: a text that means the image is an id or a reference, which the image that is
/// remembered has too, or the image's name, or another alias.
pub fn near_image(
    tx: &ReadTransaction<'_>,
    image: ImageId,
    name: &ImageName,
) -> Result<Vec<AliasRow>, StoreError> {
    let sql = concat!(
        select!(),
        " WHERE aliases.image_id = ?1 OR aliases.image_id IN \
           (SELECT other.image_id FROM versions AS own JOIN versions AS other \
              ON other.source_reference = own.source_reference \
            WHERE own.image_id = ?1 AND other.source_reference IS NOT NULL)"
    );
    let mut near = BTreeMap::new();
    let mut next = tx.all("list aliases near an image", sql, [Text(image)], read)?;
    next.extend(leading_to(tx, name)?);
    while let Some(row) = next.pop() {
        if let Entry::Vacant(place) = near.entry(row.seq) {
            next.extend(leading_to(tx, &row.name)?);
            place.insert(row);
        }
    }
    Ok(near.into_values().collect())
}

/// Returns the aliases whose text leads straight to `name`, with or without a tag behind it.
pub fn leading_to(tx: &ReadTransaction<'_>, name: &ImageName) -> Result<Vec<AliasRow>, StoreError> {
    // ';' is the character behind ':'.
    let sql = concat!(
        select!(),
        " WHERE names.target = ?1 OR (names.target > ?1 || ':' AND names.target < ?1 || ';') \
         ORDER BY aliases.seq"
    );
    tx.all("list what leads to a name", sql, [name.as_str()], read)
}

/// Makes an alias lead to another text; tells whether there is such an alias.
pub fn set_target(
    tx: &WriteTransaction<'_>,
    name: &ImageName,
    target: &str,
) -> Result<bool, StoreError> {
    let sql = "UPDATE names SET target = ?2 WHERE name = ?1 AND kind = 'alias'";
    Ok(tx.execute("lead an alias elsewhere", sql, (name.as_str(), target))? == 1)
}

/// Notes the image an alias leads to; tells whether there is such an alias.
pub fn set_image(
    tx: &WriteTransaction<'_>,
    name: &ImageName,
    image: ImageId,
) -> Result<bool, StoreError> {
    let sql = "UPDATE aliases SET image_id = ?2 WHERE name = ?1";
    Ok(tx.execute("note an alias's image", sql, (name.as_str(), Text(image)))? == 1)
}

fn read(row: &Row<'_>) -> Result<AliasRow, StoreError> {
    let columns = Columns::of("aliases", "name", row);
    Ok(AliasRow {
        seq: columns.raw("seq")?,
        name: columns.parsed("name")?,
        target: columns.raw("target")?,
        owner_id: columns.integer("owner_id")?,
        image_id: columns.parsed("image_id")?,
        created_at: columns.time("created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Database, OWNER, image_id, name, time, version};
    use crate::{resolve, versions};

    fn alias(text: &str, target: &str, image: u128) -> NewAlias {
        NewAlias {
            name: name(text),
            target: target.to_owned(),
            owner_id: OWNER,
            image_id: image_id(image),
            created_at: time(9),
        }
    }

    fn found(db: &mut Database, text: &str) -> Option<ImageId> {
        let query = resolve::Query {
            text,
            canonical_reference: None,
            architecture: "amd64",
            caller: None,
            visible_to: None,
            forgotten: crate::images::Forgotten::Hidden,
        };
        let found = db.read_or(|tx| resolve::image(tx, &query));
        found.ok().map(|found| found.image_id)
    }

    fn names_of(rows: Vec<AliasRow>) -> Vec<String> {
        rows.into_iter().map(|row| row.name.to_string()).collect()
    }

    fn filled() -> Database {
        let mut db = Database::new();
        for (n, text) in [(1, "web"), (2, "other")] {
            db.add_image(n, text);
            db.write(|tx| versions::insert(tx, &version(n, n, "amd64")))
                .unwrap();
        }
        for (text, target, image) in [
            ("www", "web", 1),
            ("pinned", "web:v1.1.0", 1),
            ("else", "other", 2),
            ("web-2", "www", 1),
        ] {
            db.write(|tx| insert(tx, &alias(text, target, image)))
                .unwrap();
        }
        db
    }

    #[test]
    fn aliases_are_listed_by_image_and_by_what_they_name() {
        let mut db = filled();

        let near_web = db.read(|tx| near_image(tx, image_id(1), &name("web")));
        let to_web = db.read(|tx| leading_to(tx, &name("web"))).unwrap();
        let first = db.read(|tx| page(tx, 0, 3, &AliasFilter::default()));
        let first = first.unwrap();
        let rest = db.read(|tx| page(tx, first.next_after.unwrap(), 3, &AliasFilter::default()));

        assert_eq!(names_of(near_web.unwrap()), ["www", "pinned", "web-2"]);
        // Neither what only begins so nor what leads there through another.
        assert_eq!(names_of(to_web), ["www", "pinned"]);
        assert_eq!(names_of(first.rows), ["www", "pinned", "else"]);
        assert_eq!(names_of(rest.unwrap().rows), ["web-2"]);
    }

    #[test]
    fn what_may_lead_to_an_image_is_found_by_name_by_source_and_through_others() {
        let mut db = filled();
        db.add_image(3, "apart");
        let from = |image: u128, n: u128| {
            let mut new = version(image, n, "amd64");
            new.source_reference = Some("docker.io/library/app:1".to_owned());
            new
        };
        for new in [from(2, 20), from(3, 30)] {
            db.write(|tx| versions::insert(tx, &new)).unwrap();
        }
        // Made for an image that had the name `apart` before.
        for (text, target, image) in [("old", "apart", 9), ("older", "old:latest", 9)] {
            db.write(|tx| insert(tx, &alias(text, target, image)))
                .unwrap();
        }

        let near = db.read(|tx| near_image(tx, image_id(3), &name("apart")));

        // `else` leads to an image of the same source, and might mean that source.
        assert_eq!(names_of(near.unwrap()), ["else", "old", "older"]);
    }

    #[test]
    fn who_sees_neither_alias_nor_image_is_shown_nothing() {
        let mut db = filled();
        let shown = |db: &mut Database, uid| {
            let filter = AliasFilter {
                visible_to: Some(uid),
            };
            names_of(db.read(|tx| page(tx, 0, 9, &filter)).unwrap().rows)
        };

        assert_eq!(shown(&mut db, OWNER).len(), 4);
        assert_eq!(shown(&mut db, OWNER + 1), Vec::<String>::new());
        db.damage("UPDATE images SET visibility = 'public' WHERE name = 'other'");
        assert_eq!(shown(&mut db, OWNER + 1), ["else"]);
    }

    #[test]
    fn an_alias_goes_with_its_name_and_a_taken_one_is_refused() {
        let mut db = filled();
        let again = db.write(|tx| insert(tx, &alias("www", "other", 2)));
        assert!(matches!(again, Err(ReserveError::Taken(_))), "{again:?}");

        assert!(
            db.write(|tx| names::remove_alias(tx, &name("www")))
                .unwrap()
        );

        assert_eq!(db.read(|tx| get(tx, &name("www"))).unwrap(), None);
        db.write(|tx| insert(tx, &alias("www", "other", 2)))
            .unwrap();
        let row = db.read(|tx| get(tx, &name("www"))).unwrap().unwrap();
        assert_eq!(row.image_id, image_id(2));
    }

    #[test]
    fn an_alias_follows_its_image_where_its_text_leads_nowhere() {
        let mut db = filled();
        assert_eq!(found(&mut db, "web-2"), Some(image_id(1)));

        db.damage(
            "UPDATE names SET name = 'web-new' WHERE name = 'web';
             UPDATE images SET name = 'web-new' WHERE name = 'web'",
        );
        assert_eq!(found(&mut db, "www"), Some(image_id(1)));
        assert_eq!(found(&mut db, "web-2"), Some(image_id(1)));
        assert_eq!(found(&mut db, "pinned"), Some(image_id(1)));

        // The text counts first, as soon as it leads somewhere.
        db.add_image(3, "web");
        db.write(|tx| versions::insert(tx, &version(3, 3, "amd64")))
            .unwrap();
        assert_eq!(found(&mut db, "www"), Some(image_id(3)));
    }

    #[test]
    fn an_alias_is_led_elsewhere() {
        let mut db = filled();

        assert!(
            db.write(|tx| set_target(tx, &name("www"), "other"))
                .unwrap()
        );
        assert!(
            db.write(|tx| set_image(tx, &name("www"), image_id(2)))
                .unwrap()
        );
        assert!(!db.write(|tx| set_target(tx, &name("web"), "x")).unwrap());
        assert!(
            !db.write(|tx| set_image(tx, &name("web"), image_id(2)))
                .unwrap()
        );

        assert_eq!(found(&mut db, "www"), Some(image_id(2)));
        assert_eq!(found(&mut db, "web-2"), Some(image_id(2)));
    }
}
