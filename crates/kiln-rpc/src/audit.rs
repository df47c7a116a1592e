//! `audit.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::audit::List;
use kiln_service::Audit;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Audit>) -> Result<(), RegisterMethodError> {
    table.method::<List, _, _, _>(desk, |desk, caller, params| async move {
        desk.list(&caller.actor, params).await
    })
}
