//! Built images travel: in one file, and as artifacts; they arrive as they were, or not at all.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::images::layout::Layout;
use kiln_testkit::{elf, process, tools};
use serde_json::{Value, json};

use crate::booting::configured_kernel;
use crate::run::machine_room::{MachineRoom, digest};
use crate::source::{self, oci};
use crate::stage::{KERNEL, LIMIT, Stage, assert_same_bytes, code, pull, text};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Runs `kiln` for a stage's daemon, with `input` as its standard input.
fn kiln_fed(stage: &Stage, words: &[&str], input: Stdio) -> Result<Output> {
    let mut command = Command::new(built("kiln")?);
    let host = format!("unix://{}", stage.daemon.socket().display());
    command.env("KILN_HOST", host).args(words);
    command.stdin(input).output().context("no kiln")
}

pub(crate) fn kiln(stage: &Stage, words: &[&str]) -> Result<Output> {
    kiln_fed(stage, words, Stdio::null())
}

/// Runs `kiln` and returns the JSON it prints.
pub(crate) fn answer(stage: &Stage, words: &[&str]) -> Result<Value> {
    let output = kiln(stage, &[words, &["--json"]].concat())?;
    assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Pulls an image with a kernel of its own that has modules.
pub(crate) fn with_modules(stage: &Stage, name: &str) -> Result<Value> {
    let layout = source::small(&stage.path(&format!("layout-{name}")))?;
    let modules = stage.path("modules");
    fs::create_dir_all(modules.join("kernel/drivers"))?;
    fs::write(modules.join("modules.dep"), "kernel/drivers/one.ko:\n")?;
    fs::write(
        modules.join("kernel/drivers/one.ko"),
        source::noise(5, 70_000),
    )?;
    std::os::unix::fs::symlink("modules.dep", modules.join("link"))?;
    fs::write(stage.path("initrd"), "an initrd of the caller's")?;
    let mut params = pull(&oci(&layout, "1"), name);
    params["kernel_ref"] = Value::Null;
    params["kernel_path"] = json!(stage.path("vmlinux"));
    params["initrd_path"] = json!(stage.path("initrd"));
    params["modules_dir"] = json!(modules);
    stage.call("image.pull", &params)
}

/// Pulls an image that boots with our init.
pub(crate) fn booting(stage: &Stage, name: &str) -> Result<Value> {
    let layout = source::small(&stage.path(&format!("layout-{name}")))?;
    let mut params = pull(&oci(&layout, "1"), name);
    params["boot"] = json!("entrypoint");
    params["size_bytes"] = json!(16 << 20);
    stage.call("image.pull", &params)
}

/// Pulls an image that has no initrd.
fn without_init(stage: &Stage, name: &str) -> Result<Value> {
    let layout = source::small(&stage.path(&format!("layout-{name}")))?;
    let mut params = pull(&oci(&layout, "1"), name);
    params["boot"] = json!("none");
    stage.call("image.pull", &params)
}

pub(crate) fn file_of(image: &Value, name: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(text(image, "artifact_dir")?).join(name))
}

/// Fails unless two images have the same files; what only one of them has counts too.
pub(crate) fn assert_same_files(one: &Value, other: &Value) -> Result<()> {
    let mut command = process::command("diff");
    command.args(["--recursive", "--no-dereference", "--exclude=image.json"]);
    command.arg(text(one, "artifact_dir")?);
    command.arg(text(other, "artifact_dir")?);
    process::run(command, LIMIT).context("the images differ")?;
    Ok(())
}

pub(crate) fn export(stage: &Stage, image: &str, name: &str) -> Result<PathBuf> {
    let file = stage.path(name);
    answer(stage, &["export", image, file.to_str().context("no text")?])?;
    Ok(file)
}

