//! Every named fault of a registry that is sent something: what becomes of the push, and that a tag
//! never names what is not whole.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, bail};
use kiln_testkit::daemon::CallError;
use kiln_testkit::faults::sending::FAULTS;
use kiln_testkit::faults::{Fault, FaultRegistry, Place};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::Compression;
use serde_json::json;

use super::Outcome::{self, Done, Refused};
use super::{CONFIG, Tried, credentials, in_use, secrets_about, try_all, wrong_ones};
use crate::source::{self, noise, oci};
use crate::stage::{Stage, text};

/// Bytes of the layer that goes in parts: more than goes in one request.
const PARTED_BYTES: usize = 5 << 20;

/// What is to become of each.
const OUTCOMES: &[(&str, Outcome)] = &[
    ("look_500_once", Done),
    ("look_500", Refused("registry.server_error")),
    ("look_429_once", Done),
    ("look_429_long", Refused("registry.rate_limited")),
    ("look_403", Refused("registry.denied")),
    ("look_401_loop", Refused("registry.auth_failed")),
    ("look_stall_once", Done),
    ("look_stall", Refused("registry.timed_out")),
    ("look_reset_once", Done),
    ("look_of_another_length", Done),
    ("look_leads_to_stranger", Done),
    (
        "look_leads_to_itself",
        Refused("registry.unexpected_answer"),
    ),
    ("look_drips", Refused("registry.timed_out")),
    ("mount_202", Done),
    ("mount_that_is_none", Refused("registry.server_error")),
    ("mount_202_without_location", Done),
    ("mount_500_once", Done),
    ("mount_500", Done),
    ("mount_403", Done),
    ("mount_404", Done),
    ("mount_400", Done),
    ("mount_429_long", Refused("registry.rate_limited")),
    ("mount_401_loop", Done),
    ("mount_stall_once", Done),
    ("mount_stall", Refused("registry.timed_out")),
    ("mount_done_and_reset_once", Done),
    ("open_500_once", Done),
    ("open_500", Refused("registry.server_error")),
    ("open_429_once", Done),
    ("open_429_long", Refused("registry.rate_limited")),
    ("open_408_once", Done),
    ("open_503_once", Done),
    ("open_503_long", Refused("registry.server_error")),
    ("open_401_loop", Refused("registry.auth_failed")),
    ("token_dies_at_once", Refused("registry.auth_failed")),
    ("open_403", Refused("registry.denied")),
    ("open_403_quota", Refused("registry.quota_exceeded")),
    ("open_404", Refused("source.not_found")),
    ("open_405", Refused("registry.read_only")),
    ("open_507", Refused("registry.quota_exceeded")),
    ("open_200", Refused("registry.unexpected_answer")),
    ("open_201", Refused("registry.unexpected_answer")),
    ("open_html", Refused("registry.unexpected_answer")),
    (
        "open_without_location",
        Refused("registry.unexpected_answer"),
    ),
    ("open_location_empty", Refused("registry.unexpected_answer")),
    ("open_location_absolute", Done),
    ("open_location_of_stranger", Done),
    (
        "open_location_of_network",
        Refused("registry.unexpected_answer"),
    ),
    (
        "open_location_of_cloud",
        Refused("registry.unexpected_answer"),
    ),
    (
        "open_location_of_other_scheme",
        Refused("registry.unreachable"),
    ),
    (
        "open_location_of_file",
        Refused("registry.unexpected_answer"),
    ),
    (
        "open_location_with_user",
        Refused("registry.unexpected_answer"),
    ),
    (
        "open_location_garbage",
        Refused("registry.unexpected_answer"),
    ),
    ("open_location_twice_encoded", Done),
    ("open_redirect", Refused("registry.unexpected_answer")),
    ("open_wants_huge_parts", Done),
    ("open_wants_odd_parts", Done),
    ("open_stall_once", Done),
    ("open_stall", Refused("registry.timed_out")),
    ("open_reset_once", Done),
    ("open_close", Refused("registry.unreachable")),
    ("open_done_and_reset_once", Done),
    ("open_drips", Refused("registry.timed_out")),
    ("open_endless_fields", Refused("registry.unexpected_answer")),
    ("open_endless_hints", Refused("registry.timed_out")),
    ("part_500_once", Done),
    ("part_502_twice", Done),
    ("part_500", Refused("registry.server_error")),
    ("part_429_once", Done),
    ("part_429_long", Refused("registry.rate_limited")),
    ("part_503_long", Refused("registry.server_error")),
    ("part_408_once", Done),
    ("part_404_once", Done),
    ("part_404", Refused("registry.server_error")),
    ("part_400", Done),
    ("part_405", Done),
    ("part_413_once", Done),
    ("part_413", Refused("registry.too_large")),
    ("part_416_once", Done),
    ("part_416", Refused("registry.server_error")),
    ("part_403", Refused("registry.denied")),
    ("part_401_loop", Refused("registry.auth_failed")),
    ("token_dies_in_part", Done),
    ("part_201", Done),
    ("part_204", Done),
    ("part_without_range", Done),
    ("part_without_location", Done),
    ("part_range_of_more", Refused("registry.unexpected_answer")),
    (
        "part_range_of_nothing",
        Refused("registry.unexpected_answer"),
    ),
    ("part_range_garbage", Done),
    ("part_creeps", Refused("registry.unexpected_answer")),
    ("part_location_of_stranger", Done),
    (
        "part_location_of_network",
        Refused("registry.unexpected_answer"),
    ),
    ("part_redirect", Refused("registry.unexpected_answer")),
    ("part_reset_once", Done),
    ("part_reset_in_the_middle_once", Done),
    ("part_reset_in_the_middle", Refused("registry.unreachable")),
    ("part_done_and_reset_once", Done),
    ("part_done_and_stall_once", Done),
    ("part_deaf_once", Done),
    ("part_deaf", Refused("registry.timed_out")),
    ("part_stall_once", Done),
    ("part_stall", Refused("registry.timed_out")),
    ("part_drips", Done),
    ("part_500_and_no_range", Done),
    ("part_500_and_unknown", Done),
    ("part_500_and_more", Done),
    ("part_done_and_less", Done),
    ("close_500_once", Done),
    ("close_500", Refused("registry.server_error")),
    ("close_429_once", Done),
    ("close_429_long", Refused("registry.rate_limited")),
    ("close_404_once", Done),
    ("close_404", Refused("registry.server_error")),
    ("close_digest_invalid_once", Done),
    ("close_digest_invalid", Refused("registry.server_error")),
    ("close_413", Refused("registry.too_large")),
    ("close_416_once", Done),
    ("close_416", Refused("registry.server_error")),
    ("close_403", Refused("registry.denied")),
    ("close_202", Refused("registry.unexpected_answer")),
    ("close_200", Done),
    ("close_204", Done),
    ("close_that_keeps_nothing", Refused("registry.server_error")),
    (
        "close_under_another_digest",
        Refused("source.digest_mismatch"),
    ),
    ("close_redirect", Refused("registry.unexpected_answer")),
    ("token_dies_in_close", Done),
    ("close_401_loop", Refused("registry.auth_failed")),
    ("close_done_and_reset_once", Done),
    ("close_done_and_stall_once", Done),
    ("close_reset_once", Done),
    ("close_reset_in_the_middle_once", Done),
    ("close_stall_once", Done),
    ("close_stall", Refused("registry.timed_out")),
    ("close_drips", Done),
    ("publish_500_once", Done),
    ("publish_500", Refused("registry.server_error")),
    ("publish_408_once", Done),
    ("publish_429_once", Done),
    ("publish_429_long", Refused("registry.rate_limited")),
    ("publish_503_long", Refused("registry.server_error")),
    ("publish_lacks_a_blob", Refused("registry.server_error")),
    ("publish_invalid", Refused("registry.push_refused")),
    ("publish_413", Refused("registry.too_large")),
    ("publish_403", Refused("registry.denied")),
    ("publish_405", Refused("registry.read_only")),
    ("publish_immutable", Refused("registry.tag_immutable")),
    (
        "publish_under_another_digest",
        Refused("source.digest_mismatch"),
    ),
    ("publish_without_digest", Done),
    ("publish_200", Done),
    ("publish_html", Refused("registry.unexpected_answer")),
    ("publish_redirect", Refused("registry.unexpected_answer")),
    ("token_dies_in_publish", Done),
    ("publish_401_loop", Refused("registry.auth_failed")),
    ("publish_done_and_reset_once", Done),
    ("publish_reset_in_the_middle_once", Done),
    ("publish_stall_once", Done),
    ("publish_stall", Refused("registry.timed_out")),
    ("publish_drips", Refused("registry.timed_out")),
    ("publish_403_escapes", Refused("registry.denied")),
];

