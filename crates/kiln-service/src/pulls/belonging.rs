//! The organisation that a new image is to belong to: asked for when a pull begins, and once more
//! when it is recorded, for hours may lie between.

use kiln_api::Failure;
use kiln_domain::access::{Actor, Belongs, Grant, Make, permit};
use kiln_domain::{OrgId, Visibility};
use kiln_store::{ReadTransaction, orgs as rows};

use super::Records;
use crate::orgs::{self, OrgError};

impl Records {
    /// Finds the organisation a call names, in which the caller must be.
    pub(super) async fn organization(
        &self,
        actor: &Actor,
        named: Option<&str>,
    ) -> Result<Option<OrgId>, Failure> {
        let Some(named) = named.map(str::to_owned) else {
            return Ok(None);
        };
        let actor = *actor;
        let found = self.store.read(move |tx| {
            let id = orgs::find(tx, &named)?.id;
            may_add(tx, &actor, id)?;
            Ok::<_, OrgError>(id)
        });
        let found = found.await.map_err(|error| orgs::failure(&error))?;
        Ok(Some(found))
    }
}

/// Permits an actor to add an image to an organisation that is there.
pub(super) fn may_add(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    id: OrgId,
) -> Result<Grant<Make>, OrgError> {
    // A superadmin is in none of them; it has to be there all the same.
    if rows::get(tx, id)?.is_none() {
        return Err(OrgError::NotFound {
            named: id.to_string(),
        });
    }
    let standing = rows::standing_of(tx, id, actor.uid)?;
    Ok(permit(actor, &Belongs::to_organization(standing))?)
}

/// Who sees a new image: its owner, or the organisation it belongs to.
pub(super) fn visibility(org: Option<OrgId>) -> Visibility {
    match org {
        Some(_) => Visibility::Organization,
        None => Visibility::Private,
    }
}
