//! One tag of a registry's repository to another.

use std::sync::Arc;

use kiln_api::Failure;
use kiln_api::registry::sync::SyncedItem;
use kiln_domain::Reference;
use kiln_registry::{Breadth, Graph, ImageSource, Registry, read_graph};

use super::Job;
use super::choose::{Pair, with_tag};
use crate::board::Running;
use crate::failures::source_failure;
use crate::transfers::copy::cached_for;
use crate::transfers::shipment::Shipment;
use crate::transfers::whereabouts::Writer;
use crate::transfers::{Destination, Transfers};

impl Transfers {
    /// Brings a tag of a repository to another.
    pub(super) async fn bring_tag(
        &self,
        job: &Job,
        pair: &Pair<'_>,
        tag: &str,
        running: &Arc<Running>,
    ) -> Result<SyncedItem, Failure> {
        let source = with_tag(&pair.source, tag)?;
        // What one tag lost to faults is not missing for those behind it.
        let (from, into) = (pair.from.for_other_work(), pair.into.for_other_work());
        let target = with_tag(&pair.target, tag)?;
        let item = |digest: String, sent_bytes, is_up_to_date| SyncedItem {
            into: target.to_string(),
            digest,
            is_up_to_date,
            sent_bytes,
        };
        // A platform of an index has another digest than its tag; referrers change without it.
        if pair.breadth == Breadth::Everything && !pair.rule.has_referrers {
            let (registry, located) = from.location(&source);
            let here = registry.manifest_digest(&located).await;
            let here = here.map_err(|error| source_failure(&error))?;
            if let Some(here) = here {
                let there = into.manifest_digest(&target).await;
                if there.map_err(|error| source_failure(&error))? == Some(here) {
                    return Ok(item(here.to_string(), 0, true));
                }
            }
        }
        let opened = ImageSource::Registry {
            registry: from,
            reference: source.clone(),
        };
        let graph = read_graph(&opened, pair.breadth).await;
        let mut graph = graph.map_err(|error| source_failure(&error))?;
        let referrers = if pair.rule.has_referrers {
            self.add_referrers(&opened, &mut graph).await?
        } else {
            0
        };
        if job.is_dry_run {
            let missing = self.missing_bytes(job, &into, &target, &graph).await?;
            let there = into.manifest_digest(&target).await;
            let there = there.map_err(|error| source_failure(&error))?;
            let is_there = there == Some(graph.root) && referrers == 0;
            return Ok(item(graph.root.to_string(), missing, is_there));
        }
        let destination = Destination {
            writer: Writer::new(job.actor.uid, &into, &target),
            registry: into,
            reference: target.clone(),
            tags: vec![target.clone()],
        };
        let shipment = Shipment {
            desk: self,
            source: Some(&opened),
            mount_from: Some(&source),
            cached: cached_for(&job.actor),
            into: &destination,
            running,
        };
        let done = shipment.send(&graph, referrers).await?;
        Ok(item(done.digest, done.sent.bytes, done.is_up_to_date))
    }
}

impl Transfers {
    /// Adds up what of a graph is not at its destination, nor elsewhere in the registry, which then
    /// takes it over from there, and what no tag before it brings.
    pub(super) async fn missing_bytes(
        &self,
        job: &Job,
        registry: &Registry,
        target: &Reference,
        graph: &Graph,
    ) -> Result<u64, Failure> {
        let writer = Writer::new(job.actor.uid, registry, target);
        let mut missing: u64 = 0;
        for blob in &graph.blobs {
            let found = registry.blob_size(target, &blob.digest).await;
            let is_there = found.map_err(|error| source_failure(&error))? == Some(blob.size_bytes);
            let is_elsewhere = || self.whereabouts.elsewhere(&writer, blob.digest, target);
            if is_there {
                self.whereabouts.note(&writer, blob.digest, target);
            } else if is_elsewhere().is_none() && job.counted.counts(target, blob.digest) {
                missing = missing.saturating_add(blob.size_bytes);
            }
        }
        Ok(missing)
    }
}
