//! `storage.prune`: a plan, and the same plan carried out.
//!
//! ```text
//! plan ──dry run──▶ told
//!   └──▶ images: record and files, one after the other   ──▶ files of the cache that still go
//!          (each decided again in its transaction)            (each asked for again under the lock
//!                                                               of the needs)
//! ```
//! Killed anywhere, each thing is there or gone: an image's files are made up for by the next start
//! (`purges/files.rs`), and a file of the cache is one name.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use kiln_api::storage::{Freed, ITEMS_MAX, PruneParams, Pruned, PrunedItem, PrunedKind};
use kiln_api::{Failure, codes};
use kiln_cache::Gone;
use kiln_domain::access::{Actor, Administer, Belongs, Grant, permit};
use kiln_domain::storage::{PruneScope, StorageKind};
use kiln_domain::{ImageName, Timestamp};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::images::ImageRow;
use kiln_store::{Object, ObjectKind, WriteTransaction, versions};

use super::known::{GoingImage, Known};
use super::survey::{CacheFile, StorageFiles, SurveyError, Thing, What};
use super::{Storage, StorageError, failure};
use crate::failures::{file_failure, store_failure};
use crate::needs::{Needed, Pruning};
use crate::purges::{OnBehalfOf, PurgeError, failure as purge_failure};
use crate::wholly::wholly;

/// Microseconds of a second.
const SECOND_MICROS: i64 = 1_000_000;

/// What goes.
#[derive(Debug, Default)]
struct Plan {
    images: Vec<PlannedImage>,
    cached: Vec<(StorageKind, Thing)>,
}

#[derive(Debug)]
struct PlannedImage {
    image: GoingImage,
    frees_bytes: u64,
}

/// What came of it.
#[derive(Debug, Default)]
struct Report {
    kinds: BTreeMap<StorageKind, (u64, u64)>,
    items: Vec<PrunedItem>,
    failed: u64,
    left_alone: u64,
}

impl Storage {
    /// Removes what nothing needs, or tells what would go.
    pub async fn prune(&self, actor: &Actor, params: PruneParams) -> Result<Pruned, Failure> {
        let grant = permit::<Administer>(actor, &Belongs::TO_THE_DAEMON)
            .map_err(|denied| Failure::from_error(codes::request::DENIED, &denied))?;
        let now = self.clock.now();
        let scope = scope_of(&params, now)?;
        let (desk, actor) = (self.clone(), *actor);
        // A caller that hangs up ends its waiting, not the work.
        let pruned = wholly(async move {
            if params.dry_run {
                desk.foresee(scope, now).await
            } else {
                desk.carry_out(grant, &actor, scope, now).await
            }
        });
        pruned.await?.map_err(|error| failure(&error))
    }

    async fn foresee(&self, scope: PruneScope, now: Timestamp) -> Result<Pruned, StorageError> {
        let (things, known) = self.look(scope, now).await?;
        let plan = self.plan(things, &known).await?;
        let mut report = Report::default();
        for planned in plan.images {
            let row = planned.image.row;
            let id = row.image_id.to_string();
            report.gone(
                StorageKind::ForgottenImage,
                id,
                Some(row.image_name),
                planned.frees_bytes,
            );
        }
        for (kind, thing) in plan.cached {
            report.gone(kind, thing.item, None, thing.frees_bytes);
        }
        Ok(report.told(true))
    }

