//! `registry.login`, `registry.logout`, `registry.logins`: what superadmins say about the daemon's
//! own logins.

use kiln_api::registry::logins::{
    KeptLogin, KeptLogins, LoggedOut, LoginParams, LoginsParams, LogoutParams,
};
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Role};
use kiln_store::logins::LoginRow;
use kiln_vault::VaultError;

use super::Registries;
use crate::failures::{login_failure, source_failure};
use crate::pulls::credentials;

impl Registries {
    /// Keeps a login that the registry takes.
    pub async fn login(&self, actor: &Actor, params: LoginParams) -> Result<KeptLogin, Failure> {
        require_superadmin(actor)?;
        let scope = params.registry;
        // A colon ends the user name where both are sent (RFC 7617, 2).
        let username = &params.credentials.username;
        if username.is_empty() || username.contains([':', '\n', '\r', '\0']) {
            return Err(Failure::new(
                codes::request::INVALID_PARAMS,
                format!("{username:?} is no user name"),
            ));
        }
        let identity = credentials(params.credentials);
        let checked = if params.unchecked {
            false
        } else {
            let registry = self
                .remotes
                .registry(scope.registry(), Some(identity.clone()));
            let registry = registry.map_err(|error| source_failure(&error))?;
            let pong = registry.ping().await;
            pong.map_err(|error| source_failure(&error))?
                .is_authenticated
        };
        let kept = self.logins.keep(actor, scope, &identity).await;
        let row = kept.map_err(|error| login_failure(&error))?;
        Ok(KeptLogin {
            checked: Some(checked),
            ..view(row)
        })
    }

    /// Forgets one.
    pub async fn logout(&self, actor: &Actor, params: LogoutParams) -> Result<LoggedOut, Failure> {
        require_superadmin(actor)?;
        let forgotten = self.logins.forget(actor, params.registry.clone()).await;
        if forgotten.map_err(|error| login_failure(&error))? {
            return Ok(LoggedOut {
                registry: params.registry,
            });
        }
        let message = format!("the daemon keeps no login to {}", params.registry);
        Err(Failure::new(codes::registry::NOT_LOGGED_IN, message))
    }

    /// Lists them.
    pub async fn logins(&self, actor: &Actor, _: LoginsParams) -> Result<KeptLogins, Failure> {
        require_superadmin(actor)?;
        let rows = self.logins.list().await;
        let rows = rows.map_err(|error| login_failure(&error))?;
        let shown = |(row, problem): (LoginRow, Option<VaultError>)| KeptLogin {
            problem: problem.map(|error| kiln_api::failure::printable(&error.to_string())),
            ..view(row)
        };
        Ok(KeptLogins {
            items: rows.into_iter().map(shown).collect(),
        })
    }
}

fn require_superadmin(actor: &Actor) -> Result<(), Failure> {
    if actor.role == Role::Superadmin {
        return Ok(());
    }
    let message = format!(
        "user {} may not look after the daemon's own logins",
        actor.uid
    );
    Err(Failure::new(codes::request::DENIED, message).with_hint(
        "log in for yourself:",
        Some("kiln login REGISTRY".to_owned()),
    ))
}

fn view(row: LoginRow) -> KeptLogin {
    KeptLogin {
        registry: row.scope,
        username: row.username,
        created_by_uid: row.created_by,
        created_at: row.created_at,
        checked: None,
        problem: None,
    }
}
