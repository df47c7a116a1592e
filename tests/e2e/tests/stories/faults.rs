//! Registries that misbehave: every named fault, against one daemon, and what becomes of the pull;
//! below, of what is sent, and of mirrors.
//!
//! The daemon has short limits, so that what takes two minutes of a user's time takes seconds of
//! the test's; that a pull loses two minutes at most is shown in `kiln-registry`.

mod mirrors;
mod sending;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_testkit::daemon::{CallError, RpcError};
use kiln_testkit::faults::catalogue::FAULTS;
use kiln_testkit::faults::{Fault, FaultRegistry, PASSWORD, TOKEN_PREFIX, USER};
use kiln_testkit::wait;
use rustix::fs::SeekFrom;
use serde_json::{Value, json};

use self::Outcome::{Done, Refused};
use crate::stage::{LIMIT, Stage, pull, text};

/// Short limits; the log says everything that there is to say.
const CONFIG: &str = r#"
[registries.limits]
stall_timeout_seconds = 4
document_timeout_seconds = 6
slow_window_seconds = 4
attempts = 4
retry_after_seconds = 4
lost_seconds = 10

[log]
level = "trace,hyper=debug,hyper_util=debug"
"#;

/// How many faults are tried side by side: most of them wait.
const AT_A_TIME: usize = 20;

/// Longest time one fault may take, with these limits and a machine that does other things too.
const LONGEST: Duration = Duration::from_secs(60);

/// What becomes of a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// With this code.
    Refused(&'static str),
}

