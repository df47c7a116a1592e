//! A daemon that is killed while it copies: nothing half made is seen, and what arrived is not sent
//! again.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layer, Layout, Platform};
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::{process, tools};
use serde_json::{Value, json};

use super::dam::Dam;
use super::{NEEDS, client, exchange};
use crate::source::{noise, oci};
use crate::stage::{LIMIT, Stage};

/// How many images there are, of as many layers each.
const IMAGES: u64 = 6;

/// Bytes of one layer: it goes in parts.
const LAYER_BYTES: usize = 5 << 20;

/// How many bytes have been sent when the daemon is killed: some layers, however many go side by
/// side, and not all seven.
const SENT_BYTES: usize = 5 * LAYER_BYTES;

/// Puts images into a repository, `v0` to `v5`: all have one layer in common and one of their own, and
/// `all` has every layer.
fn fill(registry: &Registry, stage: &Stage) -> Result<()> {
    let mut layout = Layout::create(stage.path("layout"))?;
    let layer = |layout: &Layout, seed: u64| -> Result<Layer> {
        let file = Entry::file(format!("noise-{seed}"), noise(seed, LAYER_BYTES));
        layout.add_layer(&[file], Compression::Plain)
    };
    let common = layer(&layout, 101)?;
    let mut all = vec![common.clone()];
    for number in 0..IMAGES {
        let own = layer(&layout, 202 + 2 * number)?;
        let layers = [common.clone(), own.clone()];
        let image = layout.add_image(&layers, &Platform::linux("amd64"))?;
        let tag = format!("v{number}");
        layout.tag(&tag, &image)?;
        registry.push(&oci(&layout, &tag), &format!("team/app:{tag}"))?;
        all.push(own);
    }
    let image = layout.add_image(&all, &Platform::linux("amd64"))?;
    layout.tag("all", &image)?;
    registry.push(&oci(&layout, "all"), "team/whole:all")?;
    Ok(())
}

/// Lists the digests of blobs that arrived, each as often as it did.
fn arrived(registry: &Registry) -> Result<Vec<String>> {
    let asked = registry.asked()?;
    let closed = asked
        .iter()
        .filter(|asked| asked.method == "PUT" && asked.status == 201);
    let digest = |target: &str| {
        let (_, digest) = target.split_once("digest=")?;
        Some(digest.split('&').next()?.replace("%3A", ":"))
    };
    Ok(closed.filter_map(|asked| digest(&asked.target)).collect())
}

/// Lists the tags of a repository, and makes sure that all of what they name is there.
fn whole_tags(registry: &Registry, repository: &str) -> Result<BTreeSet<String>> {
    let host = registry.host();
    let get = |target: String| exchange(&host, "GET", &target, b"");
    let listed = get(format!("/v2/{repository}/tags/list"))?;
    if listed.status()? == 404 {
        return Ok(BTreeSet::new());
    }
    let listed: Value = serde_json::from_slice(&listed.body)?;
    let tags: BTreeSet<String> = listed["tags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tag| tag.as_str().map(str::to_owned))
        .collect();
    for tag in &tags {
        let manifest = get(format!("/v2/{repository}/manifests/{tag}"))?;
        let manifest: Value = serde_json::from_slice(&manifest.body)?;
        let layers = manifest["layers"].as_array().context("no layers")?;
        for blob in layers.iter().chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().context("no digest")?;
            let found = get(format!("/v2/{repository}/blobs/{digest}"))?;
            ensure!(found.status()? == 200, "{tag} names {digest}: {found:?}");
        }
    }
    Ok(tags)
}

/// Runs a command, kills the daemon in the middle of what it has it do, and runs it again.
fn killed_and_run_again(
    stage: &mut Stage,
    (two, dam): (&Registry, &Dam),
    repository: &str,
    (words, wanted): (&[&str], usize),
) -> Result<()> {
    let command = |stage: &Stage| -> Result<Command> {
        let mut command = client(stage)?;
        command.args(words);
        Ok(command)
    };
    let mut copying = process::start(command(stage)?, "kiln")?;
    dam.wait_until_full()?;
    let sent = arrived(two)?;
    stage.daemon.kill()?;
    let ended = copying.wait(LIMIT)?;

    ensure!(!ended.success(), "it was done before the daemon was killed");
    ensure!(!sent.is_empty(), "nothing had arrived");
    let seen = whole_tags(two, repository)?;
    ensure!(seen.len() < wanted, "everything had arrived: {seen:?}");
    dam.open();
    stage.daemon.start_again()?;
    let operation = stage.last_operation()?;
    assert_eq!(operation["state"], "interrupted", "{operation}");
    assert_eq!(
        operation["error"]["code"], "operation.interrupted",
        "{operation}"
    );
    assert_eq!(stage.unfinished()?, Vec::<String>::new());
    let between = arrived(two)?.len();

    let again = command(stage)?.output().context("cannot run kiln")?;

    ensure!(again.status.success(), "{again:?}");
    assert_eq!(whole_tags(two, repository)?.len(), wanted);
    let anew = arrived(two)?.split_off(between);
    for digest in &anew {
        assert!(!sent.contains(digest), "{digest} was sent again");
    }
    ensure!(!anew.is_empty(), "nothing was left to be sent");
    let third = command(stage)?.output().context("cannot run kiln")?;
    ensure!(third.status.success(), "{third:?}");
    assert_eq!(arrived(two)?.len(), between + anew.len());
    assert_eq!(stage.unfinished()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_daemon_that_is_killed_in_a_sync_or_a_copy_leaves_nothing_half_made() -> Result<()> {
    if tools::must_skip("a_daemon_that_is_killed_in_a_sync", NEEDS)? {
        return Ok(());
    }
    let mut stage = Stage::new()?;
    let one = Registry::start(Access::Anonymous, Transport::Http)?;
    let two = Registry::start(Access::Anonymous, Transport::Http)?;
    let dam = Dam::start(two.address(), SENT_BYTES)?;
    fill(&one, &stage)?;
    let (from, into) = (one.host(), dam.host());
    let rules = stage.path("rules.toml");
    fs::write(
        &rules,
        format!("[[rule]]\nfrom = '{from}/team/app'\ninto = '{into}/mirror/app'\n"),
    )?;
    let rules = rules.display().to_string();

    let tags = usize::try_from(IMAGES)?;
    let sync = ["sync", rules.as_str()];
    killed_and_run_again(&mut stage, (&two, &dam), "mirror/app", (&sync, tags))?;
    // Another registry: what the sync brought to the first one would only be mounted.
    let three = Registry::start(Access::Anonymous, Transport::Http)?;
    let dam = Dam::start(three.address(), SENT_BYTES)?;
    let from = format!("{from}/team/whole:all");
    let into = format!("{}/other/whole:all", dam.host());
    let copy = ["copy", from.as_str(), into.as_str()];
    killed_and_run_again(&mut stage, (&three, &dam), "other/whole", (&copy, 1))?;
    let told = stage.call("daemon.info", &json!({}))?;
    assert_eq!(told["counts"]["running_operations"], 0);
    Ok(())
}