#[test]
fn an_image_travels_in_one_file_and_arrives_as_it_was() -> Result<()> {
    if tools::must_skip("an_image_travels_in_one_file", &[tools::E2FSCK])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    // A daemon of its own, with no kernel that is the default.
    let other = Stage::new()?;
    for (image, name) in [
        (with_modules(&stage, "modules")?, "modules"),
        (booting(&stage, "booting")?, "booting"),
        (without_init(&stage, "bare")?, "bare"),
    ] {
        let file = stage.path(&format!("{name}.tar"));
        let path = file.to_str().context("no text")?;

        let made = answer(&stage, &["export", name, path])?;
        let got = answer(&other, &["import", path])?;

        assert_eq!(got["name"], name);
        assert_ne!(got["id"], image["id"]);
        assert_same_files(&image, &got)?;
        let mut check = process::command("e2fsck");
        check.arg("-fn").arg(file_of(&got, "rootfs.ext4")?);
        process::run(check, LIMIT)?;
        let blocks = |image: &Value| -> Result<u64> {
            Ok(fs::metadata(file_of(image, "rootfs.ext4")?)?.blocks())
        };
        assert!(blocks(&got)? <= blocks(&image)?, "holes were filled");
        assert_eq!(got["source"]["kind"], "oci-archive");
        assert_eq!(got["source"]["manifest_digest"], made["manifest_digest"]);
        let original = &got["source"]["original"];
        assert_eq!(
            original["manifest_digest"],
            image["source"]["manifest_digest"]
        );
        // A path of the other host would say nothing here.
        assert_eq!(original["reference"], Value::Null);
        for known in ["config", "boot", "architecture"] {
            assert_eq!(got[known], image[known], "{known}");
        }
        // Nobody but the daemon that built it vouches for what its bytes follow from.
        assert_eq!(got["rootfs"]["derivation"], Value::Null);
        assert_eq!(got["kernel"]["name"], Value::Null);

        let again = export(&other, name, "again.tar")?;
        assert_same_bytes(path, again.to_str().context("no text")?)?;
        fs::remove_file(again)?;
    }
    assert_eq!(other.entries("cache/blobs/sha256")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn an_image_of_another_architecture_travels_too() -> Result<()> {
    let stage = Stage::new()?;
    let layout = Layout::create(stage.path("layout"))?;
    let entry = kiln_testkit::images::entry::Entry::file("marker", "for-arm64");
    let gzip = kiln_testkit::images::layout::Compression::Gzip;
    let layer = layout.add_layer(&[entry], gzip)?;
    let platform = kiln_testkit::images::layout::Platform::linux("arm64");
    let manifest = layout.add_image(&[layer], &platform)?;
    let mut layout = layout;
    layout.tag("1", &manifest)?;
    fs::write(stage.path("arm64"), elf::smallest(elf::AARCH64))?;
    let params = json!({
        "ref": oci(&layout, "1"), "name": "image", "platform": "linux/arm64",
        "kernel_path": stage.path("arm64"), "boot": "none",
    });
    let image = stage.call("image.pull", &params)?;
    let file = stage.path("image.tar");
    let path = file.to_str().context("no text")?;

    answer(
        &stage,
        &["export", "image", path, "--architecture", "arm64"],
    )?;
    let other = Stage::new()?;
    let got = answer(&other, &["import", path, "--platform", "linux/arm64"])?;

    assert_eq!(got["architecture"], "arm64");
    assert_same_files(&image, &got)?;
    Ok(())
}

#[test]
fn an_image_travels_through_a_pipe() -> Result<()> {
    let stage = Stage::new()?;
    let image = booting(&stage, "image")?;
    let file = export(&stage, "image", "image.tar")?;

    let streamed = kiln(&stage, &["export", "image", "-"])?;
    let input = Stdio::from(File::open(&file)?);
    let words = ["import", "-", "--name", "piped", "--json"];
    let imported = kiln_fed(&stage, &words, input)?;

    assert_eq!(streamed.status.code(), Some(0), "{:?}", streamed.stderr);
    assert!(streamed.stdout == fs::read(&file)?, "other bytes");
    assert_eq!(imported.status.code(), Some(0), "{imported:?}");
    let piped: Value = serde_json::from_slice(&imported.stdout)?;
    assert_same_files(&image, &piped)?;
    let nameless = kiln(&stage, &["import", "-"])?;
    assert_eq!(nameless.status.code(), Some(2), "{nameless:?}");
    Ok(())
}

#[test]
fn a_kernel_of_the_callers_takes_the_place_of_the_one_that_comes_along() -> Result<()> {
    let stage = Stage::new()?;
    let image = booting(&stage, "image")?;
    let file = export(&stage, "image", "image.tar")?;
    let path = file.to_str().context("no text")?;
    let mut kernel = elf::smallest(elf::X86_64);
    kernel.extend_from_slice(b"another");
    fs::write(stage.path("another"), kernel)?;
    let import = json!({"name": "another", "kernel_path": stage.path("another")});
    stage.call("kernel.import", &import)?;

    let named = answer(
        &stage,
        &["import", path, "--name", "named", "--kernel", "another"],
    )?;
    let bare = answer(
        &stage,
        &["import", path, "--name", "bare", "--boot", "none"],
    )?;

    assert_eq!(named["kernel"]["name"], "another");
    let rootfs = |image: &Value| text(&image["rootfs"], "path");
    assert_same_bytes(&rootfs(&image)?, &rootfs(&named)?)?;
    let want = fs::read(stage.path("another"))?;
    assert!(fs::read(file_of(&named, "kernel")?)? == want);
    // The same init is told the same, whatever kernel starts it.
    assert_same_bytes(
        &file_of(&image, "initrd.img")?.display().to_string(),
        &file_of(&named, "initrd.img")?.display().to_string(),
    )?;
    assert_eq!(named["boot"]["mode"], "entrypoint");
    assert_eq!(bare["boot"]["mode"], "none");
    assert_eq!(bare["kernel"]["initrd_path"], Value::Null);
    let mut sized = pull(&format!("oci-archive:{path}"), "sized");
    sized["size_bytes"] = json!(1 << 30);
    let refused = stage.refused("image.pull", &sized)?;
    assert_eq!(code(&refused), "source.unsupported", "{refused}");
    Ok(())
}

/// A layout with the parts of an exported image, in which a story changes what it likes.
struct Forgery {
    layout: Layout,
    manifest: Value,
    config: Value,
}

impl Forgery {
    fn of(archive: &Path, folder: &Path) -> Result<Self> {
        let layout = Layout::create(folder)?;
        let mut unpack = process::command("tar");
        unpack.arg("-xf").arg(archive).arg("-C").arg(folder);
        process::run(unpack, LIMIT)?;
        let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json"))?)?;
        let mut forgery = Self {
            layout,
            manifest: Value::Null,
            config: Value::Null,
        };
        forgery.manifest = forgery.document(&index["manifests"][0])?;
        forgery.config = forgery.document(&forgery.manifest["config"])?;
        Ok(forgery)
    }

    fn document(&self, descriptor: &Value) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.blob(descriptor)?)?)?)
    }

    fn blob(&self, descriptor: &Value) -> Result<PathBuf> {
        let digest = text(descriptor, "digest")?;
        let hex = digest.strip_prefix("sha256:").context("no digest")?;
        Ok(self.layout.folder().join("blobs/sha256").join(hex))
    }

    /// Writes config and manifest as they are now, and returns how they are pulled.
    fn written(&mut self) -> Result<String> {
        let config = self.config.to_string();
        let config = self.layout.add_blob("", config.as_bytes())?;
        self.manifest["config"]["digest"] = json!(config.digest);
        self.manifest["config"]["size"] = json!(config.size_bytes);
        let manifest = self.manifest.to_string();
        let manifest = self.layout.add_blob(MANIFEST, manifest.as_bytes())?;
        self.layout.tag("1", &manifest)?;
        Ok(oci(&self.layout, "1"))
    }

    /// Returns the layer of a role.
    fn layer(&mut self, role: &str) -> Result<&mut Value> {
        let layers = self.manifest["layers"]
            .as_array_mut()
            .context("no layers")?;
        let found = layers
            .iter_mut()
            .find(|layer| layer["annotations"]["kiln.bootable.role"] == role);
        found.with_context(|| format!("no {role}"))
    }

    /// Puts other bytes in the place of a layer's.
    fn replace(&mut self, role: &str, bytes: &[u8]) -> Result<()> {
        let blob = self.layout.add_blob("", bytes)?;
        let layer = self.layer(role)?;
        layer["digest"] = json!(blob.digest);
        layer["size"] = json!(blob.size_bytes);
        Ok(())
    }
}