/// What is to become of each.
const OUTCOMES: &[(&str, Outcome)] = &[
    ("none", Done),
    ("root_500", Done),
    ("root_stall", Refused("registry.timed_out")),
    ("root_tls_alert", Refused("registry.unreachable")),
    ("root_reset_once", Done),
    ("challenge_missing", Refused("registry.unexpected_answer")),
    ("challenge_unknown", Refused("registry.unexpected_answer")),
    ("challenge_basic", Refused("registry.auth_failed")),
    ("realm_elsewhere", Refused("registry.unexpected_answer")),
    ("realm_plain_http", Refused("registry.unexpected_answer")),
    ("realm_file", Refused("registry.unexpected_answer")),
    ("realm_with_user", Refused("registry.unexpected_answer")),
    ("realm_garbage", Refused("registry.unexpected_answer")),
    ("token_500_once", Done),
    ("token_500", Refused("registry.server_error")),
    ("token_503_retry_after_once", Done),
    ("token_429_once", Done),
    ("token_429_long", Refused("registry.rate_limited")),
    ("token_401", Refused("registry.auth_failed")),
    ("token_403", Refused("registry.denied")),
    ("token_404", Refused("registry.unexpected_answer")),
    ("token_huge", Refused("registry.unexpected_answer")),
    ("token_endless", Refused("registry.unexpected_answer")),
    ("token_html", Refused("registry.unexpected_answer")),
    ("token_empty", Refused("registry.unexpected_answer")),
    (
        "token_control_characters",
        Refused("registry.unexpected_answer"),
    ),
    ("token_redirect", Refused("registry.unexpected_answer")),
    ("token_stall_once", Done),
    ("token_stall", Refused("registry.timed_out")),
    ("token_cut_once", Done),
    ("token_reset_once", Done),
    ("manifest_429_once", Done),
    ("manifest_429_seconds_once", Done),
    ("manifest_429_date_once", Done),
    ("manifest_429_garbage_once", Done),
    ("manifest_429_absurd", Refused("registry.rate_limited")),
    ("manifest_429", Refused("registry.rate_limited")),
    ("manifest_408_once", Done),
    ("manifest_500_once", Done),
    ("manifest_502_twice", Done),
    ("manifest_503_seconds_once", Done),
    ("manifest_503", Refused("registry.server_error")),
    ("manifest_503_long", Refused("registry.server_error")),
    ("manifest_504_once", Done),
    ("manifest_501", Refused("registry.server_error")),
    ("manifest_403_escapes", Refused("registry.denied")),
    ("manifest_404", Refused("source.not_found")),
    ("manifest_418", Refused("registry.unexpected_answer")),
    ("manifest_206", Refused("registry.unexpected_answer")),
    ("manifest_401_loop", Refused("registry.auth_failed")),
    ("manifest_500_endless", Refused("registry.server_error")),
    ("manifest_close_once", Done),
    ("manifest_close", Refused("registry.unreachable")),
    ("manifest_reset_once", Done),
    ("manifest_reset_in_head_once", Done),
    ("manifest_reset_in_body_once", Done),
    ("manifest_cut_once", Done),
    ("manifest_cut", Refused("registry.unreachable")),
    ("manifest_chunks_cut_once", Done),
    ("manifest_chunks_broken_once", Done),
    ("manifest_chunks", Done),
    ("manifest_stall_once", Done),
    ("manifest_stall", Refused("registry.timed_out")),
    ("manifest_stall_in_body_once", Done),
    ("manifest_drip_head", Refused("registry.timed_out")),
    ("manifest_drip_body", Refused("registry.timed_out")),
    ("closed_after_every_answer", Done),
    ("listener_gone", Refused("registry.unreachable")),
    ("manifest_wrong_once", Done),
    ("manifest_wrong", Refused("source.digest_mismatch")),
    ("manifest_longer_once", Done),
    ("manifest_shorter_once", Done),
    ("manifest_huge", Refused("source.malformed_manifest")),
    ("manifest_endless", Refused("source.malformed_manifest")),
    ("manifest_huge_field", Refused("registry.unexpected_answer")),
    (
        "manifest_endless_fields",
        Refused("registry.unexpected_answer"),
    ),
    ("manifest_hints_once", Done),
    ("manifest_endless_hints", Refused("registry.timed_out")),
    ("manifest_http_0_9", Refused("registry.unexpected_answer")),
    (
        "manifest_two_lengths",
        Refused("registry.unexpected_answer"),
    ),
    (
        "manifest_absurd_length",
        Refused("registry.unexpected_answer"),
    ),
    ("manifest_gzip", Refused("source.digest_mismatch")),
    ("manifest_html", Refused("registry.unexpected_answer")),
    ("manifest_is_not_json", Refused("source.malformed_manifest")),
    ("manifest_deep_json", Refused("source.malformed_manifest")),
    ("manifest_called_text", Refused("source.unsupported")),
    (
        "manifest_called_index",
        Refused("source.malformed_manifest"),
    ),
    ("manifest_called_nothing", Done),
    ("manifest_digest_lies", Refused("source.digest_mismatch")),
    ("manifest_digest_sha512", Done),
    ("manifest_digest_garbage", Done),
    ("manifest_without_digest", Done),
    ("redirect_loop", Refused("registry.unexpected_answer")),
    ("redirect_to_stranger", Done),
    ("redirect_manifest_to_stranger", Done),
    (
        "redirect_to_stranger_who_asks_basic",
        Refused("registry.unexpected_answer"),
    ),
    (
        "redirect_to_stranger_who_asks_bearer",
        Refused("registry.unexpected_answer"),
    ),
    ("redirect_with_user", Refused("registry.unexpected_answer")),
    ("redirect_to_file", Refused("registry.unexpected_answer")),
    ("redirect_to_garbage", Refused("registry.unexpected_answer")),
    ("redirect_nowhere", Refused("registry.unexpected_answer")),
    ("config_500_once", Done),
    ("config_cut_once", Done),
    ("config_stall_once", Done),
    ("config_wrong_once", Done),
    ("config_wrong", Refused("source.digest_mismatch")),
    ("config_404", Refused("source.not_found")),
    ("config_drip", Refused("registry.timed_out")),
    ("config_endless", Refused("source.size_mismatch")),
    ("config_huge", Refused("source.malformed_manifest")),
    ("config_is_not_json", Refused("source.malformed_manifest")),
    ("layer_429_once", Done),
    ("layer_503_once", Done),
    ("layer_reset_once", Done),
    ("layer_reset_in_body_once", Done),
    ("layer_cut_once", Done),
    ("layer_cut_twice", Done),
    ("layer_cut_without_ranges", Done),
    ("layer_cut_and_416", Done),
    ("layer_cut_and_another_part", Done),
    ("layer_cut_and_unsaid_part", Done),
    ("layer_cut_and_lying_part", Done),
    ("layer_ends_unannounced_once", Done),
    ("layer_chunks_cut_once", Done),
    ("layer_chunks_broken_once", Done),
    ("layer_chunks", Done),
    ("layer_stall_once", Done),
    ("layer_wrong_once", Done),
    ("layer_wrong_and_cut_once", Done),
    ("layer_longer_once", Done),
    ("layer_shorter_once", Done),
    ("layer_html_once", Done),
    ("token_dies_before_layer", Done),
    ("token_dies_in_layer", Done),
    ("layer_called_gzip", Done),
    ("layer_500", Refused("registry.server_error")),
    ("layer_404", Refused("source.not_found")),
    ("layer_403", Refused("registry.denied")),
    ("layer_close", Refused("registry.unreachable")),
    ("layer_stall", Refused("registry.timed_out")),
    ("layer_stall_in_body", Refused("registry.timed_out")),
    ("layer_drip", Refused("registry.timed_out")),
    ("layer_wrong", Refused("source.digest_mismatch")),
    ("layer_longer", Refused("source.size_mismatch")),
    ("layer_longer_unannounced", Refused("source.size_mismatch")),
    ("layer_shorter", Refused("source.size_mismatch")),
    ("layer_ends_unannounced", Refused("source.size_mismatch")),
    ("layer_gzip", Refused("source.size_mismatch")),
    ("layer_206", Refused("registry.unexpected_answer")),
    ("layer_401_loop", Refused("registry.auth_failed")),
    ("schema_1", Refused("source.unsupported")),
    (
        "index_nested_too_deep",
        Refused("source.malformed_manifest"),
    ),
    ("index_of_100000", Refused("source.malformed_manifest")),
    (
        "index_of_unknown_platforms",
        Refused("source.platform_not_found"),
    ),
    ("index_of_100_indexes", Refused("source.malformed_manifest")),
    ("index_of_what_is_not_there", Refused("source.not_found")),
    ("duplicate_keys", Refused("source.malformed_manifest")),
    (
        "manifest_and_index_in_one",
        Refused("source.malformed_manifest"),
    ),
    ("foreign_layer", Refused("source.unsupported")),
    ("one_layer_too_many", Refused("source.malformed_manifest")),
    ("no_layers_at_all", Refused("source.malformed_manifest")),
    ("layer_of_unknown_type", Refused("source.unsupported")),
    ("layer_size_lies_low", Refused("source.size_mismatch")),
    ("layer_size_lies_high", Refused("source.size_mismatch")),
    ("layer_size_negative", Refused("source.malformed_manifest")),
    (
        "layer_digest_leaves_its_path",
        Refused("source.malformed_manifest"),
    ),
    (
        "config_digest_leaves_its_path",
        Refused("source.malformed_manifest"),
    ),
    ("layer_digest_sha512", Refused("source.malformed_manifest")),
];

