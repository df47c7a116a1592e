//! Initrds for Debian's kernel: what is in them by other programs, and what a guest makes of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_kernel::{
    Architecture, BaseInitrd, Boots, CpioLimits, CpioNode, CpioWriter, DriverPlan,
    InitrdCompression, KernelConfig, KnownKernel, ModuleHost, ModuleTree, Monitor, WANTED_DRIVERS,
    check, compose, image_archive, inspect, instance_archive, plan_drivers, read_initramfs,
};
use kiln_testkit::debs::{self, CloudKernel};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::process;
use kiln_testkit::qemu::{Accelerator, Ending, Machine, Until};
use kiln_testkit::tools::{self, Need};

/// What getting Debian's packages takes.
const PACKAGES: [Need; 3] = [tools::APT_GET, tools::APT_CACHE, tools::DPKG_DEB];
/// Longest time of a boot. It takes four seconds on a quiet machine without acceleration.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// Longest time of a small program.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// Loads the modules in their order, looks for the disk, and shows the documents.
const INIT: &str = r#"#!/bin/busybox sh
busybox() { /bin/busybox "$@"; }
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t proc proc /proc
for module in $(busybox cat /kiln/modules.order); do
    busybox insmod "$module" && echo "loaded $module" || echo "FAILED $module"
done
tries=0
while ! [ -b /dev/vda ] && [ "$tries" -lt 500 ]; do
    tries=$((tries + 1))
    busybox usleep 10000
done
echo "disk: $(busybox dd if=/dev/vda bs=1 count=9 2>/dev/null)"
for document in boot instance; do
    echo "$document: $(busybox cat /kiln/$document.json)"
done
busybox poweroff -f
"#;

struct Guest {
    kernel: CloudKernel,
    config: KernelConfig,
    tree: ModuleTree,
    plan: DriverPlan,
}

fn guest(fixtures: &Fixtures) -> Result<Guest> {
    let kernel = debs::cloud_kernel(fixtures)?;
    let beside = format!("config-{}", kernel.release);
    let config = KernelConfig::read(&File::open(kernel.kernel.with_file_name(beside))?)?;
    let mut tree = ModuleTree::open(&kernel.modules, &AtomicBool::new(false))?;
    let host = ModuleHost {
        architecture: Architecture::X86_64,
        release: Some(&kernel.release),
    };
    let plan = plan_drivers(WANTED_DRIVERS, Some(&mut tree), Some(&config), host)?;
    Ok(Guest {
        kernel,
        config,
        tree,
        plan,
    })
}

/// Busybox, which runs [`INIT`], as an archive of its own.
fn busybox_archive(fixtures: &Fixtures) -> Result<Vec<u8>> {
    let busybox = debs::package(fixtures, "busybox-static")?;
    let mut archive = CpioWriter::default();
    archive.directory("bin")?;
    archive.file(
        "bin/busybox",
        0o755,
        fs::read(busybox.tree.join("bin/busybox"))?,
    )?;
    Ok(archive.to_bytes())
}

