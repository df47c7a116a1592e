//! `image.why`: what something on the disk is, and what keeps it there.
//!
//! What a caller may not see is as if it were not there: who knows a digest learns nothing of what
//! others have pulled.

use std::path::{Component, Path, PathBuf};

use kiln_api::storage::{OBJECT_MAX, WHY_IMAGES_MAX, Why, WhyImage, WhyParams, WhyUse};
use kiln_api::{Failure, codes};
use kiln_cache::EntryKind;
use kiln_domain::access::{Actor, Read, Role, may_see, permit};
use kiln_domain::storage::{CacheFacts, ImageFacts, KeptBy, PruneScope, StorageKind};
use kiln_domain::{Digest, ImageState, KernelName, Timestamp, VersionId};
use kiln_files::{Counted, Usage};
use kiln_store::disk::{self, UseRow};
use kiln_store::holders::{self, HolderKind, HolderRow};
use kiln_store::images::{self, Custody, ImageRow};
use kiln_store::versions::{self, VersionRow};
use kiln_store::{ReadTransaction, StoreError, instances, kernels, leases, operations};

use self::surveyed::plain;
use super::survey::{StorageFiles, SurveyError, Thing, What};
use super::{Storage, StorageError, failure};
use crate::find_image::{FindImageError, Named, belongs, find_image, find_image_failure, tags_of};
use crate::needs::Needed;

mod surveyed;

/// Command that frees what no image was made of.
const PRUNE: &str = "kiln prune";

/// Command that frees all of the cache that is not in use.
const PRUNE_CACHE: &str = "kiln prune --cache";