type Lie = (
    &'static str,
    &'static str,
    Box<dyn Fn(&mut Forgery) -> Result<()>>,
);

fn lie(
    what: &'static str,
    code: &'static str,
    tell: impl Fn(&mut Forgery) -> Result<()> + 'static,
) -> Lie {
    (what, code, Box::new(tell))
}

fn noted(
    what: &'static str,
    code: &'static str,
    role: &'static str,
    key: &'static str,
    value: Value,
) -> Lie {
    lie(what, code, move |forgery| {
        forgery.layer(role)?["annotations"][format!("kiln.bootable.{key}")] = value.clone();
        Ok(())
    })
}

/// Lies about where a chunk is and what it holds.
fn lies_of_chunks() -> Vec<Lie> {
    vec![
        noted(
            "an offset beyond the end",
            "source.malformed_manifest",
            "rootfs",
            "offset",
            json!("17592186044416"),
        ),
        noted(
            "an offset within a block",
            "source.malformed_manifest",
            "rootfs",
            "offset",
            json!("1"),
        ),
        noted(
            "a number with a sign",
            "source.malformed_manifest",
            "rootfs",
            "offset",
            json!("+0"),
        ),
        noted(
            "a chunk longer than it is",
            "source.damaged",
            "rootfs",
            "size",
            json!("8388608"),
        ),
        noted(
            "a chunk shorter than it is",
            "source.damaged",
            "rootfs",
            "size",
            json!("4096"),
        ),
        noted(
            "another digest of the plain bytes",
            "source.damaged",
            "rootfs",
            "digest",
            json!(format!("sha256:{}", "0".repeat(64))),
        ),
        lie(
            "one blob again and again",
            "layer.limit_exceeded",
            |forgery| {
                forgery.config["rootfs"]["size_bytes"] = json!(1_u64 << 40);
                let mut chunk = forgery.layer("rootfs")?.clone();
                let mut layers = vec![forgery.layer("kernel")?.clone()];
                for number in 0..1022_u64 {
                    chunk["annotations"]["kiln.bootable.size"] = json!("536870912");
                    let offset = (number << 29).to_string();
                    chunk["annotations"]["kiln.bootable.offset"] = json!(offset);
                    layers.push(chunk.clone());
                }
                forgery.manifest["layers"] = json!(layers);
                Ok(())
            },
        ),
    ]
}