    async fn carry_out(
        &self,
        _grant: Grant<Administer>,
        actor: &Actor,
        scope: PruneScope,
        now: Timestamp,
    ) -> Result<Pruned, StorageError> {
        let _turn = self.turn.lock().await;
        let pruning = self.needs.prune();
        let (things, known) = self.look(scope, now).await?;
        let plan = self.plan(things, &known).await?;
        let mut report = Report::default();
        let all_images = self.purge_all(actor, plan.images, now, &mut report).await;
        let cached = if all_images {
            plan.cached
        } else {
            // What images were made of that were to go and are still there stays, too.
            let cache_alone = PruneScope {
                images_forgotten_by: None,
                ..scope
            };
            let known = self
                .known(cache_alone, now, plan.cached.iter().map(|(_, thing)| thing))
                .await?;
            let (still, others): (Vec<_>, Vec<_>) = plan
                .cached
                .into_iter()
                .partition(|(_, thing)| known.judge(thing, &self.needs).1.goes());
            report.left_alone += others.len() as u64;
            still
        };
        let files = self.files.clone();
        let removed = self
            .files
            .pool
            .run(move || remove_all(&files, &pruning, cached, report))
            .await?;
        let pruned = removed.told(false);
        self.tell(actor, &pruned, now).await;
        Ok(pruned)
    }

    async fn plan(&self, things: Vec<Thing>, known: &Known) -> Result<Plan, StorageError> {
        let mut cached = Vec::new();
        for thing in things {
            if matches!(thing.what, What::Version(_)) {
                continue;
            }
            let (kind, fate) = known.judge(&thing, &self.needs);
            if fate.goes() {
                cached.push((kind, thing));
            }
        }
        let (files, going) = (self.files.clone(), known.going());
        let planned = self.files.pool.run(move || {
            let versions = going
                .iter()
                .flat_map(|image| image.versions.iter().copied());
            let bytes = files.freed_by(versions)?;
            let images = going.into_iter().map(|image| {
                let frees = image.versions.iter().filter_map(|id| bytes.get(id));
                PlannedImage {
                    frees_bytes: frees.sum(),
                    image,
                }
            });
            Ok::<_, SurveyError>(images.collect())
        });
        Ok(Plan {
            images: planned.await??,
            cached,
        })
    }

    /// Purges images, and tells whether all of them went.
    async fn purge_all(
        &self,
        actor: &Actor,
        images: Vec<PlannedImage>,
        now: Timestamp,
        report: &mut Report,
    ) -> bool {
        let whom = OnBehalfOf {
            actor: *actor,
            event: EventActor::Unix(actor.uid),
        };
        let mut all = true;
        for PlannedImage { image, .. } in images {
            let row = image.row;
            let (needs, seen) = (self.needs.clone(), row.deleted_at);
            let is_due = move |tx: &WriteTransaction<'_>, row: &ImageRow| {
                let versions = versions::of_image(tx, row.id)?;
                let is_needed = |id| needs.has(Needed::Version(id));
                // One that was restored and forgotten again is another one to its owner.
                let is_as_seen = row.deleted_at == seen;
                let is_free = !versions.iter().any(|version| is_needed(version.id));
                Ok::<_, PurgeError>(is_as_seen && is_free)
            };
            let purged = self
                .remover
                .purge_forgotten(row.image_id, whom, now, is_due)
                .await;
            let kind = StorageKind::ForgottenImage;
            let (id, name) = (row.image_id.to_string(), Some(row.image_name));
            match purged {
                Ok(Some(freed_bytes)) => report.gone(kind, id, name, freed_bytes),
                Ok(None) => {
                    report.left_alone += 1;
                    all = false;
                }
                Err(error) => {
                    report.failed(kind, id, name, purge_failure(&error));
                    all = false;
                }
            }
        }
        all
    }

    /// Leaves an event. What is gone is gone, so one that cannot be written is told in the log.
    async fn tell(&self, actor: &Actor, pruned: &Pruned, now: Timestamp) {
        if pruned.kinds.is_empty() {
            return;
        }
        let event = NewEvent {
            at: now,
            actor: EventActor::Unix(actor.uid),
            kind: "storage.pruned",
            object: Object::new(ObjectKind::Daemon, "storage"),
            data: serde_json::json!({
                "kinds": pruned.kinds, "freed_bytes": pruned.freed_bytes,
                "failed": pruned.failed,
            }),
        };
        let told = self
            .store
            .write(move |tx| events::append(tx, &event).map(|_| ()))
            .await;
        if let Err(error) = told {
            let cause = store_failure(&error).message;
            tracing::error!(
                cause,
                freed_bytes = pruned.freed_bytes,
                "a prune left no event"
            );
        }
    }
}

