//! `kernel.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::kernel::{Check, Get, GetDefault, Import, List, Pull, Remove, SetDefault};
use kiln_service::Kernels;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Kernels>) -> Result<(), RegisterMethodError> {
    table.method::<Import, _, _, _>(desk, |desk, caller, params| async move {
        desk.import(&caller.actor, params).await
    })?;
    table.method::<Pull, _, _, _>(desk, |desk, caller, params| async move {
        desk.pull(&caller.actor, params).await
    })?;
    table.method::<List, _, _, _>(desk, |desk, _, _| async move { desk.list().await })?;
    table.method::<Get, _, _, _>(desk, |desk, _, params| async move {
        desk.get(&params.name).await
    })?;
    table.method::<GetDefault, _, _, _>(desk, |desk, _, _| async move { desk.default().await })?;
    table.method::<SetDefault, _, _, _>(desk, |desk, caller, params| async move {
        desk.set_default(&caller.actor, params).await
    })?;
    table.method::<Check, _, _, _>(desk, |desk, _, params| async move {
        desk.check(&params.name).await
    })?;
    table.method::<Remove, _, _, _>(desk, |desk, caller, params| async move {
        desk.remove(&caller.actor, &params.name).await
    })
}
