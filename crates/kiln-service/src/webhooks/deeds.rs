//! What is on record of what pushes changed: lines as of a caller's calls, whose caller is the daemon.

use kiln_api::Failure;
use kiln_api::image::Image;
use kiln_domain::Timestamp;
use kiln_domain::access::Role;
use kiln_store::audit::{self, LineFilter, LineObject, LineResult, NewLine, OK};
use kiln_store::events::EventActor;
use kiln_store::{ReadTransaction, StoreError, WriteTransaction};

use super::Order;

/// What stands for the number of a call: there was none.
const REQUEST: &str = "webhook";

/// Something that was done to an image, or was to be done.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    method: &'static str,
    name: String,
    id: Option<String>,
    result: String,
    operation_id: Option<String>,
}

impl Deed {
    pub(super) fn pulled(image: &Image) -> Self {
        Self::done("image.pull", image)
    }

    pub(super) fn forgot(image: &Image) -> Self {
        Self::done("image.forget", image)
    }

    fn done(method: &'static str, image: &Image) -> Self {
        Self {
            method,
            name: image.name.to_string(),
            id: Some(image.id.to_string()),
            result: OK.to_owned(),
            operation_id: None,
        }
    }

    /// The pull of an order that is given up.
    pub(super) fn not_pulled(order: &Order, failure: &Failure) -> Self {
        Self {
            method: "image.pull",
            name: order.name.to_string(),
            id: None,
            result: failure.code.clone(),
            operation_id: failure.operation_id.clone(),
        }
    }

    /// An image that was to go and stays.
    pub(super) fn not_forgotten(image: &Image, failure: &Failure) -> Self {
        Self {
            result: failure.code.clone(),
            ..Self::done("image.forget", image)
        }
    }

    /// Says whether a line tells already that this image was made: that is found again by whoever is told
    /// of a push twice.
    pub(super) fn is_kept(&self, tx: &ReadTransaction<'_>) -> Result<bool, StoreError> {
        if self.id.is_none() {
            return Ok(false);
        }
        let filter = LineFilter {
            actor: Some(EventActor::Daemon),
            method_prefix: Some(self.method.to_owned()),
            object_id: self.id.clone(),
            result: Some(LineResult::Exactly(self.result.clone())),
            ..LineFilter::default()
        };
        Ok(!audit::page(tx, 0, 1, &filter)?.rows.is_empty())
    }

    /// Writes its line.
    pub(super) fn keep(self, tx: &WriteTransaction<'_>, at: Timestamp) -> Result<(), StoreError> {
        let line = NewLine {
            at,
            actor: EventActor::Daemon,
            user_name: None,
            role: Role::Superadmin,
            method: self.method.to_owned(),
            object: LineObject {
                kind: Some("image".to_owned()),
                name: Some(self.name),
                id: self.id,
            },
            result: self.result,
            request_id: REQUEST.to_owned(),
            operation_id: self.operation_id,
            unwritten: 0,
        };
        audit::append(tx, &line).map(drop)
    }
}
