//! `kiln copy` to a registry: the daemon does it.

use kiln_api::registry::copy::{Copy, CopyParams};
use kiln_api::{Failure, codes};
use kiln_client::PassedSource;
use kiln_domain::{Platform, Source};

use super::Arguments;
use crate::failure::CommandError;
use crate::push;
use crate::session::Session;

/// Copies.
pub(super) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let into = push::reference(&arguments.into)?;
    let source = arguments
        .from
        .parse::<Source>()
        .map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
    let from_credentials = match &source {
        Source::Registry(reference) => {
            let flags = arguments.source_flags();
            flags.of_repository(reference, session).await?
        }
        _ => None,
    };
    let into_credentials = arguments
        .destination_flags()
        .of_repository(&into, session)
        .await?;
    let platform = arguments.platform.as_deref().map(str::parse::<Platform>);
    let platform = platform
        .transpose()
        .map_err(|error| Failure::from_error(codes::source::INVALID_PLATFORM, &error))?;
    let client = session.connect().await?;
    let passed = match (&source, platform) {
        (Source::Registry(_), _) => PassedSource {
            reference: source.to_string(),
            files: None,
        },
        (_, Some(platform)) => client.files().source(&source, platform).await?,
        (_, None) => client.files().whole_source(&source).await?,
    };
    let params = CopyParams {
        from: passed.reference,
        into: into.to_string(),
        tags: arguments.tags,
        platform: arguments.platform,
        referrers: arguments.referrers,
        from_credentials,
        into_credentials,
        source_files: passed.files,
        detach: true,
    };
    let outcome = session.call::<Copy>(&client, &params).await?;
    push::finish(session, &client, outcome, arguments.detach).await
}