/// What a caller's word means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// A blob, or a layer by its diff id.
    Content(Digest),
    /// The directory of a version.
    Version(VersionId),
    /// The base of initrds of this name.
    Base(String),
    /// A kernel of the catalogue.
    Kernel(KernelName),
    /// An image, or else a kernel, by a name.
    Words(String),
    /// Nothing that Kiln keeps.
    Nothing,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum WhyError {
    #[error("nothing that Kiln keeps, or that user {uid} may see, is called {asked:?}")]
    NotFound { asked: String, uid: u32 },
    #[error("{} is a directory in which Kiln keeps several things", path.display())]
    Folder { path: PathBuf },
    #[error("several digests begin with {asked:?}")]
    Ambiguous { asked: String, digests: Vec<Digest> },
    #[error(transparent)]
    Image(FindImageError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the store says of something.
#[derive(Debug, Default)]
struct Told {
    images: Vec<WhyImage>,
    other_images: u64,
    uses: Vec<WhyUse>,
    other_uses: u64,
}

impl Storage {
    /// Tells what something is and what keeps it, as far as the caller may see.
    pub async fn why(&self, actor: &Actor, params: WhyParams) -> Result<Why, Failure> {
        if params.object.len() > OBJECT_MAX {
            let text = format!("what is asked about is at most {OBJECT_MAX} bytes long");
            return Err(Failure::new(codes::request::INVALID_PARAMS, text));
        }
        let asked = self.understand(&params.object);
        let not_found = || WhyError::NotFound {
            asked: params.object.chars().take(300).collect(),
            uid: actor.uid,
        };
        let told = match asked {
            Asked::Content(digest) => self.why_content(actor, digest).await,
            Asked::Version(id) => self.why_version(actor, id).await,
            Asked::Base(name) => self.why_base(actor, name).await,
            Asked::Kernel(name) => self.why_kernel(name).await,
            Asked::Words(text) => self.why_words(actor, text).await,
            Asked::Nothing => Ok(None),
        };
        let told = match told {
            Ok(None) => match self.why_beginning(actor, &params.object).await {
                Ok(None) => self.why_surveyed(actor, &params.object).await,
                told => told,
            },
            told => told,
        };
        let told = told.and_then(|told| told.ok_or_else(not_found));
        told.map_err(|error| why_failure(&error))
    }

    /// Reads a word. A path is compared as it is written: nothing is looked up on the host.
    fn understand(&self, text: &str) -> Asked {
        if text.starts_with('/') {
            return self.understand_path(&plain(Path::new(text)));
        }
        if let Some(digest) = digest_of(text) {
            return Asked::Content(digest);
        }
        Asked::Words(text.to_owned())
    }

    fn understand_path(&self, path: &Path) -> Asked {
        let below = |folder: &Path| -> Option<Vec<String>> {
            let rest = path.strip_prefix(folder).ok()?;
            rest.components()
                .map(|part| match part {
                    Component::Normal(name) => name.to_str().map(str::to_owned),
                    _ => None,
                })
                .collect()
        };
        let first = |folder: &Path| below(folder).and_then(|parts| parts.into_iter().next());
        let StorageFiles {
            state,
            catalogue,
            cache,
            bases,
            ..
        } = &self.files;
        if let Some(name) = first(&state.join("images")) {
            return name.parse().map_or(Asked::Nothing, Asked::Version);
        }
        if let Some(name) = first(catalogue.path()) {
            return name.parse().map_or(Asked::Nothing, Asked::Kernel);
        }
        if let Some(name) = first(bases.path()) {
            return Asked::Base(name);
        }
        match below(cache.directory()).as_deref() {
            Some([.., name]) => {
                let hex = name.split('.').next().unwrap_or_default();
                digest_of(hex).map_or(Asked::Nothing, Asked::Content)
            }
            _ => Asked::Nothing,
        }
    }

    async fn why_content(&self, actor: &Actor, digest: Digest) -> Result<Option<Why>, WhyError> {
        let (files, now) = (self.files.clone(), self.clock.now());
        let look = move || -> Result<Option<Thing>, SurveyError> {
            let found = match files.cache.find_blob(&digest)? {
                Some(entry) => Some(entry),
                None => files.cache.find_pack(&digest)?,
            };
            Ok(found.map(|entry| files.cached(entry, now)))
        };
        let thing = self.files.pool.run(look).await;
        let thing = thing
            .map_err(StorageError::from)?
            .map_err(StorageError::from)?;
        let (desk, actor) = (self.clone(), *actor);
        let answer = self.store.read(move |tx| {
            let users = disk::users_of(tx, &digest, WHY_IMAGES_MAX + 1)?;
            let is_layer = users.iter().any(|user| user.diff_id == Some(digest));
            let is_of_image = !users.is_empty();
            let is_unknown = !is_of_image && thing.is_none();
            let mut told = Told::default();
            for user in users {
                told.add_user(tx, &actor, &user)?;
            }
            desk.add_operations(tx, &actor, Needed::Content(digest), &mut told)?;
            let sees_all = actor.role == Role::Superadmin;
            let is_hidden = !sees_all && told.images.is_empty() && told.uses.is_empty();
            if is_unknown || is_hidden {
                return Ok(None);
            }
            let kind = match &thing {
                Some(thing) => kind_of(thing),
                None if is_layer => StorageKind::Pack,
                None => StorageKind::Blob,
            };
            let mut why = told.into_why(kind, digest.to_string());
            if let Some(thing) = thing {
                desk.add_fates(&thing, digest, is_of_image, &mut why);
            }
            Ok::<_, WhyError>(Some(why))
        });
        answer.await
    }

    /// Adds what becomes of a blob or a pack.
    fn add_fates(&self, thing: &Thing, digest: Digest, is_of_image: bool, why: &mut Why) {
        measure(why, thing.usage);
        if let What::Entry(file) = &thing.what {
            why.path = Some(file.entry.path.display().to_string());
        }
        let facts = CacheFacts {
            is_needed: self.needs.has(Needed::Content(digest)),
            is_of_image,
            is_useful: false,
        };
        let plain = facts.fate(PruneScope::default());
        let with_cache = PruneScope {
            cache: true,
            ..PruneScope::default()
        };
        why.kept_by = plain.kept_by();
        let command = match (plain.goes(), facts.fate(with_cache).goes()) {
            (true, _) => Some(PRUNE),
            (false, true) => Some(PRUNE_CACHE),
            (false, false) => None,
        };
        why.freed_by = command.map(str::to_owned);
    }

    async fn why_version(&self, actor: &Actor, id: VersionId) -> Result<Option<Why>, WhyError> {
        let (desk, actor, now) = (self.clone(), *actor, self.clock.now());
        let read = self.store.read(move |tx| {
            let Some(version) = versions::get(tx, id)? else {
                return Ok(None);
            };
            let Some(row) = images::get(tx, version.image_id)? else {
                return Ok(None);
            };
            if permit::<Read>(&actor, &belongs(tx, &actor, &row)?).is_err() {
                return Ok(None);
            }
            desk.why_row(tx, &actor, row, version, now).map(Some)
        });
        match read.await? {
            Some(why) => Ok(Some(self.measured(why, id).await?)),
            None => Ok(None),
        }
    }

    async fn why_words(&self, actor: &Actor, text: String) -> Result<Option<Why>, WhyError> {
        let (desk, caller, now) = (self.clone(), *actor, self.clock.now());
        let words = text.clone();
        let read = self.store.read(move |tx| {
            let named = Named {
                text: &words,
                architecture: None,
                naming: desk.naming,
            };
            let (row, version) = find_image(tx, &caller, named).map_err(WhyError::Image)?;
            let id = version.id;
            let why = desk.why_row(tx, &caller, row, version, now)?;
            Ok::<_, WhyError>((why, id))
        });
        match read.await {
            Ok((why, id)) => Ok(Some(self.measured(why, id).await?)),
            Err(WhyError::Image(error)) if is_missing(&error) => match text.parse::<KernelName>() {
                Ok(name) => self.why_kernel(name).await,
                Err(_) => Ok(None),
            },
            Err(error) => Err(error),
        }
    }

    /// Tells of a version of an image that the caller may see.
    fn why_row(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        row: ImageRow,
        version: VersionRow,
        now: Timestamp,
    ) -> Result<Why, WhyError> {
        let id = version.id;
        let mut told = Told::default();
        let holds = holders::of_versions_of(tx, row.id, now)?;
        let is_held = !holds.is_empty();
        for hold in holds {
            told.add_hold(tx, actor, &hold, now)?;
        }
        self.add_operations(tx, actor, Needed::Version(id), &mut told)?;
        let facts = ImageFacts {
            state: row.state,
            forgotten_at: row.deleted_at,
            is_managed: row.custody == Custody::Managed,
            is_held,
            is_needed: self.needs.has(Needed::Version(id)),
        };
        let fate = facts.fate(PruneScope::everything(now));
        let kind = if row.state == ImageState::Deleted {
            StorageKind::ForgottenImage
        } else {
            StorageKind::Image
        };
        let image_id = row.id;
        told.images.push(shown(tx, row, version, None)?);
        let mut why = told.into_why(kind, id.to_string());
        why.kept_by = fate.kept_by();
        why.freed_by = fate.goes().then(|| format!("kiln purge {image_id}"));
        Ok(why)
    }

    /// Adds what a version's directory takes.
    async fn measured(&self, mut why: Why, id: VersionId) -> Result<Why, WhyError> {
        let files = self.files.clone();
        let look = move || -> Result<_, SurveyError> {
            let id = id.to_string();
            let path = files.artifacts.path(&id)?;
            let is_there = files.artifacts.is_published(&id)?;
            let usage = files.artifacts.usage_of(&id, &mut Counted::default())?;
            Ok((is_there.then_some(path), usage))
        };
        let looked = self.files.pool.run(look).await;
        let (path, usage) = looked
            .map_err(StorageError::from)?
            .map_err(StorageError::from)?;
        why.path = path.map(|path| path.display().to_string());
        measure(&mut why, usage);
        Ok(why)
    }

    async fn why_base(&self, actor: &Actor, name: String) -> Result<Option<Why>, WhyError> {
        if actor.role != Role::Superadmin {
            return Ok(None);
        }
        let files = self.files.clone();
        let looked = self.files.pool.run(move || files.bases.survey()).await;
        let bases = looked
            .map_err(StorageError::from)?
            .map_err(|error| StorageError::Survey(SurveyError::Files(error)))?;
        let found = bases.into_iter().find(|(base, _)| *base == name);
        Ok(found.map(|(name, usage)| {
            let path = self.files.bases.path().join(&name);
            let mut why = Told::default().into_why(StorageKind::Initrd, name);
            measure(&mut why, usage);
            why.path = Some(path.display().to_string());
            why.kept_by = Some(KeptBy::Cache);
            why.freed_by = Some(PRUNE_CACHE.to_owned());
            why
        }))
    }

    /// Kernels are everybody's to see; images have copies of their own.
    async fn why_kernel(&self, name: KernelName) -> Result<Option<Why>, WhyError> {
        let wanted = name.clone();
        let row = self.store.read(move |tx| kernels::get(tx, &wanted)).await?;
        if row.is_none() {
            return Ok(None);
        }
        let (files, wanted) = (self.files.clone(), name.to_string());
        let look = move || files.catalogue.survey(&mut Counted::default());
        let looked = self.files.pool.run(look).await;
        let standing = looked
            .map_err(StorageError::from)?
            .map_err(|error| StorageError::Survey(SurveyError::Kernels(error)))?;
        let found = standing.into_iter().find(|found| *found.name == *wanted);
        let mut why = Told::default().into_why(StorageKind::Kernel, wanted);
        if let Some(found) = found {
            measure(&mut why, found.usage);
            let path = self.files.catalogue.path().join(&found.name);
            why.path = Some(path.display().to_string());
        }
        why.kept_by = Some(KeptBy::Rule);
        why.freed_by = Some(format!("kiln kernel rm {name}"));
        Ok(Some(why))
    }

    /// Adds the running operations that need something.
    fn add_operations(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        thing: Needed,
        told: &mut Told,
    ) -> Result<(), StoreError> {
        for id in self.needs.operations(thing) {
            let row = operations::get(tx, id)?;
            match row.filter(|row| may_see(actor, row.owner_uid).is_ok()) {
                Some(row) => told.uses.push(WhyUse {
                    kind: HolderKind::Operation.to_string(),
                    id: Some(id.to_string()),
                    name: Some(row.subject),
                }),
                None => told.other_uses += 1,
            }
        }
        Ok(())
    }
}

impl Told {
    /// Adds a version that was made of something.
    fn add_user(
        &mut self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        user: &UseRow,
    ) -> Result<(), StoreError> {
        let found = images::get(tx, user.image_id)?.zip(versions::get(tx, user.version_id)?);
        let Some((row, version)) = found else {
            return Ok(());
        };
        let is_seen = permit::<Read>(actor, &belongs(tx, actor, &row)?).is_ok();
        let has_room = self.images.len() < usize::try_from(WHY_IMAGES_MAX).unwrap_or(usize::MAX);
        if is_seen && has_room {
            self.images
                .push(shown(tx, row, version, Some(user.role.clone()))?);
        } else {
            self.other_images += 1;
        }
        Ok(())
    }

    /// Adds a machine or a lease.
    fn add_hold(
        &mut self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        hold: &HolderRow,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let id = &hold.holder.id;
        let (owner, name) = match hold.holder.kind {
            HolderKind::Instance => {
                let row = id
                    .parse()
                    .ok()
                    .map(|id| instances::get(tx, id))
                    .transpose()?;
                let row = row.flatten();
                row.map(|row| (row.owner_uid, row.name.to_string())).unzip()
            }
            HolderKind::Lease => {
                let row = id
                    .parse()
                    .ok()
                    .map(|id| leases::get(tx, id, now))
                    .transpose()?;
                let row = row.flatten();
                row.map(|row| (row.owner_uid, row.purpose)).unzip()
            }
            HolderKind::Operation | HolderKind::Template | HolderKind::Child => (None, None),
        };
        if owner.is_some_and(|owner| may_see(actor, owner).is_ok()) {
            self.uses.push(WhyUse {
                kind: hold.holder.kind.to_string(),
                id: Some(id.clone()),
                name,
            });
        } else {
            self.other_uses += 1;
        }
        Ok(())
    }

    fn into_why(self, kind: StorageKind, item: String) -> Why {
        Why {
            kind,
            item,
            path: None,
            apparent_bytes: 0,
            disk_bytes: 0,
            images: self.images,
            other_images: self.other_images,
            uses: self.uses,
            other_uses: self.other_uses,
            kept_by: None,
            freed_by: None,
        }
    }
}

fn measure(why: &mut Why, usage: Usage) {
    why.apparent_bytes = usage.apparent_bytes;
    why.disk_bytes = usage.disk_bytes;
}

fn shown(
    tx: &ReadTransaction<'_>,
    row: ImageRow,
    version: VersionRow,
    part: Option<String>,
) -> Result<WhyImage, StoreError> {
    Ok(WhyImage {
        image_id: row.id,
        tags: tags_of(tx, row.id, version.id)?,
        name: row.name,
        state: row.state,
        version_id: version.id,
        number: version.number,
        architecture: version.architecture,
        part,
        purge_after: row.purge_after.map(|at| at.to_string()),
    })
}

fn kind_of(thing: &Thing) -> StorageKind {
    match &thing.what {
        What::Entry(file) if matches!(file.entry.kind, EntryKind::Pack(_)) => StorageKind::Pack,
        _ => StorageKind::Blob,
    }
}

/// Reads a digest with its algorithm or without.
fn digest_of(text: &str) -> Option<Digest> {
    let bare = || format!("sha256:{text}").parse().ok();
    text.parse().ok().or_else(bare)
}

fn is_missing(error: &FindImageError) -> bool {
    use kiln_store::resolve::ResolveError;
    matches!(
        error,
        FindImageError::NotFound { .. } | FindImageError::Unresolved(ResolveError::NotFound { .. })
    )
}

fn why_failure(error: &WhyError) -> Failure {
    match error {
        WhyError::NotFound { .. } => Failure::from_error(codes::storage::NOT_FOUND, error),
        WhyError::Folder { .. } => Failure::from_error(codes::storage::NOT_FOUND, error).with_hint(
            "ask about one of the things in it:",
            Some("kiln df -v".to_owned()),
        ),
        WhyError::Ambiguous { digests, .. } => {
            let digests: Vec<_> = digests.iter().map(ToString::to_string).collect();
            let hint = format!("name one in full: {}", digests.join(", "));
            Failure::from_error(codes::image::AMBIGUOUS, error).with_hint(hint, None)
        }
        WhyError::Image(error) => find_image_failure(error),
        WhyError::Storage(error) => failure(error),
        WhyError::Store(error) => crate::failures::store_failure(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_may_stand_without_its_algorithm() {
        let digest = Digest::of(b"x");
        for text in [digest.to_string(), digest.to_hex()] {
            assert_eq!(digest_of(&text), Some(digest), "{text}");
        }
        for text in ["", "sha256:", "web", "sha512:00"] {
            assert_eq!(digest_of(text), None, "{text}");
        }
    }
}
