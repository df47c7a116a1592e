//! `kiln agent …`: other daemons that this one sends work to.

use clap::{Args, Subcommand};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kiln_api::agent::{
    Add, AddParams, Agent, AgentParams, Get, List, ListParams, Ping, Pong, Remove,
};
use kiln_domain::{AgentAddress, AgentName, PlainPath};

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::output::{self, Columns};
use crate::pages;
use crate::session::Session;
use crate::text::{cell, time};
use crate::time_span::TimeSpan;

/// How many agents are asked side by side, as many as a purge works on: each that is off costs its
/// time-out.
const PINGS_AT_A_TIME: usize = 8;

/// What there is to do with agents.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List agents
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Tell about an agent and whether it answered when last asked
    #[command(visible_alias = "get")]
    Show(OneArguments),
    /// Enter another daemon; it need not answer yet
    Add(AddArguments),
    /// Strike agents off; nothing changes there
    #[command(visible_alias = "rm")]
    Remove(RemoveArguments),
    /// Ask agents who they are, and who this daemon is to them
    Ping(PingArguments),
}

/// Which agents to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Which agent.
#[derive(Debug, Args)]
pub(crate) struct OneArguments {
    /// Its name
    agent: AgentName,
}

/// What to enter.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// What to call it
    name: AgentName,
    /// Where it is
    #[arg(help = "unix:///PATH/kiln.sock, or ssh://[USER@]HOST[:PORT][/PATH/kiln.sock]")]
    address: AgentAddress,
    /// Private key to be known by there, on the daemon's host; its user's own when left out
    #[arg(long, value_name = "FILE")]
    identity: Option<PlainPath>,
    /// Host keys to trust, on the daemon's host; its user's and the system's when left out
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PlainPath>,
    /// How long it may take to be reached, and for each answer; 30s when left out, 1h at most
    #[arg(long, value_name = "TIME")]
    agent_timeout: Option<TimeSpan>,
}

/// Which agents to strike off.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Their names
    #[arg(value_name = "AGENT", required = true)]
    agents: Vec<AgentName>,
}

/// Which agents to ask.
#[derive(Debug, Args)]
pub(crate) struct PingArguments {
    /// Their names; all when left out
    #[arg(value_name = "AGENT")]
    agents: Vec<AgentName>,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list(arguments, session).await,
            Self::Show(arguments) => show(arguments, session).await,
            Self::Add(arguments) => add(arguments, session).await,
            Self::Remove(arguments) => remove(arguments, session).await,
            Self::Ping(arguments) => ping(arguments, session).await,
        }
    }
}

async fn all(session: &Session, limit: Option<usize>) -> Result<Vec<Agent>, CommandError> {
    let client = session.connect().await?;
    pages::collect(None, limit, async |after, limit| {
        let limit = Some(limit);
        let params = ListParams { after, limit };
        session.call::<List>(&client, &params).await
    })
    .await
}

async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let agents = all(session, arguments.limit).await?;
    session.output().list(
        &agents,
        &Columns {
            header: &["NAME", "STATE", "LAST SEEN", "ADDRESS"],
            row: &|agent: &Agent| {
                vec![
                    cell(agent.name.as_str()),
                    agent.state.as_str().to_owned(),
                    agent
                        .last_seen_at
                        .as_deref()
                        .map_or_else(|| "-".to_owned(), time),
                    cell(&agent.address.to_string()),
                ]
            },
            name: &|agent: &Agent| agent.name.to_string(),
        },
    )
}

async fn show(arguments: OneArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = AgentParams {
        agent: arguments.agent,
    };
    let agent = session.call::<Get>(&client, &params).await?;
    print(&agent, session)
}

async fn add(arguments: AddArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = AddParams {
        name: arguments.name,
        address: arguments.address,
        identity_path: arguments.identity,
        known_hosts_path: arguments.known_hosts,
        timeout_seconds: arguments.agent_timeout.map(|span| span.0.as_secs()),
    };
    let agent = session.call::<Add>(&client, &params).await?;
    print(&agent, session)
}

async fn remove(arguments: RemoveArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for agent in arguments.agents {
        let item = agent.to_string();
        let removed = session
            .call::<Remove>(&client, &AgentParams { agent })
            .await;
        items.push(Item::new(item, removed)?);
    }
    batch::report(session, &items, |_, agent: &Agent| {
        format!("removed {}", cell(agent.name.as_str()))
    })
}

async fn ping(arguments: PingArguments, session: &Session) -> Result<(), CommandError> {
    let mut agents = arguments.agents;
    if agents.is_empty() {
        let listed = all(session, None).await?.into_iter();
        agents = listed.map(|agent| agent.name).collect();
        agents.sort();
    }
    let client = session.connect().await?;
    let asked = agents.into_iter().map(async |agent: AgentName| {
        let item = agent.to_string();
        let pong = session.call::<Ping>(&client, &AgentParams { agent }).await;
        Item::new(item, pong)
    });
    let asked = stream::iter(asked).buffered(PINGS_AT_A_TIME);
    let items: Vec<Item<Pong>> = asked.try_collect().await?;
    batch::report(session, &items, |_, pong: &Pong| {
        format!(
            "{}: kilnd {} ({}) answered after {} ms; this daemon is user {} ({}) there",
            cell(pong.agent.name.as_str()),
            cell(&pong.version),
            cell(&pong.architecture),
            pong.took_ms,
            pong.uid,
            pong.role
        )
    })
}

fn print(agent: &Agent, session: &Session) -> Result<(), CommandError> {
    session
        .output()
        .one(agent, agent.name.as_str(), |agent: &Agent| {
            let mut pairs = vec![
                ("name", cell(agent.name.as_str())),
                ("address", cell(&agent.address.to_string())),
                ("state", agent.state.as_str().to_owned()),
                ("time-out", format!("{} s", agent.timeout_seconds)),
                ("added", time(&agent.added_at)),
            ];
            let files = [
                ("identity", &agent.identity_path),
                ("known hosts", &agent.known_hosts_path),
            ];
            for (word, path) in files {
                pairs.extend(path.iter().map(|path| (word, cell(path.as_str()))));
            }
            let times = [
                ("last seen", &agent.last_seen_at),
                ("last failed", &agent.last_failed_at),
            ];
            for (word, at) in times {
                pairs.extend(at.iter().map(|at| (word, time(at))));
            }
            if let Some(error) = &agent.last_error {
                pairs.push(("error", cell(&error.message)));
            }
            output::pairs(&pairs)
        })
}
