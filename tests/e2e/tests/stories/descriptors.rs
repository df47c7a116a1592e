//! Another user at the socket: paths are refused, descriptors serve once and their owner alone.

use std::fs::{self, File, Permissions};
use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, bail};
use kiln_testkit::daemon::RpcError;
use kiln_testkit::images::entry::{Entry, write_end};
use kiln_testkit::tools::{self, Need};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Uid;
use serde_json::{Value, json};

use crate::source::{self, oci};
use crate::stage::{KERNEL, LIMIT, Stage, code, pull, text};

/// Only root can become somebody else.
pub(crate) const NEEDS: &[Need] = &[Need::Root];

/// The user without rights.
pub(crate) const NOBODY: u32 = 65_534;

/// Makes a stage whose sockets everybody may open.
pub(crate) fn open_stage() -> Result<Stage> {
    open_stage_with("")
}

/// Makes one with this configuration file.
pub(crate) fn open_stage_with(config: &str) -> Result<Stage> {
    let stage = Stage::with_config(config)?;
    for (path, mode) in [
        (stage.path(""), 0o755),
        (stage.root(), 0o755),
        (stage.daemon.socket(), 0o666),
        (stage.root().join("kiln-files.sock"), 0o666),
        (stage.path("vmlinux"), 0o644),
    ] {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(stage)
}

/// Does something as the user without rights.
pub(crate) fn as_nobody<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    as_user(NOBODY, work)
}

/// Does something as another user: on Linux a thread has credentials of its own.
pub(crate) fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let user = scope.spawn(move || {
            let uid = Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            work()
        });
        user.join().unwrap_or_else(|_| bail!("the thread panicked"))
    })
}

