//! Operations: long pieces of work the daemon owns, and how they ended.
//!
//! ```text
//!            finish
//! running ──────────▶ succeeded | failed | cancelled
//!    └─ interrupt_running, at start-up ─▶ interrupted
//! ```
//! What is final never changes again, and is removed only by [`prune`]. Doing the work is not
//! here.

use kiln_domain::{OperationId, OperationKind, OperationState, Timestamp};
use rusqlite::Row;
use serde_json::Value;

use crate::audit;
use crate::columns::{Columns, Micros, Text};
use crate::meta::FOREIGN_OPERATIONS;
use crate::page::{Conditions, probe_limit};
use crate::{Object, Page, ReadTransaction, StoreError, WriteTransaction, users};

/// An operation to be inserted: running.
#[derive(Clone, Debug)]
pub struct NewOperation {
    /// Its id.
    pub id: OperationId,
    /// What kind of work it is.
    pub kind: OperationKind,
    /// The user it works for.
    pub owner_uid: u32,
    /// What it makes or changes, where that is known by now.
    pub object: Option<Object>,
    /// What it works on, for people: a reference, a name.
    pub subject: String,
    /// What it was asked, as far as people may see it; never a secret.
    pub params: Value,
    /// When it began.
    pub created_at: Timestamp,
}

/// An operation as the store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationRow {
    /// Its place in the order of all operations.
    pub seq: i64,
    /// Its id.
    pub id: OperationId,
    /// What kind of work it is.
    pub kind: OperationKind,
    /// Where it stands.
    pub state: OperationState,
    /// The user it works for.
    pub owner_uid: u32,
    /// What it makes or changes.
    pub object: Option<Object>,
    /// What it works on, for people.
    pub subject: String,
    /// What it was asked.
    pub params: Value,
    /// How far it is, as last recorded.
    pub progress: Option<Value>,
    /// What came of it: when it succeeded, or what stays done although it did not.
    pub result: Option<Value>,
    /// Why it did not succeed.
    pub error: Option<Value>,
    /// When it began.
    pub created_at: Timestamp,
    /// When something about it was last recorded.
    pub updated_at: Timestamp,
    /// When it became final.
    pub finished_at: Option<Timestamp>,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Well.
    Succeeded {
        /// What came of it.
        result: Value,
    },
    /// With an error.
    Failed {
        /// Which one.
        error: Value,
        /// What stays done all the same.
        result: Option<Value>,
    },
    /// A caller stopped it.
    Cancelled {
        /// What to tell those who wait for it.
        error: Value,
        /// What stays done all the same.
        result: Option<Value>,
    },
}

impl Outcome {
    /// Returns the state an operation has after it.
    pub fn state(&self) -> OperationState {
        match self {
            Self::Succeeded { .. } => OperationState::Succeeded,
            Self::Failed { .. } => OperationState::Failed,
            Self::Cancelled { .. } => OperationState::Cancelled,
        }
    }
}

/// Which operations a page holds; the default is all of them.
#[derive(Clone, Debug, Default)]
pub struct OperationFilter {
    /// Only those in this state.
    pub state: Option<OperationState>,
    /// Only those of this user.
    pub owner_uid: Option<u32>,
}

macro_rules! columns {
    () => {
        "seq, id, kind, state, owner_uid, object_kind, object_id, subject, params, progress, \
         result, error, created_at, updated_at, finished_at"
    };
}

/// Inserts a running operation, enters its owner, and returns its place in the order.
pub fn insert(tx: &WriteTransaction<'_>, operation: &NewOperation) -> Result<i64, StoreError> {
    users::see(tx, operation.owner_uid, operation.created_at)?;
    let sql = "INSERT INTO operations (id, kind, state, owner_uid, object_kind, object_id, \
               subject, params, created_at, updated_at) \
               VALUES (?1, ?2, 'running', ?3, ?4, ?5, ?6, ?7, ?8, ?8)";
    let object = operation.object.as_ref();
    let params = (
        Text(operation.id),
        operation.kind.as_str(),
        operation.owner_uid,
        object.map(|object| object.kind.as_str()),
        object.map(|object| &object.id),
        &operation.subject,
        Text(&operation.params),
        Micros(operation.created_at),
    );
    tx.execute("insert an operation", sql, params)?;
    Ok(tx.last_seq())
}

/// Returns an operation.
pub fn get(tx: &ReadTransaction<'_>, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
    let sql = concat!("SELECT ", columns!(), " FROM operations WHERE id = ?1");
    tx.first("read an operation", sql, [Text(id)], read)
}

/// Returns the operations behind `after`, oldest first, at most `limit` of them.
pub fn page(
    tx: &ReadTransaction<'_>,
    after: i64,
    limit: u32,
    filter: &OperationFilter,
) -> Result<Page<OperationRow>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.bind("seq > :after", ":after", after);
    conditions.set(":limit", probe_limit(limit));
    if let Some(state) = filter.state {
        conditions.bind("state = :state", ":state", state.as_str().to_owned());
    }
    if let Some(uid) = filter.owner_uid {
        conditions.bind("owner_uid = :owner", ":owner", uid);
    }
    let sql = format!(
        concat!(
            "SELECT ",
            columns!(),
            " FROM operations WHERE {} ORDER BY seq LIMIT :limit"
        ),
        conditions.to_sql()
    );
    let rows = tx.all("list operations", &sql, &*conditions.params(), read)?;
    Ok(Page::cut(rows, limit, |operation| operation.seq))
}

