//! `kiln info` and `kiln version`.

use clap::{Args, Subcommand};
use kiln_api::daemon::{
    API_MAJOR, API_MINOR, GetInfo, Info, InfoParams, ReplacedDatabase, Setting,
};
use serde_json::{Value, json};

use crate::failure::CommandError;
use crate::output::{self, Columns};
use crate::session::Session;
use crate::text::{cell, time};

/// The method's own spelling.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell what the daemon is
    Info(InfoArguments),
}

/// What to tell.
#[derive(Debug, Args)]
pub(crate) struct InfoArguments {
    /// Only the configuration: every value and where it came from
    #[arg(long)]
    config: bool,
}

/// Tells what the daemon is, or how it is configured.
pub(crate) async fn info(arguments: InfoArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let info = session
        .call::<GetInfo>(&client, &InfoParams::default())
        .await?;
    if arguments.config {
        return session.output().list(
            &info.config,
            &Columns {
                header: &["KEY", "VALUE", "ORIGIN"],
                row: &|setting: &Setting| {
                    vec![
                        cell(&setting.key),
                        cell(&setting.value),
                        cell(&setting.origin),
                    ]
                },
                name: &|setting: &Setting| setting.key.clone(),
            },
        );
    }
    session.output().one(&info, &info.version, lines)
}

fn lines(info: &Info) -> String {
    let caller = if info.caller.superadmin {
        format!("uid {}, may do everything", info.caller.uid)
    } else {
        format!("uid {}", info.caller.uid)
    };
    let counts = &info.counts;
    let recovered = &info.recovered;
    let mut pairs = vec![
        (
            "daemon",
            format!(
                "kilnd {}, API {}.{}",
                cell(&info.version),
                info.api.major,
                info.api.minor
            ),
        ),
        (
            "process",
            format!(
                "pid {}, uid {}, since {}",
                info.pid,
                info.uid,
                time(&info.started_at)
            ),
        ),
        ("architecture", cell(&info.architecture)),
        ("you", caller),
        (
            "images",
            format!("{}  {}", counts.images, cell(&info.places.images)),
        ),
        (
            "kernels",
            format!("{}  {}", counts.kernels, cell(&info.places.kernels)),
        ),
        (
            "operations",
            format!("{} running", counts.running_operations),
        ),
        ("state", cell(&info.places.state)),
        ("cache", cell(&info.places.cache)),
        ("socket", cell(&info.places.socket)),
    ];
    if let Some(failure) = &info.database.error {
        let causes = failure.cause.iter().map(String::as_str);
        let told: Vec<&str> = std::iter::once(failure.message.as_str())
            .chain(causes)
            .collect();
        pairs.push((
            "database",
            format!("cannot be written: {}", cell(&told.join(": "))),
        ));
    }
    let found = [
        (recovered.interrupted_operations, "operations interrupted"),
        (recovered.removed_staging, "unfinished directories removed"),
        (
            recovered.removed_unrecorded,
            "unrecorded directories removed",
        ),
        (
            recovered.left_unrecorded,
            "unrecorded directories left in place",
        ),
        (recovered.adopted_images, "images adopted"),
        (recovered.missing_versions, "directories of images missing"),
    ];
    let mut found: Vec<String> = found
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    found.extend(recovered.replaced_database.as_ref().map(replaced));
    if !found.is_empty() {
        pairs.push(("at start", found.join(", ")));
    }
    output::pairs(&pairs)
}

/// Tells how the database was replaced.
pub(crate) fn replaced(database: &ReplacedDatabase) -> String {
    let by = database.snapshot.as_deref().map_or_else(
        || "an empty one: there was no healthy snapshot".to_owned(),
        |snapshot| format!("the snapshot {snapshot}"),
    );
    let kept = database.damaged.as_deref();
    let kept = kept.map_or_else(String::new, |name| format!("; it is kept as {name}"));
    cell(&format!(
        "the database ({}) was replaced by {by}{kept}",
        database.cause
    ))
}

/// Prints the versions of both sides. A daemon that cannot be asked is a failure with the
/// client's half printed, so that a script learns from the exit code whether there were two.
pub(crate) async fn version(session: &Session) -> Result<(), CommandError> {
    let (daemon, absence) = match daemon_version(session).await {
        Ok(info) => (json!({ "version": info.version, "api": info.api }), None),
        Err(CommandError::Failed(failure)) => (Value::Null, Some(failure)),
        Err(other) => return Err(other),
    };
    let own = env!("CARGO_PKG_VERSION");
    let versions = json!({
        "client": { "version": own, "api": { "major": API_MAJOR, "minor": API_MINOR } },
        "daemon": daemon,
    });
    session.output().one(&versions, own, version_lines)?;
    absence.map_or(Ok(()), |failure| Err(CommandError::Failed(failure)))
}

fn version_lines(versions: &Value) -> String {
    let side = |name: &'static str| {
        let word = |path: &str| versions.pointer(&format!("/{name}/{path}")).cloned();
        let Some(Value::String(version)) = word("version") else {
            return (name, "not known".to_owned());
        };
        let number = |path| word(path).unwrap_or_default();
        let (major, minor) = (number("api/major"), number("api/minor"));
        (name, format!("{}, API {major}.{minor}", cell(&version)))
    };
    output::pairs(&[side("client"), side("daemon")])
}

async fn daemon_version(session: &Session) -> Result<Info, CommandError> {
    let client = session.connect().await?;
    session
        .call::<GetInfo>(&client, &InfoParams::default())
        .await
}
