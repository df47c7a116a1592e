//! Organisations: the desk that makes them and says who is in them.

use kiln_api::org::{
    AddMemberParams, AddParams, Changed, ListParams, Member, MemberParams, Org, OrgParams,
};
use kiln_api::page::Page;
use kiln_api::{Failure, codes};
use kiln_domain::access::{
    Actor, Administer, Belongs, Denied, Grant, Lead, Read, Role, Standing, permit,
};
use kiln_domain::{NameError, OrgId, Timestamp};
use kiln_store::orgs::{self, AddMemberError, InsertOrgError, OrgRow};
use kiln_store::{Object, ObjectKind, ReadTransaction, Store, StoreError, WriteTransaction};

use crate::events::{cursor, page_limit};
use crate::failures::store_failure;
use crate::roles::{Change, Roles};
use crate::users::{self, UserError};

/// Looks after organisations.
#[derive(Clone, Debug)]
pub struct Orgs {
    store: Store,
    roles: Roles,
}

/// Why an organisation could not be found or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrgError {
    /// There is none of that name or id.
    #[error("there is no organisation {named:?}")]
    NotFound {
        /// What the call named.
        named: String,
    },
    /// Images belong to it.
    #[error("images belong to the organisation {name}, forgotten ones included")]
    InUse {
        /// Its name.
        name: String,
    },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Insert(#[from] InsertOrgError),
    #[error(transparent)]
    AddMember(#[from] AddMemberError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Orgs {
    /// Makes the desk.
    pub fn new(store: Store, roles: Roles) -> Self {
        Self { store, roles }
    }

    /// Lists organisations, those the caller is in unless a superadmin asks.
    pub async fn list(&self, actor: &Actor, params: ListParams) -> Result<Page<Org>, Failure> {
        let after = cursor(params.after)?;
        let limit = page_limit(params.limit)?;
        let member = (actor.role != Role::Superadmin).then_some(actor.uid);
        let page = self.store.read(move |tx| {
            let page = orgs::page(tx, after, limit, member)?;
            let next = page.next_after.and_then(|seq| u64::try_from(seq).ok());
            let items = page.rows.into_iter().map(|row| view(tx, row));
            Ok::<_, StoreError>(Page {
                items: items.collect::<Result<_, _>>()?,
                next,
            })
        });
        page.await.map_err(|error| store_failure(&error))
    }

    /// Tells about one organisation.
    pub async fn get(&self, actor: &Actor, params: OrgParams) -> Result<Org, Failure> {
        let actor = *actor;
        let found = self.store.read(move |tx| {
            let row = find(tx, &params.org)?;
            let standing = orgs::standing_of(tx, row.id, actor.uid)?;
            permit::<Read>(&actor, &Belongs::to_organization(standing))?;
            Ok::<_, OrgError>(view(tx, row)?)
        });
        found.await.map_err(|error| failure(&error))
    }

    /// Makes an organisation with nobody in it.
    pub async fn add(&self, actor: &Actor, params: AddParams) -> Result<Org, Failure> {
        let work = move |tx: &WriteTransaction<'_>, change: Change| {
            let grant = administer(&change.by)?;
            params.name.refuse_id()?;
            let id = OrgId::new(uuid::Uuid::new_v4());
            let data = serde_json::json!({ "name": params.name });
            insert(tx, grant, id, &params, &change)?;
            change.note(tx, "org.added", of(id), data)?;
            let row = find(tx, &id.to_string())?;
            Ok(view(tx, row)?)
        };
        self.roles.change(actor, work, failure).await
    }

    /// Removes an organisation to which no image belongs.
    pub async fn remove(&self, actor: &Actor, params: OrgParams) -> Result<Org, Failure> {
        let work = move |tx: &WriteTransaction<'_>, change: Change| {
            let grant = administer(&change.by)?;
            let row = find(tx, &params.org)?;
            let (id, name) = (row.id, row.name.to_string());
            if orgs::has_images(tx, id)? {
                return Err(OrgError::InUse { name });
            }
            let org = view(tx, row)?;
            delete(tx, grant, id)?;
            let data = serde_json::json!({ "name": name });
            change.note(tx, "org.removed", of(id), data)?;
            Ok(org)
        };
        self.roles.change(actor, work, failure).await
    }

    /// Puts a user into an organisation, or changes how one stands there.
    pub async fn add_member(
        &self,
        actor: &Actor,
        params: AddMemberParams,
    ) -> Result<Changed, Failure> {
        let AddMemberParams {
            org,
            user,
            standing,
        } = params;
        let work = move |tx: &WriteTransaction<'_>, change: Change| {
            let (row, grant) = find_to_lead(tx, &change.by, &org)?;
            // A uid need not have called yet.
            let uid = match user.parse() {
                Ok(uid) => uid,
                Err(_) => users::find(tx, &user)?.uid,
            };
            let before = orgs::standing_of(tx, row.id, uid)?;
            let changed = set_member(tx, grant, row.id, (uid, standing), change.at)?;
            if changed {
                let data = serde_json::json!({
                    "name": row.name, "uid": uid, "before": before, "after": standing,
                });
                change.note(tx, "org.member_set", of(row.id), data)?;
            }
            let org = view(tx, row)?;
            Ok(Changed { org, changed })
        };
        self.roles.change(actor, work, failure).await
    }

    /// Takes a user out of an organisation.
    pub async fn remove_member(
        &self,
        actor: &Actor,
        params: MemberParams,
    ) -> Result<Changed, Failure> {
        let work = move |tx: &WriteTransaction<'_>, change: Change| {
            let (row, grant) = find_to_lead(tx, &change.by, &params.org)?;
            let uid = users::find(tx, &params.user)?.uid;
            let changed = remove_member(tx, grant, row.id, uid)?;
            if changed {
                let data = serde_json::json!({ "name": row.name, "uid": uid });
                change.note(tx, "org.member_removed", of(row.id), data)?;
            }
            let org = view(tx, row)?;
            Ok(Changed { org, changed })
        };
        self.roles.change(actor, work, failure).await
    }
}