/// Sends to a registry with this fault. Only what comes from the registry itself can be mounted.
fn send(stage: &Stage, fault: Fault) -> Result<Tried> {
    let registry = FaultRegistry::start_with(fault, fault.name)?;
    let into = registry.destination();
    let (method, params) = match fault.place {
        Place::Mount => (
            "registry.copy",
            json!({
                "from": registry.reference(), "from_credentials": credentials(),
                "into": into, "into_credentials": credentials(),
            }),
        ),
        _ => (
            "image.push",
            json!({"image": "large", "into": into, "into_credentials": credentials()}),
        ),
    };
    let began = Instant::now();
    let outcome = match stage.daemon.call(method, &params) {
        Ok(done) => Ok(text(&done, "digest")?),
        Err(CallError::Refused(error)) => {
            let code = error.name().unwrap_or("no code").to_owned();
            Err((code, error))
        }
        Err(error @ CallError::NoAnswer(_)) => bail!("{}: {error}", fault.name),
    };
    let took = began.elapsed();
    let kept = registry.kept();
    for (tag, digest) in &kept.tags {
        assert!(kept.is_whole(digest), "{}: {tag} is not whole", fault.name);
    }
    if let Ok(digest) = &outcome {
        let name = fault.name;
        assert_eq!(kept.tags.get("1"), Some(digest), "{name}: it is not there");
    }
    let leaks = registry
        .stranger_asked()
        .into_iter()
        .filter_map(|asked| asked.authorization)
        .collect();
    Ok(Tried {
        name: fault.name,
        outcome,
        took,
        leaks,
    })
}

