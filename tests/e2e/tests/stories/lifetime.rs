//! How a daemon starts and ends: one per root, signals, and what its configuration may say.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::{self, built};
use kiln_testkit::{process, wait};
use serde_json::json;

use crate::stage::{LIMIT, Stage, folder, pull};

/// Exit code of a second daemon on one root.
const CONFLICT: i32 = 5;

fn kilnd(root: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(built("kilnd")?);
    command.arg("--root").arg(root).args(arguments);
    // It must end by itself; the runner's own limit is the last resort.
    command.output().context("cannot run kilnd")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_second_daemon_on_one_root_leaves_the_first_alone() -> Result<()> {
    let stage = Stage::new()?;

    let second = kilnd(&stage.root(), &[])?;

    assert_eq!(second.status.code(), Some(CONFLICT), "{}", stderr(&second));
    assert!(
        stderr(&second).contains("another kilnd"),
        "{}",
        stderr(&second)
    );
    assert!(stderr(&second).contains(&stage.root().display().to_string()));
    stage.call("daemon.info", &json!({}))?;
    Ok(())
}

#[test]
fn a_stale_socket_is_replaced_and_a_file_in_its_place_is_not() -> Result<()> {
    let folder = folder()?;
    let root = folder.path().join("root");
    fs::create_dir(&root)?;
    drop(UnixListener::bind(root.join("kiln.sock"))?);

    let mut started = daemon::Daemon::start_in(&root, daemon::Start::default())?;
    started.stop()?;
    fs::write(root.join("kiln.sock"), "precious")?;
    let refused = kilnd(&root, &[])?;

    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("is not a socket"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(fs::read_to_string(root.join("kiln.sock"))?, "precious");
    Ok(())
}

#[test]
fn a_root_too_long_for_a_socket_is_refused_with_the_limit() -> Result<()> {
    let folder = folder()?;

    let refused = kilnd(&folder.path().join("r".repeat(100)), &[])?;

    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("at most 107"),
        "{}",
        stderr(&refused)
    );
    Ok(())
}

#[test]
fn a_signal_ends_the_daemon_cleanly() -> Result<()> {
    let mut stage = Stage::new()?;
    // A connection that says nothing does not hold it up.
    let _silent = UnixStream::connect(stage.daemon.socket())?;

    let status = stage.daemon.stop()?;

    assert_eq!(status.code(), Some(0));
    assert!(!stage.daemon.socket().exists());
    assert!(!stage.root().join("kiln-files.sock").exists());
    stage.daemon.start_again()?;
    let kernels = stage.call("kernel.list", &json!({}))?;
    assert_eq!(kernels["items"][0]["name"], "tiny");
    Ok(())
}

/// The first signal lets a pull go on; the second ends it, and the next start repairs that.
#[test]
fn a_second_signal_ends_the_daemon_at_once() -> Result<()> {
    let mut stage = Stage::new()?;
    let slow = crate::operations::Tap::start()?;
    let id = stage.start(pull(&slow.reference(), "slow"))?;
    slow.wait_for_request()?;

    let signal = || -> Result<()> {
        let id = rustix::process::Pid::from_raw(i32::try_from(stage.daemon.id())?);
        let id = id.context("no process id")?;
        Ok(rustix::process::kill_process(
            id,
            rustix::process::Signal::TERM,
        )?)
    };
    signal()?;
    wait::until("the log of the first signal", LIMIT, || {
        let log = process::log_so_far(&stage.daemon.log());
        Ok(log.contains("a second signal stops at once").then_some(()))
    })?;
    signal()?;
    // Sends a third, which changes nothing.
    let status = stage.daemon.stop()?;

    assert_eq!(status.code(), Some(130));
    stage.daemon.start_again()?;
    let operation = stage.call("operation.get", &json!({"operation_id": id}))?;
    assert_eq!(operation["state"], "interrupted");
    stage.assert_nothing_left()
}

#[test]
fn a_configuration_is_checked_and_every_value_names_its_origin() -> Result<()> {
    let folder = folder()?;
    let file = folder.path().join("config.toml");
    let root = folder.path().join("root");
    let check = |text: &str| -> Result<Output> {
        fs::File::create(&file)?.write_all(text.as_bytes())?;
        let file = file.display().to_string();
        kilnd(&root, &["--config", &file, "--check-config"])
    };

    let good = check("[limits]\nmax_operations = 7\n")?;
    let listed = String::from_utf8_lossy(&good.stdout).into_owned();
    assert_eq!(good.status.code(), Some(0), "{}", stderr(&good));
    let origin = format!("limits.max_operations = 7  # {}", file.display());
    assert!(listed.contains(&origin), "{listed}");
    assert!(listed.contains("daemon.state_dir"), "{listed}");
    assert!(listed.contains("# --root"), "{listed}");
    assert!(listed.contains("# default"), "{listed}");

    let cases = [
        ("[limits]\nmax_operation = 7\n", "max_operation"),
        ("[limit]\n", "limit"),
        ("[limits]\nmax_operations = 0\n", "out of range"),
        ("[limits]\nmax_operations = \"many\"\n", "max_operations"),
        (
            "[registry]\nca_files = [\"/nowhere/ca.pem\"]\n",
            "/nowhere/ca.pem",
        ),
        ("no toml", "config.toml"),
    ];
    for (text, noun) in cases {
        let refused = check(text)?;

        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(
            stderr(&refused).contains(noun),
            "{text}: {}",
            stderr(&refused)
        );
    }
    assert!(!root.exists(), "checking made something");
    Ok(())
}
