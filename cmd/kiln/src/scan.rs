//! `kiln image scan` and `kiln image untag`: one image and the registry it came from.

use clap::Args;
use kiln_api::image::remote::{Scan, ScanParams, Scanned, Untag, UntagParams};
use kiln_api::image::{Get, GetParams, Image};
use kiln_client::Client;
use kiln_domain::{Reference, RegistryName, TagName};

use crate::failure::CommandError;
use crate::output;
use crate::reach::{Reach, ReachArguments};
use crate::session::Session;
use crate::text::{cell, or_dash, size};

/// Which image to ask about.
#[derive(Debug, Args)]
#[command(after_help = "\
What was pulled stays what it is; what the registry says now is kept beside it.")]
pub(crate) struct ScanArguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    image: String,
    /// One architecture of it; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
    #[command(flatten)]
    reach: ReachArguments,
}

/// Which tag to take off.
#[derive(Debug, Args)]
#[command(after_help = "\
The tag must name what the image was made from. The manifest and its other tags stay, and so does
the image on this host. `kiln registry untag` takes any tag off.")]
pub(crate) struct UntagArguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    image: String,
    /// Registry; the one it came from when left out
    #[arg(long)]
    registry: Option<RegistryName>,
    /// Tag; the one it came from when left out
    #[arg(long)]
    tag: Option<TagName>,
    /// One architecture of it; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    reach: ReachArguments,
}

async fn get(
    image: &str,
    architecture: Option<String>,
    client: &Client,
    session: &Session,
) -> Result<Image, CommandError> {
    let params = GetParams {
        image: image.to_owned(),
        architecture,
    };
    session.call::<Get>(client, &params).await
}

/// Reads where an image came from; nothing where that is no registry, which the daemon refuses in
/// its own words.
fn reference(image: &Image) -> Option<Reference> {
    let is_remote = image.source.kind == "registry";
    is_remote
        .then(|| image.source.reference.parse().ok())
        .flatten()
}

/// Asks.
pub(crate) async fn scan(arguments: ScanArguments, session: &Session) -> Result<(), CommandError> {
    let caller = arguments.reach.caller(session)?;
    let client = session.connect().await?;
    let image = get(
        &arguments.image,
        arguments.architecture.clone(),
        &client,
        session,
    )
    .await?;
    let reach = match reference(&image) {
        Some(reference) => {
            caller
                .for_fetching(&reference.to_string(), &client)
                .await?
                .1
        }
        None => Reach::nowhere(None),
    };
    let params = ScanParams {
        image: Some(arguments.image),
        image_id: None,
        architecture: arguments.architecture,
        credentials: reach.credentials,
        mirror_credentials: reach.mirror_credentials,
        tls_verify: reach.tls_verify,
    };
    let scanned = session.call::<Scan>(&client, &params).await?;
    let name = scanned.image.name.to_string();
    session.output().one(&scanned, &name, shown)
}

fn shown(scanned: &Scanned) -> String {
    let remote = &scanned.remote;
    let state = if scanned.is_newer {
        "the registry has something newer than the image"
    } else {
        "the image is what the registry has"
    };
    output::pairs(&[
        ("name", cell(scanned.image.name.as_str())),
        ("source", cell(&remote.reference)),
        ("architecture", cell(&remote.architecture)),
        ("state", state.to_owned()),
        ("manifest", cell(&remote.manifest_digest)),
        ("layers", remote.layers.len().to_string()),
        ("size", size(remote.size_bytes)),
        ("made", or_dash(remote.created.as_deref())),
    ])
}

/// Takes the tag off.
pub(crate) async fn untag(
    arguments: UntagArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let caller = arguments.reach.caller(session)?;
    let client = session.connect().await?;
    let image = get(
        &arguments.image,
        arguments.architecture.clone(),
        &client,
        session,
    )
    .await?;
    let reach = match reference(&image) {
        Some(reference) => {
            let registry = arguments.registry.as_ref();
            let registry = registry.map_or(reference.registry(), RegistryName::as_str);
            let place = format!("{registry}/{}", reference.repository());
            caller.for_writing(&place).await?.1
        }
        None => Reach::nowhere(None),
    };
    let params = UntagParams {
        image: Some(arguments.image),
        image_id: None,
        architecture: arguments.architecture,
        registry: arguments.registry,
        tag: arguments.tag,
        dry_run: arguments.dry_run,
        credentials: reach.credentials,
        tls_verify: reach.tls_verify,
    };
    let untagged = session.call::<Untag>(&client, &params).await?;
    session
        .output()
        .one(&untagged, &untagged.reference, |done| {
            let verb = if done.dry_run {
                "would untag"
            } else {
                "untagged"
            };
            format!(
                "{verb} {}; {} stays\n",
                cell(&done.reference),
                cell(&done.digest)
            )
        })
}
