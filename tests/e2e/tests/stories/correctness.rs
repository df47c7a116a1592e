//! What is built is right: clean to e2fsck, equal to the reference model and to what umoci
//! unpacks, and the same bytes wherever it is built.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_testkit::compare::{Allowance, Difference, Manifest, differences, model};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::images::{debian, torture};
use kiln_testkit::process;
use kiln_testkit::tools::{self, Need};
use serde_json::{Value, json};

use crate::source::{noise, oci};
use crate::stage::{KERNEL, Stage, assert_same_bytes, entries, text};

/// Longest time one tool may take with one image.
const TOOL_LIMIT: Duration = Duration::from_secs(120);

/// Owners, devices and attributes of any kind can be compared by root alone.
const NEEDS: &[Need] = &[Need::Root, tools::MOUNT, tools::E2FSCK];

fn rootfs(image: &Value) -> Result<PathBuf> {
    Ok(text(&image["rootfs"], "path")?.into())
}

fn assert_clean(rootfs: &Path) -> Result<()> {
    let mut command = process::command(tools::require(tools::E2FSCK)?);
    command.arg("-fn").arg(rootfs);
    process::run(command, TOOL_LIMIT).context("e2fsck finds fault")?;
    Ok(())
}

fn assert_equal(what: &str, want: &Manifest, got: &Manifest, allowed: &[Allowance<'_>]) {
    let found = differences(want, got, allowed);
    let lines: Vec<String> = found.iter().take(20).map(Difference::to_string).collect();
    assert!(
        found.is_empty(),
        "{what}: {} differences:\n{}",
        found.len(),
        lines.join("\n")
    );
}

fn unpack(source: &str, folder: &Path) -> Result<Manifest> {
    let mut command = process::command(tools::require(tools::UMOCI)?);
    let image = source.strip_prefix("oci:").context("no layout")?;
    command.args(["unpack", "--image", image]).arg(folder);
    process::run(command, TOOL_LIMIT)?;
    Manifest::of_folder(&folder.join("rootfs"))
}

/// Pulls `layers`, each compressed in its own way, and compares with the model.
fn assert_built_right(
    stage: &Stage,
    name: &str,
    layers: &[Vec<Entry>],
    compressions: &[Compression],
) -> Result<(Layout, Manifest)> {
    let mut layout = Layout::create(stage.path(name))?;
    let mut added = Vec::new();
    for (entries, compression) in layers.iter().zip(compressions.iter().cycle()) {
        added.push(layout.add_layer(entries, *compression)?);
    }
    let image = layout.add_image(&added, &Platform::linux("amd64"))?;
    layout.tag("1", &image)?;

    let image = stage.pull(&oci(&layout, "1"), name)?;

    let rootfs = rootfs(&image)?;
    assert_clean(&rootfs).context(name.to_owned())?;
    let got = Manifest::of_image(&rootfs)?;
    let want = model::apply(layers)?;
    assert_equal(name, &want, &got, &[Allowance::TimesOfImplied]);
    Ok((layout, got))
}

#[test]
fn every_oddity_comes_out_as_the_model_says() -> Result<()> {
    if tools::must_skip("every_oddity_comes_out_as_the_model_says", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let every = [Compression::Gzip, Compression::Zstd, Compression::Plain];

    let (_, got) = assert_built_right(&stage, "torture", &torture::layers(), &every)?;
    assert!(got.nodes.len() > 3_000, "{}", got.nodes.len());

    let members = [Compression::GzipMembers];
    assert_built_right(&stage, "members", &torture::layers(), &members)?;
    Ok(())
}

#[test]
fn umoci_unpacks_the_same() -> Result<()> {
    let needs = [NEEDS, &[tools::UMOCI]].concat();
    if tools::must_skip("umoci_unpacks_the_same", &needs)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layers = torture::layers_for_umoci();

    let (layout, got) = assert_built_right(&stage, "torture", &layers, &[Compression::Gzip])?;

    let want = unpack(&oci(&layout, "1"), &stage.path("bundle"))?;
    assert_equal(
        "umoci",
        &want,
        &Manifest {
            implied: model::apply(&layers)?.implied,
            ..got
        },
        &[Allowance::TimesOfImplied],
    );
    Ok(())
}

#[test]
fn stacks_of_layers_come_out_as_the_model_says() -> Result<()> {
    if tools::must_skip("stacks_of_layers_come_out_as_the_model_says", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let every = [Compression::Plain, Compression::Gzip, Compression::Zstd];
    let stacks: [(&str, Vec<Vec<Entry>>); 4] = [
        ("nothing", vec![vec![]]),
        (
            "only-directories",
            vec![
                vec![Entry::directory("a/b/c").mode(0o700)],
                vec![Entry::whiteout("a/b")],
            ],
        ),
        (
            "forty-layers",
            (0..40_u64)
                .map(|number| {
                    vec![
                        Entry::file("counter", number.to_string()),
                        Entry::file(format!("layer-{number}"), noise(number + 1, 9_000)),
                        Entry::whiteout(&format!("layer-{}", number.saturating_sub(3))),
                    ]
                })
                .collect(),
        ),
        (
            "sizes",
            vec![
                [0, 1, 4_095, 4_096, 4_097, 65_536, 5 << 20]
                    .iter()
                    .map(|size| Entry::file(format!("of-{size}"), noise(*size as u64 + 1, *size)))
                    .collect(),
            ],
        ),
    ];
    for (name, layers) in stacks {
        assert_built_right(&stage, name, &layers, &every)?;
    }
    Ok(())
}

#[test]
fn a_real_debian_comes_out_as_umoci_unpacks_it() -> Result<()> {
    let needs = [NEEDS, &[tools::UMOCI, tools::MMDEBSTRAP]].concat();
    if tools::must_skip("a_real_debian_comes_out_as_umoci_unpacks_it", &needs)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let demo = debian::demo(&Fixtures::shared()?)?;

    let image = stage.pull(&demo.source(), "debian")?;

    let rootfs = rootfs(&image)?;
    assert_clean(&rootfs)?;
    let got = Manifest::of_image(&rootfs)?;
    let want = unpack(&demo.source(), &stage.path("bundle"))?;
    assert!(want.nodes.len() > 2_000, "{}", want.nodes.len());
    assert_equal("umoci", &want, &got, &[]);
    Ok(())
}

#[test]
fn two_daemons_build_the_same_bytes_with_any_number_of_threads() -> Result<()> {
    let config =
        |threads: u32| format!("[limits]\ndecode_threads = {threads}\nbuild_threads = {threads}\n");
    let (one, many) = (
        Stage::with_config(&config(1))?,
        Stage::with_config(&config(8))?,
    );
    let mut layout = Layout::create(one.path("layout"))?;
    let compressions = [Compression::Gzip, Compression::Zstd, Compression::Plain];
    let image = torture::add_to(&layout, &torture::layers(), compressions)?;
    layout.tag("1", &image)?;

    let first = one.pull(&oci(&layout, "1"), "image")?;
    let second = many.pull(&oci(&layout, "1"), "image")?;

    assert_eq!(
        first["rootfs"]["derivation"],
        second["rootfs"]["derivation"]
    );
    assert_same_bytes(
        &text(&first["rootfs"], "path")?,
        &text(&second["rootfs"], "path")?,
    )?;
    let sums =
        |image: &Value| Ok::<_, anyhow::Error>(text(image, "artifact_dir")? + "/rootfs.sums");
    assert_same_bytes(&sums(&first)?, &sums(&second)?)
}

#[test]
fn the_cache_keeps_the_original_bytes_under_their_digests() -> Result<()> {
    let stage = Stage::new()?;
    let layout = crate::source::small(&stage.path("layout"))?;

    stage.pull(&oci(&layout, "1"), "image")?;

    let blobs = layout.folder().join("blobs/sha256");
    let kept = stage.root().join("cache/blobs/sha256");
    let mut names = entries(&blobs)?;
    let mut found = entries(&kept)?;
    names.sort();
    found.sort();
    assert_eq!(found, names);
    for name in names {
        assert_eq!(fs::read(kept.join(&name))?, fs::read(blobs.join(&name))?);
        let mode = fs::metadata(kept.join(&name))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o400, "{name}");
    }
    Ok(())
}

#[test]
fn a_published_image_describes_itself() -> Result<()> {
    let stage = Stage::new()?;
    let layout = crate::source::small(&stage.path("layout"))?;

    let image = stage.call(
        "image.pull",
        &json!({"ref": oci(&layout, "1"), "kernel_ref": KERNEL, "size_bytes": 64 << 20}),
    )?;

    let folder = PathBuf::from(text(&image, "artifact_dir")?);
    let mut names = entries(&folder)?;
    names.sort();
    assert_eq!(
        names,
        [
            "image.json",
            "initrd.img",
            "kernel",
            "rootfs.ext4",
            "rootfs.sums"
        ]
    );
    let told: Value = serde_json::from_slice(&fs::read(folder.join("image.json"))?)?;
    assert_eq!(told["format"], 1);
    assert_eq!(told["image_id"], image["id"]);
    assert_eq!(told["version_id"], image["version"]["id"]);
    assert_eq!(told["rootfs"]["derivation"], image["rootfs"]["derivation"]);
    assert_eq!(
        told["source"]["manifest_digest"],
        image["source"]["manifest_digest"]
    );
    assert_eq!(fs::metadata(folder.join("rootfs.ext4"))?.len(), 64 << 20);
    assert_eq!(image["rootfs"]["size_bytes"], 64 << 20);
    assert_eq!(
        fs::read(folder.join("kernel"))?,
        fs::read(stage.path("vmlinux"))?
    );
    Ok(())
}
