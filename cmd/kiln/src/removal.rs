//! `kiln restore`, `kiln purge` and the same below `kiln image`, by name or by id.
//!
//! Removing images on agents is in `agent_purge`.

use clap::Args;
use kiln_api::image::removal::{
    ForgetById, ForgetByIdParams, PurgeById, PurgeByIdParams, Purged, Restore, RestoreParams,
    Restored,
};
use kiln_api::image::{Get, GetParams};
use kiln_client::Client;

use crate::agent_purge;
use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::image::forgotten_line;
use crate::session::Session;
use crate::text::{cell, size};

/// Which images to forget, by id.
#[derive(Debug, Args)]
pub(crate) struct ForgetByIdArguments {
    /// The image's UUID
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Only tell what would happen
    #[arg(long)]
    dry_run: bool,
    /// Also while the image is in use; machines go on
    #[arg(long)]
    force: bool,
}

/// Which image to restore.
#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// Id, name or source reference
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The name it is to have; the one it had when left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// One architecture of it; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
    /// Only tell what would happen
    #[arg(long)]
    dry_run: bool,
}

/// Which images to remove for good.
#[derive(Debug, Args)]
pub(crate) struct PurgeArguments {
    #[arg(
        value_name = "IMAGE",
        required = true,
        help = "Id, name or source reference; with --agent also a pattern such as '*:old-*'"
    )]
    images: Vec<String>,
    /// One architecture of them; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    there: agent_purge::There,
}

/// Which images to remove for good, by id.
#[derive(Debug, Args)]
pub(crate) struct PurgeByIdArguments {
    /// The image's UUID
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// How to remove them.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct How {
    /// Only tell what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also while machines run the image or leases keep it
    #[arg(long)]
    pub(crate) force: bool,
}

/// Forgets images by their ids, one after the other.
pub(crate) async fn forget_by_id(
    arguments: ForgetByIdArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for id in arguments.ids {
        let params = ForgetByIdParams {
            image_id: id.clone(),
            dry_run: arguments.dry_run,
            force: arguments.force,
        };
        let result = session.call::<ForgetById>(&client, &params).await;
        items.push(Item::new(id, result)?);
    }
    batch::report(session, &items, forgotten_line)
}

/// Brings an image back.
pub(crate) async fn restore(
    arguments: RestoreArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = RestoreParams {
        image: arguments.image.clone(),
        architecture: arguments.architecture,
        name: arguments.name,
        dry_run: arguments.dry_run,
    };
    let result = session.call::<Restore>(&client, &params).await;
    let items = [Item::new(arguments.image, result)?];
    batch::report(session, &items, |_, restored: &Restored| {
        let what = match (restored.already_active, restored.dry_run) {
            (true, _) => "was active before",
            (false, true) => "would be restored",
            (false, false) => "is restored",
        };
        let name = cell(restored.image.name.as_str());
        format!("{name} {what} (id {})", restored.image.id)
    })
}

/// Removes images for good, one after the other.
pub(crate) async fn purge(
    arguments: PurgeArguments,
    session: &Session,
) -> Result<(), CommandError> {
    if arguments.there.is_meant() {
        let PurgeArguments {
            images,
            architecture,
            how,
            there,
        } = arguments;
        return agent_purge::run((images, architecture), how, there, session).await;
    }
    let client = session.connect().await?;
    let mut items = Vec::new();
    for image in arguments.images {
        let architecture = arguments.architecture.clone();
        let result = purge_named(&client, session, (&image, architecture), arguments.how).await;
        items.push(Item::new(image, result)?);
    }
    batch::report(session, &items, purged_line)
}

/// Removes images for good by their ids, one after the other.
pub(crate) async fn purge_by_id(
    arguments: PurgeByIdArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for id in arguments.ids {
        let result = purge_one(&client, session, &id, arguments.how).await;
        items.push(Item::new(id, result)?);
    }
    batch::report(session, &items, purged_line)
}

async fn purge_named(
    client: &Client,
    session: &Session,
    (image, architecture): (&str, Option<String>),
    how: How,
) -> Result<Purged, CommandError> {
    let params = GetParams {
        image: image.to_owned(),
        architecture,
    };
    let found = session.call::<Get>(client, &params).await?;
    purge_one(client, session, &found.id.to_string(), how).await
}

/// A forced removal looks first: the daemon wants the token of a look.
async fn purge_one(
    client: &Client,
    session: &Session,
    id: &str,
    how: How,
) -> Result<Purged, CommandError> {
    let params = PurgeByIdParams {
        image_id: id.to_owned(),
        force: how.force,
        confirm_token: None,
        dry_run: how.dry_run || how.force,
    };
    let told = session.call::<PurgeById>(client, &params).await?;
    if how.dry_run || !how.force {
        return Ok(told);
    }
    let params = PurgeByIdParams {
        confirm_token: told.confirm_token,
        dry_run: false,
        ..params
    };
    session.call::<PurgeById>(client, &params).await
}

fn purged_line(_: &str, purged: &Purged) -> String {
    let (is, frees) = if purged.dry_run {
        ("would be removed for good", "would be freed")
    } else {
        ("is removed for good", "are freed")
    };
    let name = cell(purged.image.name.as_str());
    let bytes = size(purged.freed_bytes);
    let mut line = format!("{name} {is}: {bytes} {frees} (id {})", purged.image.id);
    if !purged.aliases.is_empty() {
        let names: Vec<String> = purged
            .aliases
            .iter()
            .map(|name| cell(name.as_str()))
            .collect();
        line.push_str("; aliases: ");
        line.push_str(&names.join(", "));
    }
    line
}
