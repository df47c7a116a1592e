//! The registry as a container: what `docker-compose.yml` says, in one command.
//!
//! Its data are in a volume of the engine's, since files that a container makes may belong to users
//! who are none of this host's. An engine has one set of names for all users and directories, so
//! both are called after the user and the directory, and bear a label that says so: what does not
//! is somebody else's, and is neither replaced nor removed.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use kiln_api::{Failure, codes};
use kiln_domain::Digest;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use crate::failure::CommandError;
use crate::surroundings::Surroundings;

/// How the names of containers and of their volumes begin.
const NAME: &str = "kiln-dev-registry";

/// Label with the user and the directory that a container or a volume is for.
const LABEL: &str = "kiln.dev-registry";

/// Spelled out, because podman asks which registry a short name means.
const IMAGE: &str = "docker.io/library/registry:2";

/// How long the engine may take; it may have to fetch the image.
const LIMIT: Duration = Duration::from_secs(300);

/// A container engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    /// Docker
    Docker,
    /// Podman
    Podman,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// An engine's program.
#[derive(Debug)]
pub(super) struct Found {
    engine: Engine,
    program: PathBuf,
}

/// A container that was started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) engine: Engine,
    pub(super) name: String,
    /// What its label says.
    owner: String,
}

/// What an engine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Container,
    Volume,
}

impl Thing {
    fn noun(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Volume => "volume",
        }
    }

    /// The template that prints its label.
    fn label(self) -> String {
        match self {
            Self::Container => format!("{{{{index .Config.Labels \"{LABEL}\"}}}}"),
            Self::Volume => format!("{{{{index .Labels \"{LABEL}\"}}}}"),
        }
    }
}

/// Finds the engine that was asked for, else any.
pub(super) fn find(
    asked: Option<Engine>,
    surroundings: &Surroundings,
) -> Result<Found, CommandError> {
    let engines = match asked {
        Some(engine) => vec![engine],
        None => vec![Engine::Docker, Engine::Podman],
    };
    let path = surroundings.path.as_deref().into_iter();
    let folders: Vec<PathBuf> = path.flat_map(std::env::split_paths).collect();
    for engine in engines {
        let programs = folders.iter().map(|folder| folder.join(engine.name()));
        if let Some(program) = programs.into_iter().find(|program| program.is_file()) {
            return Ok(Found { engine, program });
        }
    }
    let message = match asked {
        Some(engine) => format!("{} is not on PATH", engine.name()),
        None => {
            "neither docker-registry nor registry is on PATH, nor is docker or podman".to_owned()
        }
    };
    Err(Failure::new(codes::registry::NO_SERVER, message)
        .with_hint(
            "install the registry of the distribution project (on Debian and Ubuntu):",
            Some("sudo apt install docker-registry".to_owned()),
        )
        .into())
}

