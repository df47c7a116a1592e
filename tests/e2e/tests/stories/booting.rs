//! How images boot: the default kernel, what a kernel can do, and what an image is told to run.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use kiln_testkit::elf;
use kiln_testkit::images::layout::{Layout, Platform};
use serde_json::{Value, json};

use crate::descriptors::{as_nobody, open_stage};
use crate::source::{oci, small};
use crate::stage::{KERNEL, Stage, code, pull, text};

/// Makes an image of no layers with this `config` object and returns how it is pulled.
fn image_with(stage: &Stage, name: &str, container: Value) -> Result<String> {
    let mut layout = Layout::create(stage.path(name))?;
    let image = layout.add_image_with(&[], &Platform::linux("amd64"), container)?;
    layout.tag("1", &image)?;
    Ok(oci(&layout, "1"))
}

/// A kernel with its configuration inside.
pub(crate) fn configured_kernel(options: &str) -> Result<Vec<u8>> {
    let mut kernel = elf::smallest(elf::X86_64);
    let mut packed = GzEncoder::new(Vec::new(), Level::default());
    packed.write_all(options.as_bytes())?;
    kernel.extend_from_slice(b"IKCFG_ST");
    kernel.extend(packed.finish()?);
    kernel.extend_from_slice(b"IKCFG_ED");
    Ok(kernel)
}

#[test]
fn a_default_kernel_is_used_where_none_is_named() -> Result<()> {
    let stage = open_stage()?;
    let layout = small(&stage.path("layout"))?;
    let params = json!({"ref": oci(&layout, "1"), "name": "web", "kernel_ref": "default"});

    let refused = stage.refused("image.pull", &params)?;
    assert_eq!(code(&refused), "kernel.no_default", "{refused}");
    let none = stage.call("kernel.get_default", &json!({}))?;
    assert_eq!(none["kernel"], Value::Null);

    let unknown = stage.refused("kernel.set_default", &json!({"name": "nosuch"}))?;
    assert_eq!(code(&unknown), "kernel.not_found");
    let denied = as_nobody(|| stage.refused("kernel.set_default", &json!({"name": KERNEL})))?;
    assert_eq!(code(&denied), "request.denied", "{denied}");
    let taken = json!({"name": "default", "kernel_path": stage.path("vmlinux")});
    let taken = stage.refused("kernel.import", &taken)?;
    assert_eq!(code(&taken), "kernel.name_invalid", "{taken}");

    let chosen = stage.call("kernel.set_default", &json!({"name": KERNEL}))?;
    assert_eq!(chosen["kernel"]["name"], KERNEL);
    let listed = stage.call("kernel.list", &json!({}))?;
    assert_eq!(listed["items"][0]["is_default"], true);
    let image = stage.call("image.pull", &params)?;
    assert_eq!(image["kernel"]["name"], KERNEL);

    stage.call("kernel.remove", &json!({"name": KERNEL}))?;
    let none = stage.call("kernel.get_default", &json!({}))?;
    assert_eq!(none["kernel"], Value::Null);
    Ok(())
}

#[test]
fn a_check_says_what_each_monitor_makes_of_a_kernel() -> Result<()> {
    let stage = Stage::new()?;
    let options = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_ACPI=y\nCONFIG_VIRTIO_PCI=y\n\
                   CONFIG_VIRTIO_BLK=y\nCONFIG_EXT4_FS=y\nCONFIG_SERIAL_8250_CONSOLE=y\n";
    fs::write(stage.path("configured"), configured_kernel(options)?)?;
    let import = json!({"name": "pci", "kernel_path": stage.path("configured")});
    stage.call("kernel.import", &import)?;

    let checked = stage.call("kernel.check", &json!({"name": "pci"}))?;
    let unknown = stage.call("kernel.check", &json!({"name": KERNEL}))?;

    assert_eq!(checked["configuration"], "embedded");
    assert_eq!(unknown["configuration"], "none");
    let verdicts = |checked: &Value| -> Result<Vec<(String, String)>> {
        let verdicts = checked["verdicts"].as_array().context("no verdicts")?;
        let each = verdicts.iter();
        each.map(|one| Ok((text(one, "monitor")?, text(one, "boots")?)))
            .collect()
    };
    let want = [
        ("qemu-microvm", "no"),
        ("qemu-q35", "no"),
        ("firecracker", "no"),
        ("cloud-hypervisor", "no"),
    ];
    let want = want.map(|(monitor, boots)| (monitor.to_owned(), boots.to_owned()));
    assert_eq!(verdicts(&checked)?, want, "{checked}");
    let reasons = checked["verdicts"][1]["reasons"].to_string();
    assert!(reasons.contains("PVH"), "{reasons}");
    let reasons = checked["verdicts"][2]["reasons"].to_string();
    assert!(reasons.contains("VIRTIO_MMIO"), "{reasons}");
    // A configuration beside the kernel says as much as one inside.
    fs::write(stage.path("config"), options)?;
    let mut import = json!({"name": "beside", "kernel_path": stage.path("vmlinux")});
    import["config_path"] = json!(stage.path("config"));
    stage.call("kernel.import", &import)?;
    let beside = stage.call("kernel.check", &json!({"name": "beside"}))?;
    assert_eq!(beside["configuration"], "file");
    assert_eq!(beside["drivers"], checked["drivers"]);
    import["name"] = json!("broken");
    import["config_path"] = json!(stage.path("vmlinux"));
    let broken = stage.refused("kernel.import", &import)?;
    assert_eq!(code(&broken), "kernel.broken_config");
    let gone = stage.refused("kernel.check", &json!({"name": "gone"}))?;
    assert_eq!(code(&gone), "kernel.not_found");
    Ok(())
}

