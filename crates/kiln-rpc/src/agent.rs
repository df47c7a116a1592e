//! `agent.*`, and `image.purge`, which is done by agents.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::agent::{Add, Get, List, Ping, Remove};
use kiln_api::image::purge::Purge;
use kiln_service::Agents;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Agents>) -> Result<(), RegisterMethodError> {
    table.method::<Purge, _, _, _>(desk, |desk, caller, params| async move {
        desk.purge(&caller.actor, params).await
    })?;
    table.method::<Add, _, _, _>(desk, |desk, caller, params| async move {
        desk.add(&caller.actor, params).await
    })?;
    table.method::<List, _, _, _>(desk, |desk, caller, params| async move {
        desk.list(&caller.actor, params).await
    })?;
    table.method::<Get, _, _, _>(desk, |desk, caller, params| async move {
        desk.get(&caller.actor, params).await
    })?;
    table.method::<Remove, _, _, _>(desk, |desk, caller, params| async move {
        desk.remove(&caller.actor, params).await
    })?;
    table.method::<Ping, _, _, _>(desk, |desk, caller, params| async move {
        desk.ping(&caller.actor, params).await
    })
}
