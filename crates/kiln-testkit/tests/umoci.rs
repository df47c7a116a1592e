//! The reference model and `umoci unpack` agree about the image of oddities.

use std::fs::File;
use std::time::Duration;

use anyhow::Result;
use kiln_testkit::compare::{Allowance, Difference, Manifest, differences, model};
use kiln_testkit::images::layout::{Compression, Layout};
use kiln_testkit::images::torture;
use kiln_testkit::{process, tools};

const LIMIT: Duration = Duration::from_secs(120);

/// Copies the folder `$2` into the image `$1`, which is mounted in the folder `$3`.
const COPY_INTO_IMAGE: &str = "mkdir $3/mount; mount -o loop $1 $3/mount; \
    trap 'umount $3/mount' EXIT; cp -a $2/. $3/mount";

fn list(differences: &[Difference]) -> String {
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn umoci_and_the_reference_model_agree() -> Result<()> {
    let needs = [tools::Need::Root, tools::UMOCI, tools::MKFS_EXT4];
    if tools::must_skip("umoci_and_the_reference_model_agree", &needs)? {
        return Ok(());
    }
    let layers = torture::layers_for_umoci();
    let folder = tempfile::tempdir()?;
    let mut layout = Layout::create(folder.path().join("layout"))?;
    let compressions = [
        Compression::Gzip,
        Compression::GzipMembers,
        Compression::Plain,
    ];
    let image = torture::add_to(&layout, &layers, compressions)?;
    layout.tag("torture", &image)?;
    let bundle = folder.path().join("bundle");

    let mut umoci = process::command(tools::require(tools::UMOCI)?);
    umoci.args(["unpack", "--image"]);
    umoci
        .arg(format!("{}:torture", layout.folder().display()))
        .arg(&bundle);
    process::run(umoci, LIMIT)?;

    let want = model::apply(&layers)?;
    let got = Manifest::of_folder(&bundle.join("rootfs"))?;
    let found = differences(&want, &got, &[Allowance::TimesOfImplied]);
    assert!(want.nodes.len() > 3_000);
    assert!(found.is_empty(), "{}", list(&found));

    // The same tree once more, read back out of an ext4 image that the kernel wrote.
    let rootfs = folder.path().join("rootfs.ext4");
    File::create(&rootfs)?.set_len(256 << 20)?;
    let mut mkfs = process::command(tools::require(tools::MKFS_EXT4)?);
    mkfs.args(["-q", "-b", "4096"]).arg(&rootfs);
    process::run(mkfs, LIMIT)?;
    let mut copy = process::command("/bin/sh");
    copy.args(["-ec", COPY_INTO_IMAGE, "copy"]).arg(&rootfs);
    copy.arg(bundle.join("rootfs")).arg(folder.path());
    process::run(copy, LIMIT)?;
    let read_back = Manifest::of_image(&rootfs)?;
    let found = differences(&got, &read_back, &[]);
    assert!(found.is_empty(), "{}", list(&found));
    Ok(())
}
