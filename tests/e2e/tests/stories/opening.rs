//! Files of images go out as descriptors: to who may see the image, once, and for reading alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use kiln_testkit::daemon::built;
use kiln_testkit::tools;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::descriptors::{NEEDS, NOBODY, as_nobody, open_stage, pass};
use crate::source::{self, oci};
use crate::stage::{KERNEL, LIMIT, Stage, code, pull, text};

/// Sends one message over the second socket; returns the answer and the descriptors with it.
fn ask(stage: &Stage, body: &Value) -> Result<(Value, Vec<File>)> {
    let mut stream = UnixStream::connect(stage.root().join("kiln-files.sock"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let body = body.to_string();
    stream.write_all(&u32::try_from(body.len())?.to_be_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut length)];
    let received = recvmsg(
        &stream,
        &mut slices,
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    ensure!(received.bytes == 4, "a length in {} bytes", received.bytes);
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors.map(File::from));
        }
    }
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut answer)?;
    Ok((serde_json::from_slice(&answer)?, files))
}

/// Pulls an image whose root filesystem is read quickly, and that has no initrd.
pub(crate) fn small(stage: &Stage, name: &str) -> Result<Value> {
    pull_small(stage, name, "none")
}

fn pull_small(stage: &Stage, name: &str, boot: &str) -> Result<Value> {
    let layout = source::small(&stage.path("layout"))?;
    let mut params = pull(&oci(&layout, "1"), name);
    params["size_bytes"] = json!(16 << 20);
    params["boot"] = json!(boot);
    stage.call("image.pull", &params)
}

/// Opens files of an image and returns their handles without the mark.
fn open(stage: &Stage, image: &str, files: &[&str]) -> Result<Vec<String>> {
    let opened = stage.call("image.open", &json!({"image": image, "files": files}))?;
    let handle = |file: &&str| {
        let handle = text(&opened["handles"], file)?;
        let bare = handle.strip_prefix("fd:").context("no mark")?;
        Ok(bare.to_owned())
    };
    files.iter().map(handle).collect()
}

/// Takes descriptors that must be there.
fn take(stage: &Stage, handles: &[String]) -> Result<Vec<File>> {
    let (answer, files) = ask(stage, &json!({"take": handles}))?;
    assert_eq!(answer, json!({"taken": handles.len()}));
    Ok(files)
}

/// Tries to take descriptors and returns the code of the refusal.
fn take_refused(stage: &Stage, body: &Value) -> Result<String> {
    let (answer, files) = ask(stage, body)?;
    assert_eq!(files.len(), 0, "{answer}");
    text(&answer["error"], "code")
}

