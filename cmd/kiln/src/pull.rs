//! `kiln pull`: one image from a registry, a layout or an archive.

use clap::Args;
use kiln_api::Failure;
use kiln_api::codes;
use kiln_api::image::{Outcome, Pull, PullParams};
use kiln_client::{Client, PassedSource};
use kiln_domain::{ByteSize, ImageName, Platform, Source};

use crate::failure::CommandError;
use crate::follow;
use crate::kernel_choice::KernelArguments;
use crate::reach::{Reach, ReachArguments};
use crate::session::Session;

/// What to pull, and what to make of it.
#[derive(Debug, Args)]
#[command(after_help = "\
References:
  debian:bookworm                     Docker Hub, or any REGISTRY/REPOSITORY[:TAG][@DIGEST]
  oci:DIR[:TAG]                       an OCI image layout on this host
  oci-archive:FILE[:TAG]              the same in a tar archive
  docker-archive:FILE[:REFERENCE]     what `docker save` writes
  dir:DIR                             one image in a directory, as skopeo writes it")]
pub(crate) struct Arguments {
    /// What to pull
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// Name of the image; derived from the reference when left out
    #[arg(long)]
    name: Option<ImageName>,
    #[command(flatten)]
    kernel: KernelArguments,
    /// Platform of a multi-platform image, such as linux/arm64; the host's when left out
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Size of the root filesystem, such as 4G; when left out 1.25 times the content, at least 1G
    #[arg(long)]
    size: Option<ByteSize>,
    /// Organisation it is to belong to: its members see it, its administrators look after it too
    #[arg(long, value_name = "ORG")]
    org: Option<String>,
    #[command(flatten)]
    reach: ReachArguments,
    /// Return the operation at once and let the daemon go on
    #[arg(long)]
    detach: bool,
}

/// Pulls.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let caller = arguments.reach.caller(session)?;
    let source = arguments.reference.parse::<Source>().ok();
    let client = session.connect().await?;
    let (source, reach) = match source {
        Some(Source::Registry(_)) => {
            let (reference, reach) = caller.for_fetching(&arguments.reference, &client).await?;
            (Some(Source::Registry(reference)), reach)
        }
        source => (source, Reach::nowhere(caller.stated())),
    };
    let source = pass_source(source, &arguments, &client, session).await?;
    let kernel = arguments.kernel.pass(&client.files()).await?;
    let params = PullParams {
        reference: source.reference,
        name: arguments.name,
        kernel_ref: arguments.kernel.kernel_ref(),
        prefer_shipped_kernel: arguments.kernel.names_none(),
        kernel_path: kernel.kernel.clone(),
        initrd_path: kernel.initrd.clone(),
        modules_dir: kernel.modules_file(),
        boot: arguments.kernel.boot.into(),
        size_bytes: arguments.size.map(|size| size.0),
        platform: arguments.platform,
        credentials: reach.credentials,
        mirror_credentials: reach.mirror_credentials,
        org: arguments.org,
        tls_verify: reach.tls_verify,
        source_files: source.files,
        detach: true,
    };
    let started = session.call::<Pull>(&client, &params).await;
    let finished = match started {
        Ok(outcome) => finish(session, &client, outcome, arguments.detach).await,
        Err(error) => Err(error),
    };
    match finished {
        Ok(()) => kernel.sent().await,
        Err(error) => Err(kernel.explain(error)),
    }
}

/// Follows what a call with `detach` started, unless the caller wants to leave it alone.
pub(crate) async fn finish(
    session: &Session,
    client: &Client,
    outcome: Outcome,
    detach: bool,
) -> Result<(), CommandError> {
    let started = match outcome {
        Outcome::Image(image) => return follow::print_image(session, &image, None),
        Outcome::Started(started) => started,
    };
    if detach {
        let id = started.operation_id.to_string();
        return session.output().one(&*started, &id, |_| {
            format!("started operation {id}; wait for it:  kiln op wait {id}\n")
        });
    }
    let id = started.operation_id;
    let ended = follow::to_the_end(session, client, id, follow::Interrupt::Cancels).await?;
    let Some(image) = ended.operation.result else {
        let message = format!("operation {id} succeeded without an image");
        return Err(CommandError::new(codes::daemon::INTERNAL, message));
    };
    let work = ended
        .progress
        .as_ref()
        .map(|progress| (progress, ended.took));
    follow::print_image(session, &image, work)
}

/// Passes the files of a source that lies on this host. A text that is no source at all is the
/// daemon's to refuse.
async fn pass_source(
    source: Option<Source>,
    arguments: &Arguments,
    client: &Client,
    session: &Session,
) -> Result<PassedSource, CommandError> {
    let source = match source {
        None => {
            return Ok(PassedSource {
                reference: arguments.reference.clone(),
                files: None,
            });
        }
        Some(Source::Registry(reference)) => {
            return Ok(PassedSource {
                reference: reference.to_string(),
                files: None,
            });
        }
        Some(source) => source,
    };
    let wanted = match &arguments.platform {
        Some(text) => text
            .parse::<Platform>()
            .map_err(|error| invalid_platform(&error))?,
        None => daemons_platform(client, session).await?,
    };
    Ok(client.files().source(&source, wanted).await?)
}

async fn daemons_platform(client: &Client, session: &Session) -> Result<Platform, CommandError> {
    let params = kiln_api::daemon::InfoParams::default();
    let info = session
        .call::<kiln_api::daemon::GetInfo>(client, &params)
        .await?;
    info.architecture
        .parse()
        .map_err(|error| invalid_platform(&error))
}

fn invalid_platform(error: &kiln_domain::PlatformError) -> CommandError {
    Failure::from_error(codes::source::INVALID_PLATFORM, error).into()
}
