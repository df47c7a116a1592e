//! Leases: the desk where other processes keep an image while they need it.
//!
//! A lease ends by the clock, whether or not anybody looks; what has ended is as if it never was.
//! What it protects from is in `images` and `purges`.

use std::sync::Arc;

use kiln_api::lease::{
    DEFAULT_TTL_SECONDS, Lease, MAX_PER_USER, MAX_TTL_SECONDS, PURPOSE_MAX, ReleaseParams,
    RenewParams, TakeParams,
};
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Belongs, Grant, Make, Write, may_change, permit};
use kiln_domain::{ImageState, LeaseId, Timestamp};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::leases::{self, LeaseRow};
use kiln_store::{Object, ReadTransaction, Store, StoreError, WriteTransaction};
use uuid::Uuid;

use crate::clock::Clock;
use crate::failures::store_failure;
use crate::find_image::{
    FindImageError, Named, Naming, architecture, find_image, find_image_failure,
};

/// Takes, renews and ends leases.
#[derive(Clone, Debug)]
pub struct Leases {
    store: Store,
    clock: Arc<dyn Clock>,
    naming: Naming,
}

/// Why a lease could not be had, renewed or ended.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the image is {}, and only an active one can be kept", state.in_words())]
    NotActive { state: ImageState },
    #[error("user {uid} has {MAX_PER_USER} leases, the most one may have")]
    TooMany { uid: u32 },
    #[error("there is no lease {id}; it may have ended")]
    NotFound { id: LeaseId },
    #[error(transparent)]
    Find(#[from] FindImageError),
    #[error(transparent)]
    Denied(#[from] kiln_domain::access::Denied),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Leases {
    /// Makes the desk.
    pub fn new(store: Store, clock: Arc<dyn Clock>, naming: Naming) -> Self {
        Self {
            store,
            clock,
            naming,
        }
    }

    /// Keeps an image. Whoever may see it may.
    pub async fn take(&self, actor: &Actor, params: TakeParams) -> Result<Lease, Failure> {
        let architecture = architecture(params.architecture.as_deref())?;
        check_purpose(&params.purpose)?;
        let now = self.clock.now();
        let expires_at = end_of(now, params.ttl_seconds)?;
        let (naming, actor) = (self.naming, *actor);
        let taken = self
            .store
            .write(move |tx| {
                let grant = permit::<Make>(&actor, &Belongs::to_user(actor.uid))?;
                let named = Named {
                    text: &params.image,
                    architecture,
                    naming,
                };
                let (image, version) = find_image(tx, &actor, named)?;
                if !image.state.is_active() {
                    return Err(LeaseError::NotActive { state: image.state });
                }
                let lease = LeaseRow {
                    id: LeaseId::new(Uuid::new_v4()),
                    image_id: image.id,
                    version_id: version.id,
                    owner_uid: actor.uid,
                    purpose: params.purpose,
                    created_at: now,
                    expires_at,
                };
                insert(tx, grant, &actor, &lease)?;
                Ok(lease)
            })
            .await;
        taken.map(view).map_err(|error| failure(&error))
    }

    /// Moves the end of a lease of the caller's.
    pub async fn renew(&self, actor: &Actor, params: RenewParams) -> Result<Lease, Failure> {
        let id = lease_id(&params.lease_id)?;
        let (actor, now) = (*actor, self.clock.now());
        let expires_at = end_of(now, params.ttl_seconds)?;
        let renewed = self
            .store
            .write(move |tx| {
                let (lease, _grant) = own(tx, &actor, id, now)?;
                leases::renew(tx, &lease, expires_at)?;
                Ok::<_, LeaseError>(LeaseRow {
                    expires_at,
                    ..lease
                })
            })
            .await;
        renewed.map(view).map_err(|error| failure(&error))
    }

    /// Ends a lease of the caller's.
    pub async fn release(&self, actor: &Actor, params: ReleaseParams) -> Result<Lease, Failure> {
        let id = lease_id(&params.lease_id)?;
        let (actor, now) = (*actor, self.clock.now());
        let released = self
            .store
            .write(move |tx| {
                let (lease, _grant) = own(tx, &actor, id, now)?;
                leases::remove(tx, &lease)?;
                append(tx, &actor, now, "image.released", &lease)?;
                Ok::<_, LeaseError>(lease)
            })
            .await;
        released.map(view).map_err(|error| failure(&error))
    }
}

fn insert(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Make>,
    actor: &Actor,
    lease: &LeaseRow,
) -> Result<(), LeaseError> {
    let now = lease.created_at;
    if leases::count_of(tx, actor.uid, now)? >= MAX_PER_USER {
        return Err(LeaseError::TooMany { uid: actor.uid });
    }
    leases::insert(tx, lease)?;
    append(tx, actor, now, "image.leased", lease)?;
    Ok(())
}

/// Finds a lease that the actor may change; another's is as if it were not there.
fn own(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    id: LeaseId,
    now: Timestamp,
) -> Result<(LeaseRow, Grant<Write>), LeaseError> {
    let lease = leases::get(tx, id, now)?.ok_or(LeaseError::NotFound { id })?;
    let grant = may_change(actor, lease.owner_uid).map_err(|_| LeaseError::NotFound { id })?;
    Ok((lease, grant))
}

fn append(
    tx: &WriteTransaction<'_>,
    actor: &Actor,
    at: Timestamp,
    kind: &'static str,
    lease: &LeaseRow,
) -> Result<(), StoreError> {
    let event = NewEvent {
        at,
        actor: EventActor::Unix(actor.uid),
        kind,
        object: Object::image(lease.image_id),
        data: serde_json::json!({ "lease_id": lease.id, "purpose": lease.purpose }),
    };
    events::append(tx, &event).map(|_| ())
}

fn lease_id(text: &str) -> Result<LeaseId, Failure> {
    text.parse()
        .map_err(|error| Failure::from_error(codes::request::INVALID_ID, &error))
}

fn check_purpose(purpose: &str) -> Result<(), Failure> {
    let is_fit = !purpose.trim().is_empty()
        && purpose.len() <= PURPOSE_MAX
        && !purpose.contains(char::is_control);
    if is_fit {
        return Ok(());
    }
    let message = format!("the purpose is a line of 1 to {PURPOSE_MAX} bytes");
    Err(Failure::new(codes::request::INVALID_PARAMS, message))
}

fn end_of(now: Timestamp, ttl_seconds: Option<u64>) -> Result<Timestamp, Failure> {
    let seconds = ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS);
    if !(1..=MAX_TTL_SECONDS).contains(&seconds) {
        let message = format!("ttl_seconds is 1 to {MAX_TTL_SECONDS}, not {seconds}");
        return Err(Failure::new(codes::request::INVALID_PARAMS, message));
    }
    let micros = i64::try_from(seconds)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000);
    let end = Timestamp::from_micros(now.as_micros().saturating_add(micros));
    Ok(end.unwrap_or(Timestamp::LATEST))
}

/// Shows a lease.
pub(crate) fn view(row: LeaseRow) -> Lease {
    Lease {
        id: row.id,
        image_id: row.image_id,
        version_id: row.version_id,
        owner_uid: row.owner_uid,
        purpose: row.purpose,
        created_at: row.created_at.to_string(),
        expires_at: row.expires_at.to_string(),
    }
}

fn failure(error: &LeaseError) -> Failure {
    match error {
        LeaseError::NotActive { .. } => Failure::from_error(codes::image::NOT_FOUND, error)
            .with_hint("restore it first with", Some("kiln restore".to_owned())),
        LeaseError::TooMany { .. } => Failure::from_error(codes::lease::TOO_MANY, error),
        LeaseError::NotFound { .. } => Failure::from_error(codes::lease::NOT_FOUND, error),
        LeaseError::Find(error) => find_image_failure(error),
        LeaseError::Denied(denied) => Failure::from_error(codes::request::DENIED, denied),
        LeaseError::Store(error) => store_failure(error),
    }
}
