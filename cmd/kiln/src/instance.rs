//! `kiln instance …` and `kiln ps`: machines that run images.
//!
//! Stopping one and reading its console are in `stop.rs` and `logs.rs`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use clap::{Args, Subcommand};
use kiln_api::Method as _;
use kiln_api::instance::{
    Finish, Get, Instance, InstanceParams, List, ListParams, Port, Register, Remove, Start,
};
use kiln_client::Client;
use kiln_domain::InstanceState;

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::output::{self, Columns};
use crate::session::Session;
use crate::text::{cell, or_dash, size, time};
use crate::{pages, rpc};

/// How much of an id tells machines apart for people, and is taken in its place.
const SHORT_ID: usize = 8;

/// What there is to do with machines.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List machines, those that run unless told otherwise
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Tell about a machine
    #[command(visible_alias = "get")]
    Show(InstanceArguments),
    /// Print everything about a machine as JSON
    Inspect(InstanceArguments),
    /// Remove machines that have ended from the list
    #[command(visible_alias = "rm")]
    Remove(RemoveArguments),
    /// Register a machine that the calling process runs: as this process ends, so does the machine
    #[command(hide = true)]
    Register(rpc::Params),
    /// Note that a machine runs
    #[command(hide = true)]
    Start(rpc::Params),
    /// Note how a machine ended
    #[command(hide = true)]
    Finish(rpc::Params),
}

/// Which machines to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Machines that have ended too
    #[arg(short, long)]
    all: bool,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Which machine.
#[derive(Debug, Args)]
pub(crate) struct InstanceArguments {
    /// Name, id, or the beginning of an id
    #[arg(value_name = "NAME")]
    instance: String,
}

/// Which machines to remove.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Names, ids, or beginnings of ids
    #[arg(value_name = "NAME", required = true)]
    instances: Vec<String>,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list(arguments, session).await,
            Self::Show(arguments) => show(arguments, session).await,
            Self::Inspect(arguments) => inspect(arguments, session).await,
            Self::Remove(arguments) => remove(arguments, session).await,
            Self::Register(params) => rpc::call(Register::NAME, &params, session).await,
            Self::Start(params) => rpc::call(Start::NAME, &params, session).await,
            Self::Finish(params) => rpc::call(Finish::NAME, &params, session).await,
        }
    }
}

/// Asks for a machine by what a caller wrote.
pub(crate) async fn get(
    session: &Session,
    client: &Client,
    instance: &str,
) -> Result<Instance, CommandError> {
    let params = InstanceParams {
        instance: instance.to_owned(),
    };
    session.call::<Get>(client, &params).await
}

/// Lists machines, page after page.
pub(crate) async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let instances = pages::collect(None, arguments.limit, async |after, limit| {
        let params = ListParams {
            after,
            limit: Some(limit),
            all: arguments.all,
        };
        session.call::<List>(&client, &params).await
    })
    .await?;
    session.output().list(
        &instances,
        &Columns {
            header: &[
                "ID", "NAME", "IMAGE", "STATE", "MONITOR", "PORTS", "CREATED",
            ],
            row: &row,
            // A name may have been had by several, one after the other.
            name: &|instance: &Instance| instance.id.to_string(),
        },
    )
}

fn row(instance: &Instance) -> Vec<String> {
    vec![
        instance.id.to_string().chars().take(SHORT_ID).collect(),
        cell(instance.name.as_str()),
        cell(instance.image_name.as_str()),
        state(instance),
        monitor(instance),
        ports(&instance.ports),
        time(&instance.created_at),
    ]
}

async fn show(arguments: InstanceArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let instance = get(session, &client, &arguments.instance).await?;
    let id = instance.id.to_string();
    session.output().one(&instance, &id, lines)
}

async fn inspect(arguments: InstanceArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let instance = get(session, &client, &arguments.instance).await?;
    session.output().value(&instance)
}

async fn remove(arguments: RemoveArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for instance in arguments.instances {
        let params = InstanceParams {
            instance: instance.clone(),
        };
        let result = session.call::<Remove>(&client, &params).await;
        if let Ok(removed) = &result {
            discard(removed);
        }
        items.push(Item::new(instance, result)?);
    }
    batch::report(session, &items, |_, instance| {
        let name = cell(instance.name.as_str());
        format!("machine {name} is removed (id {})", instance.id)
    })
}

