//! `kernel.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::kernel::{Get, Import, List, Remove};
use kiln_service::Kernels;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Kernels>) -> Result<(), RegisterMethodError> {
    table.method::<Import, _, _, _>(desk, |desk, caller, params| async move {
        desk.import(&caller.actor, params).await
    })?;
    table.method::<List, _, _, _>(desk, |desk, _, _| async move { desk.list().await })?;
    table.method::<Get, _, _, _>(desk, |desk, _, params| async move {
        desk.get(&params.name).await
    })?;
    table.method::<Remove, _, _, _>(desk, |desk, caller, params| async move {
        desk.remove(&caller.actor, &params.name).await
    })
}
