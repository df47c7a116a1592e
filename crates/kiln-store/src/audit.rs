//! What callers did and were refused, line by line; a line outlives what it tells of.
//!
//! Which calls get a line is decided at the door. Unlike [`crate::events`], which tell how things
//! came to be as they are, lines tell of calls, of those that changed nothing too.

use kiln_domain::access::Role;
use kiln_domain::{OperationId, Timestamp};
use rusqlite::Row;

use crate::columns::{Columns, Micros, Text};
use crate::events::EventActor;
use crate::page::{Conditions, probe_limit};
use crate::{Page, ReadTransaction, StoreError, WriteTransaction};

/// The result of a call that was done.
pub const OK: &str = "ok";

/// A line to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLine {
    /// When the call ended.
    pub at: Timestamp,
    /// Who called.
    pub actor: EventActor,
    /// What the caller was called then.
    pub user_name: Option<String>,
    /// The caller's role then.
    pub role: Role,
    /// The method.
    pub method: String,
    /// What the call was about.
    pub object: LineObject,
    /// [`OK`], or the code of the failure: the call's, or that of the operation which it began.
    pub result: String,
    /// The call's number in the log.
    pub request_id: String,
    /// The operation that the call began, or was about.
    pub operation_id: Option<String>,
    /// How many failed calls of this caller got no line since the line before.
    pub unwritten: u64,
}

/// What a call was about, as far as it said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineObject {
    /// Its noun.
    pub kind: Option<String>,
    /// What the call named it.
    pub name: Option<String>,
    /// Its id, where the answer or the call told it.
    pub id: Option<String>,
}

/// A line as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineRow {
    /// Its place in the order of all lines.
    pub seq: i64,
    /// What it tells.
    pub line: NewLine,
}

/// Which lines a page holds; an empty filter is all of them.
#[derive(Clone, Debug, Default)]
pub struct LineFilter {
    /// Only calls of this caller.
    pub actor: Option<EventActor>,
    /// Only methods that begin so.
    pub method_prefix: Option<String>,
    /// Only calls about what has this id.
    pub object_id: Option<String>,
    /// Only calls that named this.
    pub object_name: Option<String>,
    /// Only calls that ended so.
    pub result: Option<LineResult>,
    /// Only calls that ended then or later.
    pub since: Option<Timestamp>,
    /// Only calls that ended before.
    pub until: Option<Timestamp>,
}

/// How the calls of a filter ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineResult {
    /// They failed, however.
    Failed,
    /// Exactly so: [`OK`], or a code.
    Exactly(String),
}

/// Writes a line and returns its place in the order.
pub fn append(tx: &WriteTransaction<'_>, line: &NewLine) -> Result<i64, StoreError> {
    let sql = "INSERT INTO audit (at, actor, user_name, role, method, object_kind, object_name, \
               object_id, result, request_id, operation_id, unwritten) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let params = (
        Micros(line.at),
        Text(line.actor),
        &line.user_name,
        line.role.as_str(),
        &line.method,
        &line.object.kind,
        &line.object.name,
        &line.object.id,
        &line.result,
        &line.request_id,
        &line.operation_id,
        i64::try_from(line.unwritten).unwrap_or(i64::MAX),
    );
    tx.execute("write an audit line", sql, params)?;
    let seq = tx.last_seq();
    settle(tx, seq, line)?;
    Ok(seq)
}

/// Puts what is known of a call at its end in the place of what was written with its change; its place
/// stays.
pub fn amend(tx: &WriteTransaction<'_>, row: &LineRow) -> Result<(), StoreError> {
    let sql = "UPDATE audit SET at = ?2, object_kind = ?3, object_name = ?4, object_id = ?5, \
               result = ?6, operation_id = ?7, unwritten = ?8 WHERE seq = ?1";
    let line = &row.line;
    let params = (
        row.seq,
        Micros(line.at),
        &line.object.kind,
        &line.object.name,
        &line.object.id,
        &line.result,
        &line.operation_id,
        i64::try_from(line.unwritten).unwrap_or(i64::MAX),
    );
    tx.execute("amend an audit line", sql, params)?;
    settle(tx, row.seq, line)
}

/// Calls about an operation, unlike those that began it, ended as they say themselves.
const BEGAN_IT: &str = "result = 'ok' AND substr(method, 1, 10) <> 'operation.'";

/// Tells in the lines of the call that began an operation that this did not succeed.
pub(crate) fn operation_failed(
    tx: &WriteTransaction<'_>,
    id: OperationId,
    code: &str,
) -> Result<(), StoreError> {
    let sql = format!("UPDATE audit SET result = ?2 WHERE operation_id = ?1 AND {BEGAN_IT}");
    tx.execute("amend an audit line", &sql, (Text(id), code))
        .map(|_| ())
}

