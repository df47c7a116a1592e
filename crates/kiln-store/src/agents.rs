//! Other daemons that this one sends work to, and whether they answered.

use kiln_domain::{AgentAddress, AgentName, PlainPath, Timestamp};
use rusqlite::{Row, named_params};
use serde_json::Value;

use crate::columns::{Columns, Micros, Text, Unsigned};
use crate::error::is_unique_violation;
use crate::page::{Conditions, probe_limit};
use crate::{Page, ReadTransaction, StoreError, WriteTransaction};

/// An agent as the store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentRow {
    /// Its place in the order of all agents; given by the store.
    pub seq: i64,
    /// Its name.
    pub name: AgentName,
    /// Where it is.
    pub address: AgentAddress,
    /// The private key to be known by there.
    pub identity_path: Option<PlainPath>,
    /// The file of host keys that are trusted.
    pub known_hosts_path: Option<PlainPath>,
    /// How long it may take for one answer, in seconds.
    pub timeout_seconds: u64,
    /// The user who entered it.
    pub added_by: u32,
    /// When.
    pub added_at: Timestamp,
    /// When it last answered.
    pub last_seen_at: Option<Timestamp>,
    /// When it last did not.
    pub last_failed_at: Option<Timestamp>,
    /// Why, where it has not answered since.
    pub last_error: Option<Value>,
}

