//! What callers are to the daemon: looked up for every call, kept in memory between changes.
//!
//! Whoever changes a role or a membership calls [`Roles::forget`] when it is committed: the next
//! call sees it, on connections that were there before too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_api::Failure;
use kiln_domain::Timestamp;
use kiln_domain::access::{Actor, Role};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::{Object, ReadTransaction, Store, StoreError, WriteTransaction, orgs, users};
use serde_json::Value;

use crate::clock::Clock;
use crate::failures::store_failure;
use crate::wholly::wholly;

/// Most users whose role is kept in memory; behind it all are looked up anew. A host has fewer.
const KEPT_MAX: usize = 10_000;

/// Looks callers up.
#[derive(Clone, Debug)]
pub struct Roles {
    store: Store,
    clock: Arc<dyn Clock>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// How often all were forgotten: what was read before does not count after.
    generation: u64,
    known: HashMap<u32, Known>,
}

/// What the store says of a user.
#[derive(Clone, Debug)]
struct Known {
    role: Role,
    name: Option<String>,
}

/// A caller as the store knows it.
#[derive(Clone, Debug)]
pub struct Identified {
    /// The peer in its role.
    pub actor: Actor,
    /// What the daemon calls the user, where somebody said so.
    pub name: Option<String>,
}

impl Roles {
    /// Looks users up in `store`.
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            kept: Arc::default(),
        }
    }

    /// Gives a peer the role it has now, and enters it on first sight.
    pub async fn identify(&self, peer: Actor) -> Result<Identified, Failure> {
        let (generation, known) = {
            let kept = self.lock();
            (kept.generation, kept.known.get(&peer.uid).cloned())
        };
        let known = match known {
            Some(known) => known,
            None => match self.look_up(peer.uid, generation).await {
                Ok(known) => known,
                // Who can mend the daemon must be able to ask it what is wrong.
                Err(error) if peer.has_daemon_rights() => {
                    tracing::warn!(%error, uid = peer.uid, "cannot read what the caller is called");
                    Known {
                        role: peer.role,
                        name: None,
                    }
                }
                Err(error) => return Err(store_failure(&error)),
            },
        };
        Ok(Identified {
            actor: peer.in_role(known.role),
            name: known.name,
        })
    }

    /// Forgets what is known: a role or a membership has changed.
    pub fn forget(&self) {
        let mut kept = self.lock();
        kept.generation += 1;
        kept.known.clear();
    }

    /// Runs a change of users or memberships in one transaction; roles are looked up anew behind it.
    /// `failure` says what an error of it is to the caller.
    pub(crate) async fn change<T, E, F>(
        &self,
        actor: &Actor,
        work: F,
        failure: impl FnOnce(&E) -> Failure,
    ) -> Result<T, Failure>
    where
        F: FnOnce(&WriteTransaction<'_>, Change) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let change = Change {
            by: *actor,
            at: self.clock.now(),
        };
        let roles = self.clone();
        // A caller that hangs up must not leave a role in memory that the store no longer has.
        let done = wholly(async move {
            let done = roles.store.write(move |tx| work(tx, change)).await;
            roles.forget();
            done
        });
        done.await?.map_err(|error| failure(&error))
    }

    async fn look_up(&self, uid: u32, generation: u64) -> Result<Known, StoreError> {
        let read = self.store.read(move |tx| {
            let user = users::get(tx, uid)?;
            let role = role_of(tx, uid)?;
            Ok::<_, StoreError>((user, role))
        });
        let (user, role) = read.await?;
        if user.is_none() {
            let now = self.clock.now();
            let entered = self.store.write(move |tx| users::see(tx, uid, now)).await;
            if let Err(error) = entered {
                // Looking needs no record; what changes something enters the user again.
                tracing::warn!(%error, uid, "cannot enter a user who was seen first");
            }
        }
        let known = Known {
            role,
            name: user.and_then(|user| user.name).map(|name| name.to_string()),
        };
        let mut kept = self.lock();
        if kept.known.len() >= KEPT_MAX {
            kept.known.clear();
        }
        if kept.generation == generation {
            kept.known.insert(uid, known.clone());
        }
        Ok(known)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who changes users or memberships, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// Who.
    pub(crate) by: Actor,
    /// When.
    pub(crate) at: Timestamp,
}

impl Change {
    /// Notes the change among the events, in its transaction.
    pub(crate) fn note(
        &self,
        tx: &WriteTransaction<'_>,
        kind: &str,
        object: Object,
        data: Value,
    ) -> Result<(), StoreError> {
        let event = NewEvent {
            at: self.at,
            actor: EventActor::from(&self.by),
            kind,
            object,
            data,
        };
        events::append(tx, &event).map(drop)
    }
}