fn bytes_of(mut file: &File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn an_images_files_come_as_descriptors_with_its_bytes() -> Result<()> {
    let stage = Stage::new()?;
    let image = small(&stage, "image")?;
    let booting = pull_small(&stage, "booting", "entrypoint")?;

    let opened = stage.call("image.open", &json!({"image": "image"}))?;
    let files = ["rootfs", "kernel"];
    let handles = open(&stage, "image", &files)?;
    let taken = take(&stage, &handles)?;

    for known in ["id", "name", "version", "kernel"] {
        assert_eq!(opened["image"][known], image[known]);
    }
    // It has no initrd, and none was made up.
    let named: Vec<&String> = opened["handles"]
        .as_object()
        .context("none")?
        .keys()
        .collect();
    assert_eq!(named, ["rootfs", "kernel"]);
    for (file, path) in taken.iter().zip([
        text(&image["rootfs"], "path")?,
        text(&image["kernel"], "path")?,
    ]) {
        assert!(bytes_of(file)? == fs::read(&path)?, "{path} differs");
    }
    let initrd = take(&stage, &open(&stage, "booting", &["initrd"])?)?;
    let path = text(&booting["kernel"], "initrd_path")?;
    assert!(bytes_of(&initrd[0])? == fs::read(path)?, "another initrd");
    // Both ends name the same file, but not the same position.
    let again = take(&stage, &open(&stage, "image", &["kernel"])?)?;
    assert_eq!(bytes_of(&again[0])?, fs::read(stage.path("vmlinux"))?);
    Ok(())
}

#[test]
fn a_handle_is_taken_once_and_nothing_else_is_taken() -> Result<()> {
    let stage = Stage::new()?;
    small(&stage, "image")?;
    let handles = open(&stage, "image", &["rootfs", "kernel"])?;
    let incoming = pass(&stage, File::open(stage.path("vmlinux"))?)?;
    let bare = incoming.trim_start_matches("fd:");
    let unknown = "0".repeat(32);

    let cases = [
        (json!({"take": [unknown]}), "file.handle_unknown"),
        (
            json!({"take": [handles[0], unknown]}),
            "file.handle_unknown",
        ),
        (
            json!({"take": [handles[0], handles[0]]}),
            "file.handle_unknown",
        ),
        (json!({"take": [bare]}), "file.handle_unknown"),
        (json!({"take": []}), "request.malformed"),
        (json!({"take": [1]}), "request.malformed"),
        (json!({"take": ["x"]}), "request.malformed"),
        (json!({"take": "x"}), "request.malformed"),
        (json!({"give": [handles[0]]}), "request.malformed"),
        (
            json!({"take": [handles[0]], "files": 0}),
            "request.malformed",
        ),
        (
            json!({"take": [unknown, unknown, unknown, unknown, unknown]}),
            "request.malformed",
        ),
    ];
    for (body, want) in cases {
        assert_eq!(take_refused(&stage, &body)?, want, "{body}");
    }
    // An outgoing handle names no file in a call, and the attempt does not use it up.
    let outgoing = format!("fd:{}", handles[0]);
    let params = json!({"name": "theirs", "kernel_path": outgoing});
    let as_input = stage.refused("kernel.import", &params)?;
    assert_eq!(code(&as_input), "file.handle_unknown");
    drop(take(&stage, &handles)?);
    let again = take_refused(&stage, &json!({"take": [handles[1]]}))?;
    assert_eq!(again, "file.handle_unknown");
    // The one that came in still serves its call.
    stage.call(
        "kernel.import",
        &json!({"name": "own", "kernel_path": incoming}),
    )?;
    Ok(())
}

#[test]
fn another_user_opens_their_own_image_alone_and_can_only_read_it() -> Result<()> {
    if tools::must_skip("another_user_opens_their_own_image_alone", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let image = small(&stage, "roots")?;
    let rootfs = text(&image["rootfs"], "path")?;
    let handle = open(&stage, "roots", &["rootfs"])?;

    let (own, refused) = as_nobody(|| {
        let refused = stage.refused("image.open", &json!({"image": "roots"}))?;
        let stolen = take_refused(&stage, &json!({"take": handle}))?;
        assert_eq!(stolen, "file.handle_unknown");
        Ok((File::open(&rootfs).is_err(), refused))
    })?;
    assert!(own, "the state directory is open to others");
    assert_eq!(code(&refused), "request.denied");

    let registered = as_nobody_registers(&stage, &rootfs)?;
    let path = text(&registered["rootfs"], "path")?;
    let want = fs::read(&path)?;
    as_nobody(|| {
        let taken = take(&stage, &open(&stage, "theirs", &["rootfs", "kernel"])?)?;

        assert!(bytes_of(&taken[0])? == want, "other bytes");
        taken.iter().for_each(only_reads);
        Ok(())
    })?;
    assert!(fs::read(&path)? == want, "the image has changed");
    // Root opens what is anybody's.
    drop(take(&stage, &open(&stage, "theirs", &["rootfs"])?)?);
    Ok(())
}

/// Registers root's file as another user, from a descriptor they were given.
fn as_nobody_registers(stage: &Stage, rootfs: &str) -> Result<Value> {
    let given = File::open(rootfs)?;
    as_nobody(|| {
        let passed = pass(stage, &given)?;
        let params = json!({"name": "theirs", "rootfs_path": passed, "kernel_ref": KERNEL});
        let registered = stage.call("image.register", &params)?;
        assert_eq!(registered["owner_uid"], NOBODY);
        Ok(registered)
    })
}

/// Fails unless every way to more than reading is closed to the calling user.
fn only_reads(file: &File) {
    let number = file.as_raw_fd();
    let anew = format!("/proc/thread-self/fd/{number}");

    let written = file.write_all_at(b"x", 0);
    assert!(written.is_err(), "written through the descriptor");
    assert!(file.set_len(0).is_err(), "cut through the descriptor");
    for options in [
        OpenOptions::new().write(true),
        OpenOptions::new().read(true),
    ] {
        let opened = options.open(&anew).map_err(|error| error.kind());
        assert_eq!(opened.err(), Some(io::ErrorKind::PermissionDenied));
    }
    let mode = rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(0o666));
    assert_eq!(mode, Err(rustix::io::Errno::PERM));
}

#[test]
fn the_client_writes_a_file_of_an_image_to_its_output() -> Result<()> {
    let stage = Stage::new()?;
    small(&stage, "image")?;
    let kiln = |words: &[&str]| {
        let host = format!("unix://{}", stage.daemon.socket().display());
        let mut command = Command::new(built("kiln")?);
        command.env("KILN_HOST", host).args(words);
        command.stdin(Stdio::null()).output().context("no kiln")
    };

    let kernel = kiln(&["image", "open", "image", "kernel"])?;
    let initrd = kiln(&["image", "open", "image", "initrd"])?;
    let nothing = kiln(&["image", "open", "other", "rootfs"])?;

    assert_eq!(kernel.status.code(), Some(0), "{kernel:?}");
    assert_eq!(kernel.stdout, fs::read(stage.path("vmlinux"))?);
    assert_eq!(initrd.status.code(), Some(3), "{initrd:?}");
    let told = String::from_utf8(initrd.stderr)?;
    assert!(told.contains("the image image has no initrd"), "{told}");
    assert_eq!(nothing.status.code(), Some(3), "{nothing:?}");
    Ok(())
}
