//! `kiln login --system`, `kiln logout --system`, `kiln registry logins`: logins that the daemon keeps
//! for work without a caller.

use kiln_api::image::Credentials;
use kiln_api::registry::logins::{
    KeptLogin, Login, LoginParams, Logins, LoginsParams, Logout, LogoutParams,
};
use kiln_domain::LoginScope;

use super::login::{warn_of_open, wrong_password};
use crate::failure::CommandError;
use crate::output::{self, Columns};
use crate::session::Session;
use crate::text::{cell, time};

/// Has the daemon keep a login.
pub(super) async fn login(
    registry: LoginScope,
    credentials: Credentials,
    unchecked: bool,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = LoginParams {
        registry,
        credentials,
        unchecked,
    };
    let kept = session.call::<Login>(&client, &params).await;
    let kept = kept.map_err(|error| match error {
        CommandError::Failed(failure) => wrong_password(*failure).into(),
        other => other,
    })?;
    if kept.checked == Some(false) && !unchecked {
        warn_of_open(kept.registry.registry(), session);
    }
    let name = kept.registry.to_string();
    session.output().one(&kept, &name, |kept| {
        format!(
            "the daemon is logged in to {} as {}\n",
            cell(&name),
            cell(&kept.username)
        )
    })
}

/// Has the daemon forget one.
pub(super) async fn logout(scope: &LoginScope, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = LogoutParams {
        registry: scope.clone(),
    };
    let gone = session.call::<Logout>(&client, &params).await?;
    let name = gone.registry.to_string();
    session.output().one(&gone, &name, |_| {
        format!("the daemon is logged out of {}\n", cell(&name))
    })
}

/// Lists those that the daemon keeps.
pub(super) async fn list(session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let kept = session
        .call::<Logins>(&client, &LoginsParams::default())
        .await?;
    let columns = Columns {
        header: &["REGISTRY", "USER", "KEPT SINCE", "BY UID", "STATE"],
        row: &|login: &KeptLogin| {
            vec![
                cell(&login.registry.to_string()),
                cell(&login.username),
                time(&login.created_at.to_string()),
                login.created_by_uid.to_string(),
                match &login.problem {
                    None => "ready".to_owned(),
                    Some(problem) => format!("unreadable: {}", cell(problem)),
                },
            ]
        },
        name: &|login: &KeptLogin| login.registry.to_string(),
    };
    session.output().list(&kept.items, &columns)?;
    if kept.items.iter().any(|login| login.problem.is_some()) {
        output::note(&format!(
            "{} what is unreadable is not used; log in there again with kiln login --system\n",
            session.paint().doubtful("warning:")
        ));
    }
    Ok(())
}
