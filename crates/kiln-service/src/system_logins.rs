//! Logins that the daemon keeps: for work that has no caller, since whoever calls brings their own.
//!
//! Secrets are sealed before they come to the store, each under the name it counts for, and the key
//! is not in the store: neither a copy of the database nor a row put under another name gives one
//! away.

use std::sync::Arc;

use kiln_domain::access::Actor;
use kiln_domain::{Credentials, LoginScope, Reference, Secret, Timestamp};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::logins::{self, LoginRow};
use kiln_store::{Object, ObjectKind, Store, StoreError, users};
use kiln_vault::{Earlier, Vault, VaultError};

use crate::blocking::{Pool, PoolError};
use crate::clock::Clock;

/// Most logins that are kept.
const MAX_LOGINS: u64 = 1_000;

/// The user name of an identity token.
const IDENTITY_TOKEN: &str = "<token>";

/// Why a login could not be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no key, or not the right one.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Nobody could look for the key.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// There are too many.
    #[error("{MAX_LOGINS} logins are kept already, which is all there may be")]
    Full,
}

/// Puts credentials into the form of a call's.
pub(crate) fn wire_credentials(credentials: Credentials) -> kiln_api::image::Credentials {
    let (username, secret) = match credentials {
        Credentials::Password { username, secret } => (username, secret),
        Credentials::IdentityToken(secret) => (IDENTITY_TOKEN.to_owned(), secret),
    };
    kiln_api::image::Credentials {
        username,
        secret: secret.expose().to_owned(),
    }
}

/// Keeps logins, and finds the one for a repository.
#[derive(Clone, Debug)]
pub struct SystemLogins {
    store: Store,
    vault: Vault,
    clock: Arc<dyn Clock>,
    /// Threads that read the key.
    pool: Pool,
}

impl SystemLogins {
    /// Keeps them in `store`, sealed by `vault`.
    pub fn new(store: Store, vault: Vault, clock: Arc<dyn Clock>, pool: Pool) -> Self {
        Self {
            store,
            vault,
            clock,
            pool,
        }
    }

    /// Returns what time it is here.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Finds the login that counts for a repository: the one with the longest name.
    pub async fn find(&self, reference: &Reference) -> Result<Option<Credentials>, LoginError> {
        let names = LoginScope::from(reference).names();
        let row = self
            .store
            .read(move |tx| logins::first_of(tx, &names))
            .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let vault = self.vault.clone();
        let context = row.scope.to_string();
        let opening = self.pool.run(move || vault.open(&row.sealed, &context));
        let secret = opening.await??;
        let secret = Secret::new(String::from_utf8_lossy(&secret).into_owned());
        Ok(Some(match row.username.as_str() {
            IDENTITY_TOKEN => Credentials::IdentityToken(secret),
            _ => Credentials::Password {
                username: row.username,
                secret,
            },
        }))
    }

    /// Keeps a login, in place of another of the same name.
    pub(crate) async fn keep(
        &self,
        actor: &Actor,
        scope: LoginScope,
        credentials: &Credentials,
    ) -> Result<LoginRow, LoginError> {
        let (username, secret) = match credentials {
            Credentials::Password { username, secret } => (username.clone(), secret.clone()),
            Credentials::IdentityToken(secret) => (IDENTITY_TOKEN.to_owned(), secret.clone()),
        };
        let (vault, context) = (self.vault.clone(), scope.to_string());
        let earlier = match self.store.read(logins::count).await? {
            0 => Earlier::None,
            _ => Earlier::Some,
        };
        let sealing = self
            .pool
            .run(move || vault.seal(secret.expose().as_bytes(), &context, earlier));
        let row = LoginRow {
            scope,
            username,
            sealed: sealing.await??,
            created_by: actor.uid,
            created_at: self.clock.now(),
        };
        let kept = row.clone();
        self.store
            .write(move |tx| {
                let is_new = logins::get(tx, &kept.scope.to_string())?.is_none();
                if is_new && logins::count(tx)? >= MAX_LOGINS {
                    return Err(LoginError::Full);
                }
                users::see(tx, kept.created_by, kept.created_at)?;
                logins::put(tx, &kept)?;
                let event = NewEvent {
                    at: kept.created_at,
                    actor: EventActor::Unix(kept.created_by),
                    kind: "login.kept",
                    object: Object::new(ObjectKind::Login, &kept.scope),
                    data: serde_json::json!({ "username": kept.username }),
                };
                events::append(tx, &event)?;
                Ok(())
            })
            .await?;
        Ok(row)
    }

    /// Forgets a login; tells whether there was one.
    pub(crate) async fn forget(
        &self,
        actor: &Actor,
        scope: LoginScope,
    ) -> Result<bool, LoginError> {
        let (uid, now) = (actor.uid, self.clock.now());
        let forgetting = self.store.write(move |tx| {
            if !logins::delete(tx, &scope)? {
                return Ok(false);
            }
            let event = NewEvent {
                at: now,
                actor: EventActor::Unix(uid),
                kind: "login.forgotten",
                object: Object::new(ObjectKind::Login, &scope),
                data: serde_json::json!({}),
            };
            events::append(tx, &event)?;
            Ok::<_, StoreError>(true)
        });
        Ok(forgetting.await?)
    }

    /// Lists the logins, without their secrets.
    pub(crate) async fn list(&self) -> Result<Vec<LoginRow>, LoginError> {
        Ok(self.store.read(logins::list).await?)
    }
}
