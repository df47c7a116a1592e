//! `storage.usage`: what takes room, by kind.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use kiln_api::Failure;
use kiln_api::storage::{ITEMS_MAX, KindUsage, Usage, UsageItem, UsageParams};
use kiln_domain::access::{Actor, Role};
use kiln_domain::storage::{PruneScope, StorageKind};

use super::survey::What;
use super::{Storage, StorageError, failure};

/// What stands for all kinds.
const TOTAL: &str = "total";

impl Storage {
    /// Tells what takes room. Sums are everybody's; things are told to superadmins, and to others
    /// their own images.
    pub async fn usage(&self, actor: &Actor, params: UsageParams) -> Result<Usage, Failure> {
        let now = self.clock.now();
        let scope = PruneScope::everything(now);
        let (things, known) = self
            .look(scope, now)
            .await
            .map_err(|error| failure(&error))?;
        let (needs, files, actor) = (self.needs.clone(), self.files.clone(), *actor);
        // A million files are a second of work.
        let summed = self.files.pool.run(move || {
            let mut kinds: BTreeMap<StorageKind, KindUsage> = StorageKind::ALL
                .iter()
                .map(|kind| (*kind, named(kind.as_str())))
                .collect();
            let mut total = named(TOTAL);
            let mut items = Vec::new();
            let going = known.going().into_iter();
            let freed = files.freed_by(going.flat_map(|image| image.versions))?;
            for thing in &things {
                let (kind, fate) = known.judge(thing, &needs);
                let frees_bytes = match &thing.what {
                    What::Version(id) => freed.get(id).copied().unwrap_or(0),
                    _ => thing.frees_bytes,
                };
                for sum in [kinds.entry(kind).or_default(), &mut total] {
                    sum.count += 1;
                    sum.apparent_bytes += thing.usage.apparent_bytes;
                    sum.disk_bytes += thing.usage.disk_bytes;
                    if fate.goes() {
                        sum.reclaimable_count += 1;
                        sum.reclaimable_bytes += frees_bytes;
                    }
                }
                let owner = known.owner_of(thing);
                let is_own = owner.is_some_and(|row| row.owner_id == actor.uid);
                if params.verbose && (actor.role == Role::Superadmin || is_own) {
                    items.push(UsageItem {
                        kind,
                        item: thing.item.clone(),
                        image: owner.map(|row| row.image_name.clone()),
                        apparent_bytes: thing.usage.apparent_bytes,
                        disk_bytes: thing.usage.disk_bytes,
                        kept_by: fate.kept_by(),
                    });
                }
            }
            items.sort_by_key(|item| Reverse(item.disk_bytes));
            let items_left_out = items.len().saturating_sub(ITEMS_MAX) as u64;
            items.truncate(ITEMS_MAX);
            Ok::<_, StorageError>(Usage {
                kinds: kinds.into_values().collect(),
                total,
                items,
                items_left_out,
            })
        });
        let summed = summed.await.map_err(StorageError::Pool);
        summed
            .and_then(|summed| summed)
            .map_err(|error| failure(&error))
    }
}

fn named(kind: &str) -> KindUsage {
    KindUsage {
        kind: kind.to_owned(),
        ..KindUsage::default()
    }
}