/// Lies about what there is, and documents that cannot be.
fn lies() -> Vec<Lie> {
    vec![
        lie("no kernel", "source.malformed_manifest", |forgery| {
            forgery.layer("kernel")?["annotations"]["kiln.bootable.role"] = json!("other");
            Ok(())
        }),
        lie("two kernels", "source.malformed_manifest", |forgery| {
            let kernel = forgery.layer("kernel")?.clone();
            let layers = forgery.manifest["layers"].as_array_mut();
            layers.context("no layers")?.push(kernel);
            Ok(())
        }),
        lie("a kernel that is none", "kernel.unrecognised", |forgery| {
            forgery.replace("kernel", b"no kernel")
        }),
        lie(
            "a kernel of another machine",
            "kernel.unrecognised",
            |forgery| forgery.replace("kernel", &elf::smallest(elf::AARCH64)),
        ),
        lie("no initrd for its init", "boot.no_initrd", |forgery| {
            forgery.layer("initrd")?["annotations"]["kiln.bootable.role"] = json!("other");
            Ok(())
        }),
        lie("an initrd that is none", "boot.no_initrd", |forgery| {
            forgery.replace("initrd", b"garbage")
        }),
        lie("a blob of another length", "source.damaged", |forgery| {
            let size = forgery.layer("rootfs")?["size"]
                .as_u64()
                .context("no size")?;
            forgery.layer("rootfs")?["size"] = json!(size - 1);
            Ok(())
        }),
        lie(
            "a blob that is not what its name says",
            "source.damaged",
            |forgery| {
                let layer = forgery.layer("rootfs")?.clone();
                let blob = forgery.blob(&layer)?;
                let mut bytes = fs::read(&blob)?;
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                Ok(fs::write(blob, bytes)?)
            },
        ),
        lie(
            "a chunk that is no zstd",
            "layer.broken_compression",
            |forgery| forgery.replace("rootfs", b"no zstd at all"),
        ),
        lie(
            "checksums that are none",
            "source.malformed_manifest",
            |forgery| forgery.replace("sums", b"no checksums"),
        ),
        lie(
            "a root filesystem that ends in a block",
            "source.malformed_manifest",
            |forgery| {
                forgery.config["rootfs"]["size_bytes"] = json!(4095);
                Ok(())
            },
        ),
        lie(
            "a root filesystem that is longer than it is",
            "source.malformed_manifest",
            |forgery| {
                forgery.config["rootfs"]["size_bytes"] = json!(1_u64 << 60);
                Ok(())
            },
        ),
        lie("another filesystem", "source.unsupported", |forgery| {
            forgery.config["rootfs"]["filesystem"] = json!("btrfs");
            Ok(())
        }),
        lie("a newer format", "source.unsupported", |forgery| {
            forgery.config["format"] = json!(2);
            Ok(())
        }),
        lie("another platform", "source.platform_not_found", |forgery| {
            forgery.config["architecture"] = json!("arm64");
            Ok(())
        }),
        lie(
            "control characters",
            "source.malformed_manifest",
            |forgery| {
                forgery.config["boot"]["reason"] = json!("\u{1b}[2J");
                Ok(())
            },
        ),
    ]
}

