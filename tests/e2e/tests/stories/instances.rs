//! Machines that run images: registered by the process that looks after them, watched, found again
//! after a restart, and in the way of forgetting their image.
//!
//! No machine is started here. What registers is this test program once more, as a process of its
//! own that makes one call and then does nothing ([`stand_in`]).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use kiln_testkit::daemon::{CallError, built, call};
use kiln_testkit::process::{self, Running};
use kiln_testkit::{tools, wait};
use serde_json::{Value, json};

use crate::descriptors::{NEEDS, NOBODY, as_nobody, open_stage};
use crate::operations::Tap;
use crate::source::{self, oci};
use crate::stage::{LIMIT, Stage, code, text};

/// Where a stand-in finds the socket.
const SOCKET: &str = "KILN_STAND_IN_SOCKET";

/// What a stand-in registers.
const PARAMS: &str = "KILN_STAND_IN_PARAMS";

/// The file a stand-in writes the answer to.
const ANSWER: &str = "KILN_STAND_IN_ANSWER";

/// Runs a program to which SIGTERM means nothing.
const STUBBORN: &str = r#"trap "" TERM; exec "$@""#;

/// Not a story: what a stand-in does.
#[test]
fn stand_in() -> Result<()> {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return Ok(());
    };
    let params: Value = serde_json::from_str(&std::env::var(PARAMS)?)?;
    let answer = match call(Path::new(&socket), 1, "instance.register", &params) {
        Ok(registered) => json!({ "ok": registered }),
        Err(CallError::Refused(error)) => json!({ "error": error.name() }),
        Err(CallError::NoAnswer(error)) => return Err(error),
    };
    let path = PathBuf::from(std::env::var(ANSWER)?);
    let partial = path.with_extension("partial");
    fs::write(&partial, answer.to_string())?;
    fs::rename(partial, path)?;
    loop {
        // Until it is told to end, by a signal.
        thread::park();
    }
}

/// How a stand-in is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    Usual,
    Stubborn,
    AsNobody,
}

/// A registered machine, and the process that stands in for what runs it.
pub(crate) struct Machine {
    running: Running,
    pub(crate) view: Value,
}

/// Returns the id of machine `n`.
fn id(n: u32) -> String {
    format!("{n:08x}-0000-4000-8000-000000000000")
}

/// Returns the directory of machine `n`.
fn folder(stage: &Stage, n: u32) -> PathBuf {
    stage.path(&format!("machine-{n}"))
}

fn params(stage: &Stage, n: u32, name: &str, image: &str) -> Value {
    json!({
        "instance_id": id(n),
        "name": name,
        "image": image,
        "directory": folder(stage, n),
        "console_path": folder(stage, n).join("console.log"),
        "cpus": 1,
        "memory_bytes": 256 << 20,
        "ports": [{"host_address": "127.0.0.1", "host_port": 8080, "guest_port": 80}],
    })
}

/// Starts a stand-in that registers machine `n`.
pub(crate) fn machine(
    stage: &Stage,
    n: u32,
    name: &str,
    image: &str,
    nature: Nature,
) -> Result<Machine> {
    let folder = folder(stage, n);
    fs::create_dir(&folder)?;
    fs::write(folder.join("console.log"), "booting\r\nready\n")?;
    fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
    let mut program = std::env::current_exe()?;
    if nature == Nature::AsNobody {
        // To where another user reaches it.
        let reachable = folder.join("stand-in");
        fs::copy(&program, &reachable)?;
        fs::set_permissions(&reachable, Permissions::from_mode(0o755))?;
        program = reachable;
    }
    let mut command = if nature == Nature::Stubborn {
        let mut command = process::command("/bin/sh");
        command.args(["-c", STUBBORN, "sh"]).arg(&program);
        command
    } else {
        process::command(&program)
    };
    let answer = folder.join("answer");
    command
        .args(["--exact", "instances::stand_in", "--nocapture"])
        .stdout(Stdio::null())
        .env(SOCKET, stage.daemon.socket())
        .env(PARAMS, params(stage, n, name, image).to_string())
        .env(ANSWER, &answer);
    if nature == Nature::AsNobody {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut running = process::start(command, "a stand-in")?;
    let told = wait::until("answer to a stand-in", LIMIT, || {
        if let Some(status) = running.poll()? {
            bail!("the stand-in ended with {status}");
        }
        Ok(fs::read_to_string(&answer).ok())
    })?;
    let told: Value = serde_json::from_str(&told)?;
    let view = told["ok"].clone();
    if view.is_null() {
        bail!("the stand-in was refused: {told}");
    }
    Ok(Machine { running, view })
}

/// Makes a stage with an image `web`.
fn stage() -> Result<Stage> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    Ok(stage)
}