/// The same for a line that is written when the operation has ended already.
fn settle(tx: &WriteTransaction<'_>, seq: i64, line: &NewLine) -> Result<(), StoreError> {
    let Some(id) = &line.operation_id else {
        return Ok(());
    };
    let sql = format!(
        "UPDATE audit SET result = (SELECT coalesce(json_extract(error, '$.code'), 'operation.' || state) \
         FROM operations WHERE id = ?2) WHERE seq = ?1 AND {BEGAN_IT} AND EXISTS \
         (SELECT 1 FROM operations WHERE id = ?2 AND state NOT IN ('running', 'succeeded'))"
    );
    tx.execute("amend an audit line", &sql, (seq, id))
        .map(|_| ())
}

/// Returns the lines behind `after`, oldest first, at most `limit` of them.
pub fn page(
    tx: &ReadTransaction<'_>,
    after: i64,
    limit: u32,
    filter: &LineFilter,
) -> Result<Page<LineRow>, StoreError> {
    let conditions = conditions(after, limit, filter);
    let sql = format!(
        "SELECT seq, at, actor, user_name, role, method, object_kind, object_name, object_id, \
         result, request_id, operation_id, unwritten FROM audit \
         WHERE {} ORDER BY seq LIMIT :limit",
        conditions.to_sql()
    );
    let rows = tx.all("read audit lines", &sql, &*conditions.params(), read)?;
    Ok(Page::cut(rows, limit, |row| row.seq))
}

/// Removes at most `batch` lines that are older than a time, or are not among the newest `keep`;
/// returns how many went.
pub fn prune(
    tx: &WriteTransaction<'_>,
    older_than: Timestamp,
    keep: u64,
    batch: u32,
) -> Result<usize, StoreError> {
    const STEP: &str = "prune audit lines";
    let newest = tx.value(STEP, "SELECT max(seq) FROM audit", [])?;
    let newest: i64 = newest.flatten().unwrap_or(0);
    let last_to_go = newest.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX));
    let sql = "DELETE FROM audit WHERE seq IN \
               (SELECT seq FROM audit WHERE seq <= ?1 ORDER BY seq LIMIT ?2)";
    let gone = tx.execute(STEP, sql, (last_to_go, batch))?;
    let left = i64::from(batch).saturating_sub(i64::try_from(gone).unwrap_or(i64::MAX));
    let sql = "DELETE FROM audit WHERE seq IN \
               (SELECT seq FROM audit WHERE at < ?1 ORDER BY at LIMIT ?2)";
    Ok(gone + tx.execute(STEP, sql, (Micros(older_than), left.max(0)))?)
}

fn conditions(after: i64, limit: u32, filter: &LineFilter) -> Conditions {
    let mut conditions = Conditions::default();
    conditions.bind("seq > :after", ":after", after);
    conditions.set(":limit", probe_limit(limit));
    if let Some(actor) = filter.actor {
        conditions.bind("actor = :actor", ":actor", actor.to_string());
    }
    if let Some(prefix) = &filter.method_prefix {
        let clause = "substr(method, 1, length(:method)) = :method";
        conditions.bind(clause, ":method", prefix.clone());
    }
    if let Some(id) = &filter.object_id {
        conditions.bind("object_id = :object_id", ":object_id", id.clone());
    }
    if let Some(name) = &filter.object_name {
        conditions.bind("object_name = :object_name", ":object_name", name.clone());
    }
    match &filter.result {
        Some(LineResult::Failed) => conditions.require("result <> 'ok'"),
        Some(LineResult::Exactly(result)) => {
            conditions.bind("result = :result", ":result", result.clone());
        }
        None => {}
    }
    // The unary plus keeps the index of times out of it: lines come in the order of seq, which an
    // index over times cannot give without sorting what may be every line.
    if let Some(since) = filter.since {
        conditions.bind("+at >= :since", ":since", since.as_micros());
    }
    if let Some(until) = filter.until {
        conditions.bind("+at < :until", ":until", until.as_micros());
    }
    conditions
}

