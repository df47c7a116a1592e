//! The main job as a newcomer sees it: a real image from a real registry, built, published and
//! run, with each command shown as a user would type it.
//!
//! `make demo` plays it with release builds below `target/demo`; the suite `boot` plays it with
//! what the tests were built as, in a temporary folder. Only fixtures are kept from one time to
//! the next: the daemon's root is made anew, so that every demo really does the work.

use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kiln_testkit::daemon::{Daemon, Start};
use kiln_testkit::debs::{self, CloudKernel};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::debian::{self, DebianImage};
use kiln_testkit::process;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools::{self, Need};
use serde_json::Value;

use crate::stream::{self, Echo};
use crate::tally::Tally;
use crate::{cargo, console, packages};

/// What the journey starts programs of.
const NEEDS: &[Need] = &[
    tools::APT_CACHE,
    tools::APT_GET,
    tools::DOCKER_REGISTRY,
    tools::DPKG_DEB,
    tools::E2FSCK,
    tools::MMDEBSTRAP,
    tools::QEMU,
    tools::SKOPEO,
];

/// Longest time one command of the journey may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(600);

/// Longest time the guest may take under software emulation.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Name of the folder below the daemon's root that has the machine's files while it runs.
const INSTANCES: &str = "instances";

/// Longest path of a socket on Linux, in bytes, its closing zero not counted; source: unix(7).
const SOCKET_PATH_BYTES: usize = 107;

/// Everything that is made once and kept.
#[derive(Debug)]
struct Parts {
    image: DebianImage,
    kernel: CloudKernel,
}

/// Where one journey takes place.
#[derive(Debug)]
struct Place<'a> {
    /// The folder with `kilnd`, `kiln` and `kiln-runner` in it.
    programs: &'a Path,
    /// The daemon's root, which is empty.
    root: &'a Path,
}

