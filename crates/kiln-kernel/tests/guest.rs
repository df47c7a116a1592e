//! Initrds for Debian's kernel, and what a guest makes of them.

use std::fs::{self, File};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_kernel::{
    Architecture, BaseInitrd, Boots, Catalogue, CpioError, CpioLimits, CpioWriter, DriverPlan,
    Import, InitrdCompression, KernelConfig, KnownKernel, ModuleHost, ModuleTree, Monitor,
    WANTED_DRIVERS, check, compose, image_archive, inspect, instance_archive, plan_drivers,
    read_initramfs,
};
use kiln_testkit::debs::{self, CloudKernel};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::qemu::{Accelerator, Ending, Machine, Until};
use kiln_testkit::tools::{self, Need};

/// What getting Debian's packages takes.
const PACKAGES: [Need; 3] = [tools::APT_GET, tools::APT_CACHE, tools::DPKG_DEB];
/// Longest time of a boot. It takes four seconds on a quiet machine without acceleration.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

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

/// Boots an initrd with a disk that begins with `kiln-disk`, and returns the console.
fn boot(guest: &Guest, initrd: &[u8]) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let (initrd_path, disk_path) = (folder.path().join("initrd"), folder.path().join("disk"));
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
    let busybox = busybox_archive(&fixtures)?;
    let image = image_archive(br#"{"entrypoint":["/bin/true"]}"#)?;
    let instance = instance_archive(br#"{"hostname":"one"}"#)?;
    for compression in [InitrdCompression::Zstd, InitrdCompression::Gzip] {
        let init = INIT.as_bytes();
        let base = BaseInitrd::read(init, &guest.tree, &guest.plan.load, compression)?;
        let initrd = compose(&base.build()?, &[&busybox, &image, &instance]);

        let console = boot(&guest, &initrd)?;

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
fn the_kernel_and_the_reader_pass_over_the_same_archive() -> Result<()> {
    let needs = [&PACKAGES[..], &[tools::QEMU]].concat();
    if tools::must_skip("a guest with a misplaced archive", &needs)? {
        return Ok(());
    }
    let fixtures = Fixtures::shared()?;
    let guest = guest(&fixtures)?;
    let base = BaseInitrd::without_modules(INIT.as_bytes(), InitrdCompression::Gzip);
    let mut initrd = compose(&base.build()?, &[&busybox_archive(&fixtures)?]);
    initrd.push(0);
    initrd.extend(image_archive(b"seen")?);

    let console = boot(&guest, &initrd)?;

    assert!(console.contains("boot: "), "{console}");
    assert!(!console.contains("boot: seen"), "{console}");
    let error = read_initramfs(&initrd, CpioLimits::default()).map(drop);
    assert!(
        matches!(error, Err(CpioError::Misaligned { .. })),
        "{error:?}"
    );
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
fn a_base_from_the_package_file_is_the_same_bytes() -> Result<()> {
    if tools::must_skip("a base from a package", &PACKAGES)? {
        return Ok(());
    }
    let go_on = AtomicBool::new(false);
    let guest = guest(&Fixtures::shared()?)?;
    let state = tempfile::tempdir()?;
    let catalogue = Catalogue::open(&state.path().join("kernels"))?;
    let package = File::open(&guest.kernel.deb)?;
    let import = Import::Deb {
        package,
        initrd: None,
    };
    let kernel = catalogue.import("debian", import, &go_on)?;

    let config = kernel
        .folder()
        .read_config(&go_on)?
        .context("no configuration")?;
    let mut tree = kernel
        .folder()
        .open_modules(&go_on)?
        .context("no modules")?;
    let plan = plan_drivers(
        WANTED_DRIVERS,
        Some(&mut tree),
        Some(&config),
        kernel.folder().module_host(),
    )?;
    let gzip = InitrdCompression::Gzip;
    let from_package = BaseInitrd::read(b"init", &tree, &plan.load, gzip)?;
    let from_tree = BaseInitrd::read(b"init", &guest.tree, &guest.plan.load, gzip)?;

    assert_eq!(config, guest.config);
    assert_eq!(plan, guest.plan);
    assert_eq!(from_package.address(), from_tree.address());
    assert_eq!(from_package.build()?, from_tree.build()?);
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
