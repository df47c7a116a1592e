//! Work to be done at a time, one job per kind and key.
//!
//! The clock that asks what is due, and the work itself, are not here.

use kiln_domain::Timestamp;
use rusqlite::Row;
use serde_json::Value;

use crate::columns::{Columns, Micros, Text};
use crate::{ReadTransaction, StoreError, WriteTransaction};

/// A job to be put.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    /// What work it is.
    pub kind: &'a str,
    /// What the work is about; a second job of the same kind and key replaces the first.
    pub key: &'a str,
    /// When to do it.
    pub due_at: Timestamp,
    /// What the work needs to know.
    pub payload: Value,
}

/// A job as the store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    /// Its id, never used twice.
    pub id: i64,
    /// What work it is.
    pub kind: String,
    /// What the work is about.
    pub key: String,
    /// When to do it.
    pub due_at: Timestamp,
    /// What the work needs to know.
    pub payload: Value,
    /// How often it was tried in vain.
    pub attempts: u32,
}

/// Puts a job, replacing time and payload of one with the same kind and key, and forgetting its
/// attempts. Returns its id.
pub fn put(tx: &WriteTransaction<'_>, job: &NewJob<'_>) -> Result<i64, StoreError> {
    let sql = "INSERT INTO jobs (kind, key, due_at, payload) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (kind, key) DO UPDATE \
               SET due_at = excluded.due_at, payload = excluded.payload, attempts = 0 \
               RETURNING id";
    let params = (job.kind, job.key, Micros(job.due_at), Text(&job.payload));
    let ids = tx.execute_returning("put a job", sql, params, |row| {
        Columns::of("jobs", "id", row).raw("id")
    })?;
    // RETURNING gives a row for an insert as for an update.
    let missing = || StoreError::row_invalid("jobs", job.key.to_owned(), "id", "no row came back");
    ids.into_iter().next().ok_or_else(missing)
}

/// Returns the job of a kind and key, due or not.
pub fn get(tx: &ReadTransaction<'_>, kind: &str, key: &str) -> Result<Option<JobRow>, StoreError> {
    let sql = "SELECT id, kind, key, due_at, payload, attempts FROM jobs \
               WHERE kind = ?1 AND key = ?2";
    tx.first("read a job", sql, (kind, key), read)
}

/// Returns the jobs due by a time, the most overdue first, at most `limit` of them.
pub fn due(
    tx: &ReadTransaction<'_>,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<JobRow>, StoreError> {
    let sql = "SELECT id, kind, key, due_at, payload, attempts FROM jobs \
               WHERE due_at <= ?1 ORDER BY due_at, id LIMIT ?2";
    tx.all("list due jobs", sql, (Micros(now), limit), read)
}

