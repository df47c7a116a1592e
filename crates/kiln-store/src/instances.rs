//! Instances: machines that run versions, and the processes that run the machines.
//!
//! ```text
//!            start            finish
//! starting ────────▶ running ────────▶ ended
//!     └───────────── finish ─────────────▲
//! ```
//! What is ended never changes again, and is removed only by [`delete`] and [`prune`]. That a
//! version stays while a machine runs it is said in [`crate::holders`], in the same transaction.
//! Looking after processes is not here.

use kiln_domain::{
    ImageId, ImageName, InstanceId, InstanceName, InstanceState, ProcessStart, Timestamp, VersionId,
};
use rusqlite::{Row, named_params};
use serde_json::Value;

use crate::columns::{Columns, Micros, Text, Unsigned};
use crate::error::is_unique_violation;
use crate::page::{Conditions, probe_limit};
use crate::{Page, ReadTransaction, StoreError, WriteTransaction, users};

/// The process that runs a machine, so that it is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRow {
    /// Its number.
    pub pid: u32,
    /// When it began, since the host booted.
    pub started: ProcessStart,
    /// Which boot of the host that was.
    pub boot_id: String,
}

/// A machine to be inserted: starting.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// Its id.
    pub id: InstanceId,
    /// Its name.
    pub name: InstanceName,
    /// The user who runs it.
    pub owner_uid: u32,
    /// The image it runs.
    pub image_id: ImageId,
    /// What that is called now.
    pub image_name: ImageName,
    /// The version it runs.
    pub version_id: VersionId,
    /// The process that runs it.
    pub process: ProcessRow,
    /// The directory its owner keeps for it.
    pub directory: String,
    /// The file its console is written to.
    pub console_path: String,
    /// How many processors it has.
    pub cpus: u32,
    /// How much memory it has.
    pub memory_bytes: u64,
    /// Ports of the host that lead into it, as the caller gave them.
    pub ports: Value,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// A machine as the store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceRow {
    /// Its place in the order of all machines.
    pub seq: i64,
    /// Its id.
    pub id: InstanceId,
    /// Its name.
    pub name: InstanceName,
    /// Where it stands.
    pub state: InstanceState,
    /// The user who runs it.
    pub owner_uid: u32,
    /// The image it runs, or ran.
    pub image_id: ImageId,
    /// What that was called when the machine was registered.
    pub image_name: ImageName,
    /// The version it runs, or ran.
    pub version_id: VersionId,
    /// The process that runs it, or ran it.
    pub process: ProcessRow,
    /// Under what it runs, once it does.
    pub running: Option<RunningUnder>,
    /// The directory its owner keeps for it.
    pub directory: String,
    /// The file its console is written to.
    pub console_path: String,
    /// How many processors it has.
    pub cpus: u32,
    /// How much memory it has.
    pub memory_bytes: u64,
    /// Ports of the host that lead into it.
    pub ports: Value,
    /// How it ended.
    pub end: InstanceEnd,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it ran.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// Under what a machine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningUnder {
    /// The monitor, such as `qemu-microvm`.
    pub monitor: String,
    /// What executes its instructions, such as `kvm`.
    pub accelerator: String,
}

/// How a machine ended; nothing of it is known while it has not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceEnd {
    /// The exit code of its program, where it was heard.
    pub exit_code: Option<u8>,
    /// Why it ended, where there is more to say.
    pub reason: Option<String>,
}

