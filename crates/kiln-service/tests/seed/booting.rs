//! How an image boots: decided by the pull, kept with the version, told to init in the initrd.

use std::fs;

use anyhow::{Context as _, Result};
use kiln_api::codes;
use kiln_api::image::{BootChoice, Image, PullParams};
use kiln_boot::{Boot, Mode};
use kiln_kernel::{CpioLimits, CpioNode, read_initramfs};
use serde_json::json;

use crate::house::House;
use crate::stand_ins::OneLayer;

/// Reads what the initrd of an image tells init.
fn boot_json(image: &Image) -> Result<Boot> {
    let path = image.kernel.initrd_path.as_ref().context("no initrd")?;
    let initrd = fs::read(path)?;
    let entries = read_initramfs(&initrd, CpioLimits::default())?;
    let names: Vec<String> = entries
        .iter()
        .map(|entry| entry.path.display().to_string())
        .collect();
    assert!(names.contains(&"init".to_owned()), "{names:?}");
    let entry = entries
        .iter()
        .find(|entry| entry.path.as_os_str() == "kiln/boot.json");
    let CpioNode::File(content) = &entry.context("no boot.json")?.node else {
        anyhow::bail!("boot.json is no file");
    };
    Ok(Boot::parse(content)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn init_is_told_what_the_config_says() -> Result<()> {
    let source = OneLayer::new(&[("etc/passwd", "app:x:1000:1000::/srv:/bin/sh\n")])?;
    source.set_container(json!({
        "Entrypoint": ["/bin/serve"], "Cmd": ["now"], "User": "app", "StopSignal": "SIGUSR1",
    }));
    let house = House::new(source)?;

    let image = house.pull(house.params("web:1")).await?;

    let shown = image.boot.as_ref().context("no boot")?;
    assert_eq!(shown.choice, BootChoice::Auto);
    assert_eq!(shown.mode, BootChoice::Entrypoint);
    assert_eq!(shown.reason, "the image's command is no init");
    let boot = boot_json(&image)?;
    assert_eq!(boot.mode, Mode::Entrypoint);
    assert_eq!(boot.argv, ["/bin/serve", "now"]);
    assert_eq!((boot.user.as_str(), boot.workdir.as_str()), ("app", "/"));
    assert_eq!(boot.stop_signal, "SIGUSR1".parse()?);
    let again = house.pull(PullParams {
        name: Some("again".parse()?),
        ..house.params("web:1")
    });
    let again = again.await?;
    let bytes = |image: &Image| fs::read(image.kernel.initrd_path.clone().unwrap_or_default());
    assert_eq!(
        bytes(&image)?,
        bytes(&again)?,
        "initrds of one image differ"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_choice_beats_the_config() -> Result<()> {
    let source = OneLayer::new(&[("sbin/init", "")])?;
    source.set_container(json!({"Cmd": ["/lib/systemd/systemd", "--unit=x"]}));
    let house = House::new(source)?;
    let cases = [
        (
            BootChoice::Auto,
            BootChoice::Init,
            Some("/lib/systemd/systemd"),
        ),
        (
            BootChoice::Init,
            BootChoice::Init,
            Some("/lib/systemd/systemd"),
        ),
        (BootChoice::Entrypoint, BootChoice::Entrypoint, None),
        (BootChoice::None, BootChoice::None, None),
    ];
    for (number, (choice, mode, init)) in cases.into_iter().enumerate() {
        let image = house
            .pull(PullParams {
                name: Some(format!("i{number}").parse()?),
                boot: choice,
                ..house.params("web:1")
            })
            .await?;

        let shown = image.boot.as_ref().context("no boot")?;
        assert_eq!((shown.choice, shown.mode), (choice, mode));
        assert_eq!(shown.init_path.as_deref(), init, "{choice:?}");
        let has_initrd = image.kernel.initrd_path.is_some();
        assert_eq!(has_initrd, mode != BootChoice::None, "{choice:?}");
        if has_initrd {
            let told = boot_json(&image)?;
            assert_eq!(told.argv, ["/lib/systemd/systemd", "--unit=x"]);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_nothing_to_run_is_refused_and_makes_nothing() -> Result<()> {
    let source = OneLayer::new(&[("a", "b")])?;
    source.set_container(json!({}));
    let house = House::new(source.clone())?;

    let refused = house.pull(house.params("empty:1")).await.unwrap_err();

    assert!(refused.is(codes::boot::NOTHING_TO_RUN), "{refused:?}");
    // Its layers only show whether it is a disk for another machine; nothing is built of them.
    assert_eq!(source.calls(), (1, 1));
    house.assert_untouched("empty-1").await?;
    let image = house
        .pull(PullParams {
            boot: BootChoice::None,
            ..house.params("empty:1")
        })
        .await?;
    assert_eq!(image.kernel.initrd_path, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initrd_of_the_callers_stays_as_it_is() -> Result<()> {
    let house = House::new(OneLayer::new(&[("a", "b")])?)?;
    fs::write(house.path("own.img"), "an initrd of my own")?;
    let params = || PullParams {
        initrd_path: Some(house.file("own.img")),
        ..house.params("web:1")
    };

    let image = house.pull(params()).await?;

    let path = image.kernel.initrd_path.as_ref().context("no initrd")?;
    assert_eq!(fs::read_to_string(path)?, "an initrd of my own");
    let shown = image.boot.as_ref().context("no boot")?;
    assert_eq!(shown.mode, BootChoice::None);
    let refused = house
        .pull(PullParams {
            name: Some("other".parse()?),
            boot: BootChoice::Entrypoint,
            ..params()
        })
        .await
        .unwrap_err();
    assert!(refused.is(codes::kernel::CHOICE_CONFLICT), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kilns_init_only_images_that_need_none_are_made() -> Result<()> {
    let house = House::new(OneLayer::new(&[("a", "b")])?)?;
    fs::write(house.path("init"), "#!/bin/sh\n")?;

    let refused = house.pull(house.params("web:1")).await.unwrap_err();

    assert!(refused.is(codes::boot::NO_INIT), "{refused:?}");
    assert!(
        refused.message.contains("it is no 64-bit ELF program"),
        "{refused:?}"
    );
    house.assert_untouched("web-1").await?;
    let none = PullParams {
        boot: BootChoice::None,
        ..house.params("web:1")
    };
    house.pull(none).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_default_without_a_default_is_told() -> Result<()> {
    let source = OneLayer::new(&[("a", "b")])?;
    let house = House::new(source.clone())?;
    let params = PullParams {
        kernel_path: None,
        kernel_ref: Some("default".parse()?),
        ..house.params("web:1")
    };

    let refused = house.pull(params).await.unwrap_err();

    assert!(refused.is(codes::kernel::NO_DEFAULT), "{refused:?}");
    assert_eq!(source.calls(), (0, 0));
    Ok(())
}
