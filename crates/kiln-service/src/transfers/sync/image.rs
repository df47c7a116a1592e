//! One image of this host to a repository: its OCI image, or the built one.
//!
//! A built image is packed to learn its digest. What it was called when it was sent before is in
//! the event that told of it; as a version never changes, a tag that names the same is left alone
//! without packing.

use std::sync::Arc;

use kiln_api::Failure;
use kiln_api::image::push::PushForm;
use kiln_api::registry::sync::SyncedItem;
use kiln_api::transfer::Transfer;
use kiln_domain::Digest;
use kiln_registry::routes::TlsVerify;
use kiln_store::Object;
use kiln_store::events::{self, EventActor, NewEvent};

use super::Job;
use super::choose::ChosenImage;
use super::rules::Origin;
use crate::board::Running;
use crate::failures::{source_failure, store_failure};
use crate::transfers::finish::Happened;
use crate::transfers::push::{self, Found, no_source};
use crate::transfers::whereabouts::Writer;
use crate::transfers::{Destination, Transfers, packed};

/// How many of an image's last pushes are looked at for one of the version and form that is wanted.
const PUSHES: u32 = 64;

impl Transfers {
    /// Brings an image of this host to its place, unless it is there.
    pub(super) async fn bring_image(
        &self,
        job: &Job,
        chosen: &ChosenImage<'_>,
        running: &Arc<Running>,
    ) -> Result<SyncedItem, Failure> {
        let Origin::Images { form, architecture } = &chosen.rule.from else {
            return Err(Failure::new(
                kiln_api::codes::daemon::INTERNAL,
                "an image was chosen by a rule for registries",
            ));
        };
        let looked = self.look(&job.actor, chosen.text.clone(), architecture.as_deref());
        let image = looked.await?;
        match form {
            PushForm::Oci => self.bring_original(job, chosen, image, running).await,
            PushForm::Bootable | PushForm::Containerdisk => {
                Box::pin(self.bring_built(job, chosen, image, *form, running)).await
            }
        }
    }

    async fn bring_original(
        &self,
        job: &Job,
        chosen: &ChosenImage<'_>,
        image: Found,
        running: &Arc<Running>,
    ) -> Result<SyncedItem, Failure> {
        let Some(manifest) = image.version.manifest_digest else {
            return Err(no_source(&image.row));
        };
        let has_referrers = chosen.rule.has_referrers;
        if !has_referrers && self.is_named(chosen, manifest).await? {
            return Ok(there(chosen, manifest));
        }
        let work = push::Job {
            actor: job.actor,
            image,
            manifest,
            into: destination(job, chosen),
            has_all_platforms: false,
            has_referrers,
            from: push::Origin {
                credentials: None,
                mirror_credentials: Vec::new(),
                tls: TlsVerify::AsConfigured,
            },
        };
        if job.is_dry_run {
            let (_, graph, referrers) = self.documents_of(&work).await?;
            let missing = self
                .missing_bytes(job, &chosen.into, &chosen.target, &graph)
                .await?;
            let is_there = referrers == 0 && self.is_named(chosen, manifest).await?;
            return Ok(item(chosen, manifest.to_string(), missing, is_there));
        }
        let done = self.send_image(&work, running).await?;
        if !done.is_up_to_date {
            let object = Some(Object::image(work.image.row.id));
            let from = work.image.version.source_reference.clone();
            let from = from.unwrap_or_default();
            self.tell(job, Happened::sent("image.pushed", object, &from, &done))
                .await?;
        }
        Ok(sent(chosen, &done))
    }

    async fn bring_built(
        &self,
        job: &Job,
        chosen: &ChosenImage<'_>,
        image: Found,
        form: PushForm,
        running: &Arc<Running>,
    ) -> Result<SyncedItem, Failure> {
        if let Some(digest) = self.digest_of_last_push(&image, form).await?
            && self.is_named(chosen, digest).await?
        {
            return Ok(there(chosen, digest));
        }
        let work = packed::Job {
            actor: job.actor,
            image,
            into: destination(job, chosen),
            errand: if job.is_dry_run {
                packed::Errand::Tell(job.counted.clone())
            } else {
                packed::Errand::Send
            },
        };
        let done = self.send_packed(&work, form, running).await?;
        if !job.is_dry_run {
            // Also where it was there: the next time it is known to be.
            self.tell(job, packed::pushed(&work.image, form, &done))
                .await?;
        }
        Ok(sent(chosen, &done))
    }

    /// Asks whether the tag names the digest.
    async fn is_named(&self, chosen: &ChosenImage<'_>, digest: Digest) -> Result<bool, Failure> {
        let found = chosen.into.manifest_digest(&chosen.target).await;
        Ok(found.map_err(|error| source_failure(&error))? == Some(digest))
    }

    /// Returns what a version was called in a form when it was last sent.
    async fn digest_of_last_push(
        &self,
        image: &Found,
        form: PushForm,
    ) -> Result<Option<Digest>, Failure> {
        let object = Object::image(image.row.id);
        let read = self
            .records
            .store
            .read(move |tx| events::newest_of_kind(tx, &object, "image.pushed", PUSHES));
        let pushes = read.await.map_err(|error| store_failure(&error))?;
        let (version, form) = (image.version.id.to_string(), serde_json::json!(form));
        let same = pushes
            .iter()
            .find(|push| push.data["from"] == version.as_str() && push.data["as"] == form);
        let reference = same.and_then(|push| push.data["reference"].as_str());
        let digest = reference.and_then(|text| text.rsplit_once('@'));
        Ok(digest.and_then(|(_, digest)| digest.parse().ok()))
    }

    /// Records that an image was sent; the sync goes on.
    async fn tell(&self, job: &Job, happened: Happened) -> Result<(), Failure> {
        let event = (self.records.clock.now(), EventActor::Unix(job.actor.uid));
        let operation = job.id;
        let recorded = self
            .records
            .store
            .write(move |tx| {
                let (at, actor) = event;
                let object = happened.object;
                let event = NewEvent {
                    at,
                    actor,
                    kind: happened.kind,
                    object: object.unwrap_or_else(|| Object::operation(operation)),
                    data: happened.data,
                };
                events::append(tx, &event)
            })
            .await;
        recorded.map(drop).map_err(|error| store_failure(&error))
    }
}

fn destination(job: &Job, chosen: &ChosenImage<'_>) -> Destination {
    Destination {
        writer: Writer::new(job.actor.uid, &chosen.into, &chosen.target),
        // What one image lost to faults is not missing for those behind it.
        registry: chosen.into.for_other_work(),
        reference: chosen.target.clone(),
        tags: vec![chosen.target.clone()],
    }
}

fn there(chosen: &ChosenImage<'_>, digest: Digest) -> SyncedItem {
    item(chosen, digest.to_string(), 0, true)
}

fn sent(chosen: &ChosenImage<'_>, done: &Transfer) -> SyncedItem {
    item(
        chosen,
        done.digest.clone(),
        done.sent.bytes,
        done.is_up_to_date,
    )
}

fn item(
    chosen: &ChosenImage<'_>,
    digest: String,
    sent_bytes: u64,
    is_up_to_date: bool,
) -> SyncedItem {
    SyncedItem {
        into: chosen.target.to_string(),
        digest,
        is_up_to_date,
        sent_bytes,
    }
}