fn get(stage: &Stage, instance: &str) -> Result<Value> {
    stage.call("instance.get", &json!({ "instance": instance }))
}

fn names(stage: &Stage, params: &Value) -> Result<Vec<String>> {
    let listed = stage.call("instance.list", params)?;
    let items = listed["items"].as_array().context("no items")?;
    items.iter().map(|item| text(item, "name")).collect()
}

fn ended(stage: &Stage, instance: &str) -> Result<Value> {
    wait::until("end of the machine", LIMIT, || {
        let found = get(stage, instance)?;
        Ok((found["state"] == "ended").then_some(found))
    })
}

fn kinds(stage: &Stage, n: u32) -> Result<Vec<String>> {
    let listed = stage.call("event.list", &json!({ "object_id": id(n) }))?;
    let items = listed["items"].as_array().context("no items")?;
    items.iter().map(|event| text(event, "kind")).collect()
}

/// What `kiln` printed, and its exit code.
struct Said {
    out: String,
    err: String,
    code: Option<i32>,
}

fn kiln(stage: &Stage, words: &[&str]) -> Result<Said> {
    let mut command = Command::new(built("kiln")?);
    let host = format!("unix://{}", stage.daemon.socket().display());
    command.env("KILN_HOST", host).args(words);
    let output = command.output().context("cannot run kiln")?;
    Ok(Said {
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
        code: output.status.code(),
    })
}

#[test]
fn a_machine_is_registered_runs_ends_and_is_removed() -> Result<()> {
    let stage = stage()?;
    let machine = machine(&stage, 1, "front", "web", Nature::Usual)?;
    let view = &machine.view;
    let image = stage.call("image.get", &json!({"image": "web"}))?;
    let word = json!({"instance": "front"});

    assert_eq!(view["state"], "starting");
    assert_eq!(view["pid"], machine.running.id());
    assert_eq!(view["image_id"], image["id"]);
    assert_eq!(view["version_id"], image["version"]["id"]);
    assert_eq!(view["image_name"], "web");
    assert_eq!(image["in_use"], 1);
    let under = json!({"instance_id": id(1), "monitor": "qemu-q35", "accelerator": "tcg"});
    let started = stage.call("instance.start", &under)?;
    assert_eq!(
        (&started["state"], &started["monitor"]),
        (&json!("running"), &json!("qemu-q35"))
    );
    let listed = kiln(&stage, &["ps"])?;
    for word in [
        "00000001",
        "front",
        "web",
        "running",
        "qemu-q35 tcg",
        "127.0.0.1:8080->80",
    ] {
        assert!(listed.out.contains(word), "{word}: {}", listed.out);
    }
    assert_eq!(get(&stage, "00000001")?, get(&stage, "front")?);
    let running = stage.refused("instance.remove", &word)?;
    let how = json!({"instance_id": id(1), "exit_code": 3});
    let finished = stage.call("instance.finish", &how)?;
    let late = stage.call(
        "instance.finish",
        &json!({"instance_id": id(1), "exit_code": 4}),
    )?;
    let restarted = stage.refused("instance.start", &under)?;
    let image = stage.call("image.get", &json!({"image": "web"}))?;

    assert_eq!(code(&running), "instance.running");
    assert_eq!(
        (&finished["state"], &finished["exit_code"]),
        (&json!("ended"), &json!(3))
    );
    assert_eq!(late, finished);
    assert_eq!(code(&restarted), "instance.ended");
    assert_eq!(image["in_use"], 0);
    assert_eq!(names(&stage, &json!({}))?, Vec::<String>::new());
    assert_eq!(names(&stage, &json!({"all": true}))?, ["front"]);
    assert!(kiln(&stage, &["ps", "--all"])?.out.contains("ended (3)"));
    assert_eq!(kiln(&stage, &["instance", "rm", "front"])?.code, Some(0));
    let gone = stage.refused("instance.get", &word)?;
    assert_eq!(code(&gone), "instance.not_found");
    let want = ["registered", "started", "ended", "removed"].map(|verb| format!("instance.{verb}"));
    assert_eq!(kinds(&stage, 1)?, want);
    Ok(())
}

