//! The printed reference and the golden OpenRPC document are what the daemon prints.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_api::codes;
use kiln_testkit::daemon::built;
use kiln_testkit::process;
use serde_json::{Value, json};

use crate::stage::Stage;

const LIMIT: Duration = Duration::from_secs(30);

/// Set to anything, it makes the story write what it would compare with.
const UPDATE: &str = "KILN_UPDATE";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn compare(path: &str, printed: &str) -> Result<()> {
    let path = workspace().join(path);
    if env::var_os(UPDATE).is_some() {
        fs::create_dir_all(path.parent().context("no folder")?)?;
        return Ok(fs::write(path, printed)?);
    }
    let kept = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let differs = kept
        .lines()
        .zip(printed.lines())
        .position(|(kept, printed)| kept != printed);
    assert!(
        kept == printed,
        "{} is not what kilnd prints (first at line {:?}); run this with {UPDATE}=1",
        path.display(),
        differs.map(|line| line + 1)
    );
    Ok(())
}

#[test]
fn the_reference_is_what_the_daemon_prints() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = process::command(built("kilnd")?);
    command.arg("--root").arg(folder.path().join("root"));
    command.arg("--write-docs").arg(folder.path());
    process::run(command, LIMIT)?;

    for page in ["api.md", "errors.md"] {
        let printed = fs::read_to_string(folder.path().join(page))?;
        compare(&format!("docs/{page}"), &printed)?;
    }
    Ok(())
}

#[test]
fn the_openrpc_document_is_golden_and_served() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = process::command(built("kilnd")?);
    command.arg("--root").arg(folder.path().join("root"));
    command.arg("--print-openrpc");
    let printed = format!("{}\n", process::run(command, LIMIT)?.text());

    compare("fixtures/openrpc.json", &printed)?;

    let printed: Value = serde_json::from_str(&printed)?;
    let served = Stage::new()?.call("rpc.discover", &json!({}))?;
    assert_eq!(served, printed);
    Ok(())
}

#[test]
fn whoever_takes_a_login_tells_what_reaching_a_registry_fails_with() -> Result<()> {
    let served = Stage::new()?.call("rpc.discover", &json!({}))?;
    let methods = served["methods"].as_array().context("no methods")?;
    let mut count = 0;

    for method in methods {
        let name = method["name"].as_str().context("no name")?;
        // What a doctor sees is no error, and what befalls one image of many is in the answer.
        if ["registry.doctor", "image.outdated"].contains(&name)
            || !method["params"].to_string().contains("credentials\"")
        {
            continue;
        }
        count += 1;
        let told = method["errors"].to_string();
        for code in codes::REACHING_A_REGISTRY {
            let quoted = format!("\"{}\"", code.name);
            assert!(told.contains(&quoted), "{name} does not tell {code}");
        }
    }

    assert!(count >= 15, "only {count} methods take a login");
    Ok(())
}
