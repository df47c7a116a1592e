//! `kiln kernel pull`: a kernel from a registry or a URL.

use clap::Args;
use kiln_api::kernel::{Pull, PullOutcome, PullParams};
use kiln_api::{Failure, codes};
use kiln_domain::KernelName;

use super::lines;
use crate::failure::CommandError;
use crate::follow;
use crate::reach::{Reach, ReachArguments};
use crate::session::Session;

/// What to pull.
#[derive(Debug, Args)]
#[command(after_help = "\
Sources:
  REGISTRY/REPOSITORY[:TAG][@DIGEST]  an artifact whose layer is a kernel, or an image that has one
                                      at /boot/vmlinux or /boot/vmlinuz, and /lib/modules
  https://…/FILE#sha256=DIGEST        a kernel file or a Debian kernel package")]
pub(crate) struct Arguments {
    /// Name in the catalogue
    name: KernelName,
    /// Where it is
    #[arg(value_name = "REFERENCE|URL")]
    source: String,
    /// SHA-256 of the file behind a URL, where the URL does not say it
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    /// Platform of a multi-platform reference, such as linux/arm64; the host's when left out
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    #[command(flatten)]
    reach: ReachArguments,
    /// Return the operation at once and let the daemon go on
    #[arg(long)]
    detach: bool,
}

/// Pulls.
pub(super) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let is_url = ["https://", "http://"]
        .iter()
        .any(|scheme| arguments.source.starts_with(scheme));
    let caller = arguments.reach.caller(session)?;
    if caller.has_stated() && is_url {
        let text = "credentials go to registries only, never with a URL";
        return Err(Failure::new(codes::request::INVALID_PARAMS, text).into());
    }
    let client = session.connect().await?;
    let (reference, url, reach) = if is_url {
        (None, Some(arguments.source.clone()), Reach::nowhere(None))
    } else {
        let (reference, reach) = caller.for_fetching(&arguments.source, &client).await?;
        (Some(reference.to_string()), None, reach)
    };
    let params = PullParams {
        name: arguments.name,
        reference,
        url,
        sha256: arguments.digest,
        platform: arguments.platform,
        credentials: reach.credentials,
        mirror_credentials: reach.mirror_credentials,
        tls_verify: reach.tls_verify,
        detach: true,
    };
    let started = match session.call::<Pull>(&client, &params).await? {
        PullOutcome::Kernel(kernel) => {
            return session.output().one(&*kernel, kernel.name.as_str(), lines);
        }
        PullOutcome::Started(started) => started,
    };
    let id = started.operation_id;
    if arguments.detach {
        let text = id.to_string();
        return session.output().one(&*started, &text, |_| {
            format!("started operation {id}; wait for it:  kiln op wait {id}\n")
        });
    }
    let ended = follow::to_the_end(session, &client, id, follow::Interrupt::Cancels).await?;
    let Some(kernel) = ended.operation.kernel else {
        let message = format!("operation {id} succeeded without a kernel");
        return Err(CommandError::new(codes::daemon::INTERNAL, message));
    };
    session.output().one(&*kernel, kernel.name.as_str(), lines)
}