#[test]
fn what_cannot_boot_is_refused_by_the_pull() -> Result<()> {
    let stage = Stage::new()?;
    let nothing = image_with(&stage, "nothing", json!({}))?;
    let label = image_with(
        &stage,
        "label",
        json!({"Cmd": ["sh"], "Labels": {"kiln.boot": "magic"}}),
    )?;
    let lacking = configured_kernel("CONFIG_BLK_DEV_INITRD=y\nCONFIG_EXT4_FS=y\n")?;
    fs::write(stage.path("lacking"), lacking)?;
    let import = json!({"name": "lacking", "kernel_path": stage.path("lacking")});
    stage.call("kernel.import", &import)?;
    fs::write(stage.path("arm64"), elf::smallest(elf::AARCH64))?;
    let mut on_lacking = pull(&nothing, "bad");
    on_lacking["kernel_ref"] = json!("lacking");
    let mut on_arm = json!({"ref": nothing, "name": "bad", "platform": "linux/arm64"});
    on_arm["kernel_path"] = json!(stage.path("arm64"));
    on_arm["boot"] = json!("init");
    let mut multi = Layout::create(stage.path("arm"))?;
    let shell = json!({"Cmd": ["sh"]});
    let image = multi.add_image_with(&[], &Platform::linux("arm64"), shell)?;
    multi.tag("1", &image)?;
    on_arm["ref"] = json!(oci(&multi, "1"));
    let cases = [
        (pull(&nothing, "bad"), "boot.nothing_to_run", "entrypoint"),
        (pull(&label, "bad"), "boot.invalid_config", "magic"),
        (on_lacking, "kernel.cannot_boot", "virtio_blk"),
        (on_arm, "boot.no_init", "aarch64"),
    ];
    for (params, want, noun) in cases {
        let refused = stage.refused("image.pull", &params)?;
        assert_eq!(code(&refused), want, "{refused}");
        assert!(refused.to_string().contains(noun), "{refused}");
    }
    stage.assert_nothing_left()?;

    let mut none = pull(&nothing, "bare");
    none["boot"] = json!("none");
    none["kernel_ref"] = json!("lacking");
    let image = stage.call("image.pull", &none)?;
    assert_eq!(image["boot"]["mode"], "none");
    assert_eq!(image["kernel"]["initrd_path"], Value::Null);
    Ok(())
}

#[test]
fn an_image_shows_how_it_boots_and_why() -> Result<()> {
    let stage = Stage::new()?;
    let command = image_with(&stage, "command", json!({"Entrypoint": ["/bin/serve"]}))?;
    let systemd = image_with(&stage, "systemd", json!({"Cmd": ["/sbin/init"]}))?;

    let command = stage.pull(&command, "command")?;
    let systemd = stage.pull(&systemd, "systemd")?;

    let want = json!({
        "choice": "auto", "mode": "entrypoint", "reason": "the image's command is no init",
        // The stage's kernel has no note by which the others start an ELF file.
        "monitors": ["firecracker"],
    });
    assert_eq!(command["boot"], want);
    let want = json!({
        "choice": "auto", "mode": "init", "init_path": "/sbin/init",
        "reason": "the image's command is /sbin/init", "monitors": ["firecracker"],
    });
    assert_eq!(systemd["boot"], want);
    let told = stage.call("image.get", &json!({"image": "systemd"}))?;
    assert_eq!(told["boot"], want);
    let initrd = text(&told["kernel"], "initrd_path")?;
    let bytes = fs::read(initrd)?;
    // The image's own archive stands at the end, not compressed.
    let bytes = String::from_utf8_lossy(&bytes);
    let (_, told) = bytes.split_once("kiln/boot.json").context("no boot.json")?;
    assert!(told.contains("\"/sbin/init\""), "{told}");
    Ok(())
}
