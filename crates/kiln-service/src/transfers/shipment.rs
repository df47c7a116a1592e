//! One graph of documents on its way to a repository.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kiln_api::operation::{LayerProgress, LayerState, Stage};
use kiln_api::transfer::{Amount, Transfer};
use kiln_api::{Failure, codes};
use kiln_domain::oci::Descriptor;
use kiln_domain::{Digest, Reference};
use kiln_registry::{
    Content, FetchError as SourceError, Graph, GraphDocument, ImageSource, Pushed,
};

use super::{Destination, Transfers};
use crate::board::Running;
use crate::failures::{fetch_failure, source_failure};
use crate::fetch::{FetchError, Origin, Passing, Shelf};

/// How many blobs are sent side by side: as many are on the disk at one time at most.
const BLOBS_AT_A_TIME: usize = 4;

/// What is sent, from where, and where to.
pub(super) struct Shipment<'a> {
    pub(super) desk: &'a Transfers,
    /// Who has what is not in the cache.
    pub(super) source: Option<&'a ImageSource>,
    /// Where a registry may take blobs over from, should it be its own repository.
    pub(super) mount_from: Option<&'a Reference>,
    /// What may be taken from the cache.
    pub(super) cached: Shelf,
    pub(super) into: &'a Destination,
    pub(super) running: &'a Arc<Running>,
}

/// How one blob came to be where it is to be.
#[derive(Clone, Copy)]
enum Way {
    Present,
    Mounted,
    Sent,
}

