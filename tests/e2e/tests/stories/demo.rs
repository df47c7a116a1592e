//! `kiln demo`: with a daemon and without, kept and interrupted, and without a kernel.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
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
    let mut command = newcomer.kiln(&["demo", "--deb", &deb], &newcomer.path("nobody.sock"))?;
    command.stdout(File::create(newcomer.path("output"))?);
    let mut demo = command.stderr(File::create(&errors)?).spawn()?;
    let machine_is_started = || {
        let said = fs::read_to_string(&errors)?;
        Ok(said.contains("$ kiln run").then_some(said))
    };
    let said = wait::until("the machine's start", LIMIT, machine_is_started)?;
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
