//! Images that exist: the desk that lists, shows, opens and forgets them.

mod open;

mod in_use;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_api::image::{ForgetParams, Forgotten, GetParams, Image, ListParams};
use kiln_api::page::Page;
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Belongs, Grant, Write, permit};
use kiln_domain::limits::Limits;
use kiln_domain::{
    Architecture, ImageId, ImageState, Keyword, LabelKey, LabelValue, TagName, Timestamp,
    WordingError,
};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::images::{self, ImageFilter, ImageRow, NameMatch};
use kiln_store::resolve::{Candidate, ResolveError};
use kiln_store::versions::{self, VersionRow};
use kiln_store::{
    Object, ReadTransaction, Store, StoreError, WriteTransaction, holders, orgs, remote_states,
    tags,
};

use self::in_use::{ImageInUse, refuse_in_use};
use crate::clock::Clock;
use crate::events::{cursor, page_limit};
use crate::failures::store_failure;
use crate::find_image::{
    FindImageError, Named, architecture, find_image, find_image_failure, visible_to,
};
use crate::metadata::in_force;
use crate::views;

pub use open::ImageFiles;
pub(crate) use open::{OpenError, modules_tar, open_failure};

/// Most labels and keywords that one list is asked by.
const LISTED_BY_MAX: usize = 64;

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// Lists, shows, opens and forgets images.
#[derive(Clone, Debug)]
pub struct Images {
    store: Store,
    clock: Arc<dyn Clock>,
    directory: PathBuf,
    architecture: Architecture,
    retention_days: u32,
    files: ImageFiles,
    limits: Limits,
}