fn boot(
    fixtures: &Fixtures,
    guest: &Guest,
    folder: &Path,
    compression: InitrdCompression,
) -> Result<String> {
    let base = BaseInitrd::read(INIT.as_bytes(), &guest.tree, &guest.plan.load, compression)?;
    let initrd = compose(
        &base.build()?,
        &[
            &busybox_archive(fixtures)?,
            &image_archive(br#"{"entrypoint":["/bin/true"]}"#)?,
            &instance_archive(br#"{"hostname":"one"}"#)?,
        ],
    );
    let (initrd_path, disk_path) = (folder.join("initrd.img"), folder.join("disk"));
    fs::write(&initrd_path, initrd)?;
    let mut disk = b"kiln-disk".to_vec();
    disk.resize(1 << 20, 0);
    fs::write(&disk_path, disk)?;
    let machine = Machine {
        kernel: guest.kernel.kernel.clone(),
        initrd: Some(initrd_path),
        rootfs: Some(disk_path),
        memory_mib: 256,
        accelerator: Accelerator::Tcg,
    };
    let boot = machine.boot(Until::PowerOff, BOOT_LIMIT, &mut |_| ())?;
    anyhow::ensure!(
        boot.ending == Ending::PoweredOff,
        "the guest did not end: {}",
        boot.console
    );
    Ok(boot.console)
}

#[test]
fn a_guest_loads_all_modules_in_their_order_and_sees_what_was_appended() -> Result<()> {
    let needs = [&PACKAGES[..], &[tools::QEMU]].concat();
    if tools::must_skip("a guest with an initrd", &needs)? {
        return Ok(());
    }
    let fixtures = Fixtures::shared()?;
    let guest = guest(&fixtures)?;
    assert_eq!(
        InitrdCompression::for_kernel(Some(&guest.config)),
        InitrdCompression::Zstd
    );
    for compression in [InitrdCompression::Zstd, InitrdCompression::Gzip] {
        let folder = tempfile::tempdir()?;

        let console = boot(&fixtures, &guest, folder.path(), compression)?;

        assert!(!console.contains("FAILED"), "{compression:?}: {console}");
        let loaded: Vec<&str> = console
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("loaded /kiln/modules/"))
            .collect();
        let order = guest.plan.load.iter();
        let order: Vec<String> = order.map(|module| format!("{}.ko", module.name)).collect();
        assert_eq!(loaded, order, "{console}");
        for want in [
            "disk: kiln-disk",
            r#"boot: {"entrypoint":["/bin/true"]}"#,
            r#"instance: {"hostname":"one"}"#,
        ] {
            assert!(console.contains(want), "{compression:?}, {want}: {console}");
        }
    }
    Ok(())
}

#[test]
fn drivers_of_the_cloud_kernel_are_modules_but_ext4() -> Result<()> {
    if tools::must_skip("drivers of the cloud kernel", &PACKAGES)? {
        return Ok(());
    }
    let guest = guest(&Fixtures::shared()?)?;

    let built_in: Vec<&str> = guest
        .plan
        .built_in
        .iter()
        .map(|driver| driver.module)
        .collect();
    assert_eq!(built_in, ["ext4"]);
    assert_eq!(guest.plan.missing, []);
    assert!(guest.plan.reaches_root());
    let order = guest.plan.load.iter();
    let order: Vec<&str> = order.map(|module| module.name.as_str()).collect();
    let at = |name: &str| order.iter().position(|module| *module == name);
    for (first, later) in [
        ("virtio_ring", "virtio"),
        ("virtio", "virtio_pci"),
        ("virtio_pci_modern_dev", "virtio_pci"),
        ("virtio_pci_legacy_dev", "virtio_pci"),
        ("net_failover", "virtio_net"),
        ("vsock", "vmw_vsock_virtio_transport"),
    ] {
        assert!(
            at(first).is_some() && at(first) < at(later),
            "{first}, {later}: {order:?}"
        );
    }
    Ok(())
}

#[test]
fn the_cloud_kernel_boots_everywhere_with_an_initrd() -> Result<()> {
    if tools::must_skip("verdicts on the cloud kernel", &PACKAGES)? {
        return Ok(());
    }
    let guest = guest(&Fixtures::shared()?)?;
    let file = File::open(&guest.kernel.kernel)?;
    let facts = inspect(&file, &AtomicBool::new(false))?;
    let known = KnownKernel {
        facts: &facts,
        config: Some(&guest.config),
        modules: Some(guest.tree.names()),
    };
    for monitor in Monitor::ALL {
        let verdict = check(known, monitor);
        let transport = match monitor {
            Monitor::QemuMicrovm | Monitor::Firecracker => "virtio_mmio",
            Monitor::QemuQ35 | Monitor::CloudHypervisor => "virtio_pci",
        };
        assert_eq!(verdict.boots, Boots::WithInitrd, "{verdict:?}");
        assert_eq!(verdict.modules, [transport, "virtio_blk"], "{verdict:?}");
    }

    // Debian puts the configuration beside its kernels and not into them.
    let embedded = KernelConfig::embedded(&file, &AtomicBool::new(false))?;
    assert_eq!(embedded, None);
    let alone = KnownKernel {
        config: None,
        modules: None,
        ..known
    };
    assert_eq!(check(alone, Monitor::QemuQ35).boots, Boots::Unknown);
    Ok(())
}

/// An archive with a bit of everything.
fn sample() -> Result<CpioWriter<'static>> {
    let mut archive = CpioWriter::default();
    archive.directory("dev")?;
    for (name, node) in [
        (
            "dev/console",
            CpioNode::CharacterDevice { major: 5, minor: 1 },
        ),
        (
            "dev/vda",
            CpioNode::BlockDevice {
                major: 254,
                minor: 0,
            },
        ),
        ("link", CpioNode::Link(b"folder/file"[..].into())),
    ] {
        archive.add(name, 0o600, node)?;
    }
    archive.directory("folder")?;
    for length in 0..9_u8 {
        let name = format!("folder/{}", "n".repeat(usize::from(length) + 1));
        archive.file(name, 0o640, vec![b'a' + length; usize::from(length)])?;
    }
    archive.file("folder/file", 0o755, &b"content"[..])?;
    Ok(archive)
}

