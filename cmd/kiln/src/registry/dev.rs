//! `kiln registry dev …`: a real registry on loopback, for whoever develops against one.
//!
//! ```text
//! dev/place.rs    where it keeps things, and the note of what was started
//! dev/server.rs   as a process of this user's: docker-registry or registry
//! dev/engine.rs   as a container, where there is no such program
//! dev/ports.rs    who listens on a port
//! dev/told.rs     what people are told
//! ```
//! It belongs to whoever started it and outlives the client. Kiln's daemon knows nothing of it.

mod engine;
mod place;
pub(super) mod ports;
mod server;
mod told;

use std::io::{self, BufRead as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use kiln_api::{Failure, codes};

use self::engine::{Container, Engine};
use self::place::{Note, Place, Record, Started};
use self::ports::Port;
use self::server::Server;
use crate::doctor::{Finding, Level};
use crate::failure::CommandError;
use crate::output;
use crate::session::Session;

/// The variable that names its directory.
const DIRECTORY_VARIABLE: &str = "KILN_DEV_REGISTRY";

/// The port that everybody expects a development registry on.
const DEFAULT_PORT: u16 = 5000;

/// What there is to do with it.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start it, where it does not run yet
    Up(UpArguments),
    /// Say whether it runs, where, and how much it has
    Status(Common),
    /// Print what it logged
    Logs(LogsArguments),
    /// Stop it; what it has stays
    Down(Common),
    /// Stop it and remove all that it has
    Wipe(WipeArguments),
    /// Lead a session of its own and become a program.
    #[command(hide = true)]
    Become(BecomeArguments),
}

/// Which one.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Directory for its data, log and configuration
    #[arg(
        long,
        value_name = "DIR",
        env = DIRECTORY_VARIABLE,
        hide_env_values = true
    )]
    dir: Option<PathBuf>,
}

/// How to start it.
#[derive(Debug, Args)]
#[command(after_help = "\
A docker-registry or registry on PATH is started as your own process; without one, a container of
docker or podman. It listens on 127.0.0.1 only, in plain HTTP, without logins, and deletes what it is asked to.")]
pub(crate) struct UpArguments {
    /// Port on 127.0.0.1 [default: 5000]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Start a container of this engine, whatever is on PATH
    #[arg(long, value_enum, value_name = "ENGINE")]
    engine: Option<Engine>,
    #[command(flatten)]
    common: Common,
}

/// Which part of the log.
#[derive(Debug, Args)]
pub(crate) struct LogsArguments {
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 200)]
    tail: usize,
    #[command(flatten)]
    common: Common,
}

/// Whether to ask.
#[derive(Debug, Args)]
pub(crate) struct WipeArguments {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

/// What to become.
#[derive(Debug, Args)]
pub(crate) struct BecomeArguments {
    /// Program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<std::ffi::OsString>,
}

impl Command {
    /// Does it. Work on files and processes of its own is short, and nothing else waits meanwhile.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::Up(arguments) => up(&arguments, session).await,
            Self::Status(common) => status(&common, session).await,
            Self::Logs(arguments) => logs(&arguments, session).await,
            Self::Down(common) => down(&common, session).await,
            Self::Wipe(arguments) => wipe(&arguments, session).await,
            Self::Become(arguments) => Err(server::become_program(&arguments.words)),
        }
    }
}

/// Looks whether this machine can run one: a program or an engine, and the port.
pub(super) async fn check(session: &Session) -> Vec<Finding> {
    let surroundings = session.surroundings();
    let program = server::find_program(surroundings);
    // Without a program all depends on the engine.
    let without = if program.is_some() {
        Level::Warn
    } else {
        Level::Fail
    };
    let program = match &program {
        Some(program) => Finding::new("program", Level::Ok, program.display().to_string()),
        None => Finding::new("program", Level::Warn, "no docker-registry on PATH")
            .with_command("sudo apt install docker-registry"),
    };
    let engine = match engine::find(None, surroundings) {
        Ok(found) => found.check().await,
        Err(error) => Err(error),
    };
    let is_needed = without == Level::Fail;
    let engine = match engine {
        Ok(name) => Finding::new("engine", Level::Ok, format!("{name} works")),
        Err(CommandError::Failed(failure))
            if !is_needed && failure.code == codes::registry::NO_SERVER.name =>
        {
            let message = "neither docker nor podman is on PATH; the program does without";
            Finding::new("engine", Level::Ok, message)
        }
        Err(CommandError::Failed(failure)) => Finding::from_failure("engine", &failure).at(without),
        Err(_) => Finding::new("engine", without, "the container engine could not be asked"),
    };
    vec![program, engine, where_it_listens(session).await]
}