/// Returns the jobs of one kind due by a time, the most overdue first, at most `limit` of them: a
/// backlog of another kind is not in their way.
pub fn due_of(
    tx: &ReadTransaction<'_>,
    kind: &str,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<JobRow>, StoreError> {
    let sql = "SELECT id, kind, key, due_at, payload, attempts FROM jobs \
               WHERE kind = ?1 AND due_at <= ?2 ORDER BY due_at, id LIMIT ?3";
    tx.all(
        "list due jobs of a kind",
        sql,
        (kind, Micros(now), limit),
        read,
    )
}

/// Counts the jobs of one kind, due or not.
pub fn count_of(tx: &ReadTransaction<'_>, kind: &str) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM jobs WHERE kind = ?1";
    let count: Option<i64> = tx.value("count jobs of a kind", sql, [kind])?;
    Ok(count.and_then(|count| count.try_into().ok()).unwrap_or(0))
}

/// Returns when the next job is due; `None` when there is none.
pub fn next_due_at(tx: &ReadTransaction<'_>) -> Result<Option<Timestamp>, StoreError> {
    let sql = "SELECT id, due_at FROM jobs ORDER BY due_at LIMIT 1";
    tx.first("look for the next job", sql, [], |row| {
        Columns::of("jobs", "id", row).time("due_at")
    })
}

/// Counts a failed attempt and sets when to try again; tells whether the job still exists.
pub fn try_again_at(
    tx: &WriteTransaction<'_>,
    id: i64,
    due_at: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "UPDATE jobs SET attempts = attempts + 1, due_at = ?2 WHERE id = ?1";
    Ok(tx.execute("put a job off", sql, (id, Micros(due_at)))? == 1)
}

/// Removes a job that is done; tells whether it still existed.
pub fn delete(tx: &WriteTransaction<'_>, id: i64) -> Result<bool, StoreError> {
    Ok(tx.execute("remove a job", "DELETE FROM jobs WHERE id = ?1", [id])? == 1)
}

fn read(row: &Row<'_>) -> Result<JobRow, StoreError> {
    let columns = Columns::of("jobs", "id", row);
    Ok(JobRow {
        id: columns.raw("id")?,
        kind: columns.raw("kind")?,
        key: columns.raw("key")?,
        due_at: columns.time("due_at")?,
        payload: columns.json("payload")?,
        attempts: columns.integer("attempts")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Database, time};

    fn job(key: &str, due_at: i64) -> NewJob<'_> {
        NewJob {
            kind: "purge",
            key,
            due_at: time(due_at),
            payload: json!({"at": due_at}),
        }
    }

    fn due_keys(db: &mut Database, now: i64) -> String {
        let rows = db.read(|tx| due(tx, time(now), 10)).unwrap();
        rows.into_iter().map(|job| job.key).collect()
    }

    #[test]
    fn what_is_due_comes_most_overdue_first() {
        let mut db = Database::new();
        for (key, at) in [("a", 30), ("b", 10), ("c", 20)] {
            db.write(|tx| put(tx, &job(key, at))).unwrap();
        }
        for (now, want) in [(9, ""), (10, "b"), (29, "bc"), (30, "bca")] {
            assert_eq!(due_keys(&mut db, now), want, "at {now}");
        }
        assert_eq!(db.read(next_due_at).unwrap(), Some(time(10)));
        let first = db.read(|tx| due(tx, time(99), 1)).unwrap();
        assert_eq!(first.len(), 1);
    }

    #[test]
    fn one_kind_is_not_held_up_by_another() {
        let mut db = Database::new();
        for (key, at) in [("a", 10), ("b", 20), ("c", 30)] {
            db.write(|tx| put(tx, &job(key, at))).unwrap();
        }
        let other = NewJob {
            kind: "webhook",
            ..job("d", 25)
        };
        db.write(|tx| put(tx, &other)).unwrap();

        let due = db.read(|tx| due_of(tx, "webhook", time(99), 1)).unwrap();
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].key, "d");
        let early = db.read(|tx| due_of(tx, "webhook", time(24), 9)).unwrap();
        assert_eq!(early, []);
        assert_eq!(db.read(|tx| count_of(tx, "purge")).unwrap(), 3);
    }

    #[test]
    fn putting_again_replaces_and_forgets_attempts() {
        let mut db = Database::new();
        let id = db.write(|tx| put(tx, &job("a", 10))).unwrap();
        assert!(db.write(|tx| try_again_at(tx, id, time(15))).unwrap());
        let tried = db.read(|tx| due(tx, time(15), 1)).unwrap();
        assert_eq!((tried[0].attempts, tried[0].due_at), (1, time(15)));

        let again = db.write(|tx| put(tx, &job("a", 20))).unwrap();

        let want = JobRow {
            id,
            kind: "purge".to_owned(),
            key: "a".to_owned(),
            due_at: time(20),
            payload: json!({"at": 20}),
            attempts: 0,
        };
        assert_eq!(again, id);
        assert_eq!(
            db.read(|tx| get(tx, "purge", "a")).unwrap().as_ref(),
            Some(&want)
        );
        assert_eq!(db.read(|tx| get(tx, "other", "a")).unwrap(), None);
        assert_eq!(db.read(|tx| due(tx, time(99), 9)).unwrap(), [want]);
    }

    #[test]
    fn a_job_is_removed_once() {
        let mut db = Database::new();
        let id = db.write(|tx| put(tx, &job("a", 10))).unwrap();

        assert!(db.write(|tx| delete(tx, id)).unwrap());
        assert!(!db.write(|tx| delete(tx, id)).unwrap());
        assert!(!db.write(|tx| try_again_at(tx, id, time(1))).unwrap());
        assert_eq!(db.read(next_due_at).unwrap(), None);
    }
}
