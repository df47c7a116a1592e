//! Aliases: the desk that gives images other names and takes them away.
//!
//! What an alias means is decided where names are resolved; which ones lead to an image, and what
//! becomes of them when it is purged, is in [`leading`].

use std::sync::Arc;

use kiln_api::alias::{Alias, AliasParams, DealiasParams, ListParams, Removed};
use kiln_api::page::Page;
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Belongs, Grant, Make, Write, permit};
use kiln_domain::{Architecture, ImageId, ImageName, NameError, TagName, Timestamp};
use kiln_store::aliases::{self, AliasFilter, AliasRow, NewAlias};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::images;
use kiln_store::names::{self, NameHolder, NameTaken, ReserveError};
use kiln_store::resolve::{ALIAS_DEPTH_MAX, ResolveError};
use kiln_store::{Object, ReadTransaction, Store, StoreError, WriteTransaction};

use crate::clock::Clock;
use crate::events::{cursor, page_limit};
use crate::failures::store_failure;
use crate::find_image::{
    FindImageError, Named, Naming, architecture, belongs, find_image, find_image_failure,
    visible_to,
};
use crate::pulls::{name_invalid, taken};

pub(crate) use self::leading::{Settlement, leading_to};

mod leading;

/// Longest target, in bytes: no reference is longer.
const TARGET_MAX: usize = 1_024;

/// Gives, takes and lists aliases.
#[derive(Clone, Debug)]
pub struct Aliases {
    store: Store,
    clock: Arc<dyn Clock>,
    naming: Naming,
}

/// Why an alias could not be had, or not be taken away.
#[derive(Debug, thiserror::Error)]
enum AliasError {
    #[error("the alias {alias} would lead back to itself: {}", chain.join(" → "))]
    Circular {
        alias: ImageName,
        chain: Vec<String>,
    },
    #[error("the alias {alias} would lead through more than {ALIAS_DEPTH_MAX} others")]
    TooDeep { alias: ImageName },
    #[error("an alias named {alias} already exists{}", leading_to.as_deref().unwrap_or_default())]
    AlreadyExists {
        alias: ImageName,
        leading_to: Option<String>,
    },
    #[error("the name {} is taken", .0.name)]
    Taken(NameTaken),
    #[error(transparent)]
    Name(NameError),
    #[error("there is no image {target:?} for the alias to lead to")]
    TargetNotFound {
        target: String,
        source: Option<FindImageError>,
    },
    #[error("there is no alias {alias}")]
    NotFound { alias: ImageName },
    #[error(transparent)]
    Find(#[from] FindImageError),
    #[error(transparent)]
    Denied(#[from] kiln_domain::access::Denied),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ReserveError> for AliasError {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::Taken(taken) => Self::Taken(taken),
            ReserveError::Name(error) => Self::Name(error),
            ReserveError::Store(error) => Self::Store(error),
        }
    }
}

impl Aliases {
    /// Makes the desk.
    pub fn new(store: Store, clock: Arc<dyn Clock>, naming: Naming) -> Self {
        Self {
            store,
            clock,
            naming,
        }
    }

    /// Gives an image another name. Whoever may see it may, and the alias is the caller's.
    pub async fn add(&self, actor: &Actor, params: AliasParams) -> Result<Alias, Failure> {
        let alias = alias_name(&params.alias)?;
        alias.refuse_id().map_err(|error| name_invalid(&error))?;
        if params.target.len() > TARGET_MAX {
            let message = format!("the target has more than {TARGET_MAX} bytes");
            return Err(Failure::new(codes::alias::TARGET_NOT_FOUND, message));
        }
        let architecture = architecture(params.architecture.as_deref())?;
        let (desk, actor, now) = (self.clone(), *actor, self.clock.now());
        let made = self
            .store
            .write(move |tx| {
                let grant = permit::<Make>(&actor, &Belongs::to_user(actor.uid))?;
                let wanted = (alias, params.target, architecture);
                desk.add_in(tx, grant, &actor, wanted, now)
            })
            .await;
        made.map(|row| {
            let image_id = row.image_id;
            view(row, image_id)
        })
        .map_err(|error| failure(&error, &actor))
    }

    /// The order of the checks is a promise: the circle, the name, the target.
    fn add_in(
        &self,
        tx: &WriteTransaction<'_>,
        _grant: Grant<Make>,
        actor: &Actor,
        (alias, target, architecture): (ImageName, String, Option<Architecture>),
        now: Timestamp,
    ) -> Result<AliasRow, AliasError> {
        refuse_circle(tx, &alias, &target)?;
        refuse_taken(tx, actor, &alias)?;
        let image_id = self.target(tx, actor, &target, architecture)?;
        let new = NewAlias {
            name: alias.clone(),
            target,
            owner_id: actor.uid,
            image_id,
            created_at: now,
        };
        aliases::insert(tx, &new)?;
        append(tx, actor, now, "alias.created", &alias, image_id)?;
        aliases::get(tx, &alias)?.ok_or(AliasError::NotFound { alias })
    }

