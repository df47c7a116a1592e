//! What happened, in order: written in the transaction of the change itself, never changed.
//!
//! Telling subscribers is not here; they follow the sequence numbers.

use std::fmt;
use std::str::FromStr;

use kiln_domain::Timestamp;
use kiln_domain::access::Actor;
use rusqlite::Row;
use serde_json::Value;

use crate::columns::{Columns, Micros, Text};
use crate::page::{Conditions, probe_limit};
use crate::words::UnknownWord;
use crate::{Object, Page, ReadTransaction, StoreError, WriteTransaction};

/// Who made something happen: `unix:<uid>`, or `daemon` for what it does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventActor {
    /// A user of this host.
    Unix(u32),
    /// The daemon itself: its clock, its start.
    Daemon,
}

impl From<&Actor> for EventActor {
    fn from(actor: &Actor) -> Self {
        Self::Unix(actor.uid)
    }
}

impl fmt::Display for EventActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(uid) => write!(f, "unix:{uid}"),
            Self::Daemon => f.write_str("daemon"),
        }
    }
}

impl FromStr for EventActor {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uid = || text.strip_prefix("unix:")?.parse().ok();
        match text {
            "daemon" => Ok(Self::Daemon),
            _ => uid().map(Self::Unix).ok_or_else(|| UnknownWord {
                noun: "an actor",
                text: text.chars().take(80).collect(),
            }),
        }
    }
}

/// An event to be written.
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    /// When it happened.
    pub at: Timestamp,
    /// Who made it happen.
    pub actor: EventActor,
    /// What happened: the noun, a dot, and the verb's past, such as `image.created`.
    pub kind: &'a str,
    /// What it happened to.
    pub object: Object,
    /// What else a reader needs; never a secret.
    pub data: Value,
}

/// An event as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// Its place in the order of all events.
    pub seq: i64,
    /// When it happened.
    pub at: Timestamp,
    /// Who made it happen.
    pub actor: EventActor,
    /// What happened.
    pub kind: String,
    /// What it happened to.
    pub object: Object,
    /// What else was written.
    pub data: Value,
}

/// Which events a page holds; an empty filter is all of them.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only kinds that begin so: `image.` is every event of images.
    pub kind_prefix: Option<String>,
    /// Only what happened to this object.
    pub object: Option<Object>,
    /// Only what they made happen.
    pub actor: Option<EventActor>,
}

/// Writes an event and returns its place in the order.
pub fn append(tx: &WriteTransaction<'_>, event: &NewEvent<'_>) -> Result<i64, StoreError> {
    let sql = "INSERT INTO events (at, actor, kind, object_kind, object_id, data) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let params = (
        Micros(event.at),
        Text(event.actor),
        event.kind,
        event.object.kind.as_str(),
        &event.object.id,
        Text(&event.data),
    );
    tx.execute("write an event", sql, params)?;
    tx.tell_of(&event.object);
    Ok(tx.last_seq())
}

/// Returns the events behind `after`, oldest first, at most `limit` of them.
pub fn page(
    tx: &ReadTransaction<'_>,
    after: i64,
    limit: u32,
    filter: &EventFilter,
) -> Result<Page<EventRow>, StoreError> {
    let conditions = conditions(after, limit, filter);
    let sql = format!(
        "SELECT seq, at, actor, kind, object_kind, object_id, data FROM events \
         WHERE {} ORDER BY seq LIMIT :limit",
        conditions.to_sql()
    );
    let rows = tx.all("read events", &sql, &*conditions.params(), read)?;
    Ok(Page::cut(rows, limit, |event| event.seq))
}

/// Returns the place of the newest event; 0 when there is none.
pub fn newest_seq(tx: &ReadTransaction<'_>) -> Result<i64, StoreError> {
    let newest = tx.value("read the newest event", "SELECT max(seq) FROM events", [])?;
    Ok(newest.flatten().unwrap_or(0))
}