/// Records how far a running operation is; tells whether it was running.
pub fn set_progress(
    tx: &WriteTransaction<'_>,
    id: OperationId,
    progress: &Value,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "UPDATE operations SET progress = ?2, updated_at = ?3 \
               WHERE id = ?1 AND state = 'running'";
    let params = (Text(id), Text(progress), Micros(at));
    Ok(tx.execute("record progress", sql, params)? == 1)
}

/// Records what a running operation makes or changes; tells whether it was running.
pub fn set_object(
    tx: &WriteTransaction<'_>,
    id: OperationId,
    object: &Object,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "UPDATE operations SET object_kind = ?2, object_id = ?3, updated_at = ?4 \
               WHERE id = ?1 AND state = 'running'";
    let params = (Text(id), object.kind.as_str(), &object.id, Micros(at));
    Ok(tx.execute("record an operation's object", sql, params)? == 1)
}

/// Tells whether an operation that did not succeed, as far as this database knows, was at work on
/// an object.
///
/// That is no proof by itself that nobody was told of the object: a database that was put back, or
/// lost its log, may not know of a success. Operations that a database took over from a snapshot say nothing: what was running then may
/// have succeeded afterwards.
pub fn left_behind(tx: &ReadTransaction<'_>, object: &Object) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM operations \
               WHERE object_kind = ?1 AND object_id = ?2 AND state <> 'succeeded' \
               AND seq > coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = ?3), 0))";
    let found = tx.value(
        "look for an object's operation",
        sql,
        (object.kind.as_str(), &object.id, FOREIGN_OPERATIONS),
    )?;
    Ok(found.unwrap_or(false))
}

/// Records how a running operation ended; tells whether it was running, so that of two who end
/// it one wins.
pub fn finish(
    tx: &WriteTransaction<'_>,
    id: OperationId,
    outcome: &Outcome,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let (result, error) = match outcome {
        Outcome::Succeeded { result } => (Some(Text(result)), None),
        Outcome::Failed { error, result } | Outcome::Cancelled { error, result } => {
            (result.as_ref().map(Text), Some(Text(error)))
        }
    };
    let sql = "UPDATE operations SET state = ?2, result = ?3, error = ?4, updated_at = ?5, \
               finished_at = ?5 WHERE id = ?1 AND state = 'running'";
    let params = (
        Text(id),
        outcome.state().as_str(),
        result,
        error,
        Micros(at),
    );
    let was_running = tx.execute("finish an operation", sql, params)? == 1;
    if was_running && let Outcome::Failed { error, .. } | Outcome::Cancelled { error, .. } = outcome
    {
        let code = error["code"].as_str();
        audit::operation_failed(tx, id, code.unwrap_or("operation.failed"))?;
    }
    Ok(was_running)
}

/// Marks every running operation as interrupted and returns them, oldest first: at start-up
/// nothing runs yet, so these ended with the former daemon.
pub fn interrupt_running(
    tx: &WriteTransaction<'_>,
    at: Timestamp,
) -> Result<Vec<OperationId>, StoreError> {
    const STEP: &str = "interrupt operations";
    let sql = "SELECT id FROM operations WHERE state = 'running' ORDER BY seq";
    let found = tx.all(STEP, sql, [], |row| {
        Columns::of("operations", "id", row).parsed("id")
    })?;
    let sql = "UPDATE operations SET state = 'interrupted', updated_at = ?1, finished_at = ?1 \
               WHERE state = 'running'";
    tx.execute(STEP, sql, [Micros(at)])?;
    for id in &found {
        audit::operation_failed(tx, *id, "operation.interrupted")?;
    }
    Ok(found)
}

/// Removes final operations that ended before `older_than`, and all but the newest `keep_newest`
/// of the others; returns how many went. Running ones stay.
pub fn prune(
    tx: &WriteTransaction<'_>,
    keep_newest: u32,
    older_than: Timestamp,
) -> Result<usize, StoreError> {
    const STEP: &str = "prune operations";
    let sql = "DELETE FROM operations WHERE finished_at < ?1";
    let old = tx.execute(STEP, sql, [Micros(older_than)])?;
    let sql = "DELETE FROM operations WHERE finished_at IS NOT NULL AND seq <= \
               (SELECT seq FROM operations ORDER BY seq DESC LIMIT 1 OFFSET ?1)";
    let surplus = tx.execute(STEP, sql, [keep_newest])?;
    Ok(old + surplus)
}

fn read(row: &Row<'_>) -> Result<OperationRow, StoreError> {
    let columns = Columns::of("operations", "id", row);
    let object = columns
        .parsed_option("object_kind")?
        .map(|kind| {
            let id = columns.raw("object_id")?;
            Ok::<_, StoreError>(Object { kind, id })
        })
        .transpose()?;
    Ok(OperationRow {
        seq: columns.raw("seq")?,
        id: columns.parsed("id")?,
        kind: columns.parsed("kind")?,
        state: columns.parsed("state")?,
        owner_uid: columns.integer("owner_uid")?,
        object,
        subject: columns.raw("subject")?,
        params: columns.json("params")?,
        progress: columns.json_option("progress")?,
        result: columns.json_option("result")?,
        error: columns.json_option("error")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
        finished_at: columns.time_option("finished_at")?,
    })
}

#[cfg(test)]
mod tests;
