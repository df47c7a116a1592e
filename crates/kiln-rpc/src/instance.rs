//! `instance.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::instance::{Finish, Get, List, Register, Remove, Start};
use kiln_service::Instances;

use crate::table::Table;

pub(crate) fn register(
    table: &mut Table,
    desk: &Arc<Instances>,
) -> Result<(), RegisterMethodError> {
    table.method::<Register, _, _, _>(desk, |desk, caller, params| async move {
        desk.register(&caller.actor, params).await
    })?;
    table.method::<Start, _, _, _>(desk, |desk, caller, params| async move {
        desk.start(&caller.actor, params).await
    })?;
    table.method::<Finish, _, _, _>(desk, |desk, caller, params| async move {
        desk.finish(&caller.actor, params).await
    })?;
    table.method::<List, _, _, _>(desk, |desk, caller, params| async move {
        desk.list(&caller.actor, params).await
    })?;
    table.method::<Get, _, _, _>(desk, |desk, caller, params| async move {
        desk.get(&caller.actor, params).await
    })?;
    table.method::<Remove, _, _, _>(desk, |desk, caller, params| async move {
        desk.remove(&caller.actor, params).await
    })
}