/// Why a machine could not be inserted.
#[derive(Debug, thiserror::Error)]
pub enum InsertInstanceError {
    /// There is a machine of that id.
    #[error("a machine with the id {id} is registered already")]
    IdTaken {
        /// The id.
        id: InstanceId,
    },
    /// Another machine of the same owner has the name and has not ended.
    #[error("a machine named \"{name}\" is running")]
    NameTaken {
        /// The name.
        name: InstanceName,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which machines a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceFilter {
    /// Those that have ended too.
    pub ended: bool,
    /// Only those of this user.
    pub owner_uid: Option<u32>,
}

macro_rules! columns {
    () => {
        "seq, id, name, state, owner_uid, image_id, image_name, version_id, pid, pid_started, \
         boot_id, monitor, accelerator, directory, console_path, cpus, memory_bytes, ports, \
         exit_code, reason, created_at, started_at, ended_at"
    };
}

/// Inserts a machine, enters its owner, and returns its place in the order.
pub fn insert(
    tx: &WriteTransaction<'_>,
    instance: &NewInstance,
) -> Result<i64, InsertInstanceError> {
    users::see(tx, instance.owner_uid, instance.created_at)?;
    let sql = "INSERT INTO instances (id, name, state, owner_uid, image_id, image_name, \
               version_id, pid, pid_started, boot_id, directory, console_path, cpus, \
               memory_bytes, ports, created_at) \
               VALUES (:id, :name, 'starting', :owner_uid, :image_id, :image_name, :version_id, \
               :pid, :pid_started, :boot_id, :directory, :console_path, :cpus, :memory_bytes, \
               :ports, :created_at)";
    let process = &instance.process;
    let params = named_params! {
        ":id": Text(instance.id),
        ":name": instance.name.as_str(),
        ":owner_uid": instance.owner_uid,
        ":image_id": Text(instance.image_id),
        ":image_name": instance.image_name.as_str(),
        ":version_id": Text(instance.version_id),
        ":pid": process.pid,
        ":pid_started": Unsigned(process.started.ticks()),
        ":boot_id": process.boot_id,
        ":directory": instance.directory,
        ":console_path": instance.console_path,
        ":cpus": instance.cpus,
        ":memory_bytes": Unsigned(instance.memory_bytes),
        ":ports": Text(&instance.ports),
        ":created_at": Micros(instance.created_at),
    };
    match tx.execute("enter a machine", sql, params) {
        Ok(_) => Ok(tx.last_seq()),
        Err(error) if is_unique_violation(&error) => Err(match get(tx, instance.id)? {
            Some(_) => InsertInstanceError::IdTaken { id: instance.id },
            None => InsertInstanceError::NameTaken {
                name: instance.name.clone(),
            },
        }),
        Err(error) => Err(error.into()),
    }
}

/// Returns a machine.
pub fn get(tx: &ReadTransaction<'_>, id: InstanceId) -> Result<Option<InstanceRow>, StoreError> {
    let sql = concat!("SELECT ", columns!(), " FROM instances WHERE id = ?1");
    tx.first("read a machine", sql, [Text(id)], read)
}

/// Returns the machines behind `after`, oldest first, at most `limit` of them.
pub fn page(
    tx: &ReadTransaction<'_>,
    after: i64,
    limit: u32,
    filter: InstanceFilter,
) -> Result<Page<InstanceRow>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.bind("seq > :after", ":after", after);
    conditions.set(":limit", probe_limit(limit));
    if !filter.ended {
        conditions.require("ended_at IS NULL");
    }
    if let Some(uid) = filter.owner_uid {
        conditions.bind("owner_uid = :owner", ":owner", uid);
    }
    let sql = format!(
        concat!(
            "SELECT ",
            columns!(),
            " FROM instances WHERE {} ORDER BY seq LIMIT :limit"
        ),
        conditions.to_sql()
    );
    let rows = tx.all("list machines", &sql, &*conditions.params(), read)?;
    Ok(Page::cut(rows, limit, |instance| instance.seq))
}

/// Returns the machines of a name, newest first: of one owner, or of all.
pub fn named(
    tx: &ReadTransaction<'_>,
    name: &InstanceName,
    owner_uid: Option<u32>,
) -> Result<Vec<InstanceRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM instances WHERE name = ?1 AND (?2 IS NULL OR owner_uid = ?2) ORDER BY seq DESC"
    );
    tx.all("look a machine up", sql, (name.as_str(), owner_uid), read)
}

/// Returns the machines whose id begins with these lower-case digits, at most `limit`: of one
/// owner, or of all.
pub fn beginning_with(
    tx: &ReadTransaction<'_>,
    digits: &str,
    owner_uid: Option<u32>,
    limit: u32,
) -> Result<Vec<InstanceRow>, StoreError> {
    // Every digit and the hyphen come before `g`.
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM instances WHERE id >= ?1 AND id < ?1 || 'g' \
         AND (?2 IS NULL OR owner_uid = ?2) ORDER BY id LIMIT ?3"
    );
    let params = (digits, owner_uid, limit);
    tx.all("look a machine up", sql, params, read)
}