/// Decides what a user is by the rows: the role that was given, else by the memberships.
pub(crate) fn role_of(tx: &ReadTransaction<'_>, uid: u32) -> Result<Role, StoreError> {
    let given = users::get(tx, uid)?.and_then(|user| user.role);
    if let Some(role) = given {
        return Ok(role);
    }
    Ok(if orgs::administers_any(tx, uid)? {
        Role::OrgAdmin
    } else {
        Role::User
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kiln_domain::access::Standing;
    use kiln_domain::{OrgId, Timestamp};
    use kiln_store::StoreOptions;
    use tempfile::TempDir;

    use super::*;
    use crate::clock::SystemClock;

    const UID: u32 = 1000;

    fn opened(folder: &Path) -> Roles {
        let store = Store::open(&folder.join("kiln.db"), &StoreOptions::default()).unwrap();
        Roles::new(store, Arc::new(SystemClock))
    }

    fn roles() -> (TempDir, Roles) {
        let folder = tempfile::tempdir().unwrap();
        let roles = opened(folder.path());
        (folder, roles)
    }

    async fn role(roles: &Roles, uid: u32) -> Role {
        let peer = Actor::from_peer(uid, uid, None, 500);
        roles.identify(peer).await.unwrap().actor.role
    }

    async fn give(roles: &Roles, uid: u32, role: Option<Role>) {
        let given = roles.store.write(move |tx| {
            users::see(tx, uid, Timestamp::EPOCH)?;
            users::set_role(tx, uid, role)
        });
        given.await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_is_entered_on_first_sight() {
        let (_folder, roles) = roles();

        assert_eq!(role(&roles, UID).await, Role::User);

        let user = roles.store.read(|tx| users::get(tx, UID)).await.unwrap();
        assert_eq!(user.unwrap().uid, UID);
    }

    #[tokio::test]
    async fn a_change_counts_from_the_next_call_on() {
        let (_folder, roles) = roles();
        assert_eq!(role(&roles, UID).await, Role::User);

        give(&roles, UID, Some(Role::Superadmin)).await;
        // Kept in memory until somebody says that it changed.
        assert_eq!(role(&roles, UID).await, Role::User);
        roles.forget();

        assert_eq!(role(&roles, UID).await, Role::Superadmin);
        give(&roles, UID, None).await;
        roles.forget();
        assert_eq!(role(&roles, UID).await, Role::User);
    }

    #[tokio::test]
    async fn what_was_read_before_a_change_is_not_kept_after_it() {
        let (_folder, roles) = roles();
        let generation = roles.lock().generation;
        give(&roles, UID, Some(Role::Agent)).await;

        // The look began before the change was told of.
        roles.forget();
        roles.look_up(UID, generation).await.unwrap();

        assert!(roles.lock().known.is_empty());
    }

    #[tokio::test]
    async fn root_and_the_daemon_stay_what_they_are_whatever_the_store_says() {
        let (_folder, roles) = roles();
        for uid in [0, 500] {
            give(&roles, uid, Some(Role::Agent)).await;

            assert_eq!(role(&roles, uid).await, Role::Superadmin, "{uid}");
        }
    }

    #[tokio::test]
    async fn who_administers_an_organisation_is_its_admin() {
        let (_folder, roles) = roles();
        for (standing, want) in [
            (Standing::Member, Role::User),
            (Standing::Admin, Role::OrgAdmin),
        ] {
            let made = roles.store.write(move |tx| {
                let id = OrgId::new(uuid::Uuid::new_v4());
                let name = format!("org-{standing}").parse().unwrap();
                orgs::insert(tx, id, &name, 0, Timestamp::EPOCH).unwrap();
                orgs::set_member(tx, id, UID, standing, Timestamp::EPOCH).unwrap();
                Ok::<_, StoreError>(())
            });
            made.await.unwrap();
            roles.forget();

            assert_eq!(role(&roles, UID).await, want);
        }
    }

    #[tokio::test]
    async fn without_a_database_only_who_has_the_daemons_rights_is_known() {
        let (_folder, roles) = roles();
        roles.store.clone().close().await.unwrap();

        assert_eq!(role(&roles, 0).await, Role::Superadmin);
        let peer = Actor::from_peer(UID, UID, None, 500);
        roles.identify(peer).await.unwrap_err();
    }
}
