//! Changes to what is said of an image. Each touches its columns alone: who makes several in one
//! transaction ends with [`touch`](super::touch), once.

use std::collections::BTreeSet;

use kiln_domain::{ImageId, ImageName, Timestamp};
use serde_json::Value;

use crate::aliases::{self, NewAlias};
use crate::columns::{Text, Unsigned};
use crate::names::{self, NameHolder, ReserveError};
use crate::{ReadTransaction, StoreError, WriteTransaction};

/// Gives an image that has a name another one, which must be free or an alias of this image. The
/// old name stays as an alias of the image, made by `owner_id`, so whoever used it goes on.
pub fn rename(
    tx: &WriteTransaction<'_>,
    (id, owner_id): (ImageId, u32),
    (old, new): (&ImageName, &ImageName),
    at: Timestamp,
) -> Result<(), ReserveError> {
    const STEP: &str = "rename an image";
    if leads_to(tx, new, id, old)? {
        names::remove_alias(tx, new)?;
    }
    tx.execute(STEP, "DELETE FROM names WHERE image_id = ?1", [Text(id)])?;
    names::give_to_image(tx, new, id, at)?;
    let sql = "UPDATE images SET name = ?2 WHERE id = ?1";
    tx.execute(STEP, sql, (Text(id), new.as_str()))?;
    // Nobody found the image by such a name: the text meant an id.
    if old.refuse_id().is_err() {
        return Ok(());
    }
    let alias = NewAlias {
        name: old.clone(),
        target: id.to_string(),
        owner_id,
        image_id: id,
        created_at: at,
    };
    aliases::insert(tx, &alias)
}

/// Tells whether a name is an alias that leads straight to an image.
fn leads_to(
    tx: &ReadTransaction<'_>,
    name: &ImageName,
    id: ImageId,
    own: &ImageName,
) -> Result<bool, StoreError> {
    Ok(match names::holder_of(tx, name)? {
        Some(NameHolder::Alias { target }) => target == id.to_string() || target == own.as_str(),
        _ => false,
    })
}

/// Sets a label, whatever it was.
pub fn set_label(
    tx: &WriteTransaction<'_>,
    id: ImageId,
    key: &str,
    value: &str,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO image_labels (image_id, key, value) VALUES (?1, ?2, ?3) \
               ON CONFLICT (image_id, key) DO UPDATE SET value = excluded.value";
    tx.execute("set a label", sql, (Text(id), key, value))?;
    Ok(())
}

/// Removes a label and tells whether there was one.
pub fn unset_label(tx: &WriteTransaction<'_>, id: ImageId, key: &str) -> Result<bool, StoreError> {
    let sql = "DELETE FROM image_labels WHERE image_id = ?1 AND key = ?2";
    Ok(tx.execute("remove a label", sql, (Text(id), key))? == 1)
}

/// Puts these keywords in the place of what there were.
pub fn set_keywords(
    tx: &WriteTransaction<'_>,
    id: ImageId,
    keywords: &BTreeSet<String>,
) -> Result<(), StoreError> {
    const STEP: &str = "set keywords";
    let sql = "DELETE FROM image_keywords WHERE image_id = ?1";
    tx.execute(STEP, sql, [Text(id)])?;
    for keyword in keywords {
        let sql = "INSERT INTO image_keywords (image_id, keyword) VALUES (?1, ?2)";
        tx.execute(STEP, sql, (Text(id), keyword))?;
    }
    Ok(())
}

/// Sets the custom limits, or takes them away.
pub fn set_limits(
    tx: &WriteTransaction<'_>,
    id: ImageId,
    limits: Option<&Value>,
) -> Result<(), StoreError> {
    let sql = "UPDATE images SET limits = ?2 WHERE id = ?1";
    tx.execute("set limits", sql, (Text(id), limits.map(Text)))?;
    Ok(())
}

/// Sets the description, or takes it away.
pub fn set_description(
    tx: &WriteTransaction<'_>,
    id: ImageId,
    description: Option<&str>,
) -> Result<(), StoreError> {
    let sql = "UPDATE images SET description = ?2 WHERE id = ?1";
    tx.execute("set a description", sql, (Text(id), description))?;
    Ok(())
}

