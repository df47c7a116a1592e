//! `kiln copy` to a registry: the daemon does it.

use kiln_api::registry::copy::{Copy, CopyParams};
use kiln_api::{Failure, codes};
use kiln_client::PassedSource;
use kiln_domain::{Platform, Source};

use super::Arguments;
use crate::failure::CommandError;
use crate::push;
use crate::reach::Reach;
use crate::session::Session;

/// Copies.
pub(super) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let (from_flags, into_flags) = (arguments.source_flags(), arguments.destination_flags());
    let (from_caller, into_caller) = (from_flags.caller(session)?, into_flags.caller(session)?);
    let (into, there) = into_caller.for_writing(&arguments.into).await?;
    let source = arguments
        .from
        .parse::<Source>()
        .map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
    let platform = arguments.platform.as_deref().map(str::parse::<Platform>);
    let platform = platform
        .transpose()
        .map_err(|error| Failure::from_error(codes::source::INVALID_PLATFORM, &error))?;
    let client = session.connect().await?;
    let (source, here) = match source {
        Source::Registry(_) => {
            let (reference, here) = from_caller.for_fetching(&arguments.from, &client).await?;
            (Source::Registry(reference), here)
        }
        local => (local, Reach::nowhere(None)),
    };
    let passed = match (&source, platform) {
        (Source::Registry(_), _) => PassedSource {
            reference: source.to_string(),
            files: None,
        },
        (_, platform) if arguments.referrers => {
            client
                .files()
                .source_with_referrers(&source, platform)
                .await?
        }
        (_, Some(platform)) => client.files().source(&source, platform).await?,
        (_, None) => client.files().whole_source(&source).await?,
    };
    let params = CopyParams {
        from: passed.reference,
        into: into.to_string(),
        tags: arguments.tags,
        platform: arguments.platform,
        referrers: arguments.referrers,
        from_credentials: here.credentials,
        from_mirror_credentials: here.mirror_credentials,
        from_tls_verify: here.tls_verify,
        into_credentials: there.credentials,
        into_tls_verify: there.tls_verify,
        source_files: passed.files,
        detach: true,
    };
    let outcome = session.call::<Copy>(&client, &params).await?;
    push::finish(session, &client, outcome, arguments.detach).await
}
