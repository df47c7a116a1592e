//! `org.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::org::{Add, AddMember, Get, List, Remove, RemoveMember};
use kiln_service::Orgs;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Orgs>) -> Result<(), RegisterMethodError> {
    table.method::<List, _, _, _>(desk, |desk, caller, params| async move {
        desk.list(&caller.actor, params).await
    })?;
    table.method::<Get, _, _, _>(desk, |desk, caller, params| async move {
        desk.get(&caller.actor, params).await
    })?;
    table.method::<Add, _, _, _>(desk, |desk, caller, params| async move {
        desk.add(&caller.actor, params).await
    })?;
    table.method::<Remove, _, _, _>(desk, |desk, caller, params| async move {
        desk.remove(&caller.actor, params).await
    })?;
    table.method::<AddMember, _, _, _>(desk, |desk, caller, params| async move {
        desk.add_member(&caller.actor, params).await
    })?;
    table.method::<RemoveMember, _, _, _>(desk, |desk, caller, params| async move {
        desk.remove_member(&caller.actor, params).await
    })
}
