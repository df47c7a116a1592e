//! `registry.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::registry::{Explain, Ping};
use kiln_service::Registries;

use crate::table::Table;

pub(crate) fn register(
    table: &mut Table,
    desk: &Arc<Registries>,
) -> Result<(), RegisterMethodError> {
    table.method::<Ping, _, _, _>(
        desk,
        |desk, _, params| async move { desk.ping(params).await },
    )?;
    table.method::<Explain, _, _, _>(desk, |desk, _, params| async move { desk.explain(&params) })
}
