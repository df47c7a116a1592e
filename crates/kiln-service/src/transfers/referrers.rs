//! What refers to the documents of a graph at its source: signatures, lists of contents, scans. They
//! go along where that is asked for.

use std::collections::VecDeque;

use kiln_api::{Failure, codes};
use kiln_domain::{Digest, Reference};
use kiln_registry::{Breadth, Graph, ImageSource, Registry, read_graph};

use super::Transfers;
use crate::failures::source_failure;

/// Most referrers of one graph: a signature, a list of contents and a scan for each of fifty
/// platforms fit.
const MAX_REFERRERS: u64 = 256;

impl Transfers {
    /// Adds everything that refers to a document of the graph, and what refers to that. Returns how
    /// many were added. Only registries know what refers to something.
    pub(super) async fn add_referrers(
        &self,
        source: &ImageSource,
        graph: &mut Graph,
    ) -> Result<u64, Failure> {
        let ImageSource::Registry {
            registry,
            reference,
        } = source
        else {
            return Ok(0);
        };
        let mut added = 0;
        let mut subjects: VecDeque<Digest> = graph.documents.iter().map(|one| one.digest).collect();
        while let Some(subject) = subjects.pop_front() {
            let (location, lies_there) = registry.location(reference);
            for referrer in referrers_of(location, &lies_there, &subject).await? {
                if graph.contains(&referrer) {
                    continue;
                }
                added += 1;
                if added > MAX_REFERRERS {
                    let message =
                        format!("more than {MAX_REFERRERS} referrers belong to {reference}");
                    return Err(Failure::new(codes::source::UNSUPPORTED, message)
                        .with_hint("copy it without --referrers", None));
                }
                let below = ImageSource::Registry {
                    registry: registry.clone(),
                    reference: reference.with_digest(referrer),
                };
                let found = read_graph(&below, Breadth::Everything).await;
                graph.absorb(found.map_err(|error| source_failure(&error))?);
                subjects.push_back(referrer);
            }
        }
        Ok(added)
    }
}

async fn referrers_of(
    registry: &Registry,
    reference: &Reference,
    subject: &Digest,
) -> Result<Vec<Digest>, Failure> {
    let mut found: Vec<Digest> = Vec::new();
    let mut after = None;
    let mut turning = registry.turning();
    loop {
        let asking = registry.referrers(reference, subject, None, None, after.as_ref());
        let page = asking.await.map_err(|error| source_failure(&error))?.page;
        found.extend(page.items.iter().map(|entry| entry.digest));
        // What is beyond the limit is refused by the caller.
        if page.next.is_none() || found.len() as u64 > MAX_REFERRERS {
            return Ok(found);
        }
        let next = turning.on(page.next);
        after = next.map_err(|error| source_failure(&error.into()))?;
    }
}
