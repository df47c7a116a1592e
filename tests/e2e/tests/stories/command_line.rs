//! The client as a script meets it: what is printed where, and the exit code.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use serde_json::Value;

use crate::source::{self, oci};
use crate::stage::{KERNEL, Stage};

/// Runs `kiln` with `words` against the socket at `socket`.
fn kiln(socket: &Path, words: &[&str]) -> Result<Output> {
    let host = format!("unix://{}", socket.display());
    let mut command = Command::new(built("kiln")?);
    command.env("KILN_HOST", host).args(words);
    command.output().context("cannot run kiln")
}

#[test]
fn versions_are_told_of_both_sides_and_a_missing_one_fails() -> Result<()> {
    let stage = Stage::new()?;

    let both = kiln(&stage.daemon.socket(), &["version", "--json"])?;
    let nobody = stage.path("nobody.sock");
    let half = kiln(&nobody, &["version", "--json"])?;
    let half_for_people = kiln(&nobody, &["version"])?;
    let own = kiln(&nobody, &["--version"])?;

    assert_eq!(both.status.code(), Some(0), "{both:?}");
    assert_eq!(both.stderr, b"");
    let both: Value = serde_json::from_slice(&both.stdout)?;
    assert_eq!(both["client"], both["daemon"]);
    assert_eq!(half.status.code(), Some(7), "{half:?}");
    assert!(String::from_utf8_lossy(&half.stderr).starts_with("error: "));
    let told: Value = serde_json::from_slice(&half.stdout)?;
    assert_eq!(told["client"], both["client"]);
    assert_eq!(told["daemon"], Value::Null);
    assert_eq!(half_for_people.status.code(), Some(7));
    let text = String::from_utf8(half_for_people.stdout)?;
    assert!(text.starts_with("client"), "{text}");
    assert_eq!(own.status.code(), Some(0), "{own:?}");
    Ok(())
}

#[test]
fn who_wants_no_progress_is_shown_none() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let socket = stage.daemon.socket();
    let pulled = |name: &str, progress: &[&str]| {
        let reference = oci(&layout, "1");
        let words = ["pull", &reference, "--name", name, "--kernel", KERNEL];
        kiln(&socket, &[&words[..], progress].concat())
    };

    let lines = pulled("loud", &["--progress", "plain"])?;
    let silent = pulled("still", &["--progress", "none"])?;

    for (output, name) in [(&lines, "loud"), (&silent, "still")] {
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with(&format!("{name} is ready")), "{text}");
    }
    let said = String::from_utf8_lossy(&lines.stderr);
    assert!(said.contains("succeeded after"), "{said}");
    assert_eq!(String::from_utf8_lossy(&silent.stderr), "");
    Ok(())
}