/// One fault that was tried.
struct Tried {
    name: &'static str,
    outcome: Result<String, (String, RpcError)>,
    took: Duration,
    /// What the stranger was told that was none of its business.
    leaks: Vec<String>,
}

fn credentials() -> Value {
    json!({"username": USER, "secret": PASSWORD})
}

/// Pulls from a registry with this fault, as the owner of its one account.
fn try_out(stage: &Stage, fault: Fault, name: &str) -> Result<Tried> {
    let registry = FaultRegistry::start_with(fault, name)?;
    let mut params = pull(&registry.reference(), name);
    params["credentials"] = credentials();

    let began = Instant::now();
    let outcome = match stage.daemon.call("image.pull", &params) {
        Ok(image) => Ok(text(&image["source"], "manifest_digest")?),
        Err(CallError::Refused(error)) => {
            let code = error.name().unwrap_or("no code").to_owned();
            Err((code, error))
        }
        Err(error @ CallError::NoAnswer(_)) => bail!("{}: {error}", fault.name),
    };
    let took = began.elapsed();
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

/// Tries all of these, several side by side.
fn try_all<T: Send + Copy>(
    faults: &[T],
    try_one: impl Fn(T) -> Result<Tried> + Sync,
) -> Result<Vec<Tried>> {
    let waiting = Mutex::new(faults.iter().copied().rev().collect::<Vec<_>>());
    let tried = Mutex::new(Vec::new());
    let lock = |error| anyhow::anyhow!("a thread panicked: {error}");
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let next = waiting.lock().map_err(|e| lock(e.to_string()))?.pop();
                        let Some(fault) = next else { return Ok(()) };
                        let done = try_one(fault)?;
                        tried.lock().map_err(|e| lock(e.to_string()))?.push(done);
                    }
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    })?;
    Ok(tried.into_inner().unwrap_or_default())
}

/// Lists where a secret stands that should stand nowhere: the log, what the daemon tells of its
/// operations and events, and every file it keeps.
fn secrets_about(stage: &Stage) -> Result<Vec<String>> {
    let basic = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let secrets = [PASSWORD, TOKEN_PREFIX, &basic, "secret-signature", "ann:pw"];
    let mut places = vec![("the log".to_owned(), fs::read(stage.daemon.log())?)];
    for method in ["operation.list", "event.list", "image.list", "daemon.info"] {
        let told = match method {
            "daemon.info" => stage.call(method, &json!({}))?,
            _ => stage.call(method, &json!({"limit": 1000}))?,
        };
        places.push((method.to_owned(), told.to_string().into_bytes()));
    }
    let mut folders = vec![stage.root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                places.push((entry.path().display().to_string(), written(&entry.path())?));
            }
        }
    }
    let mut found = Vec::new();
    for (place, bytes) in places {
        // What is no text has none of them in it that could be read.
        let text = String::from_utf8_lossy(&bytes);
        for secret in secrets {
            if text.contains(secret) {
                found.push(format!("{place} has {secret}"));
            }
        }
    }
    Ok(found)
}