/// Sets the declared size, or takes it away.
pub fn set_declared_size(
    tx: &WriteTransaction<'_>,
    id: ImageId,
    size_bytes: Option<u64>,
) -> Result<(), StoreError> {
    let sql = "UPDATE images SET declared_size_bytes = ?2 WHERE id = ?1";
    tx.execute("set a size", sql, (Text(id), size_bytes.map(Unsigned)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::images::{self, ImageFilter, ImageRow};
    use crate::testing::{Database, OWNER, image_id, name, time};

    fn row(db: &mut Database, n: u128) -> ImageRow {
        db.read(|tx| images::get(tx, image_id(n))).unwrap().unwrap()
    }

    fn rename_to(db: &mut Database, n: u128, to: &str) -> Result<(), ReserveError> {
        let from = row(db, n).name;
        let to = name(to);
        db.write(|tx| rename(tx, (image_id(n), OWNER), (&from, &to), time(900)))
    }

    fn holder(db: &mut Database, text: &str) -> Option<NameHolder> {
        db.read(|tx| names::holder_of(tx, &name(text))).unwrap()
    }

    #[test]
    fn a_renamed_image_leaves_its_name_as_an_alias_and_can_go_back() {
        let mut db = Database::new();
        db.add_image(1, "old");
        let target = image_id(1).to_string();

        rename_to(&mut db, 1, "new").unwrap();
        assert_eq!(row(&mut db, 1).name, name("new"));
        assert_eq!(
            holder(&mut db, "old"),
            Some(NameHolder::Alias {
                target: target.clone()
            })
        );

        rename_to(&mut db, 1, "old").unwrap();
        assert_eq!(row(&mut db, 1).name, name("old"));
        assert_eq!(holder(&mut db, "new"), Some(NameHolder::Alias { target }));
    }

    #[test]
    fn a_used_name_is_not_taken_and_nothing_changes() {
        let mut db = Database::new();
        db.add_image(1, "one");
        db.add_image(2, "two");
        db.write(|tx| names::add_alias(tx, &name("second"), "two", time(1)))
            .unwrap();

        for taken in ["two", "second"] {
            let refused = rename_to(&mut db, 1, taken).unwrap_err();
            assert!(matches!(refused, ReserveError::Taken(_)), "{refused}");
            assert_eq!(row(&mut db, 1).name, name("one"));
            let one = holder(&mut db, "one");
            assert!(matches!(one, Some(NameHolder::Image { .. })), "{one:?}");
        }
    }

    #[test]
    fn what_is_said_of_an_image_is_set_and_taken_away() {
        let mut db = Database::new();
        db.add_image(1, "one");
        let id = image_id(1);
        let words: BTreeSet<String> = ["gpu".to_owned(), "ml".to_owned()].into();
        let limits = json!({"cpu": 4});
        db.write(|tx| {
            set_label(tx, id, "version", "1.0")?;
            set_label(tx, id, "version", "2.0")?;
            set_keywords(tx, id, &["old".to_owned()].into())?;
            set_keywords(tx, id, &words)?;
            set_limits(tx, id, Some(&limits))?;
            set_description(tx, id, Some("a \"thing\""))?;
            set_declared_size(tx, id, Some(1_024_000_000))
        })
        .unwrap();

        let set = row(&mut db, 1);
        assert_eq!(set.labels.get("version").map(String::as_str), Some("2.0"));
        assert_eq!(set.keywords, words);
        assert_eq!(set.limits, Some(limits));
        assert_eq!(set.description.as_deref(), Some("a \"thing\""));
        assert_eq!(set.declared_size_bytes, Some(1_024_000_000));

        let gone = db
            .write(|tx| {
                set_limits(tx, id, None)?;
                set_description(tx, id, None)?;
                set_declared_size(tx, id, None)?;
                set_keywords(tx, id, &BTreeSet::new())?;
                Ok::<_, StoreError>((
                    unset_label(tx, id, "version")?,
                    unset_label(tx, id, "version")?,
                ))
            })
            .unwrap();
        assert_eq!(gone, (true, false));
        let cleared = row(&mut db, 1);
        assert_eq!((cleared.limits, cleared.description), (None, None));
        assert_eq!(cleared.declared_size_bytes, None);
        assert!(cleared.labels.is_empty() && cleared.keywords.is_empty());
    }

    #[test]
    fn lists_find_images_by_all_of_their_words() {
        let mut db = Database::new();
        for n in 1..=4 {
            db.add_image(n, &format!("image-{n}"));
        }
        let label = |db: &mut Database, n, key: &str, value: &str| {
            db.write(|tx| set_label(tx, image_id(n), key, value))
                .unwrap();
        };
        label(&mut db, 1, "tier", "gold");
        label(&mut db, 1, "zone", "a");
        label(&mut db, 2, "tier", "gold");
        label(&mut db, 3, "tier", "' OR 1=1 --");
        for (n, words) in [(1, ["gpu", "ml"]), (4, ["gpu", "web"])] {
            let words = words.map(str::to_owned).into();
            db.write(|tx| set_keywords(tx, image_id(n), &words))
                .unwrap();
        }
        let all = ImageFilter::default;
        let labels = |list: &[(&str, &str)]| {
            let pairs = list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            pairs.collect::<BTreeSet<_>>()
        };
        let texts = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let cases: Vec<(ImageFilter, Vec<i64>)> = vec![
            (
                ImageFilter {
                    labels: labels(&[("tier", "gold")]),
                    ..all()
                },
                vec![1, 2],
            ),
            (
                ImageFilter {
                    labels: labels(&[("tier", "gold"), ("zone", "a")]),
                    ..all()
                },
                vec![1],
            ),
            (
                ImageFilter {
                    labels: labels(&[("tier", "gold"), ("tier", "tin")]),
                    ..all()
                },
                vec![],
            ),
            (
                ImageFilter {
                    labels: labels(&[("tier", "' OR 1=1 --")]),
                    ..all()
                },
                vec![3],
            ),
            (
                ImageFilter {
                    label_keys: texts(&["tier"]),
                    ..all()
                },
                vec![1, 2, 3],
            ),
            (
                ImageFilter {
                    label_keys: texts(&["tier", "zone"]),
                    ..all()
                },
                vec![1],
            ),
            (
                ImageFilter {
                    keywords: texts(&["gpu"]),
                    ..all()
                },
                vec![1, 4],
            ),
            (
                ImageFilter {
                    keywords: texts(&["gpu", "ml"]),
                    ..all()
                },
                vec![1],
            ),
            (
                ImageFilter {
                    keywords: texts(&["gpu"]),
                    label_keys: texts(&["zone"]),
                    visible_to: Some(crate::testing::OWNER),
                    ..all()
                },
                vec![1],
            ),
        ];
        for (filter, want) in cases {
            let page = db.read(|tx| images::page(tx, 0, 10, &filter)).unwrap();
            let seqs: Vec<i64> = page.rows.iter().map(|image| image.seq).collect();
            assert_eq!(seqs, want, "{filter:?}");
        }
    }
}
