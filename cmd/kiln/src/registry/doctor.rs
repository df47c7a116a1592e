//! `kiln registry doctor`: what is wrong between here and a registry, or with this machine as a place
//! for one.
//!
//! The way to a registry is looked at by the daemon, which will go it; auth files, programs and ports
//! by the client, whose user has them.

use std::io;

use clap::Args;
use kiln_api::registry::doctor::{self as wire, Doctor, DoctorParams};
use kiln_client::Client;
use kiln_domain::RegistryName;

use super::dev;
use crate::credentials::{broken, places};
use crate::doctor::{Finding, Level, report};
use crate::failure::CommandError;
use crate::reach::{self, ReachArguments};
use crate::session::Session;

/// Which registry.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a registry, and without REGISTRY_URL, it looks whether this machine can run one (kiln registry dev).")]
pub(crate) struct Arguments {
    /// Host of the registry, such as ghcr.io or localhost:5000
    registry: Option<RegistryName>,
    #[command(flatten)]
    reach: ReachArguments,
}

/// Looks, and prints what was seen.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let registry = match arguments.registry.clone() {
        Some(registry) => Some(registry),
        None => reach::of_environment(session)?,
    };
    let mut findings = vec![logins(session).await?];
    match registry {
        Some(registry) => findings.extend(way_to(registry, &arguments, session).await?),
        None => findings.extend(dev::check(session).await),
    }
    report(&findings, session)
}

/// Looks whether auth files and helpers can be read.
async fn logins(session: &Session) -> Result<Finding, CommandError> {
    const CHECK: &str = "auth files";
    let places = places(None, session);
    let listing = tokio::task::spawn_blocking(move || kiln_credentials::logins(&places));
    let listed = listing.await.map_err(io::Error::other)?;
    let (count, problem) = match listed {
        Err(error) => (0, Some(error)),
        Ok(logins) => (logins.items.len(), logins.problems.into_iter().next()),
    };
    Ok(match problem {
        Some(problem) => Finding::from_failure(CHECK, &broken(&problem)),
        None => Finding::new(CHECK, Level::Ok, format!("{count} logins")),
    })
}

async fn way_to(
    registry: RegistryName,
    arguments: &Arguments,
    session: &Session,
) -> Result<Vec<Finding>, CommandError> {
    let mut findings = Vec::new();
    if let Some(port) = loopback_port(&registry) {
        findings.push(listener(port));
    }
    let caller = arguments.reach.caller(session)?;
    let reach = caller.at_registry(&registry).await?;
    let params = DoctorParams {
        tls_verify: reach.tls_verify,
        credentials: reach.credentials,
        registry,
    };
    let client: Client = match session.connect().await {
        Ok(client) => client,
        Err(CommandError::Failed(failure)) => {
            findings.push(Finding::from_failure("daemon", &failure));
            return Ok(findings);
        }
        Err(other) => return Err(other),
    };
    let seen = session.call::<Doctor>(&client, &params).await?;
    findings.extend(seen.findings.into_iter().map(|found| {
        let level = match found.level {
            wire::Level::Ok => Level::Ok,
            wire::Level::Warn => Level::Warn,
            wire::Level::Fail => Level::Fail,
        };
        let finding = Finding::new(found.check, level, found.message);
        match found.command {
            Some(command) => finding.with_command(command),
            None => finding,
        }
    }));
    Ok(findings)
}

/// Returns the port of a registry on this host, where it names one.
fn loopback_port(registry: &RegistryName) -> Option<u16> {
    let (_, port) = registry.as_str().rsplit_once(':')?;
    registry.is_loopback().then(|| port.parse().ok()).flatten()
}

fn listener(port: u16) -> Finding {
    const CHECK: &str = "port";
    match dev::ports::holder(port) {
        Some(holder) => Finding::new(CHECK, Level::Ok, format!("{holder} listens on port {port}")),
        // Whoever may not listen on a port may still ask there.
        None if dev::ports::look(port) == dev::ports::Port::Forbidden => Finding::new(
            CHECK,
            Level::Warn,
            format!("whether anybody listens on port {port} this user may not see"),
        ),
        None if dev::ports::is_free(port) => {
            Finding::new(CHECK, Level::Fail, format!("nobody listens on port {port}"))
                .with_command(format!("kiln registry dev up --port {port}"))
        }
        None => Finding::new(
            CHECK,
            Level::Warn,
            format!("somebody listens on port {port} whom this user may not see"),
        ),
    }
}