fn read(row: &Row<'_>) -> Result<LineRow, StoreError> {
    let columns = Columns::of("audit", "seq", row);
    Ok(LineRow {
        seq: columns.raw("seq")?,
        line: NewLine {
            at: columns.time("at")?,
            actor: columns.parsed("actor")?,
            user_name: columns.raw("user_name")?,
            role: columns.parsed("role")?,
            method: columns.raw("method")?,
            object: LineObject {
                kind: columns.raw("object_kind")?,
                name: columns.raw("object_name")?,
                id: columns.raw("object_id")?,
            },
            result: columns.raw("result")?,
            request_id: columns.raw("request_id")?,
            operation_id: columns.raw("operation_id")?,
            unwritten: columns.integer("unwritten")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Database, time};

    /// Line `n`, of user 7 when `n` is odd and of 8 when it is even; every third was refused.
    fn line(n: i64) -> NewLine {
        NewLine {
            at: time(n * 10),
            actor: EventActor::Unix(if n % 2 == 1 { 7 } else { 8 }),
            user_name: Some("alice".to_owned()),
            role: Role::User,
            method: if n < 4 {
                "image.forget"
            } else {
                "kernel.remove"
            }
            .to_owned(),
            object: LineObject {
                kind: Some("image".to_owned()),
                name: Some(format!("web-{}", n % 3)),
                id: Some(format!("id-{n}")),
            },
            result: if n % 3 == 0 { "request.denied" } else { OK }.to_owned(),
            request_id: format!("r{n}"),
            operation_id: None,
            unwritten: 0,
        }
    }

    fn filled() -> Database {
        let mut db = Database::new();
        for n in 1..=6 {
            db.write(|tx| append(tx, &line(n))).unwrap();
        }
        db
    }

    #[test]
    fn a_line_is_amended_in_its_place() {
        let mut db = filled();
        let page_of = |db: &mut Database| {
            let filter = LineFilter::default();
            db.read(|tx| page(tx, 0, 100, &filter)).unwrap().rows
        };
        let mut want = page_of(&mut db);
        want[1].line = NewLine {
            result: "image.in_use".to_owned(),
            operation_id: Some("o".to_owned()),
            unwritten: 3,
            ..want[1].line.clone()
        };

        db.write(|tx| amend(tx, &want[1])).unwrap();

        assert_eq!(page_of(&mut db), want);
    }

    fn seqs(db: &mut Database, filter: &LineFilter) -> Vec<i64> {
        let page = db.read(|tx| page(tx, 0, 100, filter)).unwrap();
        page.rows.iter().map(|row| row.seq).collect()
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let mut db = filled();

        let page = db
            .read(|tx| page(tx, 1, 1, &LineFilter::default()))
            .unwrap();

        let want = LineRow {
            seq: 2,
            line: line(2),
        };
        assert_eq!((page.rows, page.next_after), (vec![want], Some(2)));
    }

    #[test]
    fn filters_combine() {
        let mut db = filled();
        let all = LineFilter::default;
        let actor = Some(EventActor::Unix(7));
        let cases: [(LineFilter, &[i64]); 9] = [
            (all(), &[1, 2, 3, 4, 5, 6]),
            (LineFilter { actor, ..all() }, &[1, 3, 5]),
            (
                LineFilter {
                    method_prefix: Some("image.".to_owned()),
                    ..all()
                },
                &[1, 2, 3],
            ),
            (
                LineFilter {
                    method_prefix: Some("%".to_owned()),
                    ..all()
                },
                &[],
            ),
            (
                LineFilter {
                    object_name: Some("web-1".to_owned()),
                    ..all()
                },
                &[1, 4],
            ),
            (
                LineFilter {
                    object_id: Some("id-5".to_owned()),
                    ..all()
                },
                &[5],
            ),
            (
                LineFilter {
                    result: Some(LineResult::Failed),
                    actor,
                    ..all()
                },
                &[3],
            ),
            (
                LineFilter {
                    result: Some(LineResult::Exactly(OK.to_owned())),
                    ..all()
                },
                &[1, 2, 4, 5],
            ),
            (
                LineFilter {
                    since: Some(time(20)),
                    until: Some(time(40)),
                    ..all()
                },
                &[2, 3],
            ),
        ];
        for (filter, want) in cases {
            assert_eq!(seqs(&mut db, &filter), want, "{filter:?}");
        }
    }

    #[test]
    fn the_old_and_the_too_many_go_in_batches() {
        let mut db = filled();
        let all = LineFilter::default();
        let prune = |db: &mut Database, older_than, keep, batch| {
            db.write(|tx| prune(tx, time(older_than), keep, batch))
                .unwrap()
        };

        assert_eq!(prune(&mut db, 0, 10, 100), 0);
        assert_eq!(prune(&mut db, 30, 10, 1), 1);
        assert_eq!(prune(&mut db, 30, 10, 100), 1);
        assert_eq!(seqs(&mut db, &all), [3, 4, 5, 6]);
        assert_eq!(prune(&mut db, 0, 2, 100), 2);
        assert_eq!(seqs(&mut db, &all), [5, 6]);
        assert_eq!(prune(&mut db, 1_000, 0, 100), 2);
        // Numbers are never used twice, so a cursor stays good.
        assert_eq!(db.write(|tx| append(tx, &line(7))).unwrap(), 7);
    }

    #[test]
    fn a_line_outlives_its_image() {
        let mut db = Database::new();
        db.add_image(1, "web");
        db.write(|tx| append(tx, &line(1))).unwrap();

        db.damage("DELETE FROM images; DELETE FROM users;");

        assert_eq!(seqs(&mut db, &LineFilter::default()), [1]);
    }
}