/// Removes the directory of a machine that is forgotten, with its console's log.
///
/// Only the caller's own machine's, and only one that is named after it: whoever registered a
/// machine may have named any directory.
fn discard(instance: &Instance) {
    let directory = Path::new(&instance.directory);
    let id = instance.id.to_string();
    let is_own = instance.owner_uid == rustix::process::geteuid().as_raw();
    if is_own && directory.is_absolute() && directory.file_name() == Some(OsStr::new(&id)) {
        // Gone already, or another user's: then it is not ours to remove.
        drop(fs::remove_dir_all(directory));
    }
}

/// Says where a machine stands, and how it ended where that was heard.
pub(crate) fn state(instance: &Instance) -> String {
    match (instance.state, instance.exit_code) {
        (InstanceState::Ended, Some(code)) => format!("ended ({code})"),
        (state, _) => state.to_string(),
    }
}

fn monitor(instance: &Instance) -> String {
    match (&instance.monitor, &instance.accelerator) {
        (Some(monitor), Some(accelerator)) => format!("{} {}", cell(monitor), cell(accelerator)),
        _ => "-".to_owned(),
    }
}

fn ports(ports: &[Port]) -> String {
    let one = |port: &Port| {
        let address = cell(&port.host_address);
        // An address with colons is told from its port as in a URL (RFC 3986, section 3.2.2).
        let address = if address.contains(':') {
            format!("[{address}]")
        } else {
            address
        };
        format!("{address}:{}->{}", port.host_port, port.guest_port)
    };
    let ports: Vec<_> = ports.iter().map(one).collect();
    or_dash(Some(ports.join(", ").as_str()).filter(|text| !text.is_empty()))
}

fn lines(instance: &Instance) -> String {
    let mut pairs = vec![
        ("name", cell(instance.name.as_str())),
        ("id", instance.id.to_string()),
        ("state", state(instance)),
        (
            "image",
            format!(
                "{} (id {})",
                cell(instance.image_name.as_str()),
                instance.image_id
            ),
        ),
        ("version", format!("id {}", instance.version_id)),
        ("monitor", monitor(instance)),
        ("processors", instance.cpus.to_string()),
        ("memory", size(instance.memory_bytes)),
        ("ports", ports(&instance.ports)),
        ("process", instance.pid.to_string()),
        ("owner", format!("uid {}", instance.owner_uid)),
        ("directory", cell(&instance.directory)),
        ("console", cell(&instance.console_path)),
        ("created", time(&instance.created_at)),
    ];
    if let Some(at) = &instance.started_at {
        pairs.push(("started", time(at)));
    }
    if let Some(at) = &instance.ended_at {
        pairs.push(("ended", time(at)));
    }
    if let Some(reason) = &instance.reason {
        pairs.push(("reason", cell(reason)));
    }
    output::pairs(&pairs)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine that has ended, as the daemon shows it.
    pub(crate) fn ended() -> Instance {
        Instance {
            id: "3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11".parse().unwrap(),
            name: "web".parse().unwrap(),
            state: InstanceState::Ended,
            owner_uid: 1000,
            image_id: "3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b12".parse().unwrap(),
            image_name: "team/web".parse().unwrap(),
            version_id: "3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b13".parse().unwrap(),
            pid: 77,
            pid_started: 5,
            monitor: Some("qemu-microvm".to_owned()),
            accelerator: Some("kvm".to_owned()),
            directory: "/run/user/1000/kiln/x".to_owned(),
            console_path: "/run/user/1000/kiln/x/console.log".to_owned(),
            cpus: 2,
            memory_bytes: 256 << 20,
            ports: vec![
                Port {
                    host_address: "127.0.0.1".to_owned(),
                    host_port: 8080,
                    guest_port: 80,
                },
                Port {
                    host_address: "::1".to_owned(),
                    host_port: 8443,
                    guest_port: 443,
                },
            ],
            exit_code: Some(3),
            reason: None,
            created_at: "2026-01-31T12:00:00.000000Z".to_owned(),
            started_at: Some("2026-01-31T12:00:01.000000Z".to_owned()),
            ended_at: Some("2026-01-31T12:00:02.000000Z".to_owned()),
        }
    }

    #[test]
    fn a_row_tells_what_people_look_for() {
        let want = [
            "3f2b8c1e",
            "web",
            "team/web",
            "ended (3)",
            "qemu-microvm kvm",
            "127.0.0.1:8080->80, [::1]:8443->443",
            "2026-01-31 12:00:00Z",
        ];
        assert_eq!(row(&ended()), want);
        let starting = Instance {
            state: InstanceState::Starting,
            monitor: None,
            accelerator: None,
            ports: Vec::new(),
            exit_code: None,
            ..ended()
        };
        assert_eq!(row(&starting)[3..6], ["starting", "-", "-"]);
    }
}
