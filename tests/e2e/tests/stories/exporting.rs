//! Exports that do not come to their end: none leaves half a file, and none has to be killed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::Compression;
use kiln_testkit::{tools, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::bootable::{answer, booting, kiln};
use crate::source::{self, oci};
use crate::space::{self, Small};
use crate::stage::{LIMIT, Stage, entries};

#[test]
fn an_export_is_whole_or_not_there() -> Result<()> {
    let stage = Stage::new()?;
    booting(&stage, "image")?;
    fs::create_dir(stage.path("mine"))?;
    fs::write(stage.path("mine/there"), "mine")?;
    let there = stage.path("mine/there").display().to_string();

    let refused = kiln(&stage, &["export", "image", &there])?;
    let missing = kiln(&stage, &["export", "nosuch", &there])?;

    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    assert_eq!(fs::read(&there)?, b"mine");
    answer(&stage, &["export", "image", &there, "--force"])?;
    assert_eq!(entries(&stage.path("mine"))?, ["there"]);
    assert_eq!(fs::metadata(&there)?.mode() & 0o777, 0o600);
    Ok(())
}

/// Whoever was to read it has stopped; Ctrl-C still ends it.
#[test]
fn an_export_that_nobody_reads_is_interrupted() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::of_layers(&stage.path("layout"), |layout| {
        let entry = Entry::file("noise", source::noise(3, 1 << 20));
        let plain = Compression::Plain;
        Ok(vec![layout.add_layer(&[entry], plain)?])
    })?;
    stage.pull(&oci(&layout, "1"), "image")?;
    let mut command = Command::new(built("kiln")?);
    let host = format!("unix://{}", stage.daemon.socket().display());
    command
        .env("KILN_HOST", host)
        .args(["export", "image", "-"]);
    let caches = stage.path("caches");
    command.env_remove("TMPDIR").env("XDG_CACHE_HOME", &caches);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = command.spawn()?;
    let unread = running.stdout.take().context("no pipe")?;
    let pipe_bytes = u64::try_from(rustix::pipe::fcntl_getpipe_size(&unread)?)?;
    wait::until("a full pipe", LIMIT, || {
        Ok((rustix::io::ioctl_fionread(&unread)? == pipe_bytes).then_some(()))
    })?;

    let id = i32::try_from(running.id())?;
    let id = Pid::from_raw(id).context("no process id")?;
    kill_process(id, Signal::INT)?;
    let ended = wait::until("the end of the export", LIMIT, || Ok(running.try_wait()?))?;

    assert_eq!(ended.code(), Some(130));
    drop(unread);
    // What waited there had no name.
    assert_eq!(entries(&caches)?, ["kiln"]);
    assert_eq!(entries(&caches.join("kiln"))?, Vec::<String>::new());
    Ok(())
}

#[test]
fn an_export_without_room_for_what_it_packs_says_where() -> Result<()> {
    if tools::must_skip("an_export_without_room", space::NEEDS)? {
        return Ok(());
    }
    let small = Small::with_config(24, "")?;
    small.pull(&small.noise(6, 5, Compression::Plain)?, "image")?;
    small.fill_up_to(1 << 20)?;
    let mut command = Command::new(built("kiln")?);
    let host = format!("unix://{}", small.daemon.socket().display());
    command
        .env("KILN_HOST", host)
        .args(["export", "image", "-"]);
    command.env("TMPDIR", small.daemon.root());

    let output = command.stdin(Stdio::null()).output()?;

    let told = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("needs up to"), "{told}");
    assert!(told.contains("TMPDIR"), "{told}");
    assert!(
        told.contains(&small.daemon.root().display().to_string()),
        "{told}"
    );
    Ok(())
}