/// Returns the kind of the newest event of an object; `None` when there is none.
pub fn last_kind(tx: &ReadTransaction<'_>, object: &Object) -> Result<Option<String>, StoreError> {
    let sql = "SELECT kind FROM events WHERE object_kind = ?1 AND object_id = ?2 \
               ORDER BY seq DESC LIMIT 1";
    let params = (object.kind.as_str(), &object.id);
    tx.value("read an object's newest event", sql, params)
}

/// Returns what the newest events of one kind say of an object, newest first, at most `limit`.
pub fn newest_of_kind(
    tx: &ReadTransaction<'_>,
    object: &Object,
    kind: &str,
    limit: u32,
) -> Result<Vec<EventRow>, StoreError> {
    let sql = "SELECT seq, at, actor, kind, object_kind, object_id, data FROM events \
               WHERE object_kind = ?1 AND object_id = ?2 AND kind = ?3 ORDER BY seq DESC LIMIT ?4";
    let params = (object.kind.as_str(), &object.id, kind, limit);
    tx.all("read an object's newest events", sql, params, read)
}

/// Counts the events of one kind behind `after`.
pub fn count_of_kind(tx: &ReadTransaction<'_>, after: i64, kind: &str) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM events WHERE seq > ?1 AND kind = ?2";
    let count: Option<u32> = tx.value("count events", sql, (after, kind))?;
    Ok(count.unwrap_or(0).into())
}

fn conditions(after: i64, limit: u32, filter: &EventFilter) -> Conditions {
    let mut conditions = Conditions::default();
    conditions.bind("seq > :after", ":after", after);
    conditions.set(":limit", probe_limit(limit));
    if let Some(prefix) = &filter.kind_prefix {
        let clause = "substr(kind, 1, length(:prefix)) = :prefix";
        conditions.bind(clause, ":prefix", prefix.clone());
    }
    if let Some(object) = &filter.object {
        let kind = object.kind.as_str().to_owned();
        conditions.bind("object_kind = :object_kind", ":object_kind", kind);
        conditions.bind("object_id = :object_id", ":object_id", object.id.clone());
    }
    if let Some(actor) = filter.actor {
        conditions.bind("actor = :actor", ":actor", actor.to_string());
    }
    conditions
}

