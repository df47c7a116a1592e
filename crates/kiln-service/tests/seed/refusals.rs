//! What is refused before a byte is fetched, and a size that cannot do.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result};
use kiln_api::image::PullParams;
use kiln_api::{Code, codes};
use kiln_service::{FetchNeeds, Space, Storing};
use kiln_testkit::elf;

use crate::house::{House, bare};
use crate::stand_ins::OneLayer;

const REFERENCE: &str = "debian:bookworm";

async fn assert_refused(
    params: impl FnOnce(&House) -> PullParams,
    code: Code,
    noun: &str,
) -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;
    fs::create_dir(house.path("folder"))?;
    fs::write(house.path("text"), "no kernel at all")?;
    fs::write(house.path("arm64"), elf::smallest(elf::AARCH64))?;
    // Nobody can open it, not even root.
    symlink("loop", house.path("loop"))?;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        house.path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )?;

    let refused = house.pull(params(&house)).await;

    let failure = refused.err().context("it was not refused")?;
    assert!(failure.is(code), "wanted {code}: {failure:?}");
    assert!(failure.message.contains(noun), "no {noun:?} in {failure}");
    assert!(failure.hint.is_some(), "{failure:?}");
    assert_eq!(source.calls(), (0, 0), "{code}");
    house.assert_untouched("debian-bookworm").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_cannot_be_used_is_refused() -> Result<()> {
    let cases = [
        ("missing", codes::file::NOT_FOUND, "missing"),
        ("vmlinux/below", codes::file::NOT_FOUND, "vmlinux/below"),
        ("folder", codes::file::WRONG_KIND, "a directory"),
        ("pipe", codes::file::WRONG_KIND, "a pipe"),
        ("loop", codes::file::UNREADABLE, "loop"),
        ("text", codes::kernel::UNRECOGNISED, "kernel"),
        ("arm64", codes::kernel::UNRECOGNISED, "aarch64"),
    ];
    for (name, code, noun) in cases {
        let params = |house: &House| PullParams {
            kernel_path: Some(house.file(name)),
            ..bare(REFERENCE)
        };
        assert_refused(params, code, noun).await.context(name)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_with_a_kernel_is_checked_as_early() -> Result<()> {
    let with_initrd = |house: &House| PullParams {
        initrd_path: Some(house.file("missing")),
        ..house.params(REFERENCE)
    };
    assert_refused(with_initrd, codes::file::NOT_FOUND, "missing").await?;
    let with_modules = |house: &House| PullParams {
        modules_dir: Some(house.file("text")),
        ..house.params(REFERENCE)
    };
    assert_refused(with_modules, codes::file::WRONG_KIND, "a directory").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_that_is_none_is_refused() -> Result<()> {
    let kernel_ref = || "debian".parse().ok();
    let both = |house: &House| PullParams {
        kernel_ref: kernel_ref(),
        ..house.params(REFERENCE)
    };
    assert_refused(both, codes::kernel::CHOICE_CONFLICT, "debian").await?;
    let initrd_alone = |house: &House| PullParams {
        initrd_path: Some(house.file("text")),
        ..bare(REFERENCE)
    };
    assert_refused(initrd_alone, codes::kernel::CHOICE_CONFLICT, "ramdisk").await?;
    let unknown = |_: &House| PullParams {
        kernel_ref: kernel_ref(),
        ..bare(REFERENCE)
    };
    assert_refused(unknown, codes::kernel::NOT_FOUND, "debian").await
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_mean_nothing_are_refused() -> Result<()> {
    let reference = |text: &'static str| move |house: &House| house.params(text);
    for text in ["UPPER/case", "a b", "debian:", ""] {
        assert_refused(reference(text), codes::source::INVALID_REFERENCE, "").await?;
    }
    let platform = |house: &House| PullParams {
        platform: Some("plan9/mips".to_owned()),
        ..house.params(REFERENCE)
    };
    assert_refused(platform, codes::source::INVALID_PLATFORM, "plan9").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_too_small_is_refused_with_the_minimum() -> Result<()> {
    let content = "more than fits".repeat(1 << 17);
    let house = House::new(OneLayer::new(&[("marker", &content)])?)?;
    let sized = |size_bytes| PullParams {
        size_bytes: Some(size_bytes),
        ..house.params(REFERENCE)
    };

    let refused = house.pull(sized(1 << 20)).await;

    let failure = refused.err().context("it was not refused")?;
    assert!(failure.is(codes::rootfs::TOO_SMALL), "{failure:?}");
    house.assert_untouched("debian-bookworm").await?;
    let hint = failure.hint.context("no hint")?.text;
    let minimum = hint
        .split(' ')
        .find_map(|word| word.parse::<u64>().ok())
        .with_context(|| format!("no number in {hint:?}"))?;
    assert!(
        failure.message.contains(&minimum.to_string()),
        "{}",
        failure.message
    );
    // The minimum is not just a number: it does.
    let image = house.pull(sized(minimum)).await?;
    assert_eq!(image.rootfs.size_bytes, minimum);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_without_room_is_refused_before_anything_is_fetched() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;
    let cache = Space {
        directory: "/small/cache".into(),
        free_bytes: 5_000_000,
        device: u64::MAX,
        storing: Storing::Everything,
    };
    source.set_needs(FetchNeeds {
        cache: Some(cache),
        blob_bytes: 1_000_000,
        ..FetchNeeds::default()
    });

    let failed = house.pull(house.params("debian:bookworm")).await;

    let failure = failed.err().context("it was not refused")?;
    assert!(failure.is(codes::storage::FULL), "{failure:?}");
    for noun in ["/small/cache", "5194304", "5000000"] {
        assert!(failure.message.contains(noun), "{noun}: {failure:?}");
    }
    assert!(failure.hint.is_some(), "{failure:?}");
    assert_eq!(source.calls(), (1, 0), "something was fetched");
    house.assert_untouched("debian-bookworm").await
}