/// Passes descriptors and returns the daemon's answer.
fn pass_announcing(stage: &Stage, announced: usize, files: &[BorrowedFd<'_>]) -> Result<Value> {
    let mut stream = UnixStream::connect(stage.root().join("kiln-files.sock"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let body = json!({"files": announced}).to_string();
    let message = [&u32::try_from(body.len())?.to_be_bytes(), body.as_bytes()].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        bail!("too many descriptors for this test");
    }
    let sent = sendmsg(
        &stream,
        &[IoSlice::new(&message)],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    assert_eq!(sent, message.len());
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Passes one descriptor and returns what a call names it with.
pub(crate) fn pass(stage: &Stage, file: impl AsFd) -> Result<String> {
    let answer = pass_announcing(stage, 1, &[file.as_fd()])?;
    let handle = answer["handles"][0].as_str();
    let handle = handle.with_context(|| format!("no handle: {answer}"))?;
    Ok(format!("fd:{handle}"))
}

fn import(name: &str, kernel: &str) -> Value {
    json!({"name": name, "kernel_path": kernel})
}

fn refused(error: &RpcError) -> &str {
    code(error)
}

#[test]
fn another_users_paths_are_refused_and_their_descriptors_taken() -> Result<()> {
    if tools::must_skip("another_users_paths_are_refused", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let path = stage.path("vmlinux");

    let by_path = as_nobody(|| {
        stage.refused(
            "kernel.import",
            &import("theirs", &path.display().to_string()),
        )
    })?;
    let (imported, again) = as_nobody(|| {
        let handle = pass(&stage, File::open(&path)?)?;
        let imported = stage.call("kernel.import", &import("theirs", &handle))?;
        Ok((
            imported,
            stage.refused("kernel.import", &import("more", &handle))?,
        ))
    })?;

    assert_eq!(refused(&by_path), "file.path_not_allowed");
    assert!(by_path.message.contains("65534"), "{by_path}");
    assert!(by_path.data["hint"]["text"].is_string());
    assert_eq!(imported["owner_uid"], NOBODY);
    assert_eq!(imported["format"], "elf");
    assert_eq!(refused(&again), "file.handle_unknown");
    // A source on the host is a path as well.
    let layout = source::small(&stage.path("layout"))?;
    let by_source = as_nobody(|| stage.refused("image.pull", &pull(&oci(&layout, "1"), "image")))?;
    assert_eq!(refused(&by_source), "file.path_not_allowed");
    stage.assert_nothing_left()
}

#[test]
fn a_handle_is_its_users_alone() -> Result<()> {
    if tools::must_skip("a_handle_is_its_users_alone", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let handle = pass(&stage, File::open(stage.path("vmlinux"))?)?;

    let stolen = as_nobody(|| stage.refused("kernel.import", &import("stolen", &handle)))?;
    let own = stage.call("kernel.import", &import("own", &handle))?;

    assert_eq!(refused(&stolen), "file.handle_unknown");
    assert_eq!(own["owner_uid"], 0);
    let guessed = format!("fd:{}", "0".repeat(32));
    let guessed = stage.refused("kernel.import", &import("guessed", &guessed))?;
    assert_eq!(refused(&guessed), "file.handle_unknown");
    Ok(())
}

#[test]
fn descriptors_that_could_do_harm_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    let readable = File::open(stage.path("vmlinux"))?;
    let writable = File::options()
        .read(true)
        .write(true)
        .open(stage.path("vmlinux"))?;
    let folder = File::open(stage.root())?;
    let device = File::open("/dev/zero")?;
    let (socket, _peer) = UnixStream::pair()?;
    let (_reader, writer) = std::io::pipe()?;
    let five = [readable.as_fd(); 5];
    let cases: [(&str, usize, &[BorrowedFd<'_>], &str); 8] = [
        (
            "open for writing",
            1,
            &[writable.as_fd()],
            "file.wrong_kind",
        ),
        ("a directory", 1, &[folder.as_fd()], "file.wrong_kind"),
        ("a device", 1, &[device.as_fd()], "file.wrong_kind"),
        ("a socket", 1, &[socket.as_fd()], "file.wrong_kind"),
        (
            "the write end of a pipe",
            1,
            &[writer.as_fd()],
            "file.wrong_kind",
        ),
        ("five", 5, &five, "request.malformed"),
        ("more than announced", 1, &five[..2], "request.malformed"),
        ("fewer than announced", 3, &five[..2], "request.malformed"),
    ];
    for (what, announced, files, want) in cases {
        let answer = pass_announcing(&stage, announced, files)?;

        assert_eq!(answer["error"]["code"], want, "{what}: {answer}");
    }
    // The socket still takes what is good.
    let handle = pass(&stage, readable)?;
    stage.call("kernel.import", &import("good", &handle))?;
    Ok(())
}

#[test]
fn modules_travel_as_a_tar_stream_through_a_pipe() -> Result<()> {
    let stage = Stage::new()?;
    let mut archive = Vec::new();
    Entry::file("modules.dep", "kernel/a.ko:\n").write_to(&mut archive)?;
    write_end(&mut archive)?;
    let (reader, mut writer) = std::io::pipe()?;
    let kernel = pass(&stage, File::open(stage.path("vmlinux"))?)?;
    let modules = pass(&stage, reader)?;
    let writing = thread::spawn(move || writer.write_all(&archive));

    let params = json!({"name": "piped", "kernel_path": kernel, "modules_dir": modules});
    let imported = stage.call("kernel.import", &params)?;

    assert!(writing.join().is_ok_and(|written| written.is_ok()));
    let folder = text(&imported, "modules_path")?;
    let content = fs::read(Path::new(&folder).join("modules.dep"))?;
    assert_eq!(content, b"kernel/a.ko:\n");
    Ok(())
}

#[test]
fn what_is_anothers_is_not_seen_and_not_changed() -> Result<()> {
    if tools::must_skip("what_is_anothers_is_not_seen_and_not_changed", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "image")?;
    let operation = stage.last_operation()?;
    let operation = json!({"operation_id": operation["id"]});

    let (told, codes, seen) = as_nobody(|| {
        let told = stage.call("daemon.info", &json!({}))?;
        let mut codes = Vec::new();
        for (method, params) in [
            ("image.get", json!({"image": "image"})),
            ("image.get", json!({"image": image["id"]})),
            ("image.forget", json!({"image": "image"})),
            ("operation.get", operation.clone()),
            ("operation.cancel", operation.clone()),
            ("kernel.remove", json!({"name": KERNEL})),
        ] {
            codes.push(refused(&stage.refused(method, &params)?).to_owned());
        }
        let mut seen = 0;
        for method in ["image.list", "operation.list", "event.list"] {
            // A cursor would tell how much there is of others.
            let listed = stage.call(method, &json!({"limit": 1}))?;
            assert!(listed["next"].is_null(), "{method}: {listed}");
            seen += listed["items"].as_array().context("no items")?.len();
        }
        Ok((told, codes, seen))
    })?;

    assert_eq!(told["caller"], json!({"uid": NOBODY, "superadmin": false}));
    let want = [
        "request.denied",
        "request.denied",
        "request.denied",
        "operation.not_found",
        "operation.not_found",
        "request.denied",
    ];
    assert_eq!(codes, want);
    assert_eq!(seen, 0);
    assert_eq!(
        stage.call("image.get", &json!({"image": "image"}))?["is_active"],
        true
    );
    Ok(())
}