/// Plays the demo.
pub(crate) fn demo() -> Result<()> {
    let start = Instant::now();
    refuse_without_tools()?;
    console::heading("building Kiln");
    cargo::build_release()?;
    let programs = cargo::release_folder()?;
    let target = programs.parent().context("no target folder")?;
    console::heading("the image and the kernel (made once, kept in target/)");
    let parts = parts(&Fixtures::at(target.join("kiln-fixtures"))?)?;

    let mut root = target.join("demo");
    let elsewhere = tempfile::Builder::new()
        .prefix("kiln-demo-")
        .tempdir_in("/tmp")
        .context("cannot make a folder for the demo")?;
    if root.join("kiln-files.sock").as_os_str().as_bytes().len() > SOCKET_PATH_BYTES {
        root = elsewhere.path().join("root");
    } else if root.exists() {
        // What the demo before left for its user to look at.
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    let ready = start.elapsed();
    play(
        &parts,
        &Place {
            programs: &programs,
            root: &root,
        },
    )?;
    console::line(format_args!(
        "\nThe demo worked: an image from a registry ran as a virtual machine, {:.0} s after Kiln \
         and the image were ready.",
        start.elapsed().saturating_sub(ready).as_secs_f64()
    ));
    Ok(())
}

/// Makes the parts as a suite of its own, so that no test is charged for their making.
pub(crate) fn check_fixtures() -> Result<Tally> {
    if tools::must_skip("fixtures", NEEDS)? {
        return Ok(Tally::SKIPPED);
    }
    let parts = parts(&Fixtures::shared()?)?;
    console::line(format_args!("{parts:#?}"));
    Ok(Tally::PASSED)
}

/// Plays the journey as a test.
pub(crate) fn check_boot() -> Result<Tally> {
    if tools::must_skip("boot", NEEDS)? {
        return Ok(Tally::SKIPPED);
    }
    let program = env::current_exe().context("cannot find the running program")?;
    let folder = tempfile::Builder::new()
        .prefix("kiln-boot-")
        .tempdir_in("/tmp")
        .context("cannot make a folder for the daemon")?;
    play(
        &parts(&Fixtures::shared()?)?,
        &Place {
            programs: program.parent().context("the runner is in no folder")?,
            root: &folder.path().join("root"),
        },
    )?;
    Ok(Tally::PASSED)
}

/// Makes what is not there yet.
fn parts(fixtures: &Fixtures) -> Result<Parts> {
    let kernel = match debs::cloud_kernel(fixtures) {
        Err(error) if tools::require(Need::Root).is_ok() => {
            // Old lists name package files that the archive has replaced since.
            console::line(format_args!("{error:#}"));
            packages::refresh()?;
            debs::cloud_kernel(fixtures)?
        }
        outcome => outcome?,
    };
    console::line(format_args!("kernel: {}", kernel.deb.display()));
    let image = debian::demo(fixtures)?;
    console::line(format_args!("image:  {}", image.source()));
    Ok(Parts { image, kernel })
}

/// Pulls, checks and runs the image; fails unless the guest says everything it should.
fn play(parts: &Parts, place: &Place<'_>) -> Result<()> {
    console::heading("a real registry on loopback, with the image in it");
    console::typed(&["docker-registry", "serve", "config.yml", "&"]);
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let source = parts.image.source();
    let destination = format!("docker://{}/demo:1", registry.host());
    console::typed(&[
        "skopeo",
        "copy",
        "--dest-tls-verify=false",
        &source,
        &destination,
    ]);
    let reference = registry.push(&source, "demo:1")?;

    console::heading("Kiln: a daemon of its own, a kernel, an image");
    let root = place.root.display().to_string();
    console::typed(&["kilnd", "--root", &root, "&"]);
    let daemon =
        Daemon::start_program(&place.programs.join("kilnd"), place.root, Start::default())?;
    let client = Client {
        program: place.programs.join("kiln"),
        host: format!("unix://{}", daemon.socket().display()),
        instances: place.root.join(INSTANCES),
    };
    console::typed(&["export", &format!("KILN_HOST={}", client.host)]);
    let deb = parts.kernel.deb.display().to_string();
    client.show(&["kernel", "import", "debian", "--deb", &deb, "--default"])?;
    client.show(&["pull", &reference])?;
    let image = client.only_image()?;
    client.show(&["image", "show", &image.name])?;

    console::heading("the image is a clean ext4 filesystem");
    let mut check = process::command(tools::require(tools::E2FSCK)?);
    check.arg("-fn").arg(&image.rootfs);
    show(
        check,
        &["e2fsck", "-fn", &image.rootfs.display().to_string()],
    )?;

    console::heading("its entrypoint runs in a virtual machine");
    let said = client.show_run(&image.name)?;
    for line in [
        debian::DEMO_MARKER,
        &format!("kiln-demo: Linux {}", parts.kernel.release),
        debian::DEMO_CONFIG,
        debian::DEMO_REPLACED,
        "kiln-demo: what a layer removed is gone",
    ] {
        if !said.contains(line) {
            bail!("the guest did not say {line:?}");
        }
    }
    Ok(())
}

/// The built `kiln`, and the daemon it talks to.
#[derive(Debug)]
struct Client {
    program: PathBuf,
    host: String,
    /// Where machines have their files.
    instances: PathBuf,
}

/// What the journey needs to know of the image.
#[derive(Debug)]
struct Image {
    name: String,
    rootfs: PathBuf,
}

impl Client {
    /// Runs a command for all to see.
    fn show(&self, words: &[&str]) -> Result<()> {
        let typed: Vec<&str> = [&["kiln"], words].concat();
        show(self.command(words), &typed)
    }

    /// Runs an image for all to see and returns what was printed.
    fn show_run(&self, image: &str) -> Result<String> {
        let words = ["run", "--rm", image];
        console::typed(&[&["kiln"], &words[..]].concat());
        let mut said = String::new();
        let command = self.command(&words);
        let status = stream::run(command, "kiln run", BOOT_LIMIT, &mut |line| {
            said.push_str(line);
            said.push('\n');
            Echo::Show
        })?;
        if !status.success() {
            bail!("kiln run ended with {status}");
        }
        Ok(said)
    }

    /// Asks for the one image there is.
    fn only_image(&self) -> Result<Image> {
        let list = self.json(&["image", "list", "--format", "json"])?;
        let items = list.get("items").unwrap_or(&list);
        let image = items.get(0).context("there is no image")?;
        let text = |pointer: &str| {
            let text = image.pointer(pointer).and_then(Value::as_str);
            text.with_context(|| format!("the image has no {pointer}"))
        };
        Ok(Image {
            name: text("/name")?.to_owned(),
            rootfs: PathBuf::from(text("/rootfs/path")?),
        })
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let output = process::run(self.command(words), COMMAND_LIMIT)?;
        serde_json::from_slice(&output.stdout).context("kiln printed no JSON")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = process::command(&self.program);
        command.args(words).env("KILN_HOST", &self.host);
        command.env("KILN_INSTANCES", &self.instances);
        command
    }
}

fn show(command: Command, typed: &[&str]) -> Result<()> {
    console::typed(typed);
    let name = typed.first().copied().unwrap_or_default();
    let status = stream::run(command, name, COMMAND_LIMIT, &mut |_| Echo::Show)?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    Ok(())
}

fn refuse_without_tools() -> Result<()> {
    let missing: Vec<String> = NEEDS
        .iter()
        .filter_map(|need| tools::require(*need).err())
        .map(|missing| missing.to_string())
        .collect();
    if !missing.is_empty() {
        bail!(
            "the demo needs programs that are not here:\n  {}",
            missing.join("\n  ")
        );
    }
    Ok(())
}
