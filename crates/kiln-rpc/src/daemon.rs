//! `daemon.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::daemon::GetInfo;
use kiln_service::DaemonDesk;

use crate::table::Table;

pub(crate) fn register(
    table: &mut Table,
    desk: &Arc<DaemonDesk>,
) -> Result<(), RegisterMethodError> {
    table.method::<GetInfo, _, _, _>(desk, |desk, caller, _| async move {
        desk.info(&caller.actor).await
    })
}
