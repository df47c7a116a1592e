//! The main job as a newcomer sees it: a real image from a real registry, built, published and
//! booted, with each command shown as a user would type it.
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
use kiln_testkit::qemu::{Accelerator, Ending, Machine, Until};
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::{initrd, process};
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

/// Longest path of a socket on Linux, in bytes, its closing zero not counted; source: unix(7).
const SOCKET_PATH_BYTES: usize = 107;

/// Everything that is made once and kept.
#[derive(Debug)]
struct Parts {
    image: DebianImage,
    kernel: CloudKernel,
    initrd: PathBuf,
    accelerator: Accelerator,
}

/// Where one journey takes place.
#[derive(Debug)]
struct Place<'a> {
    /// The folder with `kilnd` and `kiln` in it.
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
    console::heading("the image, the kernel and the initrd (made once, kept in target/)");
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
    let initrd = initrd::for_image(fixtures, &kernel)?;
    console::line(format_args!("initrd: {}", initrd.display()));
    let accelerator = Accelerator::probe(fixtures, &kernel)?;
    console::line(match accelerator {
        Accelerator::Kvm => "KVM runs guests here",
        Accelerator::Tcg => "KVM runs no guests here: QEMU emulates the processor (TCG)",
    });
    let image = debian::demo(fixtures)?;
    console::line(format_args!("image:  {}", image.source()));
    Ok(Parts {
        image,
        kernel,
        initrd,
        accelerator,
    })
}

/// Pulls, checks and boots the image; fails unless the guest says everything it should.
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
    };
    console::typed(&["export", &format!("KILN_HOST={}", client.host)]);
    let deb = parts.kernel.deb.display().to_string();
    let initrd = parts.initrd.display().to_string();
    client.show(&[
        "kernel", "import", "debian", "--deb", &deb, "--initrd", &initrd,
    ])?;
    client.show(&["pull", &reference, "--kernel", "debian"])?;
    let image = client.only_image()?;
    client.show(&["image", "show", &image.name])?;

    console::heading("the image is a clean ext4 filesystem, and it boots");
    let mut check = process::command(tools::require(tools::E2FSCK)?);
    check.arg("-fn").arg(&image.rootfs);
    show(
        check,
        &["e2fsck", "-fn", &image.rootfs.display().to_string()],
    )?;
    boot(
        &Machine {
            kernel: image.kernel,
            initrd: image.initrd,
            rootfs: Some(image.rootfs),
            memory_mib: 512,
            accelerator: parts.accelerator,
        },
        &parts.kernel.release,
    )
}

fn boot(machine: &Machine, release: &str) -> Result<()> {
    let mut words = vec!["qemu-system-x86_64".to_owned()];
    words.extend(machine.words());
    console::typed(&words);
    let boot = machine.boot(Until::PowerOff, BOOT_LIMIT, &mut console::bytes)?;
    if boot.ending != Ending::PoweredOff {
        bail!("the guest did not turn its machine off within {BOOT_LIMIT:?}");
    }
    for line in [
        debian::DEMO_MARKER,
        &format!("kiln-demo: Linux {release}"),
        debian::DEMO_REPLACED,
        "kiln-demo: what a layer removed is gone",
    ] {
        if !boot.console.contains(line) {
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
}

/// What the journey needs to know of the image.
#[derive(Debug)]
struct Image {
    name: String,
    rootfs: PathBuf,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
}

impl Client {
    /// Runs a command for all to see.
    fn show(&self, words: &[&str]) -> Result<()> {
        let typed: Vec<&str> = [&["kiln"], words].concat();
        show(self.command(words), &typed)
    }

    /// Asks for the one image there is.
    fn only_image(&self) -> Result<Image> {
        let list = self.json(&["image", "list", "--format", "json"])?;
        let items = list.get("items").unwrap_or(&list);
        let image = items.get(0).context("there is no image")?;
        let text = |pointer: &str| image.pointer(pointer).and_then(Value::as_str);
        let path = |pointer: &str| {
            let text = text(pointer).with_context(|| format!("the image has no {pointer}"));
            text.map(PathBuf::from)
        };
        Ok(Image {
            name: text("/name").context("the image has no name")?.to_owned(),
            rootfs: path("/rootfs/path")?,
            kernel: path("/kernel/path")?,
            initrd: path("/kernel/initrd_path").ok(),
        })
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let output = process::run(self.command(words), COMMAND_LIMIT)?;
        serde_json::from_slice(&output.stdout).context("kiln printed no JSON")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = process::command(&self.program);
        command.args(words).env("KILN_HOST", &self.host);
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
