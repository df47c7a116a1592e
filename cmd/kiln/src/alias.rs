//! `kiln alias …`, `kiln unalias`, `kiln image alias` and `kiln image dealias`.

use clap::{Args, Subcommand};
use kiln_api::alias::{Add, Alias, AliasParams, DealiasParams, List, ListParams, Remove, Removed};

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::output::Columns;
use crate::pages;
use crate::session::Session;
use crate::text::{cell, time};

/// What there is to do with aliases.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List aliases
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Give an image another name
    Add(AddArguments),
    /// Take aliases away; their images stay
    #[command(visible_alias = "rm")]
    Remove(RemoveArguments),
}

/// Which aliases to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only those of this image
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Which image to give which name.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// The new name
    #[arg(value_name = "ALIAS")]
    alias: String,
    /// Id, name with an optional :TAG or :VERSION, other alias, or source reference
    #[arg(value_name = "TARGET")]
    target: String,
    /// The architecture for which the target must be there; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
}

/// Which aliases to take away.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// The alias
    #[arg(value_name = "ALIAS", required = true)]
    aliases: Vec<String>,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list(arguments, session).await,
            Self::Add(arguments) => add(arguments, session).await,
            Self::Remove(arguments) => remove(arguments, session).await,
        }
    }
}

async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let aliases =
        pages::listed::<List, _>(session, None, arguments.limit, |after, limit| ListParams {
            image: arguments.image.clone(),
            after,
            limit,
        })
        .await?;
    session.output().list(
        &aliases,
        &Columns {
            header: &["ALIAS", "TARGET", "OWNER", "CREATED", "IMAGE ID"],
            row: &row,
            name: &|alias: &Alias| alias.alias.to_string(),
        },
    )
}

fn row(alias: &Alias) -> Vec<String> {
    vec![
        cell(alias.alias.as_str()),
        cell(&alias.target),
        alias.owner_uid.to_string(),
        time(&alias.created_at),
        alias.image_id.to_string(),
    ]
}

/// Gives an image another name.
pub(crate) async fn add(arguments: AddArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = AliasParams {
        alias: arguments.alias.clone(),
        target: arguments.target,
        architecture: arguments.architecture,
    };
    let result = session.call::<Add>(&client, &params).await;
    let items = [Item::new(arguments.alias, result)?];
    batch::report(session, &items, |_, alias: &Alias| {
        let (name, target) = (cell(alias.alias.as_str()), cell(&alias.target));
        format!("{name} leads to {target} (id {})", alias.image_id)
    })
}

/// Takes aliases away, one after the other.
pub(crate) async fn remove(
    arguments: RemoveArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for alias in arguments.aliases {
        let params = DealiasParams {
            alias: alias.clone(),
        };
        let result = session.call::<Remove>(&client, &params).await;
        items.push(Item::new(alias, result)?);
    }
    batch::report(session, &items, |_, removed: &Removed| {
        let names: Vec<String> = removed
            .retargeted
            .iter()
            .map(|name| cell(name.as_str()))
            .collect();
        let name = cell(removed.alias.alias.as_str());
        if names.is_empty() {
            format!("{name} is no alias any more")
        } else {
            let lead = if names.len() == 1 { "leads" } else { "lead" };
            let names = names.join(", ");
            format!("{name} is no alias any more; {names} now {lead} to what it led to")
        }
    })
}
