//! Images that exist: the desk that lists, shows, opens and forgets them.

mod in_use;
mod open;
mod restore;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use kiln_api::image::removal::ForgetByIdParams;
use kiln_api::image::{ForgetParams, Forgotten, GetParams, Image, ListParams};
use kiln_api::page::Page;
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Grant, Write, permit};
use kiln_domain::limits::Limits;
use kiln_domain::{
    Architecture, ImageId, ImageState, Keyword, LabelKey, LabelValue, TagName, Timestamp,
    VersionId, WordingError,
};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::images::{self, ImageFilter, ImageRow, NameMatch};
use kiln_store::resolve::{Candidate, ResolveError};
use kiln_store::versions::{self, VersionRow};
use kiln_store::{
    Object, ReadTransaction, Store, StoreError, WriteTransaction, holders, leases, remote_states,
    tags,
};

use crate::aliases::leading_to;
use crate::clock::Clock;
use crate::events::{cursor, page_limit};
use crate::failures::store_failure;
use crate::find_image::{
    FindImageError, Named, Naming, architecture, belongs, find_by_id, find_image,
    find_image_failure, image_id, tags_of, visible_to,
};
use crate::leases::view as lease_view;
use crate::metadata::in_force;
use crate::views;

pub(crate) use in_use::{ImageInUse, refuse_in_use};
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
    naming: Naming,
    retention_days: u32,
    files: ImageFiles,
    limits: Limits,
}

/// Which image a call means.
#[derive(Debug)]
enum Which {
    Named(String, Option<Architecture>),
    Id(ImageId),
}

/// What a call to forget asks for.
#[derive(Debug)]
struct Wish {
    which: Which,
    dry_run: bool,
    force: bool,
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
    /// Makes the desk. `directory` is where artifact directories are.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        directory: PathBuf,
        naming: Naming,
        retention_days: u32,
        files: ImageFiles,
    ) -> Self {
        Self {
            store,
            clock,
            directory,
            naming,
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
        let limit = page_limit(params.limit)?;
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
                Ok::<_, StoreError>(Page {
                    items: desk.views(tx, page.rows)?,
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
                let aliases = leading_to(tx, &actor, desk.naming, &row)?;
                let leases = leases::of_image(tx, row.id, now)?;
                let image = desk.view(tx, row, version)?;
                Ok::<_, ImageError>(Image {
                    limits,
                    remote,
                    in_use: Some(in_use),
                    aliases: aliases.into_iter().map(|alias| alias.name).collect(),
                    leases: leases.into_iter().map(lease_view).collect(),
                    ..image
                })
            })
            .await;
        found.map_err(|error| failure(&error))
    }

    /// Hides an image and frees its name, unless machines run it and it is not forced. Forgetting
    /// twice succeeds and says so.
    pub async fn forget(&self, actor: &Actor, params: ForgetParams) -> Result<Forgotten, Failure> {
        let wish = Wish {
            which: Which::Named(params.image, architecture(params.architecture.as_deref())?),
            dry_run: params.dry_run,
            force: params.force,
        };
        self.forget_as_wished(actor, wish).await
    }

    /// Does the same to the image with an id, and to nothing else that might be called so.
    pub async fn forget_by_id(
        &self,
        actor: &Actor,
        params: ForgetByIdParams,
    ) -> Result<Forgotten, Failure> {
        let wish = Wish {
            which: Which::Id(image_id(&params.image_id)?),
            dry_run: params.dry_run,
            force: params.force,
        };
        self.forget_as_wished(actor, wish).await
    }

    async fn forget_as_wished(&self, actor: &Actor, wish: Wish) -> Result<Forgotten, Failure> {
        let (desk, actor, now) = (self.clone(), *actor, self.clock.now());
        if wish.dry_run {
            let told = self
                .store
                .read(move |tx| desk.foresee(tx, &actor, &wish, now))
                .await;
            return told.map_err(|error| failure(&error));
        }
        let forgotten = self
            .store
            .write(move |tx| desk.forget_in(tx, &actor, &wish, now))
            .await;
        forgotten.map_err(|error| failure(&error))
    }

    fn foresee(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        wish: &Wish,
        now: Timestamp,
    ) -> Result<Forgotten, ImageError> {
        let (row, version, _grant) = self.find_to_forget(tx, actor, wish, now)?;
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
        wish: &Wish,
        now: Timestamp,
    ) -> Result<Forgotten, ImageError> {
        let (row, version, grant) = self.find_to_forget(tx, actor, wish, now)?;
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
        wish: &Wish,
        now: Timestamp,
    ) -> Result<(ImageRow, VersionRow, Grant<Write>), ImageError> {
        let (row, version, grant) = match &wish.which {
            Which::Named(text, architecture) => {
                self.find_to_change(tx, actor, text, *architecture)?
            }
            Which::Id(id) => {
                let (row, version) = find_by_id(tx, actor, *id, self.naming)?;
                let grant = permit(actor, &belongs(tx, actor, &row)?)?;
                (row, version, grant)
            }
        };
        let counts = !wish.force && row.state != ImageState::Deleted;
        if counts && let Some(in_use) = refuse_in_use(tx, actor, &row, now)? {
            return Err(in_use.into());
        }
        Ok((row, version, grant))
    }

    fn find_to_change(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        named: &str,
        architecture: Option<Architecture>,
    ) -> Result<(ImageRow, VersionRow, Grant<Write>), ImageError> {
        let (row, version) = match self.find(tx, actor, named, architecture) {
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
            naming: self.naming,
        };
        Ok(find_image(tx, actor, named)?)
    }

    /// Shows a page of images, each with the version that stands for it, by the same rule as
    /// [`current_version`](crate::find_image::current_version): two queries, however long it is.
    fn views(
        &self,
        tx: &ReadTransaction<'_>,
        rows: Vec<ImageRow>,
    ) -> Result<Vec<Image>, StoreError> {
        let ids: Vec<ImageId> = rows.iter().map(|row| row.id).collect();
        let architecture = self.naming.architecture.as_str();
        let mut versions = versions::standing_for(tx, &ids, &TagName::latest(), architecture)?;
        let version_ids: Vec<VersionId> = versions.values().map(|version| version.id).collect();
        let mut tags: HashMap<VersionId, Vec<TagName>> = HashMap::new();
        for (version_id, tag) in tags::of_versions(tx, &version_ids)? {
            tags.entry(version_id).or_default().push(tag);
        }
        let mut images = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(version) = versions.remove(&row.id) {
                let tags = tags.remove(&version.id).unwrap_or_default();
                images.push(views::image(&self.directory, row, version, tags));
            }
        }
        Ok(images)
    }

    fn view(
        &self,
        tx: &ReadTransaction<'_>,
        row: ImageRow,
        version: VersionRow,
    ) -> Result<Image, StoreError> {
        let names = tags_of(tx, row.id, version.id)?;
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