    fn target(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        target: &str,
        architecture: Option<Architecture>,
    ) -> Result<ImageId, AliasError> {
        let named = Named {
            text: target,
            architecture,
            naming: self.naming,
        };
        let shown = || target.chars().take(200).collect();
        match find_image(tx, actor, named) {
            Ok((row, _)) if row.state.is_active() => Ok(row.id),
            Ok(_) => Err(AliasError::TargetNotFound {
                target: shown(),
                source: None,
            }),
            Err(
                error @ (FindImageError::NotFound { .. }
                | FindImageError::Unresolved(ResolveError::NotFound { .. })),
            ) => Err(AliasError::TargetNotFound {
                target: shown(),
                source: Some(error),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes an alias away. Who made it may, and who looks after its image. What led to it leads to
    /// what it led to.
    pub async fn remove(&self, actor: &Actor, params: DealiasParams) -> Result<Removed, Failure> {
        let alias = alias_name(&params.alias)?;
        let (desk, actor, now) = (self.clone(), *actor, self.clock.now());
        let removed = self
            .store
            .write(move |tx| {
                let row = aliases::get(tx, &alias)?.ok_or(AliasError::NotFound { alias })?;
                let grant = may_remove(tx, &actor, &row)?;
                desk.remove_in(tx, grant, &actor, row, now)
            })
            .await;
        removed.map_err(|error| failure(&error, &actor))
    }

    fn remove_in(
        &self,
        tx: &WriteTransaction<'_>,
        _grant: Grant<Write>,
        actor: &Actor,
        row: AliasRow,
        now: Timestamp,
    ) -> Result<Removed, AliasError> {
        let image_id = leading::led_to(tx, actor, self.naming, &row)?;
        let retargeted = leading::take_away(tx, self.naming, &row.name, &[])?;
        append(tx, actor, now, "alias.removed", &row.name, image_id)?;
        Ok(Removed {
            alias: view(row, image_id),
            retargeted,
        })
    }

    /// Lists aliases: the caller's own, and those of images the caller may see.
    pub async fn list(&self, actor: &Actor, params: ListParams) -> Result<Page<Alias>, Failure> {
        let after = cursor(params.after)?;
        let limit = page_limit(params.limit)?;
        let (naming, actor) = (self.naming, *actor);
        let page = self
            .store
            .read(move |tx| {
                let page = if let Some(text) = params.image.as_deref() {
                    let named = Named {
                        text,
                        architecture: None,
                        naming,
                    };
                    let (image, _) = find_image(tx, &actor, named)?;
                    let leading = leading_to(tx, &actor, naming, &image)?.into_iter();
                    let behind = leading.filter(|row| row.seq > after);
                    kiln_store::Page::first_of(behind, limit, |row| row.seq)
                        .map(|row| view(row, image.id))
                } else {
                    let filter = AliasFilter {
                        visible_to: visible_to(&actor),
                    };
                    let page = aliases::page(tx, after, limit, &filter)?;
                    let rows = page.rows.into_iter().map(|row| {
                        let image_id = leading::led_to(tx, &actor, naming, &row)?;
                        Ok::<_, StoreError>(view(row, image_id))
                    });
                    kiln_store::Page {
                        rows: rows.collect::<Result<_, _>>()?,
                        next_after: page.next_after,
                    }
                };
                Ok::<_, AliasError>(page)
            })
            .await
            .map_err(|error| failure(&error, &actor))?;
        Ok(Page {
            items: page.rows,
            next: page.next_after.and_then(|seq| u64::try_from(seq).ok()),
        })
    }
}

/// Reads the name of an alias.
fn alias_name(text: &str) -> Result<ImageName, Failure> {
    text.parse().map_err(|error| name_invalid(&error))
}

/// Splits a tag or version number off the end of what an alias leads to.
fn split(target: &str) -> (&str, Option<TagName>) {
    let parts = target.rsplit_once(':');
    parts
        .and_then(|(base, tag)| Some((base, Some(tag.parse().ok()?))))
        .unwrap_or((target, None))
}

/// Follows what a text leads to through aliases, and returns each text on the way, the first one
/// included. It ends where there is no further alias, where `stop` is met, or after as many aliases
/// as may follow each other.
fn follow(
    tx: &ReadTransaction<'_>,
    target: &str,
    stop: Option<&ImageName>,
) -> Result<Vec<String>, StoreError> {
    let mut chain = vec![target.to_owned()];
    loop {
        let last = chain.last().map(String::as_str).unwrap_or_default();
        let (base, tag) = split(last);
        let Ok(name) = base.parse::<ImageName>() else {
            return Ok(chain);
        };
        if Some(&name) == stop || chain.len() > ALIAS_DEPTH_MAX {
            return Ok(chain);
        }
        let Some(NameHolder::Alias { target }) = names::holder_of(tx, &name)? else {
            return Ok(chain);
        };
        let next = match (tag, split(&target).1) {
            (Some(tag), None) => format!("{target}:{tag}"),
            _ => target,
        };
        chain.push(next);
    }
}

fn refuse_circle(
    tx: &ReadTransaction<'_>,
    alias: &ImageName,
    target: &str,
) -> Result<(), AliasError> {
    let chain = follow(tx, target, Some(alias))?;
    let end = chain.last().map(String::as_str).unwrap_or_default();
    if split(end).0 == alias.as_str() {
        let mut shown = vec![alias.to_string()];
        shown.extend(chain.iter().map(|text| text.chars().take(200).collect()));
        return Err(AliasError::Circular {
            alias: alias.clone(),
            chain: shown,
        });
    }
    if chain.len() > ALIAS_DEPTH_MAX {
        return Err(AliasError::TooDeep {
            alias: alias.clone(),
        });
    }
    Ok(())
}

fn refuse_taken(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    alias: &ImageName,
) -> Result<(), AliasError> {
    match names::holder_of(tx, alias)? {
        None => Ok(()),
        Some(NameHolder::Alias { .. }) => {
            let row = aliases::get(tx, alias)?;
            // Where another's leads is told to whom it would be listed.
            let leading_to = match row {
                Some(row) if may_remove(tx, actor, &row).is_ok() => {
                    Some(format!(" and leads to {:?}", row.target))
                }
                _ => None,
            };
            Err(AliasError::AlreadyExists {
                alias: alias.clone(),
                leading_to,
            })
        }
        Some(by) => Err(AliasError::Taken(NameTaken {
            name: alias.clone(),
            by,
        })),
    }
}

/// Lets who made an alias take it away, and who looks after its image.
fn may_remove(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    row: &AliasRow,
) -> Result<Grant<Write>, AliasError> {
    let own = permit(actor, &Belongs::to_user(row.owner_id));
    let (Err(denied), Some(image)) = (own, images::get(tx, row.image_id)?) else {
        return Ok(own?);
    };
    permit(actor, &belongs(tx, actor, &image)?).map_err(|_| denied.into())
}

fn append(
    tx: &WriteTransaction<'_>,
    actor: &Actor,
    at: Timestamp,
    kind: &'static str,
    alias: &ImageName,
    image_id: ImageId,
) -> Result<(), StoreError> {
    let event = NewEvent {
        at,
        actor: EventActor::Unix(actor.uid),
        kind,
        object: Object::alias(alias),
        data: serde_json::json!({ "image_id": image_id }),
    };
    events::append(tx, &event).map(|_| ())
}

fn view(row: AliasRow, image_id: ImageId) -> Alias {
    Alias {
        alias: row.name,
        target: row.target,
        image_id,
        owner_uid: row.owner_id,
        created_at: row.created_at.to_string(),
    }
}

fn failure(error: &AliasError, actor: &Actor) -> Failure {
    match error {
        AliasError::Circular { .. } | AliasError::TooDeep { .. } => {
            Failure::from_error(codes::alias::CIRCULAR, error)
        }
        AliasError::AlreadyExists { alias, .. } => {
            Failure::from_error(codes::alias::ALREADY_EXISTS, error).with_hint(
                "choose another name, or take it away first:",
                Some(format!("kiln unalias {alias}")),
            )
        }
        AliasError::Taken(by) => {
            let failure = taken(by, actor);
            let hint = "choose another name for the alias";
            failure.with_hint(hint, None)
        }
        AliasError::Name(error) => name_invalid(error),
        AliasError::TargetNotFound { .. } => {
            Failure::from_error(codes::alias::TARGET_NOT_FOUND, error)
        }
        AliasError::NotFound { .. } => Failure::from_error(codes::alias::NOT_FOUND, error),
        AliasError::Find(error) => find_image_failure(error),
        AliasError::Denied(denied) => Failure::from_error(codes::request::DENIED, denied),
        AliasError::Store(error) => store_failure(error),
    }
}