/// Looks at the port of the development registry that runs, else at the one it would have.
async fn where_it_listens(session: &Session) -> Finding {
    let variable = session.surroundings().variable(DIRECTORY_VARIABLE);
    let common = Common {
        dir: variable.filter(|dir| !dir.is_empty()).map(PathBuf::from),
    };
    let Ok(place) = Place::of(&common, session) else {
        return port(DEFAULT_PORT);
    };
    match running(&place, session).await {
        Ok(Some(record)) => Finding::new(
            "port",
            Level::Ok,
            format!("the development registry has port {}", record.port),
        ),
        Err(CommandError::Failed(failure)) => Finding::from_failure("port", &failure),
        Ok(None) | Err(_) => port(DEFAULT_PORT),
    }
}

fn port(port: u16) -> Finding {
    match ports::look(port) {
        Port::Free => return Finding::new("port", Level::Ok, format!("port {port} is free")),
        Port::Forbidden => return Finding::new("port", Level::Warn, ports::forbidden(port)),
        Port::Taken => {}
    }
    let holder = ports::holder(port).map_or_else(
        || "somebody whom this user may not see".to_owned(),
        |holder| holder.to_string(),
    );
    let finding = Finding::new(
        "port",
        Level::Warn,
        format!("port {port} is taken by {holder}"),
    );
    match ports::next_free(port) {
        Some(free) => finding.with_command(format!("kiln registry dev up --port {free}")),
        None => finding,
    }
}

async fn up(arguments: &UpArguments, session: &Session) -> Result<(), CommandError> {
    let place = Place::of(&arguments.common, session)?;
    let _lock = place.lock()?;
    place.claim()?;
    if let Some(record) = running(&place, session).await? {
        return match arguments.port {
            Some(port) if port != record.port => Err(on_another_port(&record, port)),
            _ => told::up(&place, &record, told::Was::Already, session),
        };
    }
    let port = arguments.port.unwrap_or(DEFAULT_PORT);
    match ports::look(port) {
        Port::Free => {}
        Port::Taken => return Err(busy(port)),
        Port::Forbidden => return Err(forbidden(port)),
    }
    let program = match arguments.engine {
        Some(_) => None,
        None => server::find_program(session.surroundings()),
    };
    let record = if let Some(program) = program {
        Server::start(&program, port, &place)?
    } else {
        let engine = engine::find(arguments.engine, session.surroundings())?;
        let container = Container::of(engine.engine(), place.directory());
        // Before there is anything: what was begun and given up can be stopped and wiped.
        place.note_engine(container.engine)?;
        let started = Started::Container(container);
        let record = Record { port, started };
        place.write(&record)?;
        if let Started::Container(container) = &record.started
            && let Err(error) = container.start(&engine, port).await
        {
            place.forget()?;
            return Err(error);
        }
        record
    };
    told::up(&place, &record, told::Was::Started, session)
}

async fn status(common: &Common, session: &Session) -> Result<(), CommandError> {
    let place = Place::of(common, session)?;
    let record = running(&place, session).await?;
    told::status(&place, record.as_ref(), session)
}

async fn logs(arguments: &LogsArguments, session: &Session) -> Result<(), CommandError> {
    let place = Place::of(&arguments.common, session)?;
    let text = match place.read()?.map(|record| record.started) {
        Some(Started::Container(container)) => {
            container
                .logs(arguments.tail, session.surroundings())
                .await?
        }
        _ => place.log_tail(arguments.tail)?,
    };
    output::write(&text)
}

async fn down(common: &Common, session: &Session) -> Result<(), CommandError> {
    let place = Place::of(common, session)?;
    let _lock = place.lock()?;
    match take_down(&place, session).await? {
        TakenDown::Stopped(record) => output::note(&format!(
            "the registry on port {} is stopped; what it has stays in {}\n",
            record.port,
            told::data(&place, &record)
        )),
        TakenDown::Found => output::note("the registry is stopped; what it has stays\n"),
        TakenDown::Nothing => output::note("no development registry runs\n"),
    }
    Ok(())
}