impl Found {
    /// Says whether it lets this user list containers.
    pub(super) async fn check(&self) -> Result<&'static str, CommandError> {
        self.must(&["ps", "--quiet"]).await?;
        Ok(self.engine.name())
    }

    async fn run(&self, words: &[&str]) -> Result<Output, CommandError> {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null()).kill_on_drop(true);
        if let Ok(output) = timeout(LIMIT, command.output()).await {
            return Ok(output?);
        }
        let seconds = LIMIT.as_secs();
        let message = format!("{} did not answer within {seconds} s", self.engine.name());
        Err(CommandError::new(codes::registry::ENGINE_FAILED, message))
    }

    /// Runs a command that must succeed.
    async fn must(&self, words: &[&str]) -> Result<Output, CommandError> {
        let output = self.run(words).await?;
        if output.status.success() {
            return Ok(output);
        }
        Err(self.failed(&String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Says why an engine refuses, as far as its words tell.
    fn failed(&self, said: &str) -> Failure {
        let name = self.engine.name();
        let lower = said.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let (code, message, text, command) = if has(&["permission denied"]) {
            (
                codes::registry::ENGINE_DENIED,
                format!("{name} is here, but you may not use it"),
                "join its group, log in again, and see whether you may list containers:",
                format!("sudo usermod -aG {name} $USER && newgrp {name} && {name} ps"),
            )
        } else if has(&["cannot connect to", "is the docker daemon running"]) {
            (
                codes::registry::ENGINE_FAILED,
                format!("{name} is here, but its daemon does not run"),
                "start it, or install the registry itself (apt install docker-registry):",
                format!("sudo systemctl start {name}"),
            )
        } else if has(&["port is already allocated", "address already in use"]) {
            (
                codes::registry::PORT_BUSY,
                "the port is taken".to_owned(),
                "take another one:",
                "kiln registry dev up --port 5001".to_owned(),
            )
        } else {
            (
                codes::registry::ENGINE_FAILED,
                format!("{name} could not do it"),
                "see whether it works at all:",
                format!("{name} ps"),
            )
        };
        let mut failure = Failure::new(code, message).with_hint(text, Some(command));
        failure.cause = said
            .lines()
            .filter(|line| !line.trim().is_empty())
            .take(5)
            .map(str::to_owned)
            .collect();
        failure
    }
}

impl Found {
    pub(super) fn engine(&self) -> Engine {
        self.engine
    }

    /// Says whether there is one of this name that is ours; fails when it is somebody else's.
    async fn has(&self, thing: Thing, container: &Container) -> Result<bool, CommandError> {
        let (noun, name) = (thing.noun(), container.name.as_str());
        let words = [noun, "inspect", "--format", &thing.label(), name];
        let output = self.run(&words).await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return if is_absent(&said) {
                Ok(false)
            } else {
                Err(self.failed(&said).into())
            };
        }
        if String::from_utf8_lossy(&output.stdout).trim() == container.owner {
            return Ok(true);
        }
        let engine = self.engine.name();
        let message = format!("the {noun} {name} of {engine} is not this registry's");
        Err(Failure::new(codes::registry::ENGINE_FAILED, message)
            .with_hint(
                "see what it is:",
                Some(format!("{engine} {noun} inspect {name}")),
            )
            .into())
    }
}

/// Tells from an engine's words that there is no such thing.
fn is_absent(said: &str) -> bool {
    said.to_lowercase().contains("no such")
}

impl Container {
    /// Names the one for a directory of this user's; nothing is started yet.
    pub(super) fn of(engine: Engine, directory: &Path) -> Self {
        let user = rustix::process::getuid().as_raw();
        let owner = format!("{user}:{}", directory.display());
        let hash = Digest::of(owner.as_bytes()).to_short_hex();
        Self {
            engine,
            name: format!("{NAME}-{hash}"),
            owner,
        }
    }

    /// Starts it: a new one over the volume of the last.
    pub(super) async fn start(&self, found: &Found, port: u16) -> Result<(), CommandError> {
        // One that has ended, perhaps with the host, is in the way of its successor.
        self.remove_from(found).await?;
        let name = self.name.as_str();
        let label = format!("{LABEL}={}", self.owner);
        if !found.has(Thing::Volume, self).await? {
            let words = ["volume", "create", "--label", &label, name];
            found.must(&words).await?;
        }
        found
            .must(&[
                "run",
                "--detach",
                "--name",
                name,
                "--label",
                &label,
                "--restart",
                "unless-stopped",
                "--publish",
                &format!("127.0.0.1:{port}:5000"),
                "--volume",
                &format!("{name}:/var/lib/registry"),
                "--env",
                "REGISTRY_STORAGE_DELETE_ENABLED=true",
                "--env",
                "REGISTRY_HTTP_ADDR=0.0.0.0:5000",
                IMAGE,
            ])
            .await?;
        Ok(())
    }

    async fn remove_from(&self, found: &Found) -> Result<(), CommandError> {
        if found.has(Thing::Container, self).await? {
            found.must(&["rm", "--force", &self.name]).await?;
        }
        Ok(())
    }

    /// Says whether it runs.
    pub(super) async fn runs(&self, surroundings: &Surroundings) -> Result<bool, CommandError> {
        let engine = find(Some(self.engine), surroundings)?;
        if !engine.has(Thing::Container, self).await? {
            return Ok(false);
        }
        let words = [
            "container",
            "inspect",
            "--format",
            "{{.State.Running}}",
            &self.name,
        ];
        let output = engine.run(&words).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim() == "true");
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if is_absent(&said) {
            return Ok(false);
        }
        Err(engine.failed(&said).into())
    }

    /// Removes it; its volume stays.
    pub(super) async fn stop(&self, surroundings: &Surroundings) -> Result<(), CommandError> {
        let engine = find(Some(self.engine), surroundings)?;
        self.remove_from(&engine).await
    }

    /// Removes it and what it stored.
    pub(super) async fn remove_all(&self, surroundings: &Surroundings) -> Result<(), CommandError> {
        let engine = find(Some(self.engine), surroundings)?;
        self.remove_from(&engine).await?;
        if engine.has(Thing::Volume, self).await? {
            engine.must(&["volume", "rm", &self.name]).await?;
        }
        Ok(())
    }

    /// Returns the last lines of what it said.
    pub(super) async fn logs(
        &self,
        lines: usize,
        surroundings: &Surroundings,
    ) -> Result<String, CommandError> {
        let engine = find(Some(self.engine), surroundings)?;
        let output = engine
            .must(&["logs", "--tail", &lines.to_string(), &self.name])
            .await?;
        // The registry writes its access log to one stream and everything else to the other.
        let both = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&both).into_owned())
    }
}
