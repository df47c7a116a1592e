//! What people and programs are told about the development registry.

use serde::Serialize;

use super::engine::Engine;
use super::place::{Place, Record, Started};
use crate::failure::CommandError;
use crate::output::{self, pairs};
use crate::session::Session;
use crate::text::{cell, size};

/// Whether `up` did anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Was {
    Started,
    Already,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    /// It takes connections.
    Ok,
    /// It is there and takes none.
    Silent,
    /// It does not run.
    Down,
    /// Its engine says that it runs.
    Running,
}

/// All that is known.
#[derive(Debug, Serialize)]
struct Status {
    health: Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

/// Says that it is up, and what one does with it.
pub(super) fn up(
    place: &Place,
    record: &Record,
    was: Was,
    session: &Session,
) -> Result<(), CommandError> {
    let status = Status::of(place, Some(record));
    let url = url(record.port);
    session.output().one(&status, &url, |status| {
        let what = match (&status.container, &status.program, status.pid) {
            (Some(container), _, _) => format!("container {container}"),
            (None, Some(program), Some(pid)) => format!("{program}, pid {pid}"),
            _ => "a registry".to_owned(),
        };
        let already = match was {
            Was::Started => "",
            Was::Already => " already",
        };
        let first = format!(
            "a registry listens on {url}{already} ({}); its data are in {}\n",
            cell(&what),
            cell(&status.data)
        );
        first + &next_steps(record)
    })
}

fn next_steps(record: &Record) -> String {
    let host = format!("localhost:{}", record.port);
    let url = url(record.port);
    let image = format!("{host}/test/alpine:latest");
    let push = match &record.started {
        Started::Container(container) if container.engine == Engine::Docker => format!(
            "  docker pull alpine:latest\n  docker tag alpine:latest {image}\n  docker push {image}\n"
        ),
        _ => format!(
            "  skopeo copy --dest-tls-verify=false docker://alpine:latest docker://{image}\n"
        ),
    };
    format!(
        "push something, look at it, pull it:\n{push}  curl {url}/v2/_catalog\n  \
         curl {url}/v2/test/alpine/tags/list\n  kiln pull {image}\n\
         kiln registry dev status|logs|down|wipe do the rest\n"
    )
}

/// Says how it is.
pub(super) fn status(
    place: &Place,
    record: Option<&Record>,
    session: &Session,
) -> Result<(), CommandError> {
    let status = Status::of(place, record);
    let name = status.url.clone().unwrap_or_default();
    session.output().one(&status, &name, |status| {
        let health = match status.health {
            Health::Ok => "ok",
            Health::Silent => "it runs and takes no connections",
            Health::Down => "down",
            Health::Running => "running",
        };
        let mut rows = vec![("health", health.to_owned())];
        let known = [
            ("url", status.url.clone()),
            ("pid", status.pid.map(|pid| pid.to_string())),
            ("program", status.program.as_deref().map(cell)),
            ("container", status.container.as_deref().map(cell)),
            ("data", Some(cell(&status.data))),
            ("stored", status.data_bytes.map(size)),
            ("log", status.log.as_deref().map(cell)),
        ];
        let known = known.into_iter();
        rows.extend(known.filter_map(|(label, value)| Some((label, value?))));
        pairs(&rows)
    })?;
    if record.is_none() {
        output::note("start it:  kiln registry dev up\n");
    }
    Ok(())
}

/// Says where what it has is.
pub(super) fn data(place: &Place, record: &Record) -> String {
    match &record.started {
        Started::Server(_) => place.data().display().to_string(),
        Started::Container(container) => format!("the volume {}", container.name),
    }
}

impl Status {
    fn of(place: &Place, record: Option<&Record>) -> Self {
        let mut status = Self {
            health: Health::Down,
            url: record.map(|record| url(record.port)),
            port: record.map(|record| record.port),
            pid: None,
            program: None,
            container: None,
            data: record.map_or_else(
                || place.data().display().to_string(),
                |record| data(place, record),
            ),
            data_bytes: None,
            log: None,
        };
        match record.map(|record| (&record.started, record.port)) {
            Some((Started::Container(container), _)) => {
                status.health = Health::Running;
                status.container = Some(container.name.clone());
            }
            Some((Started::Server(server), port)) => {
                status.health = if server.answers(port) {
                    Health::Ok
                } else {
                    Health::Silent
                };
                status.pid = Some(server.pid);
                status.program = Some(server.program.display().to_string());
                status.data_bytes = Some(place.data_bytes());
                status.log = Some(place.log().display().to_string());
            }
            None => status.data_bytes = Some(place.data_bytes()),
        }
        status
    }
}

fn url(port: u16) -> String {
    format!("http://localhost:{port}")
}
