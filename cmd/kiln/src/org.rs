//! `kiln org …`: organisations and who is in them.

use clap::{Args, Subcommand};
use kiln_api::org::{
    Add, AddMember, AddMemberParams, AddParams, Get, List, ListParams, MemberParams, Org,
    OrgParams, Remove, RemoveMember,
};
use kiln_domain::OrgName;
use kiln_domain::access::Standing;

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::output::{self, Columns};
use crate::session::Session;
use crate::text::{cell, time};
use crate::{pages, passwd};

/// What there is to do with organisations.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List organisations: yours, or all for a superadmin
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Tell about an organisation and who is in it
    #[command(visible_alias = "get")]
    Show(OrgArguments),
    /// Make an organisation
    Add(AddArguments),
    /// Remove organisations to which no image belongs
    #[command(visible_alias = "rm")]
    Remove(RemoveArguments),
    /// Put a user into an organisation, or change how one stands there
    #[command(alias = "add_member")]
    AddMember(AddMemberArguments),
    /// Take a user out of an organisation
    #[command(visible_alias = "rm-member", alias = "remove_member")]
    RemoveMember(MemberArguments),
}

/// Which organisations to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Which organisation.
#[derive(Debug, Args)]
pub(crate) struct OrgArguments {
    /// Its name or id
    org: String,
}

/// What to make.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// Its name
    name: OrgName,
}

/// Which organisations to remove.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Names or ids
    #[arg(value_name = "ORG", required = true)]
    orgs: Vec<String>,
}

/// Whom to put where.
#[derive(Debug, Args)]
pub(crate) struct AddMemberArguments {
    #[command(flatten)]
    member: MemberArguments,
    /// As an administrator, who looks after its images and members; else as a plain member
    #[arg(long)]
    admin: bool,
}

/// Who, and where.
#[derive(Debug, Args)]
pub(crate) struct MemberArguments {
    /// The organisation's name or id
    org: String,
    /// A uid, what the daemon calls the user, or the user's name on this host
    user: String,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list(arguments, session).await,
            Self::Show(arguments) => show(arguments, session).await,
            Self::Add(arguments) => add(arguments, session).await,
            Self::Remove(arguments) => remove(arguments, session).await,
            Self::AddMember(arguments) => add_member(arguments, session).await,
            Self::RemoveMember(arguments) => remove_member(arguments, session).await,
        }
    }
}

async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let orgs = pages::listed::<List, _>(session, None, arguments.limit, |after, limit| {
        ListParams { after, limit }
    })
    .await?;
    session.output().list(
        &orgs,
        &Columns {
            header: &["NAME", "MEMBERS", "CREATED", "ID"],
            row: &|org: &Org| {
                vec![
                    cell(org.name.as_str()),
                    org.members.len().to_string(),
                    time(&org.created_at),
                    org.id.to_string(),
                ]
            },
            name: &|org: &Org| org.name.to_string(),
        },
    )
}

async fn show(arguments: OrgArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = OrgParams { org: arguments.org };
    let org = session.call::<Get>(&client, &params).await?;
    print(&org, session)
}

async fn add(arguments: AddArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = AddParams {
        name: arguments.name,
    };
    let org = session.call::<Add>(&client, &params).await?;
    print(&org, session)
}

async fn remove(arguments: RemoveArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for org in arguments.orgs {
        let params = OrgParams { org: org.clone() };
        let removed = session.call::<Remove>(&client, &params).await;
        items.push(Item::new(org, removed)?);
    }
    batch::report(session, &items, |_, org: &Org| {
        format!("removed {}", cell(org.name.as_str()))
    })
}

async fn add_member(arguments: AddMemberArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let standing = if arguments.admin {
        Standing::Admin
    } else {
        Standing::Member
    };
    let MemberArguments { org, user } = arguments.member;
    let changed = passwd::by_name_or_uid(&user, async |user| {
        let params = AddMemberParams {
            org: org.clone(),
            user,
            standing,
        };
        session.call::<AddMember>(&client, &params).await
    })
    .await?;
    print(&changed.org, session)
}

async fn remove_member(arguments: MemberArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let MemberArguments { org, user } = arguments;
    let changed = passwd::by_name_or_uid(&user, async |user| {
        let params = MemberParams {
            org: org.clone(),
            user,
        };
        session.call::<RemoveMember>(&client, &params).await
    })
    .await?;
    print(&changed.org, session)
}

fn print(org: &Org, session: &Session) -> Result<(), CommandError> {
    session.output().one(org, org.name.as_str(), |org: &Org| {
        let mut pairs = vec![
            ("name", cell(org.name.as_str())),
            ("id", org.id.to_string()),
            ("created", time(&org.created_at)),
        ];
        pairs.extend(org.members.iter().map(|member| {
            let name = member.name.as_deref().map(cell);
            let name = name.map_or_else(String::new, |name| format!(" {name}"));
            let text = format!("{}{name} ({})", member.uid, member.standing);
            ("member", text)
        }));
        output::pairs(&pairs)
    })
}
