//! The demo's image, flattened by the peers Kiln is compared with, boots under QEMU with Debian's
//! cloud kernel and our initrd.

use std::fs::File;
use std::time::Duration;

use anyhow::Result;
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::debian;
use kiln_testkit::qemu::{Accelerator, Ending, Machine, Until};
use kiln_testkit::{debs, initrd, process, tools};

const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn the_demo_image_boots_says_hello_and_powers_off() -> Result<()> {
    let needs = [
        tools::Need::Root,
        tools::MMDEBSTRAP,
        tools::UMOCI,
        tools::QEMU,
        tools::APT_GET,
        tools::MKFS_EXT4,
    ];
    if tools::must_skip("the_demo_image_boots_says_hello_and_powers_off", &needs)? {
        return Ok(());
    }
    let fixtures = Fixtures::shared()?;
    let folder = tempfile::tempdir()?;
    let image = debian::demo(&fixtures)?;
    let bundle = folder.path().join("bundle");
    let mut umoci = process::command(tools::require(tools::UMOCI)?);
    umoci.args(["unpack", "--image"]);
    umoci
        .arg(format!("{}:{}", image.layout.display(), image.tag))
        .arg(&bundle);
    process::run(umoci, LIMIT)?;
    let rootfs = folder.path().join("rootfs.ext4");
    File::create(&rootfs)?.set_len(1 << 30)?;
    let mut mkfs = process::command(tools::require(tools::MKFS_EXT4)?);
    mkfs.arg("-q")
        .arg("-d")
        .arg(bundle.join("rootfs"))
        .arg(&rootfs);
    process::run(mkfs, LIMIT)?;
    let kernel = debs::cloud_kernel(&fixtures)?;
    let machine = Machine {
        kernel: kernel.kernel.clone(),
        initrd: Some(initrd::for_image(&fixtures, &kernel)?),
        rootfs: Some(rootfs),
        memory_mib: 512,
        accelerator: Accelerator::probe(&fixtures, &kernel)?,
    };

    let boot = machine.boot(Until::PowerOff, LIMIT, &mut |_| ())?;

    println!(
        "{:?} in {:?}:\n{}",
        machine.accelerator, boot.elapsed, boot.console
    );
    assert_eq!(boot.ending, Ending::PoweredOff, "{}", boot.console);
    for line in [
        debian::DEMO_MARKER,
        "kiln-demo: Debian GNU/Linux 12",
        &format!("kiln-demo: Linux {}", kernel.release),
        debian::DEMO_REPLACED,
        "kiln-demo: what a layer removed is gone",
        "reboot: Power down",
    ] {
        assert!(
            boot.console.contains(line),
            "no {line:?} in:\n{}",
            boot.console
        );
    }
    assert!(!boot.console.contains("error"), "{}", boot.console);
    Ok(())
}
