//! `kiln outdated`: images that have something newer at their registries.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use kiln_api::image::remote::{Freshness, Outdated, OutdatedParams, Standing};
use kiln_api::image::{List, ListParams};
use kiln_api::registry::RegistryCredentials;
use kiln_client::Client;
use kiln_domain::{Reference, RegistryName};

use crate::batch::EXIT_PARTIAL;
use crate::credentials::CredentialsArguments;
use crate::failure::CommandError;
use crate::output::Columns;
use crate::pages;
use crate::session::Session;
use crate::text::{cell, or_dash};

/// Exit code when something is newer.
const EXIT_OUTDATED: u8 = 10;

/// Images that one call asks about; each is a question to a registry.
const PER_CALL: u32 = 50;

/// Which images.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is pulled. Exit code 10 says that something is newer; 9 that nothing is, as far as it could
be told: what could not be asked is listed as unknown, and what its registry no longer has as gone.")]
pub(crate) struct Arguments {
    /// All images that you see, not yours alone
    #[arg(short, long)]
    all: bool,
    /// Also what is as its registry has it
    #[arg(long)]
    current: bool,
    /// Auth file to read, in place of those of docker and podman
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

/// Lists them.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let credentials = credentials(&arguments, &client, session).await?;
    let mut found = pages::collect(None, None, async |after, _| {
        let params = OutdatedParams {
            after,
            limit: Some(PER_CALL),
            all: arguments.all,
            credentials: credentials.clone(),
        };
        session.call::<Outdated>(&client, &params).await
    })
    .await?;
    let has = |state| found.iter().any(|standing| standing.state == state);
    let has_newer = has(Freshness::Outdated);
    let is_unsure = has(Freshness::Unknown) || has(Freshness::Gone);
    found.retain(|standing| arguments.current || standing.state != Freshness::Current);
    session.output().list(
        &found,
        &Columns {
            header: &["NAME", "ARCH", "STATE", "SOURCE", "WHY"],
            row: &row,
            name: &|standing: &Standing| standing.name.clone(),
        },
    )?;
    if has_newer {
        return Err(CommandError::Reported(EXIT_OUTDATED));
    }
    if is_unsure {
        return Err(CommandError::Reported(EXIT_PARTIAL));
    }
    Ok(())
}

fn row(standing: &Standing) -> Vec<String> {
    let state = match standing.state {
        Freshness::Current => "current",
        Freshness::Outdated => "outdated",
        Freshness::Gone => "gone",
        Freshness::Unknown => "unknown",
    };
    let why = standing.error.as_ref().map(|error| error.message.as_str());
    vec![
        cell(&standing.name),
        cell(&standing.architecture),
        state.to_owned(),
        cell(&standing.reference),
        or_dash(why),
    ]
}

/// Finds who to be at each registry that the images came from.
async fn credentials(
    arguments: &Arguments,
    client: &Client,
    session: &Session,
) -> Result<Vec<RegistryCredentials>, CommandError> {
    let images = pages::collect(None, None, async |after, limit| {
        let params = ListParams {
            after,
            limit: Some(limit),
            ..ListParams::default()
        };
        session.call::<List>(client, &params).await
    })
    .await?;
    let known = CredentialsArguments::of(None, arguments.authfile.clone());
    let mut registries: BTreeMap<String, Reference> = BTreeMap::new();
    for image in images {
        if image.source.kind != "registry" {
            continue;
        }
        if let Ok(reference) = image.source.reference.parse::<Reference>() {
            registries.insert(reference.registry().to_owned(), reference);
        }
    }
    let mut all = Vec::new();
    for reference in registries.into_values() {
        let found = known.find(&reference, session).await?;
        all.extend(found.map(|credentials| RegistryCredentials {
            registry: RegistryName::of(&reference),
            credentials,
        }));
    }
    Ok(all)
}
