//! The ways a root filesystem is mounted, and what becomes of the image.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use kiln_boot::{Boot, Mode, Outcome, RootMount};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::{process, tools};

use crate::entrypoint::words;
use crate::guest::{Guest, OVERLAY_MODULE, Parts, Writes, assert_lines, outcome};
use crate::image;

/// Tells which places can be written to.
const WRITE: &str = r#"
for path in / /etc /tmp /run /dev/shm /data /empty; do
    if touch "$path/kept" 2>/dev/null; then echo "writable: $path"; else echo "not: $path"; fi
done
echo "data: $(stat -c '%a %u %g' /data) $(cat /data/seed)"
echo "empty: $(stat -c '%a %u %g' /empty)"
echo "pwd: $(pwd)"
echo "hosts: $(cat /etc/hostname) $(grep web /etc/hosts)"
echo "root: $(grep ' / ' /proc/mounts | tail -n 1 | cut -d ' ' -f 3)"
"#;

fn e2fsck(image: &Path) -> Result<String> {
    let mut command = process::command(tools::require(tools::E2FSCK)?);
    command.arg("-fn").arg(image);
    Ok(process::run(command, Duration::from_secs(60))?.text())
}

fn listing(image: &Path) -> Result<Vec<String>> {
    let mut command = process::command(tools::require(tools::DEBUGFS)?);
    command.args(["-R", "ls -p /"]).arg(image);
    let text = process::run(command, Duration::from_secs(60))?.text();
    let names = text.lines().filter_map(|line| line.split('/').nth(5));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

fn boot(argv: &str, mount: RootMount) -> Boot {
    let mut boot = Boot::new(Mode::Entrypoint);
    boot.argv = words(argv);
    boot.root.mount = mount;
    boot.hostname = Some("web".to_owned());
    boot.workdir = String::from("/srv/app");
    boot
}

#[test]
fn a_read_only_root_is_never_written() -> Result<()> {
    let Some(parts) = Parts::for_test("a_read_only_root_is_never_written")? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    let extra = [
        image::script("bin/write", WRITE),
        Entry::directory("empty").owner(7, 8).mode(0o1770),
    ];
    image::build(&parts.fixtures, &extra, &rootfs)?;
    let before = image::digest(&rootfs)?;
    let mut boot = boot("write", RootMount::Ro);
    boot.volumes = ["/data", "/empty"].map(str::to_owned).to_vec();

    let console = Guest::new(&parts, boot)
        .modules(&[OVERLAY_MODULE])
        .disk(&rootfs, Writes::Kept)
        .run()?;

    assert_lines(
        &console,
        &[
            "not: /",
            "not: /etc",
            "writable: /tmp",
            "writable: /run",
            "writable: /dev/shm",
            "writable: /data",
            "writable: /empty",
            "data: 750 1000 44 sown",
            "empty: 1770 7 8",
            "pwd: /srv/app",
            "hosts: web 127.0.1.1\tweb",
            "root: overlay",
        ],
    );
    assert_eq!(outcome(&console)?, Outcome::Exited { exit: 0 });
    assert_eq!(image::digest(&rootfs)?, before);
    Ok(())
}

#[test]
fn a_read_only_root_with_every_place_needs_no_overlay() -> Result<()> {
    let name = "a_read_only_root_with_every_place_needs_no_overlay";
    let Some(parts) = Parts::for_test(name)? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    let mut extra = vec![
        image::script("bin/write", WRITE),
        Entry::file("etc/hosts", "127.0.0.1 localhost\n"),
        Entry::directory("empty").owner(7, 8).mode(0o1770),
    ];
    extra.extend(["dev", "proc", "sys", "run", "tmp", "srv", "srv/app"].map(Entry::directory));
    image::build(&parts.fixtures, &extra, &rootfs)?;
    let before = image::digest(&rootfs)?;
    let mut boot = boot("write", RootMount::Ro);
    boot.volumes = ["/data", "/empty"].map(str::to_owned).to_vec();

    let console = Guest::new(&parts, boot).disk(&rootfs, Writes::Kept).run()?;

    assert_lines(
        &console,
        &[
            "kiln-init: what the image has in the volume /data is hidden: no overlayfs for it",
            "not: /",
            "not: /etc",
            "writable: /tmp",
            "writable: /data",
            "writable: /empty",
            "empty: 1770 7 8",
            "hosts: web 127.0.1.1\tweb",
            "root: ext4",
        ],
    );
    assert_eq!(image::digest(&rootfs)?, before);
    Ok(())
}

#[test]
fn what_is_written_over_an_image_goes_to_the_second_disk() -> Result<()> {
    let name = "what_is_written_over_an_image_goes_to_the_second_disk";
    let Some(parts) = Parts::for_test(name)? else {
        return Ok(());
    };
    let (rootfs, upper) = (parts.path("rootfs.ext4"), parts.path("upper.ext4"));
    let body = "echo \"before: $(cat /data/count 2>/dev/null)\"\n\
                echo x >> /data/count\n\
                echo \"after: $(wc -l < /data/count) $(stat -c %a /)\"";
    image::build(
        &parts.fixtures,
        &[image::script("bin/write", body)],
        &rootfs,
    )?;
    image::build(&parts.fixtures, &[], &upper)?;
    let before = image::digest(&rootfs)?;
    let disk = RootMount::Overlay {
        upper: Some("/dev/vdb".to_owned()),
    };
    let memory = RootMount::Overlay { upper: None };

    for (mount, want) in [
        (disk.clone(), "after: 1 755"),
        (disk, "after: 2 755"),
        (memory, "after: 1 755"),
    ] {
        let console = Guest::new(&parts, boot("write", mount))
            .modules(&[OVERLAY_MODULE])
            .disk(&rootfs, Writes::Kept)
            .disk(&upper, Writes::Kept)
            .run()?;

        assert_lines(&console, &[want]);
    }
    assert_eq!(image::digest(&rootfs)?, before);
    e2fsck(&upper)?;
    Ok(())
}

#[test]
fn a_writable_root_grows_and_keeps_only_what_was_written() -> Result<()> {
    let name = "a_writable_root_grows_and_keeps_only_what_was_written";
    let Some(parts) = Parts::for_test(name)? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    let body = "echo \"blocks: $(stat -f -c %b /)\"\n\
                echo kept > /kept\n\
                echo \"mounted: $(grep -c ' /etc/' /proc/mounts)\"";
    image::build(
        &parts.fixtures,
        &[image::script("bin/write", body)],
        &rootfs,
    )?;
    let mut names = listing(&rootfs)?;
    File::options()
        .write(true)
        .open(&rootfs)?
        .set_len(4 * image::SIZE_BYTES)?;

    let console = Guest::new(&parts, boot("write", RootMount::Rw))
        .disk(&rootfs, Writes::Kept)
        .run()?;

    let (from, to) = (image::SIZE_BYTES, 4 * image::SIZE_BYTES);
    let grew = format!("kiln-init: the root filesystem grew from {from} to {to} bytes");
    assert_lines(&console, &[&grew, "mounted: 2"]);
    assert_eq!(outcome(&console)?, Outcome::Exited { exit: 0 });
    e2fsck(&rootfs)?;
    names.push("kept".to_owned());
    names.sort();
    assert_eq!(listing(&rootfs)?, names);
    Ok(())
}

#[test]
fn an_init_of_the_images_own_is_process_1() -> Result<()> {
    let Some(parts) = Parts::for_test("an_init_of_the_images_own_is_process_1")? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    let body = "echo \"init: $$ $0 $* $(id -u)\"\n\
                echo \"env: $(tr '\\0' ' ' < /proc/1/environ)\"\n\
                echo \"hostname: $(hostname)\"\n\
                grep SigIgn /proc/1/status\n\
                grep SigBlk /proc/1/status\n\
                poweroff -f";
    let extra = [Entry::directory("sbin"), image::script("sbin/init", body)];
    image::build(&parts.fixtures, &extra, &rootfs)?;
    let mut boot = boot("", RootMount::Rw);
    boot.mode = Mode::Init {
        path: "/sbin/init".to_owned(),
    };
    boot.argv = words("/sbin/init 3");
    boot.env = ["container=docker", "A=1"].map(str::to_owned).to_vec();
    boot.user = "app".to_owned();

    let console = Guest::new(&parts, boot)
        .disk(&rootfs, Writes::Dropped)
        .run()?;

    assert_lines(
        &console,
        &[
            "init: 1 /sbin/init 3 0",
            &format!(
                "env: A=1 PATH={} HOME=/root TERM=linux ",
                kiln_boot::DEFAULT_PATH
            ),
            "hostname: web",
            // The shell itself ignores SIGQUIT.
            "SigIgn:\t0000000000000004",
            "SigBlk:\t0000000000000000",
        ],
    );
    assert!(console.contains("reboot: Power down"), "{console}");
    Ok(())
}

#[test]
fn systemd_takes_over_and_powers_off() -> Result<()> {
    let name = "systemd_takes_over_and_powers_off";
    if tools::must_skip(name, &[tools::Need::Root, tools::MMDEBSTRAP])? {
        return Ok(());
    }
    let Some(parts) = Parts::for_test(name)? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    let unit = "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nStandardOutput=tty\n\
                TTYPath=/dev/ttyS0\n\
                ExecStart=/bin/sh -c 'echo \"systemd: $$(cat /proc/1/comm) $$(hostname)\"'\n\
                ExecStart=/bin/sh -c 'echo \"virt: $$(systemd-detect-virt --container)\"'\n\
                ExecStart=/bin/systemctl --no-block poweroff\n";
    let wants = "etc/systemd/system/multi-user.target.wants";
    let extra = [
        Entry::file("etc/systemd/system/check.service", unit),
        Entry::directory(wants),
        Entry::symlink(format!("{wants}/check.service"), "../check.service"),
    ];
    image::build_debian(&parts.fixtures, &extra, &rootfs)?;
    let mut boot = boot("/sbin/init", RootMount::Rw);
    boot.mode = Mode::Init {
        path: "/sbin/init".to_owned(),
    };

    let console = Guest::new(&parts, boot)
        .disk(&rootfs, Writes::Dropped)
        .run()?;

    assert_lines(&console, &["systemd: systemd web", "virt: none"]);
    assert!(console.contains("reboot: Power down"), "{console}");
    Ok(())
}
