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
use kiln_vault::{Vault, VaultError};

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

    /// Keeps a login, in place of another of the same name. Where the key is lost, a new one is made: the
    /// other logins that were sealed with it stay unreadable until they are made again.
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
        let sealing = self
            .pool
            .run(move || vault.seal(secret.expose().as_bytes(), &context));
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

    /// Lists the logins, each with why its secret cannot be had, where that is so.
    pub(crate) async fn list(&self) -> Result<Vec<(LoginRow, Option<VaultError>)>, LoginError> {
        let rows = self.store.read(logins::list).await?;
        let vault = self.vault.clone();
        let open = move || {
            let opened = rows.into_iter().map(|row| {
                let problem = vault.open(&row.sealed, &row.scope.to_string()).err();
                (row, problem)
            });
            opened.collect()
        };
        Ok(self.pool.run(open).await?)
    }

    /// Tells the log of logins whose secrets cannot be had: work that needs them fails, perhaps at
    /// night, and nobody is asked then.
    pub async fn warn_of_unreadable(&self) {
        let listed = match self.list().await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, "the daemon's own logins cannot be looked at");
                return;
            }
        };
        for (row, problem) in listed {
            if let Some(error) = problem {
                let registry = row.scope.to_string();
                tracing::warn!(registry, %error, "a login of the daemon's own cannot be read");
            }
        }
    }
}
