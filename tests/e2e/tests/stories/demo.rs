//! `kiln demo`: with a daemon and without, kept and interrupted, and without a kernel.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Output};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use kiln_testkit::daemon::{self, Daemon, Start};
use kiln_testkit::{elf, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::newcomer::{LIMIT, Newcomer};
use crate::stage::{entries, text};

/// What the guest says of what the image's config asks for.
const TRANSLATED: &[&str] = &[
    "Hello from a virtual machine! I am /hello, the image's own entrypoint.",
    "  hostname     kiln-demo",
    "  user         hello (1000)",
    "  groups       hello (1000), guests (2000)",
    "  directory    /home/hello",
    "  environment  GREETING=the environment is the image's",
];

/// Runs a command to its end.
fn ended(mut command: Command) -> Result<Output> {
    command.output().with_context(|| format!("{command:?}"))
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "")
}

/// Fails unless the demo succeeded and its guest said what it should.
fn assert_greeted(output: &Output, release: &str) {
    let (stdout, stderr) = (words(&output.stdout), words(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    let kernel = format!("  kernel       Linux {release} on x86_64");
    for line in TRANSLATED.iter().copied().chain([kernel.as_str()]) {
        assert!(
            stdout.lines().any(|said| said == line),
            "{line:?}: {stdout}"
        );
    }
    assert!(stderr.contains("\nThat was a virtual machine."), "{stderr}");
}

#[test]
fn a_demo_with_a_daemon_leaves_it_as_it_was() -> Result<()> {
    let name = "a_demo_with_a_daemon_leaves_it_as_it_was";
    let Some(newcomer) = Newcomer::for_test(name, &[])? else {
        return Ok(());
    };
    let daemon = newcomer.daemon()?;
    let deb = &newcomer.kernel.deb;
    daemon.call("kernel.import", &json!({"name": "cloud", "deb_path": deb}))?;
    fs::write(newcomer.path("vmlinux"), elf::smallest(elf::X86_64))?;
    let tiny = json!({"name": "tiny", "kernel_path": newcomer.path("vmlinux")});
    daemon.call("kernel.import", &tiny)?;

    let undecided = ended(newcomer.kiln(&["demo"], &daemon.socket())?)?;
    daemon.call("kernel.set_default", &json!({"name": "cloud"}))?;
    let played = ended(newcomer.kiln(&["demo"], &daemon.socket())?)?;

    let refusal = words(&undecided.stderr);
    assert_eq!(undecided.status.code(), Some(3), "{refusal}");
    let want = "error: there are several kernels, and none is the default\n  \
                hint: name one:  kiln demo --kernel tiny\n";
    assert_eq!(refusal, want);
    assert_greeted(&played, &newcomer.kernel.release);
    for (method, params, want) in [
        ("image.list", json!({}), 0),
        ("instance.list", json!({"all": true}), 0),
        ("kernel.list", json!({}), 2),
    ] {
        let listed = daemon.call(method, &params)?;
        let items = listed["items"].as_array().context("no items")?;
        assert_eq!(items.len(), want, "{method}: {listed}");
    }
    assert_eq!(entries(&newcomer.temporary())?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_demo_without_a_daemon_brings_its_own_and_can_be_kept() -> Result<()> {
    let name = "a_demo_without_a_daemon_brings_its_own_and_can_be_kept";
    let Some(newcomer) = Newcomer::for_test(name, &[])? else {
        return Ok(());
    };
    let nobody = newcomer.path("nobody.sock");
    let deb = newcomer.kernel.deb.display().to_string();

    let played = ended(newcomer.kiln(&["demo", "--deb", &deb, "--keep"], &nobody)?)?;

    assert_greeted(&played, &newcomer.kernel.release);
    let stderr = words(&played.stderr);
    let kept = stderr
        .lines()
        .find_map(|line| line.strip_prefix("kept the image kiln-demo in "))
        .with_context(|| stderr.clone())?;
    let root = Path::new(kept);
    assert!(root.starts_with(newcomer.temporary()), "{kept}");
    let gone = daemon::call(&root.join("kiln.sock"), 1, "daemon.info", &json!({}));
    assert!(gone.is_err(), "its daemon still runs");
    // What it says can be done: a daemon that is started there has the image.
    let again =
        Daemon::start_program(&newcomer.installed.program("kilnd"), root, Start::default())?;
    let image = again.call("image.get", &json!({"image": "kiln-demo"}))?;
    assert_eq!(text(&image, "state")?, "available");
    assert_eq!(image["config"]["User"], "hello", "{image}");
    Ok(())
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing() -> Result<()> {
    let Some(newcomer) = Newcomer::for_test("a_demo_that_is_interrupted_leaves_nothing", &[])?
    else {
        return Ok(());
    };
    let deb = newcomer.kernel.deb.display().to_string();
    let errors = newcomer.path("errors");
    let command = newcomer.kiln(&["demo", "--deb", &deb], &newcomer.path("nobody.sock"))?;
    let (mut demo, said) = started(&newcomer, command, "$ kiln run")?;
    let root = said
        .lines()
        .find_map(|line| line.strip_prefix("$ kilnd --root ")?.strip_suffix(" &"))
        .with_context(|| said.clone())?
        .to_owned();

    let pid = Pid::from_child(&demo);
    kill_process(pid, Signal::INT)?;
    let status = wait::until("the demo's end", LIMIT, || Ok(demo.try_wait()?))?;

    assert_eq!(status.code(), Some(130), "{}", fs::read_to_string(&errors)?);
    assert_eq!(entries(&newcomer.temporary())?, Vec::<String>::new());
    assert!(!Path::new(&root).exists());
    let living = fs::read_dir("/proc")?.flatten().any(|process| {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&root)
    });
    assert!(!living, "something that was started for {root} still runs");
    Ok(())
}

/// Starts a demo, and returns it as soon as it has written `words`, with all that it has written.
fn started(newcomer: &Newcomer, mut command: Command, words: &str) -> Result<(Child, String)> {
    let errors = newcomer.path("errors");
    command.stdout(File::create(newcomer.path("output"))?);
    let demo = command.stderr(File::create(&errors)?).spawn()?;
    let said = wait::until(words, LIMIT, || {
        let said = fs::read_to_string(&errors)?;
        Ok(said.contains(words).then_some(said))
    })?;
    Ok((demo, said))
}

#[test]
fn a_demo_that_is_stopped_while_the_daemon_works_leaves_nothing() -> Result<()> {
    let name = "a_demo_that_is_stopped_while_the_daemon_works_leaves_nothing";
    let Some(newcomer) = Newcomer::for_test(name, &[])? else {
        return Ok(());
    };
    let daemon = newcomer.daemon()?;
    let deb = newcomer.kernel.deb.display().to_string();
    for (words, signal) in [
        ("$ kiln kernel import", Signal::QUIT),
        ("$ kiln kernel import", Signal::INT),
        ("$ kiln pull", Signal::TERM),
    ] {
        let command = newcomer.kiln(&["demo", "--deb", &deb], &daemon.socket())?;
        let (mut demo, _) = started(&newcomer, command, words)?;

        kill_process(Pid::from_child(&demo), signal)?;
        let status = wait::until("the demo's end", LIMIT, || Ok(demo.try_wait()?))?;

        let said = fs::read_to_string(newcomer.path("errors"))?;
        assert_eq!(status.code(), Some(130), "{signal:?}: {said}");
        assert!(!said.contains("clean up"), "{said}");
        for method in ["kernel.list", "image.list"] {
            let listed = daemon.call(method, &json!({}))?;
            assert_eq!(listed["items"], json!([]), "{method} after {signal:?}");
        }
        assert_eq!(entries(&newcomer.temporary())?, Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn nothing_that_a_demo_started_outlives_it() -> Result<()> {
    let Some(newcomer) = Newcomer::for_test("nothing_that_a_demo_started_outlives_it", &[])? else {
        return Ok(());
    };
    let deb = newcomer.kernel.deb.display().to_string();
    let nobody = newcomer.path("nobody.sock");
    let command = newcomer.kiln(&["demo", "--deb", &deb], &nobody)?;
    let (mut demo, _) = started(&newcomer, command, "$ kiln run")?;
    // All of them were told this folder, in a word or in a variable.
    let folder = newcomer.path("").display().to_string();
    let living = || -> Result<Vec<String>> {
        let mut found = Vec::new();
        for process in fs::read_dir("/proc")?.flatten() {
            let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
            let told = [read("cmdline"), read("environ")].concat();
            if String::from_utf8_lossy(&told).contains(&folder) {
                let name = String::from_utf8_lossy(&read("comm")).trim_end().to_owned();
                found.push(name);
            }
        }
        Ok(found)
    };
    wait::until("the machine", LIMIT, || {
        let has_monitor = living()?.iter().any(|name| name.starts_with("qemu"));
        Ok(has_monitor.then_some(()))
    })?;
    assert!(living()?.contains(&"kilnd".to_owned()));

    demo.kill()?;
    demo.wait()?;

    wait::until("the end of all", LIMIT, || {
        Ok(living()?.is_empty().then_some(()))
    })
}

#[test]
fn demos_side_by_side_take_different_names_and_leave_what_is_not_theirs() -> Result<()> {
    let name = "demos_side_by_side_take_different_names_and_leave_what_is_not_theirs";
    let Some(newcomer) = Newcomer::for_test(name, &[])? else {
        return Ok(());
    };
    let daemon = newcomer.daemon()?;
    let deb = &newcomer.kernel.deb;
    daemon.call("kernel.import", &json!({"name": "cloud", "deb_path": deb}))?;
    let play = |more: &[&str]| -> Result<Output> {
        let words = [&["demo"], more].concat();
        ended(newcomer.kiln(&words, &daemon.socket())?)
    };

    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| play(&["--keep"]));
        let other = scope.spawn(|| play(&[]));
        (one.join(), other.join())
    });

    for played in [one, other] {
        let played = played.map_err(|_| anyhow!("a thread ended early"))??;
        let (stdout, stderr) = (words(&played.stdout), words(&played.stderr));
        assert_eq!(played.status.code(), Some(0), "{stdout}\n{stderr}");
        assert!(stdout.contains(TRANSLATED[0]), "{stdout}");
    }
    let listed = daemon.call("image.list", &json!({}))?;
    let items = listed["items"].as_array().context("no items")?;
    assert_eq!(items.len(), 1, "{listed}");
    Ok(())
}

#[test]
fn a_demo_without_a_kernel_says_how_to_get_one() -> Result<()> {
    let Some(newcomer) = Newcomer::for_test("a_demo_without_a_kernel_says_how_to_get_one", &[])?
    else {
        return Ok(());
    };
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let places = ["/boot/vmlinuz-", "/boot/vmlinux-", "/boot/kernel-"];
    let modules = format!("/lib/modules/{release}/vmlinuz");
    let has_kernel = |place: &&str| Path::new(&format!("{place}{release}")).exists();
    if places.iter().any(has_kernel) || Path::new(&modules).exists() {
        eprintln!("SKIPPED a_demo_without_a_kernel_says_how_to_get_one: this host has a kernel");
        return Ok(());
    }

    let refused = ended(newcomer.kiln(&["demo"], &newcomer.path("nobody.sock"))?)?;
    let named = ended(newcomer.kiln(
        &["--host", "unix:///nobody.sock", "demo"],
        &newcomer.path("nobody.sock"),
    )?)?;

    let stderr = words(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{stderr}");
    assert!(
        stderr.contains("error: there is no kernel to boot with"),
        "{stderr}"
    );
    assert!(
        stderr.contains("&& kiln demo --deb linux-image-*.deb\n"),
        "{stderr}"
    );
    assert_eq!(entries(&newcomer.temporary())?, Vec::<String>::new());
    // Who names a daemon means that one.
    assert_eq!(named.status.code(), Some(7), "{}", words(&named.stderr));
    Ok(())
}