#[test]
fn what_names_no_machine_or_several_is_refused() -> Result<()> {
    let stage = stage()?;
    let _one = machine(&stage, 0xaaaa_0001, "one", "web", Nature::Usual)?;
    let _two = machine(&stage, 0xaaaa_0002, "two", "web", Nature::Usual)?;
    let register = |n, name: &str, image: &str| {
        let refused = stage.refused("instance.register", &params(&stage, n, name, image));
        Ok::<_, anyhow::Error>(code(&refused?).to_owned())
    };

    assert_eq!(register(3, "one", "web")?, "instance.name_taken");
    assert_eq!(
        register(0xaaaa_0001, "x", "web")?,
        "instance.already_exists"
    );
    assert_eq!(register(3, "No Name", "web")?, "instance.name_invalid");
    assert_eq!(register(3, "x", "nothing")?, "image.not_found");
    let several = stage.refused("instance.get", &json!({"instance": "aaaa"}))?;
    assert_eq!(code(&several), "instance.ambiguous");
    assert!(several.message.contains(&id(0xaaaa_0002)), "{several}");
    // The call of a process that ends at once counts for as long.
    let words = params(&stage, 4, "brief", "web").to_string();
    fs::write(stage.path("brief.json"), words)?;
    let input = stage.path("brief.json").display().to_string();
    let brief = kiln(&stage, &["instance", "register", "--input", &input])?;
    assert_eq!(brief.code, Some(0), "{}", brief.err);
    let brief = ended(&stage, "brief")?;
    assert_eq!(brief["reason"], "the process that ran it is gone");
    assert_eq!(brief["exit_code"], Value::Null);
    Ok(())
}

#[test]
fn an_image_is_not_forgotten_under_its_machines() -> Result<()> {
    let stage = stage()?;
    let mut one = machine(&stage, 1, "one", "web", Nature::Usual)?;
    let mut others = Vec::new();
    for (n, name) in [(2, "two"), (3, "three"), (4, "four")] {
        others.push(machine(&stage, n, name, "web", Nature::Usual)?);
    }
    let forget = json!({"image": "web"});

    let refused = stage.refused("image.forget", &forget)?;
    let dry = stage.refused("image.forget", &json!({"image": "web", "dry_run": true}))?;

    assert_eq!(code(&refused), "image.in_use");
    assert_eq!(
        refused.message,
        "the image \"web\" is in use by the machines one, two, three and 1 more"
    );
    assert_eq!(refused.data["hint"]["command"], "kiln stop one two three");
    assert_eq!(dry.message, refused.message);
    one.running.kill()?;
    let killed = ended(&stage, "one")?;
    assert_eq!(killed["reason"], "the process that ran it is gone");
    drop(others);
    for name in ["two", "three", "four"] {
        ended(&stage, name)?;
    }
    let forgotten = stage.call("image.forget", &forget)?;
    assert_eq!(forgotten["image"]["state"], "deleted");
    Ok(())
}

#[test]
fn a_forced_forget_hides_the_image_and_leaves_the_machine() -> Result<()> {
    let stage = stage()?;
    let mut machine = machine(&stage, 1, "front", "web", Nature::Usual)?;

    let refused = kiln(&stage, &["forget", "web"])?;
    let forced = kiln(&stage, &["forget", "web", "--force"])?;
    let again = kiln(&stage, &["forget", "web"])?;

    assert_eq!(refused.code, Some(5), "{}", refused.err);
    assert!(refused.err.contains("kiln stop front"), "{}", refused.err);
    assert_eq!(forced.code, Some(0), "{}", forced.err);
    assert!(again.out.contains("was forgotten before"), "{}", again.out);
    assert_eq!(machine.running.poll()?, None);
    assert_eq!(get(&stage, "front")?["state"], "starting");
    let params = params(&stage, 2, "late", "web");
    let late = stage.refused("instance.register", &params)?;
    assert_eq!(code(&late), "image.not_found");
    assert!(late.message.contains("is forgotten"), "{late}");
    Ok(())
}

#[test]
fn a_daemon_that_comes_back_finds_its_machines_again() -> Result<()> {
    let mut stage = stage()?;
    let mut one = machine(&stage, 1, "one", "web", Nature::Usual)?;
    let mut other = machine(&stage, 2, "other", "web", Nature::Usual)?;
    stage.daemon.stop()?;
    one.running.kill()?;

    stage.daemon.start_again()?;

    let gone = get(&stage, "one")?;
    assert_eq!(gone["state"], "ended");
    assert_eq!(gone["reason"], "the process that ran it is gone");
    assert_eq!(get(&stage, "other")?["state"], "starting");
    let refused = stage.refused("image.forget", &json!({"image": "web"}))?;
    assert_eq!(code(&refused), "image.in_use");
    assert!(refused.message.ends_with("the machine other"), "{refused}");
    // Killed, it finds them all the same, and watches.
    stage.daemon.kill()?;
    stage.daemon.start_again()?;
    assert_eq!(get(&stage, "other")?["state"], "starting");
    other.running.kill()?;
    ended(&stage, "other")?;
    stage.call("image.forget", &json!({"image": "web"}))?;
    Ok(())
}