fn administer(actor: &Actor) -> Result<Grant<Administer>, Denied> {
    permit(actor, &Belongs::TO_THE_DAEMON)
}

/// Finds an organisation that the actor may put people into.
fn find_to_lead(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    named: &str,
) -> Result<(OrgRow, Grant<Lead>), OrgError> {
    let row = find(tx, named)?;
    let standing = orgs::standing_of(tx, row.id, actor.uid)?;
    let grant = permit(actor, &Belongs::to_organization(standing))?;
    Ok((row, grant))
}

fn insert(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Administer>,
    id: OrgId,
    params: &AddParams,
    change: &Change,
) -> Result<(), OrgError> {
    Ok(orgs::insert(
        tx,
        id,
        &params.name,
        change.by.uid,
        change.at,
    )?)
}

fn delete(tx: &WriteTransaction<'_>, _grant: Grant<Administer>, id: OrgId) -> Result<(), OrgError> {
    orgs::delete(tx, id)?;
    Ok(())
}

fn set_member(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Lead>,
    id: OrgId,
    (uid, standing): (u32, Standing),
    at: Timestamp,
) -> Result<bool, OrgError> {
    Ok(orgs::set_member(tx, id, uid, standing, at)?)
}

fn remove_member(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Lead>,
    id: OrgId,
    uid: u32,
) -> Result<bool, OrgError> {
    Ok(orgs::remove_member(tx, id, uid)?)
}

fn of(id: OrgId) -> Object {
    Object::new(ObjectKind::Org, id)
}

/// Finds an organisation by its name or id.
pub(crate) fn find(tx: &ReadTransaction<'_>, named: &str) -> Result<OrgRow, OrgError> {
    let row = match (named.parse(), named.parse()) {
        // An id is never a name.
        (Ok(id), _) => orgs::get(tx, id)?,
        (Err(_), Ok(name)) => orgs::named(tx, &name)?,
        (Err(_), Err(_)) => None,
    };
    row.ok_or_else(|| OrgError::NotFound {
        named: named.chars().take(80).collect(),
    })
}

fn view(tx: &ReadTransaction<'_>, row: OrgRow) -> Result<Org, StoreError> {
    let members = orgs::members(tx, row.id)?.into_iter();
    Ok(Org {
        id: row.id,
        name: row.name,
        members: members
            .map(|member| Member {
                uid: member.uid,
                name: member.name,
                standing: member.standing,
                added_at: member.added_at.to_string(),
            })
            .collect(),
        created_at: row.created_at.to_string(),
        created_by_uid: row.created_by,
    })
}

pub(crate) fn failure(error: &OrgError) -> Failure {
    match error {
        OrgError::NotFound { .. } => Failure::from_error(codes::org::NOT_FOUND, error),
        OrgError::InUse { .. } => Failure::from_error(codes::org::IN_USE, error),
        OrgError::Insert(InsertOrgError::Taken { .. }) => {
            Failure::from_error(codes::org::ALREADY_EXISTS, error)
        }
        OrgError::AddMember(AddMemberError::TooMany { .. }) => {
            Failure::from_error(codes::org::TOO_MANY, error)
        }
        OrgError::Name(error) => Failure::from_error(codes::request::INVALID_PARAMS, error)
            .with_hint("choose a name that is no UUID: those are ids", None),
        OrgError::User(error) => users::failure(error),
        OrgError::Denied(denied) => Failure::from_error(codes::request::DENIED, denied),
        OrgError::Insert(InsertOrgError::Store(error))
        | OrgError::AddMember(AddMemberError::Store(error))
        | OrgError::Store(error) => store_failure(error),
    }
}