/// Reads what was written of a file: images are mostly holes.
fn written(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < length {
        let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) else {
            break;
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
        let mut part = vec![0; usize::try_from(end - start)?];
        file.read_exact_at(&mut part, start)?;
        bytes.extend_from_slice(&part);
        at = end;
    }
    Ok(bytes)
}

/// Reads how much memory the daemon has in use, in KiB, and how many descriptors.
fn in_use(stage: &Stage) -> Result<(u64, usize)> {
    let process = format!("/proc/{}", stage.daemon.id());
    let status = fs::read_to_string(format!("{process}/status"))?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("no VmRSS")?
        .parse()?;
    let descriptors = fs::read_dir(format!("{process}/fd"))?.count();
    Ok((resident, descriptors))
}

#[test]
fn every_fault_has_an_outcome_and_every_outcome_a_fault() {
    let faults: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
    let outcomes: BTreeSet<&str> = OUTCOMES.iter().map(|(name, _)| *name).collect();

    assert_eq!(faults, outcomes);
    assert_eq!(outcomes.len(), OUTCOMES.len());
}

#[test]
fn every_fault_of_a_registry_ends_as_it_should_and_no_secret_gets_about() -> Result<()> {
    let stage = Stage::with_config(CONFIG)?;
    let warm = try_out(&stage, Fault::NONE, "warm")?;
    assert!(warm.outcome.is_ok(), "{:?}", warm.outcome);
    let (memory_before, descriptors_before) = in_use(&stage)?;

    let tried = try_all(FAULTS, |fault| {
        try_out(&stage, fault, &fault.name.replace('_', "-"))
    })?;

    let mut wrong = wrong_ones(&tried, OUTCOMES);
    wrong.extend(secrets_about(&stage)?);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(tried.len(), FAULTS.len());
    // What was held for pulls is given back, some of it when idle connections are.
    wait::until("descriptors back", LIMIT, || {
        let (_, descriptors) = in_use(&stage)?;
        Ok((descriptors <= descriptors_before + 8).then_some(()))
    })?;
    let (memory, _) = in_use(&stage)?;
    let grown = memory.saturating_sub(memory_before);
    assert!(grown < 128 << 10, "the daemon grew by {grown} KiB");
    assert_eq!(stage.unfinished()?, Vec::<String>::new());
    Ok(())
}

/// Lists what did not end as it should: in another way, too late, with a secret told or an escape shown.
fn wrong_ones(tried: &[Tried], outcomes: &[(&str, Outcome)]) -> Vec<String> {
    let outcomes: BTreeMap<&str, Outcome> = outcomes.iter().copied().collect();
    let mut wrong = Vec::new();
    for tried in tried {
        let found = match &tried.outcome {
            Ok(_) => "done",
            Err((code, _)) => code.as_str(),
        };
        let want = match outcomes.get(tried.name) {
            Some(Done) => "done",
            Some(Refused(code)) => code,
            None => "nothing",
        };
        if found != want {
            wrong.push(format!(
                "{}: {found}, not {want}: {:?}",
                tried.name, tried.outcome
            ));
        }
        if tried.took > LONGEST {
            wrong.push(format!("{}: took {:?}", tried.name, tried.took));
        }
        if !tried.leaks.is_empty() {
            wrong.push(format!(
                "{}: the stranger was told {:?}",
                tried.name, tried.leaks
            ));
        }
        if let Err((_, error)) = &tried.outcome
            && error.message.chars().any(char::is_control)
        {
            let message = &error.message;
            wrong.push(format!("{}: escapes get about: {message:?}", tried.name));
        }
    }
    wrong
}

#[test]
fn how_long_a_registry_asks_to_wait_is_told_as_a_number() -> Result<()> {
    let stage = Stage::new()?;
    let fault = FAULTS.iter().find(|fault| fault.name == "token_429_long");
    let tried = try_out(&stage, *fault.context("no such fault")?, "wait")?;
    let fault = FAULTS.iter().find(|fault| fault.name == "token_401");
    let refused = try_out(&stage, *fault.context("no such fault")?, "refused")?;

    let (code, error) = tried.outcome.err().context("it was pulled")?;
    assert_eq!(code, "registry.rate_limited");
    assert_eq!(error.data["retry_after_seconds"], 3600, "{error:?}");
    let (_, error) = refused.outcome.err().context("it was pulled")?;
    assert_eq!(error.data["retry_after_seconds"], Value::Null);
    Ok(())
}
