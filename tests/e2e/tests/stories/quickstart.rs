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
use crate::transcript::{all_fit, blocks};

/// What the README pulls, as it is typed and as it is spelled out.
const TYPED: &str = "debian:bookworm";
const HUB: &str = "docker.io";
const REPOSITORY: &str = "library/debian:bookworm";

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
    let blocks = blocks(&fs::read_to_string(page)?)?;
    let steps = blocks.into_iter().next().context("no console block")?;
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
