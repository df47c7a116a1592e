//! `event.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::event::List;
use kiln_service::Events;

use crate::table::Table;

pub(crate) fn register(table: &mut Table, desk: &Arc<Events>) -> Result<(), RegisterMethodError> {
    table.method::<List, _, _, _>(desk, |desk, caller, params| async move {
        desk.list(&caller.actor, params).await
    })
}
