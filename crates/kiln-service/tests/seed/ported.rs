//! The five tests that describe what a pull is.

use std::fs;

use anyhow::{Context as _, Result};
use ext4_view::Ext4;
use kiln_api::codes;
use kiln_api::image::PullParams;
use kiln_domain::OperationState;

use crate::house::{House, bare};
use crate::stand_ins::{Act, OneLayer};

const DEBIAN: &str = "docker.io/library/debian:bookworm";

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_makes_an_image_with_its_four_artifacts() -> Result<()> {
    let source = OneLayer::new(&[("etc/hello", "world"), ("marker", "ok")])?;
    let house = House::new(source)?;
    fs::write(house.path("initrd"), "an initial ramdisk")?;
    fs::create_dir(house.path("modules"))?;
    fs::write(house.path("modules/modules.dep"), "kernel/a.ko:\n")?;

    let image = house
        .pull(PullParams {
            initrd_path: Some(house.file("initrd")),
            modules_dir: Some(house.file("modules")),
            ..house.params(DEBIAN)
        })
        .await?;

    assert_eq!(image.name.as_str(), "debian-bookworm");
    assert!(image.managed);
    assert!(
        image
            .artifact_dir
            .starts_with(&house.images().display().to_string())
    );
    let artifact = |name: &str| std::path::Path::new(&image.artifact_dir).join(name);
    assert_eq!(
        fs::read(artifact("kernel"))?,
        fs::read(house.path("vmlinux"))?
    );
    assert_eq!(fs::read(artifact("initrd.img"))?, b"an initial ramdisk");
    assert_eq!(
        fs::read(artifact("modules/modules.dep"))?,
        b"kernel/a.ko:\n"
    );
    let tree = Ext4::load_from_path(artifact("rootfs.ext4"))?;
    assert_eq!(tree.read_to_string("/etc/hello")?, "world");
    assert_eq!(tree.read_to_string("/marker")?, "ok");
    assert_eq!(house.in_images()?, [image.version.id.to_string()]);
    assert_eq!(image.created_at, image.updated_at);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_is_refused_before_anything_is_fetched() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;
    house
        .pull(PullParams {
            name: Some("debian-bookworm".parse()?),
            ..house.params("some/other:image")
        })
        .await?;
    let before = source.calls();

    let refused = house.pull(house.params(DEBIAN)).await;

    let failure = refused.err().context("it was not refused")?;
    assert!(failure.is(codes::image::ALREADY_EXISTS), "{failure:?}");
    assert!(failure.message.contains("already exists"), "{failure}");
    assert!(failure.message.contains("debian-bookworm"), "{failure}");
    assert_eq!(source.calls(), before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_without_a_kernel_is_refused() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;

    let refused = house.pull(bare(DEBIAN)).await;

    let failure = refused.err().context("it was not refused")?;
    assert!(failure.is(codes::kernel::REQUIRED), "{failure:?}");
    assert!(failure.message.contains("kernel"), "{failure}");
    assert_eq!(source.calls(), (0, 0));
    house.assert_untouched("debian-bookworm").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pull_says_why_and_leaves_nothing() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    source.then(Act::Fail("network borked"));
    let house = House::new(source)?;

    let failed = house.pull(house.params(DEBIAN)).await;

    let failure = failed.err().context("it did not fail")?;
    assert!(failure.message.contains("network borked"), "{failure}");
    house.assert_untouched("debian-bookworm").await?;
    let recorded = house.operations_in(OperationState::Failed).await?;
    let recorded = recorded
        .first()
        .and_then(|operation| operation.error.clone());
    assert_eq!(recorded.context("no record")?.message, failure.message);
    // The name is free again, and nothing of the failure sticks.
    house.pull(house.params(DEBIAN)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_from_references() -> Result<()> {
    let house = House::new(OneLayer::new(&[("marker", "ok")])?)?;
    let digest = "f".repeat(64);
    let pinned = format!("docker.io/library/debian@sha256:{digest}");
    let cases = [
        (DEBIAN, "debian-bookworm"),
        ("alpine:3.20", "alpine-3-20"),
        ("docker.io/library/debian", "debian"),
        ("ghcr.io/some/org/my-image:v2.1", "my-image-v2-1"),
        ("alpine:latest", "alpine"),
        (&pinned, "debian-ffffffffffff"),
    ];
    for (reference, want) in cases {
        let image = house.pull(house.params(reference)).await?;

        assert_eq!(image.name.as_str(), want, "{reference}");
    }
    Ok(())
}