async fn wipe(arguments: &WipeArguments, session: &Session) -> Result<(), CommandError> {
    let place = Place::of(&arguments.common, session)?;
    place.must_be_ours()?;
    if !arguments.yes {
        confirm(&place, session)?;
    }
    let _lock = place.lock()?;
    // Much may have changed while somebody thought about the answer.
    place.must_be_ours()?;
    take_down(&place, session).await?;
    for container in place.containers(session.surroundings())? {
        container.remove_all(session.surroundings()).await?;
    }
    place.remove()?;
    output::note("the development registry and all that it had are gone\n");
    Ok(())
}

fn confirm(place: &Place, session: &Session) -> Result<(), CommandError> {
    let refused = |message: String| -> CommandError {
        Failure::new(codes::request::INVALID_PARAMS, message)
            .with_hint(
                "remove it without being asked:",
                Some("kiln registry dev wipe --yes".to_owned()),
            )
            .into()
    };
    if !session.surroundings().stdin_is_terminal {
        return Err(refused(
            "there is no terminal to ask on whether all images of the development registry may go"
                .to_owned(),
        ));
    }
    output::note(&format!(
        "remove the development registry and everything in {}? [y/N] ",
        place.directory().display()
    ));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(refused("nothing was removed".to_owned())),
    }
}

/// Returns the note of a registry that runs; one of a registry that has ended goes.
async fn running(place: &Place, session: &Session) -> Result<Option<Record>, CommandError> {
    let Some(record) = place.read()? else {
        return Ok(None);
    };
    let runs = match &record.started {
        Started::Server(server) => server.process().is_some(),
        Started::Container(container) => container.runs(session.surroundings()).await?,
    };
    Ok(runs.then_some(record))
}

/// What was there to stop.
enum TakenDown {
    Stopped(Record),
    /// Something that no note told of.
    Found,
    Nothing,
}

async fn take_down(place: &Place, session: &Session) -> Result<TakenDown, CommandError> {
    if let Note::Broken = place.note()? {
        let was_found = stop_unnoted(place, session).await?;
        place.forget()?;
        return Ok(if was_found {
            TakenDown::Found
        } else {
            TakenDown::Nothing
        });
    }
    let Some(record) = running(place, session).await? else {
        place.forget()?;
        return Ok(TakenDown::Nothing);
    };
    stop(&record, session).await?;
    place.forget()?;
    Ok(TakenDown::Stopped(record))
}

/// Stops what runs although its note cannot be read: the process that serves the configuration of
/// this directory, and the containers that may have been started for it.
async fn stop_unnoted(place: &Place, session: &Session) -> Result<bool, CommandError> {
    let server = Server::find(place);
    if let Some(server) = &server {
        server.stop()?;
    }
    let containers = place.containers(session.surroundings())?;
    for container in &containers {
        container.stop(session.surroundings()).await?;
    }
    Ok(server.is_some() || !containers.is_empty())
}

async fn stop(record: &Record, session: &Session) -> Result<(), CommandError> {
    match &record.started {
        Started::Server(server) => server.stop(),
        Started::Container(container) => container.stop(session.surroundings()).await,
    }
}

fn on_another_port(record: &Record, port: u16) -> CommandError {
    let message = format!(
        "the development registry runs on port {} already, not on {port}",
        record.port
    );
    Failure::new(codes::registry::PORT_BUSY, message)
        .with_hint(
            "stop it first; what it has stays:",
            Some("kiln registry dev down".to_owned()),
        )
        .into()
}

fn forbidden(port: u16) -> CommandError {
    let failure = Failure::new(codes::registry::PORT_DENIED, ports::forbidden(port));
    let open = port.max(ports::first_open().max(DEFAULT_PORT).saturating_sub(1));
    match ports::next_free(open) {
        Some(free) => failure.with_hint(
            "take one that is open to everybody:",
            Some(format!("kiln registry dev up --port {free}")),
        ),
        None => failure,
    }
    .into()
}

fn busy(port: u16) -> CommandError {
    let holder = match ports::holder(port) {
        Some(holder) => format!("{holder} listens there"),
        None => "somebody listens there whom this user may not see".to_owned(),
    };
    let failure = Failure::new(
        codes::registry::PORT_BUSY,
        format!("port {port} is taken: {holder}"),
    );
    match ports::next_free(port) {
        Some(free) => failure.with_hint(
            "take the next free one:",
            Some(format!("kiln registry dev up --port {free}")),
        ),
        None => failure,
    }
    .into()
}