#[test]
fn an_artifact_that_lies_is_refused_and_leaves_nothing() -> Result<()> {
    let maker = Stage::new()?;
    booting(&maker, "image")?;
    let archive = export(&maker, "image", "image.tar")?;
    let stage = Stage::new()?;
    for (number, (what, want, tell)) in lies_of_chunks().into_iter().chain(lies()).enumerate() {
        let folder = stage.path(&format!("forged-{number}"));
        let mut forgery = Forgery::of(&archive, &folder)?;
        tell(&mut forgery).context(what)?;
        let params = json!({
            "ref": forgery.written()?, "name": "forged", "prefer_shipped_kernel": true,
        });

        let refused = stage.refused("image.pull", &params).context(what)?;

        assert_eq!(code(&refused), want, "{what}: {refused}");
        stage.assert_nothing_left().context(what)?;
        fs::remove_dir_all(folder)?;
    }
    // The truth is taken, whatever roles there are besides.
    let mut forgery = Forgery::of(&archive, &stage.path("true"))?;
    let mut other = forgery.layer("kernel")?.clone();
    other["annotations"]["kiln.bootable.role"] = json!("other");
    let layers = forgery.manifest["layers"].as_array_mut();
    layers.context("no layers")?.push(other);
    let params = json!({
        "ref": forgery.written()?, "name": "true", "prefer_shipped_kernel": true,
    });
    stage.call("image.pull", &params)?;
    // Of an init that is not Kiln's the initrd is not judged.
    for (name, mode) in [("own", json!("none")), ("unsaid", json!("otherwise"))] {
        let mut forgery = Forgery::of(&archive, &stage.path(name))?;
        forgery.replace("initrd", b"of another kind")?;
        forgery.config["boot"]["mode"] = mode;
        let params = json!({
            "ref": forgery.written()?, "name": name, "prefer_shipped_kernel": true,
        });
        stage.call("image.pull", &params)?;
    }
    Ok(())
}

/// Another root filesystem that is a good one, with the checksums of the first.
#[test]
fn checksums_of_another_root_filesystem_are_noticed() -> Result<()> {
    let maker = Stage::new()?;
    booting(&maker, "image")?;
    let layout = source::of_layers(&maker.path("another"), |layout| {
        let entry = kiln_testkit::images::entry::Entry::file("other", "content");
        let gzip = kiln_testkit::images::layout::Compression::Gzip;
        Ok(vec![layout.add_layer(&[entry], gzip)?])
    })?;
    let mut params = pull(&oci(&layout, "1"), "another");
    params["boot"] = json!("entrypoint");
    maker.call("image.pull", &params)?;
    let stage = Stage::new()?;
    let archive = export(&maker, "image", "image.tar")?;
    let another = export(&maker, "another", "another.tar")?;
    let mut forgery = Forgery::of(&archive, &stage.path("forged"))?;
    let mut from = Forgery::of(&another, &stage.path("from"))?;
    let layer = from.layer("sums")?.clone();
    let sums = fs::read(from.blob(&layer)?)?;
    forgery.replace("sums", &sums)?;
    let params = json!({
        "ref": forgery.written()?, "name": "forged", "prefer_shipped_kernel": true,
    });

    let refused = stage.refused("image.pull", &params)?;

    assert_eq!(code(&refused), "source.damaged", "{refused}");
    assert!(refused.to_string().contains("blocks differ"), "{refused}");
    stage.assert_nothing_left()
}

/// What others would take a root filesystem for, on the word of an artifact, it does not become.
#[test]
fn a_root_filesystem_that_came_along_stands_in_for_no_other() -> Result<()> {
    let stage = Stage::new()?;
    let built_here = booting(&stage, "built")?;
    let archive = export(&stage, "built", "image.tar")?;
    let other = Stage::new()?;
    let path = archive.to_str().context("no text")?;
    answer(&other, &["import", path, "--name", "imported"])?;
    let mut forged = Forgery::of(&archive, &other.path("forged"))?;
    forged.config["rootfs"]["derivation"] = built_here["rootfs"]["derivation"].clone();
    let reference = forged.written()?;
    let params = json!({"ref": reference, "name": "claims", "prefer_shipped_kernel": true});
    let claims = other.call("image.pull", &params)?;

    assert_eq!(claims["rootfs"]["derivation"], Value::Null);
    let layout = source::small(&other.path("layout"))?;
    let mut params = pull(&oci(&layout, "1"), "built");
    params["boot"] = json!("entrypoint");
    other.call("image.pull", &params)?;
    let operation = other.last_operation()?;
    assert_ne!(operation["progress"]["fetched_bytes"], 0, "{operation}");
    Ok(())
}

