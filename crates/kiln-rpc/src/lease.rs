//! `image.lease`, `image.renew_lease` and `image.release`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::lease::{Release, Renew, Take};
use kiln_service::Leases;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Leases>) -> Result<(), RegisterMethodError> {
    table.method::<Take, _, _, _>(desk, |desk, caller, params| async move {
        desk.take(&caller.actor, params).await
    })?;
    table.method::<Renew, _, _, _>(desk, |desk, caller, params| async move {
        desk.renew(&caller.actor, params).await
    })?;
    table.method::<Release, _, _, _>(desk, |desk, caller, params| async move {
        desk.release(&caller.actor, params).await
    })
}