/// Programs that read archives, as Debian packages them; nothing is installed.
fn cpio_programs(fixtures: &Fixtures) -> Result<Vec<(PathBuf, &'static [&'static str])>> {
    let busybox = debs::package(fixtures, "busybox-static")?;
    let gnu = debs::package(fixtures, "cpio")?;
    let gnu = ["bin/cpio", "usr/bin/cpio"].map(|path| gnu.tree.join(path));
    let gnu = gnu.into_iter().find(|path| path.is_file());
    Ok(vec![
        (busybox.tree.join("bin/busybox"), &["cpio"]),
        (gnu.context("the package cpio has no cpio")?, &["--quiet"]),
    ])
}

fn run_on(
    archive: &Path,
    (program, words): &(PathBuf, &[&str]),
    more: &[&str],
    folder: &Path,
) -> Result<String> {
    let mut command = process::command(program);
    command.args(*words).args(more).current_dir(folder);
    command.stdin(Stdio::from(File::open(archive)?));
    Ok(process::run(command, PROGRAM_LIMIT)?.text())
}

#[test]
fn other_programs_read_what_is_written() -> Result<()> {
    if tools::must_skip("archives and cpio", &PACKAGES)? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let bytes = sample()?.to_bytes();
    let archive = folder.path().join("archive");
    fs::write(&archive, &bytes)?;
    let entries = read_initramfs(&bytes, CpioLimits::default())?;
    for program in cpio_programs(&Fixtures::shared()?)? {
        let listing = run_on(&archive, &program, &["-t"], folder.path())?;
        let names = entries.iter().map(|entry| entry.path.display().to_string());
        assert_eq!(
            listing.lines().collect::<Vec<_>>(),
            names.collect::<Vec<_>>(),
            "{program:?}"
        );
        let details = run_on(&archive, &program, &["-t", "-v"], folder.path())?;
        for (name, mode, number) in [("dev/console", "crw", "5,"), ("dev/vda", "brw", "254,")] {
            let line = details.lines().find(|line| line.ends_with(name));
            let line = line.with_context(|| format!("no {name}: {details}"))?;
            // Busybox shows no numbers.
            let shown = program.1 == ["cpio"] || line.contains(number);
            assert!(line.starts_with(mode) && shown, "{line}");
        }

        // Devices take the rights of root, so only the rest is unpacked.
        let into = tempfile::tempdir()?;
        run_on(
            &archive,
            &program,
            &["-i", "-d", "folder*", "link"],
            into.path(),
        )?;
        for entry in &entries {
            let path = into.path().join(&entry.path);
            match &entry.node {
                CpioNode::File(content) => assert_eq!(fs::read(path)?, **content),
                CpioNode::Link(target) => {
                    let found = fs::read_link(path)?;
                    assert_eq!(found.as_os_str().as_encoded_bytes(), &**target);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[test]
fn what_other_programs_write_is_read() -> Result<()> {
    if tools::must_skip("archives of cpio", &PACKAGES)? {
        return Ok(());
    }
    let top = tempfile::tempdir()?;
    fs::create_dir(top.path().join("folder"))?;
    fs::write(top.path().join("folder/file"), "content")?;
    fs::hard_link(
        top.path().join("folder/file"),
        top.path().join("folder/twin"),
    )?;
    std::os::unix::fs::symlink("folder/file", top.path().join("link"))?;
    let list = tempfile::NamedTempFile::new()?;
    fs::write(&list, ".\n./folder\n./folder/file\n./folder/twin\n./link\n")?;
    for (program, words) in cpio_programs(&Fixtures::shared()?)? {
        let mut command = Command::new(&program);
        command.args(words).args(["-o", "-H", "newc"]);
        command.current_dir(top.path());
        let output = command.stdin(Stdio::from(list.reopen()?)).output()?;
        assert!(output.status.success(), "{output:?}");

        let entries = read_initramfs(&output.stdout, CpioLimits::default())?;

        let names: BTreeSet<String> = entries
            .iter()
            .map(|entry| entry.path.display().to_string())
            .collect();
        let want = ["", "folder", "folder/file", "folder/twin", "link"];
        assert_eq!(names, want.map(str::to_owned).into(), "{program:?}");
        let contents: Vec<&[u8]> = entries
            .iter()
            .filter_map(|entry| match &entry.node {
                CpioNode::File(content) => Some(&**content),
                _ => None,
            })
            .collect();
        assert!(
            contents.contains(&&b"content"[..]),
            "{program:?}: {contents:?}"
        );
    }
    Ok(())
}
