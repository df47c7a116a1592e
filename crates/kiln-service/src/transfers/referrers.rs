//! What refers to the documents of a graph at its source: signatures, lists of contents, scans. They
//! go along where that is asked for.

use std::collections::VecDeque;

use kiln_api::{Failure, codes};
use kiln_domain::{Digest, Reference};
use kiln_registry::{Breadth, Graph, ImageSource, Registry, absorb_referrers, read_graph};

use super::Transfers;
use crate::failures::source_failure;

/// Most referrers of one graph: a signature, a list of contents and a scan for each of fifty
/// platforms fit.
const MAX_REFERRERS: u64 = 256;

impl Transfers {
    /// Adds everything that refers to a document of the graph, and what refers to that. Returns how
    /// many were added. Archives of Docker's and directories of one image hold nothing of the kind.
    pub(super) async fn add_referrers(
        &self,
        source: &ImageSource,
        graph: &mut Graph,
    ) -> Result<u64, Failure> {
        let (registry, reference) = match source {
            ImageSource::Registry {
                registry,
                reference,
            } => (registry, reference),
            ImageSource::Layout(_) => return in_layout(source, graph).await,
            ImageSource::DockerArchive(_) => return Ok(0),
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
                    return Err(too_many(&reference.to_string()));
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

/// Adds what a layout holds.
async fn in_layout(source: &ImageSource, graph: &mut Graph) -> Result<u64, Failure> {
    let limit = usize::try_from(MAX_REFERRERS).unwrap_or(usize::MAX);
    let added = absorb_referrers(source, graph, limit).await;
    let added = added.map_err(|error| source_failure(&error))?.len();
    if added > limit {
        return Err(too_many("the image"));
    }
    Ok(added as u64)
}

fn too_many(image: &str) -> Failure {
    let message = format!("more than {MAX_REFERRERS} referrers belong to {image}");
    Failure::new(codes::source::UNSUPPORTED, message).with_hint("copy it without --referrers", None)
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
