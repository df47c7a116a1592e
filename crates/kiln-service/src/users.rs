//! The users of the daemon: the desk that names them, gives them roles and tells who calls.

use kiln_api::page::Page;
use kiln_api::user::{
    AddParams, Added, ListParams, Membership, RenameParams, SetRoleParams, User, UserParams, Whoami,
};
use kiln_api::{Failure, codes};
use kiln_domain::UserName;
use kiln_domain::access::{Actor, Administer, Belongs, Denied, Grant, Oversee, Read, Role, permit};
use kiln_store::events::EventActor;
use kiln_store::users::{self, RemoveUserError, RenameUserError, UserRow};
use kiln_store::{Object, ObjectKind, ReadTransaction, Store, StoreError, WriteTransaction, orgs};

use crate::events::page_limit;
use crate::failures::store_failure;
use crate::roles::{Change, Roles, role_of};

/// Looks after users.
#[derive(Clone, Debug)]
pub struct Users {
    store: Store,
    roles: Roles,
    daemon_uid: u32,
}

/// Why a user could not be found or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    /// None is known by the uid or the name.
    #[error("the daemon knows no user {named:?}")]
    NotFound {
        /// What the call named.
        named: String,
    },
    /// The role is the kernel's word.
    #[error("user {uid} is a superadmin whatever is said: root, or the daemon's own user")]
    RoleFixed {
        /// The user.
        uid: u32,
    },
    /// That is nothing one is made by giving a role.
    #[error("nobody is made an admin by a role: who administers an organisation is one")]
    RoleOfMembership,
    #[error(transparent)]
    Rename(#[from] RenameUserError),
    #[error(transparent)]
    Remove(#[from] RemoveUserError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Users {
    /// Makes the desk. `daemon_uid` is the user the daemon runs as.
    pub fn new(store: Store, roles: Roles, daemon_uid: u32) -> Self {
        Self {
            store,
            roles,
            daemon_uid,
        }
    }

    /// Tells who calls.
    pub async fn whoami(&self, actor: &Actor) -> Result<Whoami, Failure> {
        let actor = *actor;
        let read = self.store.read(move |tx| {
            let user = users::get(tx, actor.uid)?;
            let organizations = memberships(tx, actor.uid)?;
            Ok::<_, StoreError>((user, organizations))
        });
        let (user, organizations) = read.await.map_err(|error| store_failure(&error))?;
        Ok(Whoami {
            actor: EventActor::from(&actor).to_string(),
            uid: actor.uid,
            gid: actor.gid,
            name: user.and_then(|user| user.name),
            role: actor.role,
            organizations,
            may_name_host_paths: actor.may_name_host_paths(),
        })
    }

    /// Lists users by uid.
    pub async fn list(&self, actor: &Actor, params: ListParams) -> Result<Page<User>, Failure> {
        permit::<Oversee>(actor, &Belongs::TO_THE_DAEMON).map_err(|denied| refuse(&denied))?;
        let after = params.after.map(i64::try_from).transpose();
        let after = after.map_err(|_| {
            let message = "after is not a cursor of an earlier page";
            Failure::new(codes::request::INVALID_PARAMS, message)
        })?;
        let limit = page_limit(params.limit)?;
        let desk = self.clone();
        let page = self.store.read(move |tx| {
            let page = users::page(tx, after.unwrap_or(-1), limit)?;
            let next = page.next_after.and_then(|uid| u64::try_from(uid).ok());
            let items = page.rows.into_iter().map(|row| desk.view(tx, row));
            Ok::<_, StoreError>(Page {
                items: items.collect::<Result<_, _>>()?,
                next,
            })
        });
        page.await.map_err(|error| store_failure(&error))
    }

    /// Tells about one user.
    pub async fn get(&self, actor: &Actor, params: UserParams) -> Result<User, Failure> {
        let (desk, actor) = (self.clone(), *actor);
        let found = self.store.read(move |tx| {
            let row = find(tx, &params.user);
            // Who may not see others is not told which of them exist.
            let belongs = match &row {
                Ok(row) => Belongs::to_user(row.uid),
                Err(_) => Belongs::TO_THE_DAEMON,
            };
            permit::<Read>(&actor, &belongs)?;
            Ok::<_, UserError>(desk.view(tx, row?)?)
        });
        found.await.map_err(|error| failure(&error))
    }

    /// Enters a user.
    pub async fn add(&self, actor: &Actor, params: AddParams) -> Result<Added, Failure> {
        let AddParams { uid, name } = params;
        let grant = administer(actor)?;
        let desk = self.clone();
        let work = move |tx: &WriteTransaction<'_>, change: Change| {
            let already_known = !users::enter(tx, uid, change.at)?;
            if !already_known {
                if let Some(name) = &name {
                    rename(tx, grant, uid, Some(name))?;
                }
                let data = serde_json::json!({ "name": name });
                change.note(tx, "user.added", of(uid), data)?;
            }
            let row = find(tx, &uid.to_string())?;
            Ok(Added {
                user: desk.view(tx, row)?,
                already_known,
            })
        };
        self.roles.change(actor, work, failure).await
    }

    /// Gives a user a role.
    pub async fn set_role(&self, actor: &Actor, params: SetRoleParams) -> Result<User, Failure> {
        let SetRoleParams { user, role } = params;
        let grant = administer(actor)?;
        let desk = self.clone();
        let work = move |tx: &WriteTransaction<'_>, change: Change| {
            let row = find(tx, &user)?;
            let uid = row.uid;
            if desk.is_fixed(uid) {
                return Err(UserError::RoleFixed { uid });
            }
            let given = match role {
                Role::Superadmin | Role::Agent => Some(role),
                Role::User => None,
                Role::OrgAdmin => return Err(UserError::RoleOfMembership),
            };
            if given != row.role {
                give_role(tx, grant, uid, given)?;
                let before = row.role.unwrap_or(Role::User);
                let data = serde_json::json!({ "before": before, "after": role });
                change.note(tx, "user.role_set", of(uid), data)?;
            }
            desk.view_of(tx, uid)
        };
        self.roles.change(actor, work, failure).await
    }

    /// Says what to call a user.
    pub async fn rename(&self, actor: &Actor, params: RenameParams) -> Result<User, Failure> {
        let RenameParams { user, name } = params;
        let grant = administer(actor)?;
        let desk = self.clone();
        let work = move |tx: &WriteTransaction<'_>, change: Change| {
            let row = find(tx, &user)?;
            if row.name != name {
                rename(tx, grant, row.uid, name.as_ref())?;
                let data = serde_json::json!({ "before": row.name, "after": name });
                change.note(tx, "user.renamed", of(row.uid), data)?;
            }
            desk.view_of(tx, row.uid)
        };
        self.roles.change(actor, work, failure).await
    }

    /// Removes a user of whom nothing is on record.
    pub async fn remove(&self, actor: &Actor, params: UserParams) -> Result<User, Failure> {
        let grant = administer(actor)?;
        let desk = self.clone();
        let work = move |tx: &WriteTransaction<'_>, change: Change| {
            let row = find(tx, &params.user)?;
            let uid = row.uid;
            let data = serde_json::json!({ "name": row.name });
            let view = desk.view(tx, row)?;
            delete(tx, grant, uid)?;
            change.note(tx, "user.removed", of(uid), data)?;
            Ok(view)
        };
        self.roles.change(actor, work, failure).await
    }

    fn is_fixed(&self, uid: u32) -> bool {
        uid == 0 || uid == self.daemon_uid
    }

    fn view_of(&self, tx: &ReadTransaction<'_>, uid: u32) -> Result<User, UserError> {
        let row = find(tx, &uid.to_string())?;
        Ok(self.view(tx, row)?)
    }

    fn view(&self, tx: &ReadTransaction<'_>, row: UserRow) -> Result<User, StoreError> {
        let role = if self.is_fixed(row.uid) {
            Role::Superadmin
        } else {
            role_of(tx, row.uid)?
        };
        Ok(User {
            uid: row.uid,
            organizations: memberships(tx, row.uid)?,
            name: row.name,
            role,
            first_seen_at: row.first_seen_at.to_string(),
        })
    }
}