impl Shipment<'_> {
    /// Sends everything, tags last. `referrers` says how many of its documents are such.
    pub(super) async fn send(&self, graph: &Graph, referrers: u64) -> Result<Transfer, Failure> {
        self.check_digest(graph.root)?;
        let mut result = self.result(graph.root);
        if referrers == 0 && self.is_there(graph.root).await? {
            result.is_up_to_date = true;
            return Ok(result);
        }
        self.running.enter(Stage::Send);
        self.running
            .layers(graph.blobs.iter().map(waiting).collect());
        let ways: Vec<Way> = stream::iter(0..graph.blobs.len())
            .map(|index| self.blob(index, &graph.blobs))
            .buffered(BLOBS_AT_A_TIME)
            .try_collect()
            .await?;
        for (way, blob) in ways.into_iter().zip(&graph.blobs) {
            let amount = match way {
                Way::Present => &mut result.present,
                Way::Mounted => &mut result.mounted,
                Way::Sent => &mut result.sent,
            };
            amount.add(blob.size_bytes);
        }
        self.running.enter(Stage::Publish);
        self.documents(graph).await?;
        result.documents = graph.documents.len() as u64;
        result.referrers = referrers;
        Ok(result)
    }

    /// Sends the documents of what has arrived already; `blobs` says how, and how long each is.
    pub(super) async fn conclude(
        &self,
        graph: &Graph,
        blobs: &[(Pushed, u64)],
    ) -> Result<Transfer, Failure> {
        let mut result = self.weigh(graph.root, blobs).await?;
        if result.is_up_to_date {
            return Ok(result);
        }
        self.running.enter(Stage::Publish);
        self.documents(graph).await?;
        result.documents = graph.documents.len() as u64;
        Ok(result)
    }

    /// Tells what sending the documents of what has arrived would come to.
    pub(super) async fn weigh(
        &self,
        root: Digest,
        blobs: &[(Pushed, u64)],
    ) -> Result<Transfer, Failure> {
        self.check_digest(root)?;
        let mut result = self.result(root);
        for (pushed, size_bytes) in blobs {
            let amount = match pushed {
                Pushed::Existed => &mut result.present,
                Pushed::Mounted => &mut result.mounted,
                Pushed::Sent => &mut result.sent,
            };
            amount.add(*size_bytes);
        }
        // What names a blob is not there before the blob is.
        let lacks_blobs = result.sent.blobs + result.mounted.blobs > 0;
        result.is_up_to_date = !lacks_blobs && self.is_there(root).await?;
        Ok(result)
    }

    /// Sends the documents, what is named first, and the root by its tags where it gets some.
    async fn documents(&self, graph: &Graph) -> Result<(), Failure> {
        let is_tagged = !self.into.tags.is_empty();
        for document in &graph.documents {
            if document.digest != graph.root || !is_tagged {
                let reference = self.into.reference.with_digest(document.digest);
                self.document(&reference, document).await?;
            }
        }
        let is_root = |document: &&GraphDocument| document.digest == graph.root;
        for root in graph.documents.iter().filter(is_root) {
            for tag in &self.into.tags {
                self.document(tag, root).await?;
            }
        }
        Ok(())
    }

    /// Refuses to send one thing under the digest of another.
    pub(super) fn check_digest(&self, root: Digest) -> Result<(), Failure> {
        let wanted = self.into.reference.digest();
        if wanted.is_none_or(|wanted| *wanted == root) {
            return Ok(());
        }
        let message = format!("{} is to be {root}, which it is not", self.into.reference);
        Err(Failure::new(codes::source::DIGEST_CONFLICT, message)
            .with_hint("name a tag, or no digest, where it goes", None))
    }

    /// Asks whether every tag names it already: then everything below is there too.
    async fn is_there(&self, root: Digest) -> Result<bool, Failure> {
        let by_digest = [self.into.reference.with_digest(root)];
        let wanted: &[Reference] = if self.into.tags.is_empty() {
            &by_digest
        } else {
            &self.into.tags
        };
        for reference in wanted {
            match self.into.registry.manifest_digest(reference).await {
                Ok(Some(found)) if found == root => {}
                Ok(_) => return Ok(false),
                // Who may write need not be allowed to look.
                Err(SourceError::Denied { .. } | SourceError::AuthRequired { .. }) => {
                    return Ok(false);
                }
                Err(error) => return Err(source_failure(&error)),
            }
        }
        Ok(true)
    }

    async fn blob(&self, index: usize, blobs: &[Descriptor]) -> Result<Way, Failure> {
        let Some(blob) = blobs.get(index) else {
            return Ok(Way::Present);
        };
        let waits = || self.running.layer(index, LayerState::Waiting);
        let whereabouts = &self.desk.whereabouts;
        let turn = whereabouts.turn(&self.into.writer, blob.digest, waits);
        let turn = turn.await;
        self.running.layer(index, LayerState::Sending);
        let reached = || self.running.layer_reached(index);
        turn.spend(reached, self.bring(index, blob)).await
    }

    /// Sees to it that a blob is there.
    async fn bring(&self, index: usize, blob: &Descriptor) -> Result<Way, Failure> {
        let (registry, into) = (&self.into.registry, &self.into.reference);
        let (whereabouts, writer) = (&self.desk.whereabouts, &self.into.writer);
        let found = registry.blob_size(into, &blob.digest).await;
        if found.map_err(|error| source_failure(&error))? == Some(blob.size_bytes) {
            whereabouts.note(writer, blob.digest, into);
            self.running.layer(index, LayerState::Cached);
            return Ok(Way::Present);
        }
        let way = if self.mount(blob).await? {
            self.running.layer(index, LayerState::Cached);
            Way::Mounted
        } else {
            let sent = self.send_found(index, blob).await;
            sent.map_err(|error| fetch_failure(&error))?
        };
        whereabouts.note(writer, blob.digest, into);
        Ok(way)
    }

    /// Asks the registry to take a blob over from another repository of its own: where it comes
    /// from, or where it was seen.
    async fn mount(&self, blob: &Descriptor) -> Result<bool, Failure> {
        let (registry, into) = (&self.into.registry, &self.into.reference);
        let (whereabouts, writer) = (&self.desk.whereabouts, &self.into.writer);
        let elsewhere = whereabouts.elsewhere(writer, blob.digest, into);
        let is_other = |seen: &&Reference| {
            let source = self.mount_from;
            source.is_none_or(|source| repository_of(source) != repository_of(seen))
        };
        let elsewhere = elsewhere.as_ref().filter(is_other);
        for from in self.mount_from.into_iter().chain(elsewhere) {
            let mounted = registry.mount_blob(into, blob, from).await;
            if mounted.map_err(|error| source_failure(&error))? {
                return Ok(true);
            }
        }
        // Where it was seen it is no longer.
        whereabouts.forget(writer, blob.digest);
        Ok(false)
    }

    /// Sends a blob from where it is found. What the disk has lost in the cache is fetched anew.
    async fn send_found(&self, index: usize, blob: &Descriptor) -> Result<Way, FetchError> {
        let found = self.find(index, blob, &self.cached).await?;
        let origin = found.origin;
        let error = match self.send_content(index, blob, found.content).await {
            Ok(way) => return Ok(way),
            Err(error) => error,
        };
        // Its room is needed for the next try.
        drop(found.passage);
        let is_doubtful = origin == Origin::Cache
            && self.source.is_some()
            && matches!(
                &error,
                FetchError::Source(SourceError::DigestMismatch { expected, .. })
                    if *expected == blob.digest
            );
        // The other side may have said so, too, who knows nothing of the cache.
        let fetcher = &self.desk.fetcher;
        if !is_doubtful || !fetcher.forget_damaged(blob.digest, self.running).await? {
            return Err(error);
        }
        let found = self.find(index, blob, &Shelf::Closed).await?;
        // The room is kept until it is sent.
        let sent = self.send_content(index, blob, found.content).await;
        drop(found.passage);
        sent
    }

    async fn find(
        &self,
        index: usize,
        blob: &Descriptor,
        cached: &Shelf,
    ) -> Result<Passing, FetchError> {
        let fetcher = &self.desk.fetcher;
        let finding = fetcher.outgoing(self.source, blob, cached, index, self.running);
        finding.await
    }

    async fn send_content(
        &self,
        index: usize,
        blob: &Descriptor,
        content: Content,
    ) -> Result<Way, FetchError> {
        self.running.layer(index, LayerState::Sending);
        let running = self.running.clone();
        let content = content.reporting(move |sent| running.layer_sent(index, sent));
        let registry = &self.into.registry;
        let sending = registry.send_blob(&self.into.reference, blob, content, None);
        let way = match sending.await? {
            Pushed::Existed => Way::Present,
            Pushed::Mounted => Way::Mounted,
            Pushed::Sent => {
                self.running.sent(blob.size_bytes);
                Way::Sent
            }
        };
        self.running.layer(index, LayerState::Done);
        Ok(way)
    }

    async fn document(
        &self,
        reference: &Reference,
        document: &GraphDocument,
    ) -> Result<(), Failure> {
        let registry = &self.into.registry;
        let pushing = registry.push_manifest(reference, document.media_type, &document.bytes);
        pushing
            .await
            .map(drop)
            .map_err(|error| source_failure(&error))
    }

    fn result(&self, root: Digest) -> Transfer {
        let reference = &self.into.reference;
        Transfer {
            reference: format!(
                "{}/{}@{}",
                reference.registry(),
                reference.repository(),
                root
            ),
            digest: root.to_string(),
            tags: self.into.tags.iter().map(Reference::to_string).collect(),
            documents: 0,
            referrers: 0,
            is_up_to_date: false,
            sent: Amount::default(),
            mounted: Amount::default(),
            present: Amount::default(),
        }
    }
}

fn repository_of(reference: &Reference) -> (&str, &str) {
    (reference.registry(), reference.repository())
}

fn waiting(blob: &Descriptor) -> LayerProgress {
    LayerProgress {
        digest: blob.digest.to_string(),
        state: LayerState::Waiting,
        bytes_done: 0,
        bytes_total: blob.size_bytes,
    }
}
