//! The page of the image service, typed as it stands, with the output it promises.
//!
//! All its console blocks are one session: a superadmin's, with two images pulled. Docker Hub is played
//! by a registry on loopback. A line that begins with `# ` tells what somebody else does meanwhile, and
//! is done here. With `KILN_UPDATE` set, the page is written anew where its output is another.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use kiln_testkit::images::layout::Layout;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools;
use kiln_testkit::{daemon::built, elf};
use serde_json::json;

use crate::remote_images::NEEDS;
use crate::source::{self, oci};
use crate::stage::Stage;
use crate::transcript::{Step, all_fit, blocks};

/// What the page calls the registry.
const HUB: &str = "docker.io";

/// What the page pulls from it, and what comes in its place.
const REPOSITORY: &str = "acme/web:1.0";

/// Where the page's agent listens.
const AGENT: &str = "/run/agent-1/kiln.sock";

/// The session of the page.
struct Session {
    stage: Stage,
    /// Another daemon, which the page calls an agent.
    agent: Stage,
    registry: Registry,
    layout: Layout,
}

impl Session {
    fn new() -> Result<Self> {
        let stage = Stage::new()?;
        fs::write(stage.path("kernel"), elf::smallest(elf::X86_64))?;
        let kernel = json!({"name": "debian-6.1", "kernel_path": stage.path("kernel")});
        stage.call("kernel.import", &kernel)?;
        stage.call("kernel.set_default", &json!({"name": "debian-6.1"}))?;
        let mut layout = source::small(&stage.path("layout"))?;
        let second = source::small_image(&layout, "second")?;
        layout.tag("2", &second)?;
        let registry = Registry::start(Access::Anonymous, Transport::Http)?;
        let session = Self {
            stage,
            agent: Stage::new()?,
            registry,
            layout,
        };
        session.push("1", REPOSITORY)?;
        session.push("1", "acme/web:stable")?;
        session.push("1", "acme/trainer:2.1")?;
        Ok(session)
    }

    fn push(&self, tag: &str, place: &str) -> Result<()> {
        self.registry.push(&oci(&self.layout, tag), place)?;
        Ok(())
    }

    /// Does what the page says that somebody does.
    fn meanwhile(&self, said: &str) -> Result<()> {
        match said {
            "somebody pushes another docker.io/acme/web:1.0" => self.push("2", REPOSITORY),
            "another daemon, agent-1, has pulled docker.io/acme/web:1.0 as web" => {
                let reference = format!("{}/{REPOSITORY}", self.registry.host());
                self.agent.pull(&reference, "web").map(|_| ())
            }
            other => bail!("nobody knows how {other:?} is done"),
        }
    }

    /// Types a line and returns what it prints.
    fn typed(&self, line: &str) -> Result<String> {
        let host = self.registry.host();
        let programs = built("kiln")?;
        let programs = programs.parent().context("no folder")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [programs.to_owned()].into_iter();
        let folders = folders.chain(std::env::split_paths(&path));
        let socket = self.stage.daemon.socket();
        let agent = self.agent.daemon.socket().display().to_string();
        let mut shell = Command::new("/bin/sh");
        shell
            .env("PATH", std::env::join_paths(folders)?)
            .env("KILN_HOST", format!("unix://{}", socket.display()))
            .env("HOME", self.stage.path("home"))
            .current_dir(self.stage.path("."))
            .stdin(Stdio::null())
            .arg("-c")
            .arg(format!(
                "{} 2>&1",
                line.replace(HUB, &host).replace(AGENT, &agent)
            ));
        let output = shell.output().context("cannot run a shell")?;
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        Ok(text.replace(&host, HUB).replace(&agent, AGENT))
    }

    /// Plays a step; returns what it printed where that is not what the page promises.
    fn play(&self, step: &Step) -> Result<Option<String>> {
        if let Some(said) = step.command.strip_prefix("# ") {
            self.meanwhile(said)?;
            return Ok(None);
        }
        let text = self.typed(&step.command)?;
        let lines: Vec<&str> = text.lines().collect();
        let is_as_promised = all_fit(&lines, &step.prints);
        Ok((!is_as_promised).then_some(text))
    }
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/image-service.md")
}

#[test]
fn the_page_of_the_image_service_prints_what_it_promises() -> Result<()> {
    let name = "the_page_of_the_image_service_prints_what_it_promises";
    if tools::must_skip(name, NEEDS)? {
        return Ok(());
    }
    let text = fs::read_to_string(page())?;
    let session = Session::new()?;
    let mut other = BTreeMap::new();
    let mut played = 0;
    for step in blocks(&text)?.into_iter().flatten() {
        if let Some(printed) = session.play(&step)? {
            other.insert(played, (step.command, printed));
        }
        played += 1;
    }

    if std::env::var_os("KILN_UPDATE").is_some() {
        return Ok(fs::write(page(), rewritten(&text, &other))?);
    }
    assert!(
        other.is_empty(),
        "the page promises something else: {other:#?}"
    );
    assert!(played > 30, "only {played} lines are typed");
    Ok(())
}

/// Puts what was printed behind the lines that were typed, which are counted.
fn rewritten(page: &str, printed: &BTreeMap<usize, (String, String)>) -> String {
    let mut text = String::new();
    let mut typed = 0;
    let mut skips = false;
    for line in page.lines() {
        let is_typed = line.starts_with("$ ");
        skips = skips && !is_typed && line != "```";
        if !skips {
            text.push_str(line);
            text.push('\n');
        }
        if is_typed {
            if let Some((_, printed)) = printed.get(&typed) {
                text.push_str(printed);
                skips = true;
            }
            typed += 1;
        }
    }
    text
}

/// The actions of the image service, each with the command and the call that do it.
#[test]
fn every_action_has_a_transcript() -> Result<()> {
    let text = fs::read_to_string(page())?;
    let typed: Vec<String> = blocks(&text)?
        .into_iter()
        .flatten()
        .map(|step| step.command)
        .collect();
    for (action, command) in [
        ("A1", "kiln forget "),
        ("A2", "kiln image forget-by-id "),
        ("A3", "kiln purge "),
        ("A4", "kiln purge web --agent "),
        ("A5", "kiln image scan "),
        ("A6", "kiln image modify "),
        ("A7", "kiln image clear-limits "),
        ("A8", "kiln alias add "),
        ("A9", "kiln alias rm "),
        ("A10", "kiln image untag "),
    ] {
        let is_typed = typed.iter().any(|line| line.contains(command));
        assert!(is_typed, "{action}: nothing types {command:?}");
    }
    Ok(())
}
