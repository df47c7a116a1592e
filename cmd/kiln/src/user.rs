//! `kiln user …` and `kiln whoami`: the users of the daemon.

use clap::{Args, Subcommand, ValueEnum};
use kiln_api::user::{
    Add, AddParams, Get, GetWhoami, List, ListParams, Membership, Remove, Rename, RenameParams,
    SetRole, SetRoleParams, User, UserParams, Whoami, WhoamiParams,
};
use kiln_api::{codes, failure::printable};
use kiln_domain::UserName;
use kiln_domain::access::{Role, Standing};

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::output::{self, Columns};
use crate::pages;
use crate::passwd;
use crate::session::Session;
use crate::text::{cell, or_dash, time};

/// What there is to do with users.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the users the daemon knows
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Tell about a user
    #[command(visible_alias = "get")]
    Show(UserArguments),
    /// Enter a user who has not called yet
    Add(AddArguments),
    /// Make a user a superadmin, an agent, or a user like everybody
    #[command(alias = "set_role")]
    SetRole(SetRoleArguments),
    /// Say what to call a user
    Rename(RenameArguments),
    /// Remove users of whom nothing is on record
    #[command(visible_alias = "rm")]
    Remove(RemoveArguments),
    /// Tell who you are to the daemon
    Whoami,
}

/// Which users to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Which user.
#[derive(Debug, Args)]
pub(crate) struct UserArguments {
    /// A uid, what the daemon calls the user, or the user's name on this host
    user: String,
}

/// Which users to remove.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Uids, what the daemon calls the users, or their names on this host
    #[arg(value_name = "USER", required = true)]
    users: Vec<String>,
}

/// Whom to enter.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// A uid, or the user's name on this host
    user: String,
    /// What to call the user; the name on this host when one was given
    #[arg(long)]
    name: Option<UserName>,
}

/// What to make of whom.
#[derive(Debug, Args)]
pub(crate) struct SetRoleArguments {
    /// A uid, what the daemon calls the user, or the user's name on this host
    user: String,
    /// What to make of the user; administrators of organisations are made with `kiln org add-member`
    #[arg(value_enum)]
    role: GivenRole,
}

/// The roles that are given; see `Role`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum GivenRole {
    /// Everything
    Superadmin,
    /// Like everybody
    User,
    /// A machine: it reads, and changes nothing
    Agent,
}

impl From<GivenRole> for Role {
    fn from(role: GivenRole) -> Self {
        match role {
            GivenRole::Superadmin => Self::Superadmin,
            GivenRole::User => Self::User,
            GivenRole::Agent => Self::Agent,
        }
    }
}

/// What to call whom.
#[derive(Debug, Args)]
pub(crate) struct RenameArguments {
    /// A uid, what the daemon calls the user, or the user's name on this host
    user: String,
    /// What to call the user
    #[arg(required_unless_present = "none")]
    name: Option<UserName>,
    /// Take the name away
    #[arg(long, conflicts_with = "name")]
    none: bool,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list(arguments, session).await,
            Self::Show(arguments) => show(arguments, session).await,
            Self::Add(arguments) => add(arguments, session).await,
            Self::SetRole(arguments) => set_role(arguments, session).await,
            Self::Rename(arguments) => rename(arguments, session).await,
            Self::Remove(arguments) => remove(arguments, session).await,
            Self::Whoami => whoami(session).await,
        }
    }
}

/// Tells who calls.
pub(crate) async fn whoami(session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let whoami = session.call::<GetWhoami>(&client, &WhoamiParams {}).await?;
    let name = whoami.uid.to_string();
    session.output().one(&whoami, &name, |whoami: &Whoami| {
        output::pairs(&[
            ("uid", whoami.uid.to_string()),
            ("name", name_of(whoami.name.as_ref())),
            ("role", whoami.role.to_string()),
            ("organisations", organisations(&whoami.organizations)),
        ])
    })
}

async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let users = pages::listed::<List, _>(session, None, arguments.limit, |after, limit| {
        ListParams { after, limit }
    })
    .await?;
    session.output().list(
        &users,
        &Columns {
            header: &["UID", "NAME", "ROLE", "ORGANISATIONS", "FIRST SEEN"],
            row: &|user: &User| {
                vec![
                    user.uid.to_string(),
                    name_of(user.name.as_ref()),
                    user.role.to_string(),
                    organisations(&user.organizations),
                    time(&user.first_seen_at),
                ]
            },
            name: &|user: &User| user.uid.to_string(),
        },
    )
}

async fn show(arguments: UserArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let user = passwd::by_name_or_uid(&arguments.user, async |user| {
        session.call::<Get>(&client, &UserParams { user }).await
    })
    .await?;
    print(&user, session)
}

async fn add(arguments: AddArguments, session: &Session) -> Result<(), CommandError> {
    let Some(uid) = passwd::uid_of(&arguments.user) else {
        let user = printable(&arguments.user);
        let message = format!("this host has no user {user:?}: name one by the uid");
        return Err(CommandError::new(codes::user::NOT_FOUND, message));
    };
    let client = session.connect().await?;
    // Digits are no name.
    let name = arguments.name.or_else(|| arguments.user.parse().ok());
    let params = AddParams { uid, name };
    let added = session.call::<Add>(&client, &params).await?;
    print(&added.user, session)
}

async fn set_role(arguments: SetRoleArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let role = Role::from(arguments.role);
    let user = passwd::by_name_or_uid(&arguments.user, async |user| {
        session
            .call::<SetRole>(&client, &SetRoleParams { user, role })
            .await
    })
    .await?;
    print(&user, session)
}

async fn rename(arguments: RenameArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let name = arguments.name;
    let user = passwd::by_name_or_uid(&arguments.user, async |user| {
        let name = name.clone();
        session
            .call::<Rename>(&client, &RenameParams { user, name })
            .await
    })
    .await?;
    print(&user, session)
}

async fn remove(arguments: RemoveArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for named in arguments.users {
        let removed = passwd::by_name_or_uid(&named, async |user| {
            session.call::<Remove>(&client, &UserParams { user }).await
        });
        items.push(Item::new(named.clone(), removed.await)?);
    }
    batch::report(session, &items, |_, user: &User| {
        format!("removed {}", user.uid)
    })
}

fn print(user: &User, session: &Session) -> Result<(), CommandError> {
    session
        .output()
        .one(user, &user.uid.to_string(), |user: &User| {
            output::pairs(&[
                ("uid", user.uid.to_string()),
                ("name", name_of(user.name.as_ref())),
                ("role", user.role.to_string()),
                ("organisations", organisations(&user.organizations)),
                ("first seen", time(&user.first_seen_at)),
            ])
        })
}

fn name_of(name: Option<&UserName>) -> String {
    or_dash(name.map(UserName::as_str))
}

fn organisations(memberships: &[Membership]) -> String {
    let names: Vec<_> = memberships
        .iter()
        .map(|one| match one.standing {
            Standing::Member => cell(one.name.as_str()),
            Standing::Admin => format!("{} (admin)", cell(one.name.as_str())),
        })
        .collect();
    or_dash(
        Some(names.join(", "))
            .as_deref()
            .filter(|text| !text.is_empty()),
    )
}
