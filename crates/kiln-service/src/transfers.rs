//! Sending content to registries: the desk that pushes and copies.
//!
//! ```text
//! documents ──▶ every blob: there? ──▶ mount ──▶ cache, or source ──▶ sent, four side by side
//!                                                                      │ all of them
//!            manifests, what is named first, by digest ◀───────────────┘
//!            tags, last ──▶ record, event, end
//! ```
//! Nothing is undone when it fails: what has arrived is found there by the next try, and a tag
//! never names what is not whole.

mod copy;
mod finish;
mod packed;
mod push;
mod referrers;
mod shipment;
mod sync;
mod turns;
mod whereabouts;

use std::sync::Arc;

use kiln_api::operation::Operation;
use kiln_api::transfer::{Transfer, TransferOutcome};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{Credentials, OperationState, Reference};
use kiln_registry::Registry;

pub(crate) use self::finish::{Ending, Happened};
use self::whereabouts::{Whereabouts, Writer};
use crate::failures::source_failure;
use crate::fetch::Fetcher;
use crate::host_files::HostFiles;
use crate::pulls::{Launched, Records};
use crate::remotes::Remotes;

/// Sends content to registries.
#[derive(Clone, Debug)]
pub struct Transfers {
    records: Records,
    fetcher: Arc<Fetcher>,
    remotes: Arc<Remotes>,
    files: Arc<HostFiles>,
    /// Where in registries blobs are, and are on their way to.
    whereabouts: Arc<Whereabouts>,
}

/// Where something is to go.
#[derive(Clone, Debug)]
struct Destination {
    registry: Registry,
    /// Who sends something there.
    writer: Writer,
    /// Repository, and the tag or digest that was named.
    reference: Reference,
    /// Every tag that is to be written.
    tags: Vec<Reference>,
}

impl Transfers {
    /// Makes the desk.
    pub fn new(
        records: Records,
        fetcher: Arc<Fetcher>,
        remotes: Arc<Remotes>,
        files: Arc<HostFiles>,
    ) -> Self {
        Self {
            records,
            fetcher,
            remotes,
            files,
            whereabouts: Arc::default(),
        }
    }

    /// Understands where something is to go, as whom.
    fn destination(
        &self,
        actor: &Actor,
        into: &str,
        tags: &[String],
        credentials: Option<Credentials>,
        tls_verify: Option<bool>,
    ) -> Result<Destination, Failure> {
        let invalid = |error: &(dyn std::error::Error + 'static)| {
            Failure::from_error(codes::source::INVALID_REFERENCE, error)
        };
        let reference = kiln_api::destination(into)?;
        let mut all = Vec::with_capacity(tags.len() + 1);
        if reference.digest().is_none() {
            all.push(reference.clone());
        }
        for tag in tags {
            let tagged = reference.with_tag(tag).map_err(|error| invalid(&error))?;
            if !all.contains(&tagged) {
                all.push(tagged);
            }
        }
        let tls = crate::remotes::tls_verify(tls_verify);
        let registry = self.remotes.registry_of(&reference, credentials, tls);
        let registry = registry.map_err(|error| source_failure(&error))?;
        Ok(Destination {
            writer: Writer::new(actor.uid, &registry, &reference),
            registry,
            reference,
            tags: all,
        })
    }
}

/// Turns how a launched transfer stands into its caller's answer.
fn answer(launched: Launched) -> Result<TransferOutcome, Failure> {
    match launched {
        Launched::Started(started) => Ok(TransferOutcome::Started(Box::new(started))),
        Launched::Ended(operation) => ended(operation).map(TransferOutcome::Transfer),
    }
}

fn ended(operation: Operation) -> Result<Box<Transfer>, Failure> {
    match (operation.state, operation.transfer, operation.error) {
        (OperationState::Succeeded, Some(transfer), _) => Ok(transfer),
        (_, _, Some(failure)) => Err(failure),
        (state, ..) => {
            let message = format!("operation {} is {state} and says no more", operation.id);
            Err(Failure::new(codes::daemon::INTERNAL, message).with_operation(operation.id))
        }
    }
}
