//! `registry.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::registry::doctor::Doctor;
use kiln_api::registry::logins::{Login, Logins, Logout};
use kiln_api::registry::{
    Blob, Catalog, Delete, Explain, Manifest, Ping, RateLimit, Referrers, Tags, Untag,
};
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
    table.method::<Doctor, _, _, _>(
        desk,
        |desk, _, params| async move { desk.doctor(params).await },
    )?;
    table.method::<Catalog, _, _, _>(desk, |desk, _, params| async move {
        desk.catalog(params).await
    })?;
    table.method::<Tags, _, _, _>(
        desk,
        |desk, _, params| async move { desk.tags(params).await },
    )?;
    table.method::<Manifest, _, _, _>(desk, |desk, _, params| async move {
        desk.manifest(params).await
    })?;
    table.method::<Blob, _, _, _>(desk, |desk, caller, params| async move {
        desk.blob(&caller.actor, params).await
    })?;
    table.method::<Referrers, _, _, _>(desk, |desk, _, params| async move {
        desk.referrers(params).await
    })?;
    table.method::<Delete, _, _, _>(
        desk,
        |desk, _, params| async move { desk.delete(params).await },
    )?;
    table.method::<Untag, _, _, _>(
        desk,
        |desk, _, params| async move { desk.untag(params).await },
    )?;
    table.method::<RateLimit, _, _, _>(desk, |desk, _, params| async move {
        desk.ratelimit(params).await
    })?;
    table.method::<Login, _, _, _>(desk, |desk, caller, params| async move {
        desk.login(&caller.actor, params).await
    })?;
    table.method::<Logout, _, _, _>(desk, |desk, caller, params| async move {
        desk.logout(&caller.actor, params).await
    })?;
    table.method::<Logins, _, _, _>(desk, |desk, caller, params| async move {
        desk.logins(&caller.actor, params).await
    })?;
    table.method::<Explain, _, _, _>(desk, |desk, _, params| async move { desk.explain(&params) })
}
