//! `image.*`.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use kiln_api::image::modify::{ClearLimits, GetHistory, GetLimits, Modify};
use kiln_api::image::remote::{Outdated, Scan, Untag};
use kiln_api::image::removal::{ForgetById, PurgeById, Restore};
use kiln_api::image::{Forget, Get, List, Open, Pull, Register};
use kiln_service::{Images, Metadata, Pulls, Purges};

use crate::table::Table;

pub(crate) fn register(
    table: &mut Table,
    pulls: &Arc<Pulls>,
    images: &Arc<Images>,
    purges: &Arc<Purges>,
) -> Result<(), RegisterMethodError> {
    table.method::<Pull, _, _, _>(pulls, |desk, caller, params| async move {
        desk.pull(&caller.actor, params).await
    })?;
    table.method::<Register, _, _, _>(pulls, |desk, caller, params| async move {
        desk.register(&caller.actor, params).await
    })?;
    table.method::<List, _, _, _>(images, |desk, caller, params| async move {
        desk.list(&caller.actor, params).await
    })?;
    table.method::<Get, _, _, _>(images, |desk, caller, params| async move {
        desk.get(&caller.actor, params).await
    })?;
    table.method::<Open, _, _, _>(images, |desk, caller, params| async move {
        desk.open(&caller.actor, params).await
    })?;
    table.method::<Forget, _, _, _>(images, |desk, caller, params| async move {
        desk.forget(&caller.actor, params).await
    })?;
    table.method::<ForgetById, _, _, _>(images, |desk, caller, params| async move {
        desk.forget_by_id(&caller.actor, params).await
    })?;
    table.method::<Restore, _, _, _>(images, |desk, caller, params| async move {
        desk.restore(&caller.actor, params).await
    })?;
    table.method::<PurgeById, _, _, _>(purges, |desk, caller, params| async move {
        desk.purge_by_id(&caller.actor, params).await
    })
}

pub(crate) fn register_metadata(
    table: &mut Table,
    metadata: &Arc<Metadata>,
    pulls: &Arc<Pulls>,
) -> Result<(), RegisterMethodError> {
    table.method::<Modify, _, _, _>(metadata, |desk, caller, params| async move {
        desk.modify(&caller.actor, params).await
    })?;
    table.method::<GetLimits, _, _, _>(metadata, |desk, caller, params| async move {
        desk.limits(&caller.actor, params).await
    })?;
    table.method::<ClearLimits, _, _, _>(metadata, |desk, caller, params| async move {
        desk.clear_limits(&caller.actor, params).await
    })?;
    table.method::<GetHistory, _, _, _>(metadata, |desk, caller, params| async move {
        desk.history(&caller.actor, params).await
    })?;
    let both = Arc::new((metadata.clone(), pulls.clone()));
    table.method::<Scan, _, _, _>(&both, |both, caller, params| async move {
        let (metadata, pulls) = &*both;
        Box::pin(kiln_service::scan(metadata, pulls, &caller.actor, params)).await
    })?;
    table.method::<Outdated, _, _, _>(metadata, |desk, caller, params| async move {
        desk.outdated(&caller.actor, params).await
    })?;
    table.method::<Untag, _, _, _>(metadata, |desk, caller, params| async move {
        desk.untag(&caller.actor, params).await
    })
}