#[test]
fn an_ordinary_image_needs_a_kernel_that_is_named_or_the_default() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let mut params = json!({"ref": oci(&layout, "1"), "name": "image"});

    let bare = stage.refused("image.pull", &params)?;
    params["prefer_shipped_kernel"] = json!(true);
    let none = stage.refused("image.pull", &params)?;
    params["kernel_ref"] = json!("default");
    let no_default = stage.refused("image.pull", &params)?;
    stage.call("kernel.set_default", &json!({"name": KERNEL}))?;
    params["boot"] = json!("none");
    let image = stage.call("image.pull", &params)?;

    assert_eq!(code(&bare), "kernel.required", "{bare}");
    assert_eq!(code(&none), "kernel.required", "{none}");
    assert_eq!(code(&no_default), "kernel.no_default", "{no_default}");
    assert_eq!(image["kernel"]["name"], KERNEL);
    Ok(())
}

/// A host that cannot boot anything of its own runs what another built.
#[test]
fn no_kernel_of_the_host_is_needed() -> Result<()> {
    let maker = Stage::new()?;
    let image = booting(&maker, "image")?;
    let archive = export(&maker, "image", "image.tar")?;
    let stage = Stage::new()?;
    // The default kernel has no driver for the disk.
    let kernel = configured_kernel("CONFIG_BLK_DEV_INITRD=y\nCONFIG_EXT4_FS=y\n")?;
    fs::write(stage.path("lacking"), kernel)?;
    let import = json!({"name": "lacking", "kernel_path": stage.path("lacking")});
    stage.call("kernel.import", &import)?;
    stage.call("kernel.set_default", &json!({"name": "lacking"}))?;
    let path = archive.to_str().context("no text")?;

    let got = answer(&stage, &["import", path])?;

    assert_same_files(&image, &got)?;
    let named = ["import", path, "--name", "named", "--kernel", "lacking"];
    let named = kiln(&stage, &named)?;
    let told = String::from_utf8_lossy(&named.stderr);
    assert!(told.contains("virtio_blk"), "{told}");
    Ok(())
}

/// As the user who may name no paths, the layout's files are passed.
#[test]
fn a_layout_with_an_artifact_is_passed_by_a_user_without_rights() -> Result<()> {
    if tools::must_skip(
        "a_layout_with_an_artifact_is_passed",
        crate::descriptors::NEEDS,
    )? {
        return Ok(());
    }
    let stage = crate::descriptors::open_stage()?;
    let image = booting(&stage, "image")?;
    let archive = export(&stage, "image", "image.tar")?;
    let mut forgery = Forgery::of(&archive, &stage.path("theirs"))?;
    let reference = forgery.written()?;
    let mut command = Command::new("setpriv");
    let nobody = crate::descriptors::NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
    command
        .arg(built("kiln")?)
        .args(["pull", &reference, "--name", "theirs", "--json"]);
    let host = format!("unix://{}", stage.daemon.socket().display());
    command
        .env("KILN_HOST", host)
        .env_remove("HOME")
        .stdin(Stdio::null());

    let output = command.output().context("no setpriv")?;

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let got: Value = serde_json::from_slice(&output.stdout)?;
    assert_same_files(&image, &got)?;
    Ok(())
}

#[test]
fn an_image_that_was_imported_boots() -> Result<()> {
    let Some(room) = MachineRoom::for_test("an_image_that_was_imported_boots")? else {
        return Ok(());
    };
    let file = room.path("image.tar").display().to_string();
    let exported = room.kiln(&["export", crate::run::machine_room::IMAGE, &file])?;
    assert_eq!(exported.code(), Some(0), "{exported:?}");
    let imported = room.kiln(&["import", &file, "--name", "arrived", "--json"])?;
    assert_eq!(imported.code(), Some(0), "{imported:?}");
    let image: Value = serde_json::from_str(imported.stdout())?;

    let ran = room.kiln(&["run", "arrived", "--", "/bin/echo", "here I am"])?;

    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert_eq!(ran.output_lines(), ["here I am"]);
    assert_eq!(
        digest(&file_of(&image, "rootfs.ext4")?)?,
        room.rootfs_digest()?
    );
    Ok(())
}
