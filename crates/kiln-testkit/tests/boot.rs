//! A real Debian tree boots under QEMU with Debian's cloud kernel and our initrd.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Result;
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::debian;
use kiln_testkit::qemu::{Accelerator, Ending, Machine, Until};
use kiln_testkit::{debs, initrd, process, tools};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_debian_tree_boots_and_powers_off() -> Result<()> {
    let needs = [
        tools::Need::Root,
        tools::MMDEBSTRAP,
        tools::QEMU,
        tools::APT_GET,
        tools::MKFS_EXT4,
    ];
    if tools::must_skip("a_debian_tree_boots_and_powers_off", &needs)? {
        return Ok(());
    }
    let fixtures = Fixtures::shared()?;
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("tree");
    fs::create_dir(&tree)?;
    let mut unpack = process::command("tar");
    unpack.arg("-C").arg(&tree).arg("-xf");
    unpack.arg(debian::base_tar(&fixtures, &[])?);
    process::run(unpack, LIMIT)?;
    let init = tree.join("usr/sbin/init");
    fs::write(&init, debian::DEMO_INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let image = folder.path().join("rootfs.ext4");
    File::create(&image)?.set_len(1 << 30)?;
    let mut mkfs = process::command(tools::require(tools::MKFS_EXT4)?);
    mkfs.arg("-q").arg("-d").arg(&tree).arg(&image);
    process::run(mkfs, LIMIT)?;
    let kernel = debs::cloud_kernel(&fixtures)?;
    let machine = Machine {
        kernel: kernel.kernel.clone(),
        initrd: Some(initrd::for_image(&fixtures, &kernel)?),
        rootfs: Some(image),
        memory_mib: 512,
        accelerator: Accelerator::probe(&fixtures, &kernel)?,
    };

    let boot = machine.boot(Until::PowerOff, LIMIT, &mut |_| ())?;

    println!(
        "{:?} in {:?}:\n{}",
        machine.accelerator, boot.elapsed, boot.console
    );
    assert_eq!(boot.ending, Ending::PoweredOff, "{}", boot.console);
    assert!(
        boot.console.contains(debian::DEMO_MARKER),
        "{}",
        boot.console
    );
    assert!(
        boot.console.contains("Debian GNU/Linux 12"),
        "{}",
        boot.console
    );
    assert!(boot.console.contains(&kernel.release), "{}", boot.console);
    Ok(())
}
