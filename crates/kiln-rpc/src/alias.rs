//! `image.alias`, `image.dealias` and `alias.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::alias::{Add, List, Remove};
use kiln_service::Aliases;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Aliases>) -> Result<(), RegisterMethodError> {
    table.method::<Add, _, _, _>(desk, |desk, caller, params| async move {
        desk.add(&caller.actor, params).await
    })?;
    table.method::<Remove, _, _, _>(desk, |desk, caller, params| async move {
        desk.remove(&caller.actor, params).await
    })?;
    table.method::<List, _, _, _>(desk, |desk, caller, params| async move {
        desk.list(&caller.actor, params).await
    })
}