#[test]
fn stopping_signals_the_right_process_and_loses_patience_at_last() -> Result<()> {
    let stage = stage()?;
    let mut one = machine(&stage, 1, "one", "web", Nature::Usual)?;
    let mut other = machine(&stage, 2, "other", "web", Nature::Usual)?;
    let mut stubborn = machine(&stage, 3, "stubborn", "web", Nature::Stubborn)?;

    let stopped = kiln(&stage, &["stop", "one", "nobody"])?;
    let again = kiln(&stage, &["stop", "one"])?;

    assert_eq!(stopped.out, "machine one is ended\n");
    assert!(
        stopped.err.contains("no machine answers to \"nobody\""),
        "{}",
        stopped.err
    );
    assert_eq!(stopped.code, Some(9));
    assert_eq!(one.running.wait(LIMIT)?.signal(), Some(15));
    assert_eq!(
        (again.code, again.out.as_str()),
        (Some(0), "machine one is ended\n")
    );
    assert_eq!(other.running.poll()?, None);
    let killed = kiln(&stage, &["stop", "stubborn", "--time", "1s"])?;
    assert_eq!(killed.code, Some(0), "{}", killed.err);
    assert!(
        killed.err.contains("stubborn did not end in time"),
        "{}",
        killed.err
    );
    assert_eq!(stubborn.running.wait(LIMIT)?.signal(), Some(9));
    assert_eq!(other.running.poll()?, None);
    Ok(())
}

#[test]
fn a_console_is_printed_and_followed_to_the_end() -> Result<()> {
    let stage = stage()?;
    let mut machine = machine(&stage, 1, "front", "web", Nature::Usual)?;
    let whole = kiln(&stage, &["logs", "front"])?;
    let tail = kiln(&stage, &["logs", "front", "--tail", "1"])?;

    let followed = thread::scope(|scope| {
        let following = scope.spawn(|| kiln(&stage, &["logs", "front", "--follow"]));
        let console = folder(&stage, 1).join("console.log");
        fs::write(&console, "booting\r\nready\nlast words")?;
        machine.running.kill()?;
        following
            .join()
            .unwrap_or_else(|_| bail!("the thread panicked"))
    })?;

    assert_eq!(whole.out, "booting\r\nready\n");
    assert_eq!(tail.out, "ready\n");
    assert_eq!(followed.code, Some(0), "{}", followed.err);
    assert_eq!(followed.out, "booting\r\nready\nlast words");
    fs::remove_file(folder(&stage, 1).join("console.log"))?;
    let gone = kiln(&stage, &["logs", "front"])?;
    assert_eq!(gone.code, Some(3), "{}", gone.err);
    assert!(gone.err.contains("which belongs to user"), "{}", gone.err);
    Ok(())
}

#[test]
fn another_users_machines_are_theirs_alone() -> Result<()> {
    if tools::must_skip("another_users_machines_are_theirs_alone", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    let tap = Tap::start()?;
    tap.open();
    as_nobody(|| stage.pull(&tap.reference(), "theirs"))?;
    let _ours = machine(&stage, 1, "front", "web", Nature::Usual)?;
    let theirs = machine(&stage, 2, "front", "theirs", Nature::AsNobody)?;

    let (listed, got, hidden, finish, unseen, foreign) = as_nobody(|| {
        Ok((
            names(&stage, &json!({"all": true}))?,
            get(&stage, "front")?,
            stage.refused("instance.get", &json!({"instance": id(1)}))?,
            stage.refused("instance.finish", &json!({"instance_id": id(1)}))?,
            // The process of this thread is another user's.
            stage.refused("instance.register", &params(&stage, 3, "x", "theirs"))?,
            stage.refused("image.forget", &json!({"image": "web"}))?,
        ))
    })?;

    assert_eq!(theirs.view["owner_uid"], NOBODY);
    assert_eq!(listed, ["front"]);
    assert_eq!(got["id"], id(2));
    assert_eq!(code(&hidden), "instance.not_found");
    assert_eq!(code(&finish), "instance.not_found");
    assert_eq!(code(&unseen), "instance.no_process");
    assert_eq!(code(&foreign), "request.denied");
    // Root sees both; its own name is meant first.
    assert_eq!(names(&stage, &json!({}))?, ["front", "front"]);
    assert_eq!(get(&stage, "front")?["id"], id(1));
    let stopped = kiln(&stage, &["stop", &id(2)])?;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert_eq!(get(&stage, "front")?["state"], "starting");
    Ok(())
}
