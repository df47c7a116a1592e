//! What is written when a machine comes, runs, ends and goes: its row, its hold on the version it
//! runs, and the event, in one transaction each.

use kiln_domain::{InstanceId, Timestamp};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::holders::{self, Holder, HolderRow};
use kiln_store::instances::{
    self, InsertInstanceError, InstanceEnd, InstanceRow, NewInstance, RunningUnder,
};
use kiln_store::{Object, StoreError, WriteTransaction};
use serde_json::{Value, json};

/// How long ended machines are kept, in microseconds: seven days, as operations are.
const KEPT_MICROS: i64 = 7 * 86_400_000_000;

/// How many machines of one owner that have ended are kept at most.
const KEPT: u32 = 1_000;

/// Inserts a machine; its version is held from now on. Old ones that have ended make room.
pub(super) fn register(
    tx: &WriteTransaction<'_>,
    instance: &NewInstance,
) -> Result<(), InsertInstanceError> {
    let now = instance.created_at;
    instances::insert(tx, instance)?;
    let hold = HolderRow {
        object: Object::version(instance.version_id),
        holder: Holder::instance(instance.id),
        created_at: now,
        expires_at: None,
    };
    holders::add(tx, &hold)?;
    let data = json!({
        "name": instance.name,
        "image_id": instance.image_id,
        "image_name": instance.image_name,
        "version_id": instance.version_id,
        "pid": instance.process.pid,
    });
    let actor = EventActor::Unix(instance.owner_uid);
    append(tx, actor, "instance.registered", instance.id, data, now)?;
    Ok(prune(tx, now)?)
}

/// Notes that a starting machine runs; does nothing to one that does, or did.
pub(super) fn start(
    tx: &WriteTransaction<'_>,
    actor: EventActor,
    id: InstanceId,
    under: &RunningUnder,
    now: Timestamp,
) -> Result<(), StoreError> {
    if instances::start(tx, id, under, now)? {
        let data = json!({ "monitor": under.monitor, "accelerator": under.accelerator });
        append(tx, actor, "instance.started", id, data, now)?;
    }
    Ok(())
}

/// Notes how a machine ended and lets go of its version; returns it as it is then. Nothing happens
/// to one that has ended before.
pub(super) fn finish(
    tx: &WriteTransaction<'_>,
    actor: EventActor,
    id: InstanceId,
    end: &InstanceEnd,
    now: Timestamp,
) -> Result<Option<InstanceRow>, StoreError> {
    if !instances::finish(tx, id, end, now)? {
        return Ok(None);
    }
    holders::remove_all_of(tx, &Holder::instance(id))?;
    let data = json!({ "exit_code": end.exit_code, "reason": end.reason });
    append(tx, actor, "instance.ended", id, data, now)?;
    instances::get(tx, id)
}

/// Removes a machine that has ended; tells whether there was one.
pub(super) fn remove(
    tx: &WriteTransaction<'_>,
    actor: EventActor,
    row: &InstanceRow,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if !instances::delete(tx, row.id)? {
        return Ok(false);
    }
    let data = json!({ "name": row.name });
    append(tx, actor, "instance.removed", row.id, data, now)?;
    Ok(true)
}

/// Removes machines that ended long ago, or too many others of their owner ago.
pub(crate) fn prune(tx: &WriteTransaction<'_>, now: Timestamp) -> Result<(), StoreError> {
    let horizon = now.as_micros().saturating_sub(KEPT_MICROS);
    // A clock before the eighth day of 1970 prunes nothing by age.
    let horizon = Timestamp::from_micros(horizon).unwrap_or(Timestamp::EPOCH);
    instances::prune(tx, KEPT, horizon).map(drop)
}

fn append(
    tx: &WriteTransaction<'_>,
    actor: EventActor,
    kind: &str,
    id: InstanceId,
    data: Value,
    now: Timestamp,
) -> Result<(), StoreError> {
    let event = NewEvent {
        at: now,
        actor,
        kind,
        object: Object::instance(id),
        data,
    };
    events::append(tx, &event).map(drop)
}