/// A stage with an image of a layer that goes in parts and one that goes whole.
fn with_large() -> Result<Stage> {
    let stage = Stage::with_config(CONFIG)?;
    let layout = source::of_layers(&stage.path("layout"), |layout| {
        let large = [Entry::file("large", noise(3, PARTED_BYTES))];
        let small = [Entry::file("small", noise(4, 100_000))];
        Ok(vec![
            layout.add_layer(&large, Compression::Plain)?,
            layout.add_layer(&small, Compression::Gzip)?,
        ])
    })?;
    stage.pull(&oci(&layout, "1"), "large")?;
    Ok(stage)
}

#[test]
fn every_fault_of_sending_has_an_outcome_and_every_outcome_a_fault() {
    let faults: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
    let outcomes: BTreeSet<&str> = OUTCOMES.iter().map(|(name, _)| *name).collect();

    assert_eq!(faults, outcomes);
    assert_eq!(outcomes.len(), OUTCOMES.len());
}

#[test]
fn every_fault_of_a_registry_that_is_sent_something_ends_as_it_should() -> Result<()> {
    let stage = with_large()?;
    let warm = send(&stage, Fault::NONE)?;
    assert!(warm.outcome.is_ok(), "{:?}", warm.outcome);
    let (memory_before, _) = in_use(&stage)?;

    let tried = try_all(FAULTS, |fault| send(&stage, fault))?;

    let mut wrong = wrong_ones(&tried, OUTCOMES);
    wrong.extend(secrets_about(&stage)?);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(tried.len(), FAULTS.len());
    let (memory, _) = in_use(&stage)?;
    let grown = memory.saturating_sub(memory_before);
    assert!(grown < 128 << 10, "the daemon grew by {grown} KiB");
    assert_eq!(stage.unfinished()?, Vec::<String>::new());
    Ok(())
}
