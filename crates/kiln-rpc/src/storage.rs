//! `storage.usage`, `storage.prune` and `image.why`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::storage::{GetUsage, GetWhy, Prune};
use kiln_service::Storage;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Storage>) -> Result<(), RegisterMethodError> {
    table.method::<GetUsage, _, _, _>(desk, |desk, caller, params| async move {
        desk.usage(&caller.actor, params).await
    })?;
    table.method::<GetWhy, _, _, _>(desk, |desk, caller, params| async move {
        desk.why(&caller.actor, params).await
    })?;
    table.method::<Prune, _, _, _>(desk, |desk, caller, params| async move {
        desk.prune(&caller.actor, params).await
    })
}
