//! What sends content to registries: `image.push`, `registry.copy` and
//! `registry.sync`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::image::push::Push;
use kiln_api::registry::copy::Copy;
use kiln_api::registry::sync::Sync;
use kiln_service::Transfers;

use crate::table::Table;

pub(crate) fn register(
    table: &mut Table,
    desk: &Arc<Transfers>,
) -> Result<(), RegisterMethodError> {
    table.method::<Push, _, _, _>(desk, |desk, caller, params| async move {
        desk.push(&caller.actor, params).await
    })?;
    table.method::<Copy, _, _, _>(desk, |desk, caller, params| async move {
        desk.copy(&caller.actor, params).await
    })?;
    table.method::<Sync, _, _, _>(desk, |desk, caller, params| async move {
        desk.sync(&caller.actor, params).await
    })
}
