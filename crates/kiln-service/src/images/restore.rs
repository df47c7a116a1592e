//! Bringing images back: forgotten ones until their retention ends, and those that a start adopted.

use kiln_api::Failure;
use kiln_api::image::removal::{RestoreParams, Restored};
use kiln_domain::access::{Actor, Grant, Write};
use kiln_domain::{Architecture, ImageName, NameError, Timestamp};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::images::{self, ImageRow};
use kiln_store::names::{self, NameHolder, NameTaken, ReserveError};
use kiln_store::versions::VersionRow;
use kiln_store::{Object, ReadTransaction, StoreError, WriteTransaction};

use super::{ImageError, Images, failure};
use crate::find_image::architecture;
use crate::pulls::{name_invalid, taken};

/// Why an image could not be brought back.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Taken(#[from] NameTaken),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        Self::Image(error.into())
    }
}

impl From<ReserveError> for RestoreError {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::Taken(taken) => Self::Taken(taken),
            ReserveError::Name(error) => Self::Name(error),
            ReserveError::Store(error) => error.into(),
        }
    }
}

/// What a call asks for, read.
struct Wish {
    image: String,
    architecture: Option<Architecture>,
    name: Option<ImageName>,
}

/// An image that may be brought back, and how it would be called.
struct Found {
    row: ImageRow,
    version: VersionRow,
    grant: Grant<Write>,
    name: ImageName,
}

impl Images {
    /// Makes a forgotten or inactive image active again, under its own name or another that is
    /// free. One that is active stays as it is, and that is said.
    pub async fn restore(&self, actor: &Actor, params: RestoreParams) -> Result<Restored, Failure> {
        let name = params.name.as_deref().map(str::parse).transpose();
        let wish = Wish {
            image: params.image,
            architecture: architecture(params.architecture.as_deref())?,
            name: name.map_err(|error| name_invalid(&error))?,
        };
        let (desk, caller, now) = (self.clone(), *actor, self.clock.now());
        let restored = if params.dry_run {
            let foreseen = self.store.read(move |tx| {
                let found = desk.find_to_restore(tx, &caller, &wish)?;
                desk.restored(tx, found, true)
            });
            foreseen.await
        } else {
            let restored = self.store.write(move |tx| {
                let found = desk.find_to_restore(tx, &caller, &wish)?;
                let already_active = found.row.state.is_active();
                let id = found.row.id;
                if !already_active {
                    bring_back(tx, found.grant, &caller, &found, now)?;
                }
                let row = images::get(tx, id)?.unwrap_or_else(|| found.row.clone());
                let told = desk.restored(tx, Found { row, ..found }, false)?;
                Ok(Restored {
                    already_active,
                    ..told
                })
            });
            restored.await
        };
        restored.map_err(|error| match &error {
            RestoreError::Image(error) => failure(error),
            RestoreError::Taken(by) => taken(by, actor),
            RestoreError::Name(error) => name_invalid(error),
        })
    }

    fn find_to_restore(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        wish: &Wish,
    ) -> Result<Found, RestoreError> {
        let (row, version, grant) =
            self.find_to_change(tx, actor, &wish.image, wish.architecture)?;
        let name = wish.name.clone().unwrap_or_else(|| row.name.clone());
        if !row.state.is_active() {
            name.refuse_id()?;
            match names::holder_of(tx, &name)? {
                None => {}
                // An inactive image keeps its name.
                Some(NameHolder::Image { id, .. }) if id == row.id => {}
                Some(by) => return Err(NameTaken { name, by }.into()),
            }
        }
        Ok(Found {
            row,
            version,
            grant,
            name,
        })
    }

    fn restored(
        &self,
        tx: &ReadTransaction<'_>,
        found: Found,
        dry_run: bool,
    ) -> Result<Restored, RestoreError> {
        let already_active = found.row.state.is_active();
        Ok(Restored {
            image: self.view(tx, found.row, found.version)?,
            already_active,
            dry_run,
        })
    }
}

fn bring_back(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Write>,
    actor: &Actor,
    found: &Found,
    now: Timestamp,
) -> Result<(), RestoreError> {
    let (row, name) = (&found.row, &found.name);
    let held = names::holder_of(tx, &row.name)?;
    let keeps = matches!(held, Some(NameHolder::Image { id, .. }) if id == row.id);
    if keeps && row.name != *name {
        names::free(tx, &row.name)?;
    }
    if !keeps || row.name != *name {
        names::give_to_image(tx, name, row.id, now)?;
    }
    images::restore(tx, row.id, name, now)?;
    let event = NewEvent {
        at: now,
        actor: EventActor::Unix(actor.uid),
        kind: "image.restored",
        object: Object::image(row.id),
        data: serde_json::json!({ "name": name }),
    };
    events::append(tx, &event)?;
    Ok(())
}