/// Why an image could not be found, or not be changed.
#[derive(Debug, thiserror::Error)]
enum ImageError {
    #[error(transparent)]
    Find(#[from] FindImageError),
    #[error(transparent)]
    InUse(#[from] ImageInUse),
    #[error(transparent)]
    Denied(#[from] kiln_domain::access::Denied),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Images {
    /// Makes the desk. `directory` is where artifact directories are, `architecture` what calls mean
    /// that name none.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        directory: PathBuf,
        architecture: Architecture,
        retention_days: u32,
        files: ImageFiles,
    ) -> Self {
        Self {
            store,
            clock,
            directory,
            architecture,
            retention_days,
            files,
            limits: Limits::new(),
        }
    }

    /// Shows images with what the daemon's configuration lets their machines use.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Lists images in the order of their making.
    pub async fn list(&self, actor: &Actor, params: ListParams) -> Result<Page<Image>, Failure> {
        let after = cursor(params.after)?;
        let limit = page_limit(params.limit);
        let Words {
            labels,
            label_keys,
            keywords,
        } = Words::read(params.labels, params.keywords)?;
        let filter = ImageFilter {
            labels,
            label_keys,
            keywords,
            forgotten: if params.all {
                images::Forgotten::Shown
            } else {
                images::Forgotten::Hidden
            },
            name: params.name.map(NameMatch::Contains),
            visible_to: visible_to(actor),
            ..ImageFilter::default()
        };
        let desk = self.clone();
        let page = self
            .store
            .read(move |tx| {
                let page = images::page(tx, after, limit, &filter)?;
                let next = page.next_after;
                let mut items = Vec::with_capacity(page.rows.len());
                for row in page.rows {
                    if let Some(version) = desk.current_version(tx, row.id)? {
                        // A list of a thousand configs would be megabytes nobody asked for.
                        let version = VersionRow {
                            image_config: None,
                            ..version
                        };
                        items.push(desk.view(tx, row, version)?);
                    }
                }
                Ok::<_, StoreError>(Page {
                    items,
                    next: next.and_then(|seq| u64::try_from(seq).ok()),
                })
            })
            .await;
        page.map_err(|error| store_failure(&error))
    }

    /// Shows one image.
    pub async fn get(&self, actor: &Actor, params: GetParams) -> Result<Image, Failure> {
        let architecture = architecture(params.architecture.as_deref())?;
        let (desk, actor, now) = (self.clone(), *actor, self.clock.now());
        let found = self
            .store
            .read(move |tx| {
                let (row, version) = desk.find(tx, &actor, &params.image, architecture)?;
                let in_use = holders::count_of_versions_of(tx, row.id, now)?;
                let (limits, _) = in_force(&desk.limits, &row, &version);
                let remote = remote_states::get(tx, row.id, &version.architecture)?;
                // What an older Kiln wrote otherwise is left out, not made up.
                let remote = remote.and_then(|row| serde_json::from_value(row.document).ok());
                let image = desk.view(tx, row, version)?;
                Ok::<_, ImageError>(Image {
                    limits,
                    remote,
                    in_use: Some(in_use),
                    ..image
                })
            })
            .await;
        found.map_err(|error| failure(&error))
    }

    /// Hides an image and frees its name, unless machines run it and it is not forced. Forgetting
    /// twice succeeds and says so.
    pub async fn forget(&self, actor: &Actor, params: ForgetParams) -> Result<Forgotten, Failure> {
        let (desk, actor, now) = (self.clone(), *actor, self.clock.now());
        if params.dry_run {
            let told = self
                .store
                .read(move |tx| desk.foresee(tx, &actor, &params, now))
                .await;
            return told.map_err(|error| failure(&error));
        }
        let forgotten = self
            .store
            .write(move |tx| desk.forget_in(tx, &actor, &params, now))
            .await;
        forgotten.map_err(|error| failure(&error))
    }

    fn foresee(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        params: &ForgetParams,
        now: Timestamp,
    ) -> Result<Forgotten, ImageError> {
        let (row, version, _grant) = self.find_to_forget(tx, actor, params, now)?;
        let already_forgotten = row.state == ImageState::Deleted;
        let image = self.view(tx, row, version)?;
        Ok(Forgotten {
            image,
            already_forgotten,
            dry_run: true,
        })
    }

    fn forget_in(
        &self,
        tx: &WriteTransaction<'_>,
        actor: &Actor,
        params: &ForgetParams,
        now: Timestamp,
    ) -> Result<Forgotten, ImageError> {
        let (row, version, grant) = self.find_to_forget(tx, actor, params, now)?;
        let already_forgotten = row.state == ImageState::Deleted;
        let id = row.id;
        if !already_forgotten {
            mark_forgotten(tx, grant, actor, &row, now, self.retention_days)?;
        }
        let row = images::get(tx, id)?.unwrap_or(row);
        let image = self.view(tx, row, version)?;
        Ok(Forgotten {
            image,
            already_forgotten,
            dry_run: false,
        })
    }

    /// Finds an image to forget; one that is in use only when that was said not to matter, or when
    /// it is forgotten already.
    fn find_to_forget(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        params: &ForgetParams,
        now: Timestamp,
    ) -> Result<(ImageRow, VersionRow, Grant<Write>), ImageError> {
        let (row, version, grant) = self.find_to_change(tx, actor, &params.image)?;
        if !params.force && row.state != ImageState::Deleted {
            refuse_in_use(tx, actor, &row, now)?;
        }
        Ok((row, version, grant))
    }

    fn find_to_change(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        named: &str,
    ) -> Result<(ImageRow, VersionRow, Grant<Write>), ImageError> {
        let (row, version) = match self.find(tx, actor, named, None) {
            Err(ImageError::Find(FindImageError::Unresolved(ResolveError::Ambiguous {
                candidates,
                text,
            }))) => newest_forgotten(tx, &candidates)?.ok_or_else(|| {
                let ambiguous = ResolveError::Ambiguous { candidates, text };
                FindImageError::from(ambiguous)
            })?,
            found => found?,
        };
        let grant = permit(actor, &belongs(tx, actor, &row)?)?;
        Ok((row, version, grant))
    }

    fn find(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        text: &str,
        architecture: Option<Architecture>,
    ) -> Result<(ImageRow, VersionRow), ImageError> {
        let named = Named {
            text,
            architecture,
            host: self.architecture,
        };
        Ok(find_image(tx, actor, named)?)
    }

    fn current_version(
        &self,
        tx: &ReadTransaction<'_>,
        image: ImageId,
    ) -> Result<Option<VersionRow>, StoreError> {
        let latest = tags::resolve(tx, image, &TagName::latest(), self.architecture.as_str())?;
        let latest = match latest {
            Some(version) => versions::get(tx, version)?,
            None => None,
        };
        if latest.is_some() {
            return Ok(latest);
        }
        // An image of another architecture alone is shown by its newest version.
        Ok(versions::of_image(tx, image)?
            .into_iter()
            .max_by_key(|version| version.seq))
    }

    fn view(
        &self,
        tx: &ReadTransaction<'_>,
        row: ImageRow,
        version: VersionRow,
    ) -> Result<Image, StoreError> {
        let names = tags::of_image(tx, row.id)?
            .into_iter()
            .filter(|tag| tag.version_id == version.id)
            .map(|tag| tag.tag)
            .collect();
        Ok(views::image(&self.directory, row, version, names))
    }
}

/// Words that images are listed by.
#[derive(Default)]
struct Words {
    labels: BTreeSet<(String, String)>,
    label_keys: BTreeSet<String>,
    keywords: BTreeSet<String>,
}

impl Words {
    fn read(labels: Vec<String>, keywords: Vec<String>) -> Result<Self, Failure> {
        let wrong = |error: WordingError| Failure::from_error(codes::image::LABEL_INVALID, &error);
        let mut words = Self::default();
        if labels.len() + keywords.len() > LISTED_BY_MAX {
            let message = format!("images are listed by at most {LISTED_BY_MAX} words at a time");
            return Err(Failure::new(codes::image::LABEL_INVALID, message));
        }
        for label in labels {
            let (key, value) = match label.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (label.as_str(), None),
            };
            let key: LabelKey = key.parse().map_err(wrong)?;
            match value
                .map(str::parse::<LabelValue>)
                .transpose()
                .map_err(wrong)?
            {
                Some(value) => words.labels.insert((key.into(), value.into())),
                None => words.label_keys.insert(key.into()),
            };
        }
        for keyword in keywords {
            let keyword: Keyword = keyword.parse().map_err(wrong)?;
            words.keywords.insert(keyword.into());
        }
        Ok(words)
    }
}

/// Tells what an image belongs to, as the actor sees it in this transaction.
fn belongs(tx: &ReadTransaction<'_>, actor: &Actor, row: &ImageRow) -> Result<Belongs, StoreError> {
    let standing = match row.org_id {
        Some(org) => orgs::standing_of(tx, org, actor.uid)?,
        None => None,
    };
    Ok(Belongs {
        owner: Some(row.owner_id),
        standing,
        visibility: row.visibility,
    })
}

/// Of several forgotten images that had one name, the one forgotten last: forgetting it again
/// changes nothing and says so. Nothing when any of them is not forgotten.
fn newest_forgotten(
    tx: &ReadTransaction<'_>,
    candidates: &[Candidate],
) -> Result<Option<(ImageRow, VersionRow)>, StoreError> {
    let mut newest: Option<(ImageRow, VersionRow)> = None;
    for candidate in candidates {
        let row = images::get(tx, candidate.meant.image_id)?;
        let version = versions::get(tx, candidate.meant.version_id)?;
        let Some((row, version)) = row.zip(version) else {
            continue;
        };
        if row.state != ImageState::Deleted {
            return Ok(None);
        }
        if newest
            .as_ref()
            .is_none_or(|(last, _)| last.deleted_at < row.deleted_at)
        {
            newest = Some((row, version));
        }
    }
    Ok(newest)
}

fn mark_forgotten(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Write>,
    actor: &Actor,
    row: &ImageRow,
    now: Timestamp,
    retention_days: u32,
) -> Result<(), StoreError> {
    let kept = i64::from(retention_days).saturating_mul(DAY_MICROS);
    // A retention beyond the year 9999 is for ever.
    let purge_after = Timestamp::from_micros(now.as_micros().saturating_add(kept));
    let purge_after = purge_after.unwrap_or(Timestamp::LATEST);
    images::mark_deleted(tx, row.id, now, purge_after)?;
    let data = serde_json::json!({ "name": row.name, "purge_after": purge_after });
    events::append(
        tx,
        &NewEvent {
            at: now,
            actor: EventActor::Unix(actor.uid),
            kind: "image.forgotten",
            object: Object::image(row.id),
            data,
        },
    )?;
    Ok(())
}

fn failure(error: &ImageError) -> Failure {
    match error {
        ImageError::Find(error) => find_image_failure(error),
        ImageError::InUse(in_use) => in_use.to_failure(),
        ImageError::Denied(denied) => Failure::from_error(codes::request::DENIED, denied),
        ImageError::Store(error) => store_failure(error),
    }
}
