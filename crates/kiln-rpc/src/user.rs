//! `user.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::user::{Add, Get, GetWhoami, List, Remove, Rename, SetRole};
use kiln_service::Users;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Users>) -> Result<(), RegisterMethodError> {
    table.method::<GetWhoami, _, _, _>(desk, |desk, caller, _| async move {
        desk.whoami(&caller.actor).await
    })?;
    table.method::<List, _, _, _>(desk, |desk, caller, params| async move {
        desk.list(&caller.actor, params).await
    })?;
    table.method::<Get, _, _, _>(desk, |desk, caller, params| async move {
        desk.get(&caller.actor, params).await
    })?;
    table.method::<Add, _, _, _>(desk, |desk, caller, params| async move {
        desk.add(&caller.actor, params).await
    })?;
    table.method::<SetRole, _, _, _>(desk, |desk, caller, params| async move {
        desk.set_role(&caller.actor, params).await
    })?;
    table.method::<Rename, _, _, _>(desk, |desk, caller, params| async move {
        desk.rename(&caller.actor, params).await
    })?;
    table.method::<Remove, _, _, _>(desk, |desk, caller, params| async move {
        desk.remove(&caller.actor, params).await
    })
}