fn read(row: &Row<'_>) -> Result<EventRow, StoreError> {
    let columns = Columns::of("events", "seq", row);
    Ok(EventRow {
        seq: columns.raw("seq")?,
        at: columns.time("at")?,
        actor: columns.parsed("actor")?,
        kind: columns.raw("kind")?,
        object: Object {
            kind: columns.parsed("object_kind")?,
            id: columns.raw("object_id")?,
        },
        data: columns.json("data")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ObjectKind;
    use crate::testing::{Database, image_id, time};

    fn event(kind: &str, object: Object, at: i64) -> NewEvent<'_> {
        NewEvent {
            at: time(at),
            actor: EventActor::Unix(1000),
            kind,
            object,
            data: json!({"n": at}),
        }
    }

    fn filled() -> Database {
        let mut db = Database::new();
        db.write(|tx| {
            append(tx, &event("image.created", Object::image(image_id(1)), 1))?;
            append(tx, &event("image.created", Object::image(image_id(2)), 2))?;
            append(
                tx,
                &event("image_x.y", Object::new(ObjectKind::Daemon, "d"), 3),
            )?;
            append(tx, &event("image.forgotten", Object::image(image_id(1)), 4))
        })
        .unwrap();
        db
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let mut db = filled();

        let page = db
            .read(|tx| page(tx, 0, 1, &EventFilter::default()))
            .unwrap();

        let want = EventRow {
            seq: 1,
            at: time(1),
            actor: EventActor::Unix(1000),
            kind: "image.created".to_owned(),
            object: Object::image(image_id(1)),
            data: json!({"n": 1}),
        };
        assert_eq!(page.rows, vec![want]);
        assert_eq!(page.next_after, Some(1));
    }

    #[test]
    fn the_newest_of_a_kind_come_first() {
        let mut db = filled();
        let object = Object::image(image_id(1));
        db.write(|tx| append(tx, &event("image.created", object.clone(), 5)))
            .unwrap();

        let seqs = |db: &mut Database, limit| -> Vec<i64> {
            let found = db.read(|tx| newest_of_kind(tx, &object, "image.created", limit));
            found.unwrap().iter().map(|event| event.seq).collect()
        };

        assert_eq!(seqs(&mut db, 9), [5, 1]);
        assert_eq!(seqs(&mut db, 1), [5]);
    }

    #[test]
    fn filters_combine() {
        let mut db = filled();
        let all = EventFilter::default;
        let cases = [
            (all(), vec![1, 2, 3, 4]),
            (
                EventFilter {
                    kind_prefix: Some("image.".to_owned()),
                    ..all()
                },
                vec![1, 2, 4],
            ),
            (
                EventFilter {
                    object: Some(Object::image(image_id(1))),
                    ..all()
                },
                vec![1, 4],
            ),
            (
                EventFilter {
                    kind_prefix: Some("image.f".to_owned()),
                    object: Some(Object::image(image_id(1))),
                    ..all()
                },
                vec![4],
            ),
            (
                EventFilter {
                    kind_prefix: Some("%".to_owned()),
                    ..all()
                },
                vec![],
            ),
        ];
        for (filter, want) in cases {
            let page = db.read(|tx| page(tx, 0, 10, &filter)).unwrap();
            let seqs: Vec<_> = page.rows.iter().map(|event| event.seq).collect();

            assert_eq!(seqs, want, "{filter:?}");
            assert_eq!(page.next_after, None);
        }
    }

    #[test]
    fn a_page_of_one_actor_is_full_whatever_others_did() {
        let mut db = Database::new();
        db.write(|tx| {
            for n in 1..=20_u32 {
                let actor = match n % 5 {
                    0 => EventActor::Unix(7),
                    1 => EventActor::Daemon,
                    _ => EventActor::Unix(70),
                };
                let object = Object::image(image_id(n.into()));
                let event = event("image.created", object, i64::from(n));
                append(tx, &NewEvent { actor, ..event })?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
        let own = EventFilter {
            actor: Some(EventActor::Unix(7)),
            ..EventFilter::default()
        };
        let mut seen: Vec<Vec<i64>> = Vec::new();
        let mut after = Some(0);
        while let Some(from) = after {
            let page = db.read(|tx| page(tx, from, 2, &own)).unwrap();
            seen.push(page.rows.iter().map(|event| event.seq).collect());
            after = page.next_after;
        }

        assert_eq!(seen, [vec![5, 10], vec![15, 20]]);
    }

    #[test]
    fn an_objects_last_word_and_the_events_of_a_kind_are_found() {
        let mut db = filled();

        for (object, want) in [
            (1, Some("image.forgotten")),
            (2, Some("image.created")),
            (3, None),
        ] {
            let object = Object::image(image_id(object));
            let last = db.read(|tx| last_kind(tx, &object)).unwrap();
            assert_eq!(last.as_deref(), want);
        }
        for (after, want) in [(0, 2), (1, 1), (2, 0)] {
            let count = db
                .read(|tx| count_of_kind(tx, after, "image.created"))
                .unwrap();
            assert_eq!(count, want, "behind {after}");
        }
    }

    #[test]
    fn the_newest_is_zero_until_something_happens() {
        assert_eq!(Database::new().read(newest_seq).unwrap(), 0);
        assert_eq!(filled().read(newest_seq).unwrap(), 4);
    }

    #[test]
    fn actors_have_one_text_form() {
        for actor in [
            EventActor::Daemon,
            EventActor::Unix(0),
            EventActor::Unix(u32::MAX),
        ] {
            assert_eq!(actor.to_string().parse(), Ok(actor));
        }
        "unix:-1".parse::<EventActor>().unwrap_err();
        "root".parse::<EventActor>().unwrap_err();
    }
}
