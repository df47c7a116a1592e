//! Costly calls of one user: a flood is refused with a typed answer, others go on, and it ends.

use anyhow::{Context as _, Result};
use kiln_testkit::{tools, wait};
use serde_json::json;

use crate::descriptors::{NEEDS, NOBODY, as_nobody, as_user, open_stage_with};
use crate::stage::{LIMIT, code};

/// Somebody who floods nobody.
const OTHER: u32 = 54_010;

#[test]
fn a_flood_of_costly_calls_is_refused_and_hurts_nobody_else() -> Result<()> {
    if tools::must_skip(
        "a_flood_of_costly_calls_is_refused_and_hurts_nobody_else",
        NEEDS,
    )? {
        return Ok(());
    }
    let config = "[limits]\ncostly_calls_burst = 3\ncostly_calls_per_minute = 30\n";
    let stage = open_stage_with(config)?;
    let look = json!({});

    let flood = as_nobody(|| {
        let calls = (0..20).map(|_| stage.daemon.call("storage.usage", &look));
        Ok(calls.collect::<Vec<_>>())
    })?;

    let (passed, refused): (Vec<_>, Vec<_>) = flood.into_iter().partition(Result::is_ok);
    // As many as at once, and what came back while they were made.
    assert!((3..=6).contains(&passed.len()), "{}", passed.len());
    let error = refused.into_iter().last().context("none refused")?;
    let error = error.err().context("it passed")?.refused()?;
    assert_eq!(code(&error), "request.rate_limited", "{error}");
    assert_eq!(error.data["retryable"], true);
    assert!(error.message.contains(&NOBODY.to_string()), "{error}");
    let seconds = error.data["retry_after_seconds"]
        .as_u64()
        .context("no time")?;
    assert!((1..=2).contains(&seconds), "{error}");
    // Light calls are not counted, others have their own, and superadmins look after the host.
    as_nobody(|| stage.call("image.list", &look))?;
    as_user(OTHER, || stage.call("storage.usage", &look))?;
    for _ in 0..10 {
        stage.call("storage.usage", &look)?;
    }
    wait::until("the flooder to be let in again", LIMIT, || {
        as_nobody(|| Ok(stage.daemon.call("storage.usage", &look).ok()))
    })?;
    Ok(())
}