/// Removes files of the cache. It blocks.
fn remove_all(
    files: &StorageFiles,
    pruning: &Pruning,
    cached: Vec<(StorageKind, Thing)>,
    mut report: Report,
) -> Report {
    for (kind, thing) in cached {
        let removed = match &thing.what {
            What::Entry(file) => remove_entry(files, pruning, file),
            What::Base => match files.bases.discard(&thing.item) {
                Ok(Some(freed_bytes)) => Ok(Gone::Freed(freed_bytes)),
                Ok(None) => Ok(Gone::Changed),
                Err(error) => Err(file_failure(&error)),
            },
            // Nothing else is ever planned.
            _ => Ok(Gone::InUse),
        };
        match removed {
            Ok(Gone::Freed(freed_bytes)) => report.gone(kind, thing.item, None, freed_bytes),
            Ok(Gone::InUse | Gone::Changed) => report.left_alone += 1,
            Err(failure) => report.failed(kind, thing.item, None, failure),
        }
    }
    report
}

fn remove_entry(
    files: &StorageFiles,
    pruning: &Pruning,
    file: &CacheFile,
) -> Result<Gone, Failure> {
    let needed = file.digest().map(Needed::Content);
    let removed = pruning.unless_needed(needed, || files.cache.remove(&file.entry));
    match removed {
        Some(Ok(gone)) => Ok(gone),
        Some(Err(error)) => Err(file_failure(&error)),
        None => Ok(Gone::InUse),
    }
}

impl Report {
    fn gone(&mut self, kind: StorageKind, item: String, image: Option<ImageName>, bytes: u64) {
        let (count, freed_bytes) = self.kinds.entry(kind).or_default();
        *count += 1;
        *freed_bytes += bytes;
        self.items.push(PrunedItem {
            kind,
            item,
            image,
            ok: Some(Freed { freed_bytes: bytes }),
            error: None,
        });
    }

    fn failed(
        &mut self,
        kind: StorageKind,
        item: String,
        image: Option<ImageName>,
        failure: Failure,
    ) {
        self.failed += 1;
        self.items.push(PrunedItem {
            kind,
            item,
            image,
            ok: None,
            error: Some(failure),
        });
    }

    fn told(mut self, dry_run: bool) -> Pruned {
        let freed = |item: &PrunedItem| item.ok.map(|freed| freed.freed_bytes);
        self.items.sort_by_key(|item| {
            let place = Reverse(freed(item).unwrap_or(u64::MAX));
            (place, item.kind, item.item.clone())
        });
        let items_left_out = self.items.len().saturating_sub(ITEMS_MAX) as u64;
        self.items.truncate(ITEMS_MAX);
        let kinds: Vec<PrunedKind> = self
            .kinds
            .into_iter()
            .map(|(kind, (count, freed_bytes))| PrunedKind {
                kind,
                count,
                freed_bytes,
            })
            .collect();
        Pruned {
            freed_bytes: kinds.iter().map(|kind| kind.freed_bytes).sum(),
            kinds,
            items: self.items,
            items_left_out,
            failed: self.failed,
            left_alone: self.left_alone,
            dry_run,
        }
    }
}

fn scope_of(params: &PruneParams, now: Timestamp) -> Result<PruneScope, Failure> {
    let by = match params.images_older_than_seconds {
        None => None,
        Some(seconds) => {
            let micros = i64::try_from(seconds)
                .ok()
                .and_then(|seconds| seconds.checked_mul(SECOND_MICROS));
            let by = micros.and_then(|micros| now.as_micros().checked_sub(micros));
            let by = by.and_then(|by| Timestamp::from_micros(by).ok());
            Some(by.ok_or_else(|| {
                let text = format!("images_older_than_seconds = {seconds} is before any time");
                Failure::new(codes::request::INVALID_PARAMS, text)
            })?)
        }
    };
    Ok(PruneScope {
        cache: params.cache,
        images_forgotten_by: by,
    })
}
