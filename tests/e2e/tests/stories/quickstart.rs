//! The README's first block of commands, typed as it stands, with the output it promises.
//!
//! The block's lines that begin with `$ ` are run in their order by a shell whose PATH leads to
//! the built programs, in a folder that holds Debian's kernel package, against a daemon of its
//! own. What they print is compared line by line; `…` stands for anything within a line, and
//! alone on a line for any lines, or none. Docker Hub is played by a registry on loopback: its
//! address takes the name's place in what is typed, and the name the address's in what is printed.

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, Result};
use kiln_testkit::images::debian;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools;

use crate::newcomer::Newcomer;

/// What the README pulls, as it is typed and as it is spelled out.
const TYPED: &str = "debian:bookworm";
const HUB: &str = "docker.io";
const REPOSITORY: &str = "library/debian:bookworm";

/// What stands for anything.
const ANYTHING: char = '…';

/// A command of the block.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    /// The lines it prints.
    prints: Vec<String>,
}

/// Reads the first console block of a page.
fn steps(page: &str) -> Result<Vec<Step>> {
    let (_, block) = page
        .split_once("```console\n")
        .context("no console block")?;
    let (block, _) = block.split_once("```").context("a block without an end")?;
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step {
                command: command.to_owned(),
                prints: Vec::new(),
            }),
            (None, Some(step)) => step.prints.push(line.to_owned()),
            (None, None) => anyhow::bail!("output before the first command: {line}"),
        }
    }
    Ok(steps)
}

/// Tells whether a line is as promised.
fn fits(line: &str, pattern: &str) -> bool {
    let Some((head, rest)) = pattern.split_once(ANYTHING) else {
        return line == pattern;
    };
    let Some(line) = line.strip_prefix(head) else {
        return false;
    };
    line.char_indices()
        .map(|(at, _)| at)
        .chain([line.len()])
        .any(|at| line.get(at..).is_some_and(|line| fits(line, rest)))
}

/// Tells whether lines are as promised.
fn all_fit(lines: &[&str], patterns: &[String]) -> bool {
    match patterns.split_first() {
        None => lines.is_empty(),
        Some((pattern, rest)) if pattern.chars().eq([ANYTHING]) => {
            (0..=lines.len()).any(|skipped| all_fit(lines.get(skipped..).unwrap_or(&[]), rest))
        }
        Some((pattern, rest)) => lines
            .split_first()
            .is_some_and(|(line, lines)| fits(line, pattern) && all_fit(lines, rest)),
    }
}

fn printed(output: &Output, registry: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    text.replace(registry, HUB)
}

#[test]
fn the_readmes_quickstart_prints_what_it_promises() -> Result<()> {
    let name = "the_readmes_quickstart_prints_what_it_promises";
    let needs = [tools::DOCKER_REGISTRY, tools::SKOPEO, tools::MMDEBSTRAP];
    let Some(newcomer) = Newcomer::for_test(name, &needs)? else {
        return Ok(());
    };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let steps = steps(&fs::read_to_string(page)?)?;
    let image = debian::official(&newcomer.fixtures)?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    registry.push(&image.source(), REPOSITORY)?;
    let deb = &newcomer.kernel.deb;
    let deb_name = deb.file_name().context("a package without a name")?;
    fs::copy(deb, newcomer.path("").join(deb_name))?;
    let daemon = newcomer.daemon()?;

    assert_eq!(steps.len(), 3, "{steps:#?}");
    for step in steps {
        let local = format!("{}/{REPOSITORY}", registry.host());
        let command = step.command.replace(TYPED, &local);
        let mut shell = newcomer.command("/bin/sh", &daemon.socket())?;
        let output = shell.arg("-c").arg(format!("{command} 2>&1")).output()?;
        let text = printed(&output, &registry.host());

        assert!(output.status.success(), "{command}\n{text}");
        let lines: Vec<&str> = text.lines().collect();
        let want = step.prints.join("\n");
        assert!(
            all_fit(&lines, &step.prints),
            "$ {}\nprinted:\n{text}\nthe README promises:\n{want}",
            step.command
        );
    }
    Ok(())
}

#[test]
fn an_ellipsis_stands_for_anything_and_nothing_else_does() {
    let fit = |lines: &[&str], patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        all_fit(lines, &patterns)
    };

    assert!(fit(&["id  1f", "end"], &["id  …", "end"]));
    assert!(fit(&["took 1.2 s, 5 MiB"], &["took … s, …"]));
    assert!(fit(&["a", "b", "c"], &["a", "…", "c"]));
    assert!(fit(&["a", "c"], &["a", "…", "c"]));
    assert!(!fit(&["id  1f", "end"], &["id  …"]));
    assert!(!fit(&["id  1f"], &["id  …", "end"]));
    assert!(!fit(&["took 1.2 h"], &["took … s"]));
    assert!(!fit(&["a.b"], &["a?b"]));
}