/// Why an agent could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum InsertAgentError {
    /// There is one of that name.
    #[error("there is an agent {name} already")]
    Taken {
        /// The name.
        name: AgentName,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const COLUMNS: &str = "seq, name, address, identity_path, known_hosts_path, timeout_seconds, \
                       added_by, added_at, last_seen_at, last_failed_at, last_error";

/// Enters an agent that was not asked yet; `seq` and what is last known of it are not looked at.
pub fn insert(tx: &WriteTransaction<'_>, agent: &AgentRow) -> Result<(), InsertAgentError> {
    let sql = "INSERT INTO agents (name, address, identity_path, known_hosts_path, \
               timeout_seconds, added_by, added_at) VALUES (:name, :address, :identity, :known, \
               :timeout, :by, :at)";
    let params = named_params! {
        ":name": agent.name.as_str(),
        ":address": Text(&agent.address),
        ":identity": agent.identity_path.as_ref().map(PlainPath::as_str),
        ":known": agent.known_hosts_path.as_ref().map(PlainPath::as_str),
        ":timeout": Unsigned(agent.timeout_seconds),
        ":by": agent.added_by,
        ":at": Micros(agent.added_at),
    };
    match tx.execute("enter an agent", sql, params) {
        Ok(_) => Ok(()),
        Err(error) if is_unique_violation(&error) => Err(InsertAgentError::Taken {
            name: agent.name.clone(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Returns the agent of a name.
pub fn named(tx: &ReadTransaction<'_>, name: &AgentName) -> Result<Option<AgentRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM agents WHERE name = ?1");
    tx.first("read an agent", &sql, [name.as_str()], read)
}

/// Returns the agents behind `after`, oldest first.
pub fn page(
    tx: &ReadTransaction<'_>,
    after: i64,
    limit: u32,
) -> Result<Page<AgentRow>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.bind("seq > :after", ":after", after);
    conditions.set(":limit", probe_limit(limit));
    let sql = format!(
        "SELECT {COLUMNS} FROM agents WHERE {} ORDER BY seq LIMIT :limit",
        conditions.to_sql()
    );
    let rows = tx.all("list agents", &sql, &*conditions.params(), read)?;
    Ok(Page::cut(rows, limit, |agent| agent.seq))
}

/// Counts the agents.
pub fn count(tx: &ReadTransaction<'_>) -> Result<u64, StoreError> {
    let count: Option<i64> = tx.value("count agents", "SELECT count(*) FROM agents", [])?;
    Ok(count.and_then(|count| count.try_into().ok()).unwrap_or(0))
}

/// Notes that an agent answered. One that was removed, or entered anew, meanwhile stays as it is.
pub fn seen(tx: &WriteTransaction<'_>, seq: i64, at: Timestamp) -> Result<bool, StoreError> {
    let sql = "UPDATE agents SET last_seen_at = ?2, last_error = NULL WHERE seq = ?1";
    Ok(tx.execute("note that an agent answered", sql, (seq, Micros(at)))? == 1)
}

/// Notes that an agent did not answer, and why. One that was removed, or entered anew, meanwhile
/// stays as it is.
pub fn failed(
    tx: &WriteTransaction<'_>,
    seq: i64,
    at: Timestamp,
    error: &Value,
) -> Result<bool, StoreError> {
    let sql = "UPDATE agents SET last_failed_at = ?2, last_error = ?3 WHERE seq = ?1";
    let params = (seq, Micros(at), Text(error));
    Ok(tx.execute("note that an agent did not answer", sql, params)? == 1)
}

/// Removes an agent; tells whether there was one.
pub fn delete(tx: &WriteTransaction<'_>, name: &AgentName) -> Result<bool, StoreError> {
    let sql = "DELETE FROM agents WHERE name = ?1";
    Ok(tx.execute("remove an agent", sql, [name.as_str()])? == 1)
}

fn read(row: &Row<'_>) -> Result<AgentRow, StoreError> {
    let columns = Columns::of("agents", "name", row);
    Ok(AgentRow {
        seq: columns.raw("seq")?,
        name: columns.parsed("name")?,
        address: columns.parsed("address")?,
        identity_path: columns.parsed_option("identity_path")?,
        known_hosts_path: columns.parsed_option("known_hosts_path")?,
        timeout_seconds: columns.integer("timeout_seconds")?,
        added_by: columns.integer("added_by")?,
        added_at: columns.time("added_at")?,
        last_seen_at: columns.time_option("last_seen_at")?,
        last_failed_at: columns.time_option("last_failed_at")?,
        last_error: columns.json_option("last_error")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Database, time};

    fn agent(seq: i64, name: &str) -> AgentRow {
        AgentRow {
            seq,
            name: name.parse().unwrap(),
            address: "ssh://kiln@node:2222/k.sock".parse().unwrap(),
            identity_path: Some("/etc/kiln/id".parse().unwrap()),
            known_hosts_path: None,
            timeout_seconds: 30,
            added_by: 7,
            added_at: time(5),
            last_seen_at: None,
            last_failed_at: None,
            last_error: None,
        }
    }

    fn names(db: &mut Database, after: i64, limit: u32) -> Vec<String> {
        let page = db.read(|tx| page(tx, after, limit)).unwrap();
        let rows = page.rows.into_iter();
        rows.map(|agent| agent.name.to_string()).collect()
    }

    #[test]
    fn agents_come_back_as_they_were_entered_and_a_name_is_taken_once() {
        let mut db = Database::new();
        db.write(|tx| insert(tx, &agent(0, "b"))).unwrap();
        db.write(|tx| insert(tx, &agent(0, "a"))).unwrap();

        let again = db.write(|tx| insert(tx, &agent(0, "a"))).unwrap_err();

        assert!(matches!(again, InsertAgentError::Taken { .. }), "{again}");
        let found = db.read(|tx| named(tx, &"a".parse().unwrap())).unwrap();
        assert_eq!(found, Some(agent(2, "a")));
        assert_eq!(names(&mut db, 0, 10), ["b", "a"]);
        assert_eq!(names(&mut db, 0, 1), ["b"]);
        assert_eq!(names(&mut db, 1, 10), ["a"]);
        assert_eq!(db.read(count).unwrap(), 2);
    }

    #[test]
    fn the_last_word_about_an_agent_stays_until_another() {
        let mut db = Database::new();
        db.write(|tx| insert(tx, &agent(0, "a"))).unwrap();
        let name = "a".parse().unwrap();
        let why = json!({"code": "agent.unreachable"});

        assert!(db.write(|tx| seen(tx, 1, time(10))).unwrap());
        assert!(db.write(|tx| failed(tx, 1, time(20), &why)).unwrap());
        let lost = db.read(|tx| named(tx, &name)).unwrap().unwrap();
        assert!(db.write(|tx| seen(tx, 1, time(30))).unwrap());
        let found = db.read(|tx| named(tx, &name)).unwrap().unwrap();

        assert_eq!(lost.last_seen_at, Some(time(10)));
        assert_eq!(lost.last_failed_at, Some(time(20)));
        assert_eq!(lost.last_error, Some(why));
        assert_eq!(found.last_seen_at, Some(time(30)));
        assert_eq!(found.last_failed_at, Some(time(20)));
        assert_eq!(found.last_error, None);
        // What was entered anew under the name is another agent.
        assert!(db.write(|tx| delete(tx, &name)).unwrap());
        db.write(|tx| insert(tx, &agent(0, "a"))).unwrap();
        assert!(!db.write(|tx| seen(tx, 1, time(40))).unwrap());
        let anew = db.read(|tx| named(tx, &name)).unwrap().unwrap();
        assert_eq!(anew, agent(2, "a"));
        assert!(!db.write(|tx| delete(tx, &"b".parse().unwrap())).unwrap());
    }
}