fn administer(actor: &Actor) -> Result<Grant<Administer>, Failure> {
    permit(actor, &Belongs::TO_THE_DAEMON).map_err(|denied| refuse(&denied))
}

fn rename(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Administer>,
    uid: u32,
    name: Option<&UserName>,
) -> Result<(), UserError> {
    Ok(users::rename(tx, uid, name)?)
}

fn give_role(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Administer>,
    uid: u32,
    role: Option<Role>,
) -> Result<(), UserError> {
    Ok(users::set_role(tx, uid, role)?)
}

fn delete(tx: &WriteTransaction<'_>, _grant: Grant<Administer>, uid: u32) -> Result<(), UserError> {
    users::delete(tx, uid)?;
    Ok(())
}

fn of(uid: u32) -> Object {
    Object::new(ObjectKind::User, uid)
}

fn memberships(tx: &ReadTransaction<'_>, uid: u32) -> Result<Vec<Membership>, StoreError> {
    let rows = orgs::memberships(tx, uid)?.into_iter();
    Ok(rows
        .map(|row| Membership {
            id: row.id,
            name: row.name,
            standing: row.standing,
        })
        .collect())
}

/// Finds a user by the uid, or by what the daemon calls the user; no name is a number.
pub(crate) fn find(tx: &ReadTransaction<'_>, named: &str) -> Result<UserRow, UserError> {
    let (uid, name) = (named.parse::<u32>(), named.parse::<UserName>());
    let row = match (uid, name) {
        (Ok(uid), _) => users::get(tx, uid)?,
        (Err(_), Ok(name)) => users::named(tx, &name)?,
        (Err(_), Err(_)) => None,
    };
    row.ok_or_else(|| UserError::NotFound {
        named: named.chars().take(80).collect(),
    })
}

fn refuse(denied: &Denied) -> Failure {
    Failure::from_error(codes::request::DENIED, denied)
}

pub(crate) fn failure(error: &UserError) -> Failure {
    match error {
        UserError::NotFound { .. } => Failure::from_error(codes::user::NOT_FOUND, error),
        UserError::RoleFixed { .. } => Failure::from_error(codes::user::ROLE_FIXED, error),
        UserError::RoleOfMembership => Failure::from_error(codes::request::INVALID_PARAMS, error)
            .with_hint(
                "put the user into an organisation:",
                Some("kiln org add-member ORG USER --admin".to_owned()),
            ),
        UserError::Rename(RenameUserError::Taken { .. }) => {
            Failure::from_error(codes::user::NAME_TAKEN, error)
        }
        UserError::Remove(RemoveUserError::Owns { .. }) => {
            Failure::from_error(codes::user::IN_USE, error)
        }
        UserError::Denied(denied) => refuse(denied),
        UserError::Rename(RenameUserError::Store(error))
        | UserError::Remove(RemoveUserError::Store(error))
        | UserError::Store(error) => store_failure(error),
    }
}
