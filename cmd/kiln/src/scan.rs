//! `kiln image scan` and `kiln image untag`: one image and the registry it came from.

use clap::Args;
use kiln_api::codes;
use kiln_api::image::remote::{Scan, ScanParams, Scanned, Untag, UntagParams};
use kiln_api::image::{Get, GetParams, Image};
use kiln_client::Client;
use kiln_domain::{ImageName, KernelName, Reference, RegistryName, TagName};

use crate::failure::CommandError;
use crate::follow;
use crate::output;
use crate::reach::{Reach, ReachArguments};
use crate::session::Session;
use crate::text::{cell, or_dash, size};

/// Which image to ask about.
#[derive(Debug, Args)]
#[command(after_help = "\
What was pulled stays what it is; what the registry says now is kept beside it. With --register it
becomes an image of its own; nothing is made twice.")]
pub(crate) struct ScanArguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    image: String,
    /// One architecture of it; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
    /// Make an image of what the registry has now, where this host has none
    #[arg(long)]
    register: bool,
    /// What to call it; the image's own name and digits of the manifest when left out
    #[arg(long, requires = "register")]
    name: Option<ImageName>,
    /// Kernel of the catalogue to boot it with; the image's own when left out
    #[arg(long, requires = "register", value_name = "KERNEL")]
    kernel: Option<KernelName>,
    /// Do not wait until it is made
    #[arg(long, requires = "register")]
    detach: bool,
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
    let named = &arguments.image;
    let image = match get(named, arguments.architecture.clone(), &client, session).await {
        // An architecture that is to be registered is none of an image yet.
        Err(CommandError::Failed(failure))
            if arguments.register && failure.is(codes::image::NOT_FOUND) =>
        {
            get(named, None, &client, session).await?
        }
        found => found?,
    };
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
        image: arguments.image,
        architecture: arguments.architecture,
        credentials: reach.credentials,
        mirror_credentials: reach.mirror_credentials,
        tls_verify: reach.tls_verify,
        register: arguments.register,
        name: arguments.name,
        kernel_ref: arguments.kernel,
    };
    let scanned = session.call::<Scan>(&client, &params).await?;
    let made = scanned.registered.as_ref();
    if let Some(id) = made.and_then(|made| made.operation_id)
        && !arguments.detach
    {
        follow::to_the_end(session, &client, id, follow::Interrupt::Cancels).await?;
    }
    let name = made.map_or(&scanned.image.name, |made| &made.name);
    session.output().one(&scanned, name.as_str(), |scanned| {
        shown(scanned, arguments.detach)
    })
}

fn shown(scanned: &Scanned, is_detached: bool) -> String {
    let remote = &scanned.remote;
    let state = if scanned.is_newer {
        "the registry has something newer than the image"
    } else {
        "the image is what the registry has"
    };
    let mut pairs = vec![
        ("name", cell(scanned.image.name.as_str())),
        ("source", cell(&remote.reference)),
        ("architecture", cell(&remote.architecture)),
        ("state", state.to_owned()),
        ("manifest", cell(&remote.manifest_digest)),
        ("layers", remote.layers.len().to_string()),
        ("size", size(remote.size_bytes)),
        ("made", or_dash(remote.created.as_deref())),
    ];
    if let Some(made) = &scanned.registered {
        let name = cell(made.name.as_str());
        let told = match made.operation_id {
            None => format!("{name}, which was there"),
            Some(id) if is_detached => format!("{name}, by operation {id}"),
            Some(_) => name,
        };
        pairs.push(("registered", told));
    }
    output::pairs(&pairs)
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
        image: arguments.image,
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