/// Returns every machine that has not ended, oldest first.
pub fn live(tx: &ReadTransaction<'_>) -> Result<Vec<InstanceRow>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM instances WHERE ended_at IS NULL ORDER BY seq"
    );
    tx.all("list machines that run", sql, [], read)
}

/// Notes that a machine runs; tells whether it was starting.
pub fn start(
    tx: &WriteTransaction<'_>,
    id: InstanceId,
    under: &RunningUnder,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "UPDATE instances SET state = 'running', monitor = ?2, accelerator = ?3, \
               started_at = ?4 WHERE id = ?1 AND state = 'starting'";
    let params = (Text(id), &under.monitor, &under.accelerator, Micros(at));
    Ok(tx.execute("note that a machine runs", sql, params)? == 1)
}

/// Notes how a machine ended; tells whether it had not, so that of two who end it one wins.
pub fn finish(
    tx: &WriteTransaction<'_>,
    id: InstanceId,
    end: &InstanceEnd,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "UPDATE instances SET state = 'ended', exit_code = ?2, reason = ?3, ended_at = ?4 \
               WHERE id = ?1 AND ended_at IS NULL";
    let params = (Text(id), end.exit_code, &end.reason, Micros(at));
    Ok(tx.execute("note how a machine ended", sql, params)? == 1)
}

/// Removes a machine that has ended; tells whether there was one.
pub fn delete(tx: &WriteTransaction<'_>, id: InstanceId) -> Result<bool, StoreError> {
    let sql = "DELETE FROM instances WHERE id = ?1 AND ended_at IS NOT NULL";
    Ok(tx.execute("remove a machine", sql, [Text(id)])? == 1)
}

/// Removes machines that ended before `older_than`, and of each owner's that have ended all but the
/// newest `keep_newest`; returns how many went.
pub fn prune(
    tx: &WriteTransaction<'_>,
    keep_newest: u32,
    older_than: Timestamp,
) -> Result<usize, StoreError> {
    const STEP: &str = "prune machines";
    let sql = "DELETE FROM instances WHERE ended_at < ?1";
    let old = tx.execute(STEP, sql, [Micros(older_than)])?;
    // Of each owner's own: nobody's short runs push another's out.
    let sql = "DELETE FROM instances WHERE seq IN \
               (SELECT seq FROM \
                (SELECT seq, row_number() OVER (PARTITION BY owner_uid ORDER BY seq DESC) AS place \
                 FROM instances WHERE ended_at IS NOT NULL) \
                WHERE place > ?1)";
    let surplus = tx.execute(STEP, sql, [keep_newest])?;
    Ok(old + surplus)
}

fn read(row: &Row<'_>) -> Result<InstanceRow, StoreError> {
    let columns = Columns::of("instances", "id", row);
    let monitor: Option<String> = columns.raw("monitor")?;
    let accelerator: Option<String> = columns.raw("accelerator")?;
    let exit_code: Option<i64> = columns.raw("exit_code")?;
    Ok(InstanceRow {
        seq: columns.raw("seq")?,
        id: columns.parsed("id")?,
        name: columns.parsed("name")?,
        state: columns.parsed("state")?,
        owner_uid: columns.integer("owner_uid")?,
        image_id: columns.parsed("image_id")?,
        image_name: columns.parsed("image_name")?,
        version_id: columns.parsed("version_id")?,
        process: ProcessRow {
            pid: columns.integer("pid")?,
            started: ProcessStart::new(columns.integer("pid_started")?),
            boot_id: columns.raw("boot_id")?,
        },
        running: monitor
            .zip(accelerator)
            .map(|(monitor, accelerator)| RunningUnder {
                monitor,
                accelerator,
            }),
        directory: columns.raw("directory")?,
        console_path: columns.raw("console_path")?,
        cpus: columns.integer("cpus")?,
        memory_bytes: columns.integer("memory_bytes")?,
        ports: columns.json("ports")?,
        end: InstanceEnd {
            exit_code: exit_code
                .map(u8::try_from)
                .transpose()
                .map_err(|error| columns.invalid("exit_code", error))?,
            reason: columns.raw("reason")?,
        },
        created_at: columns.time("created_at")?,
        started_at: columns.time_option("started_at")?,
        ended_at: columns.time_option("ended_at")?,
    })
}

#[cfg(test)]
mod tests;
