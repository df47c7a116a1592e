//! Kernels from elsewhere: out of images and artifacts of a real registry, and by their URL.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::elf;
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Descriptor, Layer, Layout, Platform};
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools::{self, Need};
use serde_json::{Value, json};

use crate::operations::Tap;
use crate::source::oci;
use crate::stage::{KERNEL, Stage, code, text};

const NEEDS: &[Need] = &[tools::DOCKER_REGISTRY, tools::SKOPEO, tools::OPENSSL];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const FILE: &str = "application/octet-stream";
const APPLE_KERNEL: &str = "application/vnd.apple.containerization.kernel";
const RELEASE: &str = "5.10.77";

/// A kernel whose bytes are like no other's.
fn kernel(mark: &str) -> Vec<u8> {
    [elf::smallest(elf::X86_64), mark.as_bytes().to_vec()].concat()
}

/// Lays an image out as ignite and flintlock do: the kernel and its modules in two layers, the
/// upper of which changes the lower, and behind the links that distributions have.
fn image_with_kernel(layout: &mut Layout, tag: &str) -> Result<()> {
    let place = |below: &str| format!("usr/lib/modules/{RELEASE}/{below}");
    let lower = [
        Entry::symlink("lib", "usr/lib"),
        Entry::directory("boot"),
        Entry::symlink("boot/vmlinux", format!("/boot/vmlinux-{RELEASE}")),
        Entry::file(format!("boot/vmlinux-{RELEASE}"), kernel("old")),
        Entry::file(format!("boot/config-{RELEASE}"), "CONFIG_EXT4_FS=y\n"),
        Entry::file(place("modules.dep"), "kernel/a.ko:\n"),
        Entry::file(place("kernel/a.ko"), "module a"),
        Entry::file(place("kernel/hidden.ko"), "hidden"),
        Entry::symlink(place("build"), "/usr/src/linux"),
    ];
    let upper = [
        Entry::file(format!("boot/vmlinux-{RELEASE}"), kernel("new")),
        Entry::whiteout(&place("kernel/hidden.ko")),
        Entry::hardlink(place("kernel/b.ko"), place("kernel/a.ko")),
    ];
    let layers = [
        layout.add_layer(&lower, Compression::Gzip)?,
        layout.add_layer(&upper, Compression::Zstd)?,
    ];
    add_image(layout, tag, &layers)
}

fn add_image(layout: &mut Layout, tag: &str, layers: &[Layer]) -> Result<()> {
    let image = layout.add_image(layers, &Platform::linux("amd64"))?;
    layout.tag(tag, &image)
}

/// Adds an artifact of layers that are files, each with an annotation.
fn add_artifact(
    layout: &mut Layout,
    tag: &str,
    layers: &[(&Descriptor, &str, &str)],
) -> Result<()> {
    let config = layout.add_blob(EMPTY, b"{}")?;
    let pointer = |blob: &Descriptor| json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size_bytes});
    let layers: Vec<Value> = layers
        .iter()
        .map(|(blob, key, value)| {
            let mut layer = pointer(blob);
            layer["annotations"] = json!({ *key: value });
            layer
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": pointer(&config),
        "layers": layers,
    });
    let manifest = layout.add_blob(MANIFEST, manifest.to_string().as_bytes())?;
    layout.tag(tag, &manifest)
}

fn start(layout: &Layout, tags: &[&str], transport: Transport) -> Result<(Registry, Vec<String>)> {
    let registry = Registry::start(Access::Anonymous, transport)?;
    let push = |tag: &&str| registry.push(&oci(layout, tag), &format!("some/{tag}:1"));
    let references = tags.iter().map(push).collect::<Result<_>>()?;
    Ok((registry, references))
}

fn pull(name: &str, reference: &str) -> Value {
    json!({"name": name, "ref": reference})
}

/// Fails unless the catalogue has these kernels, in rows and directories, and nothing half made.
fn assert_kernels(stage: &Stage, want: &[&str]) -> Result<()> {
    let mut found = stage.entries("kernels")?;
    found.sort();
    assert_eq!(found, want);
    let listed = stage.call("kernel.list", &json!({}))?;
    let items = listed["items"].as_array().context("no items")?;
    let names: Vec<&str> = items
        .iter()
        .filter_map(|item| item["name"].as_str())
        .collect();
    assert_eq!(names, want);
    Ok(())
}

fn read(kernel: &Value, field: &str) -> Result<Vec<u8>> {
    let path = text(kernel, field)?;
    fs::read(&path).context(path)
}

#[test]
fn an_image_gives_its_kernel_its_modules_and_its_configuration() -> Result<()> {
    if tools::must_skip("an_image_gives_its_kernel", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut layout = Layout::create(stage.path("layout"))?;
    image_with_kernel(&mut layout, "ignite")?;
    let (_registry, references) = start(&layout, &["ignite"], Transport::Http)?;

    let pulled = stage.call("kernel.pull", &pull("pulled", &references[0]))?;

    assert_eq!(read(&pulled, "path")?, kernel("new"));
    let modules = text(&pulled, "modules_path")?;
    let modules = Path::new(&modules);
    assert_eq!(fs::read(modules.join("modules.dep"))?, b"kernel/a.ko:\n");
    assert_eq!(fs::read(modules.join("kernel/a.ko"))?, b"module a");
    assert_eq!(fs::read(modules.join("kernel/b.ko"))?, b"module a");
    assert!(!modules.join("kernel/hidden.ko").exists());
    assert!(!modules.join("build").is_symlink());
    let checked = stage.call("kernel.check", &json!({"name": "pulled"}))?;
    assert_eq!(checked["configuration"], "file");
    // It ended as an import does, and as an operation.
    assert_eq!(
        stage.call("kernel.get", &json!({"name": "pulled"}))?,
        pulled
    );
    let operation = stage.last_operation()?;
    assert_eq!(operation["kind"], "kernel.pull");
    assert_eq!(operation["state"], "succeeded");
    assert_eq!(operation["kernel"]["sha256"], pulled["sha256"]);
    assert_eq!(operation["result"], Value::Null);
    let events = stage.call("event.list", &json!({"limit": 1000}))?;
    let events = events["items"].as_array().context("no events")?;
    let imported: Vec<&Value> = events
        .iter()
        .filter(|event| event["kind"] == "kernel.imported" && event["object_id"] == "pulled")
        .collect();
    assert_eq!(imported.len(), 1);
    assert_eq!(imported[0]["data"]["source"], references[0].as_str());
    assert_kernels(&stage, &["pulled", KERNEL])?;
    // The name is taken now, and that is told before anything is fetched.
    let again = stage.refused("kernel.pull", &pull("pulled", "127.0.0.1:9/none:1"))?;
    assert_eq!(code(&again), "kernel.already_exists");
    Ok(())
}

#[test]
fn artifacts_give_the_layers_that_say_what_they_are() -> Result<()> {
    if tools::must_skip("artifacts_give_the_layers", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut layout = Layout::create(stage.path("layout"))?;
    let apple = layout.add_blob(APPLE_KERNEL, &kernel("apple"))?;
    let apple = Layer {
        diff_id: apple.digest.clone(),
        diff_bytes: apple.size_bytes,
        blob: apple,
    };
    let amd64 = layout.add_image(&[apple], &Platform::linux("amd64"))?;
    let foreign = layout.add_blob(APPLE_KERNEL, b"for another")?;
    let foreign = Layer {
        diff_id: foreign.digest.clone(),
        diff_bytes: foreign.size_bytes,
        blob: foreign,
    };
    let arm64 = layout.add_image(&[foreign], &Platform::linux("arm64"))?;
    let index = layout.add_index(&[arm64, amd64])?;
    layout.tag("apple", &index)?;
    let file = layout.add_blob(FILE, &kernel("eci"))?;
    let initrd = layout.add_blob(FILE, b"an initrd")?;
    let (role, title) = ("org.lfedge.eci.role", "org.opencontainers.image.title");
    let eci = [(&initrd, role, "initrd"), (&file, role, "kernel")];
    add_artifact(&mut layout, "eci", &eci)?;
    let titled = [(&file, title, "vmlinux-5.10"), (&initrd, title, "README")];
    add_artifact(&mut layout, "titled", &titled)?;
    add_artifact(&mut layout, "other", &[(&initrd, title, "README")])?;
    let two = [(&file, title, "vmlinux"), (&initrd, title, "bzImage")];
    add_artifact(&mut layout, "two", &two)?;
    let wrong = [(&initrd, title, "vmlinux")];
    add_artifact(&mut layout, "wrong", &wrong)?;
    let tags = ["apple", "eci", "titled", "other", "two", "wrong"];
    let (registry, references) = start(&layout, &tags, Transport::Http)?;

    let apple = stage.call("kernel.pull", &pull("apple", &references[0]))?;
    let eci = stage.call("kernel.pull", &pull("eci", &references[1]))?;
    let titled = stage.call("kernel.pull", &pull("titled", &references[2]))?;

    assert_eq!(read(&apple, "path")?, kernel("apple"));
    assert_eq!(apple["architecture"], "amd64");
    assert_eq!(read(&eci, "path")?, kernel("eci"));
    assert_eq!(read(&eci, "initrd_path")?, b"an initrd");
    assert_eq!(titled["sha256"], eci["sha256"]);
    assert_eq!(titled["initrd_path"], Value::Null);
    // Each pull proves that its caller may have the bytes: nothing comes from the cache.
    let fetched = registry.fetched_blobs()?;
    let of_kernel = fetched.iter().filter(|digest| **digest == file.digest);
    assert_eq!(of_kernel.count(), 2, "{fetched:?}");
    for (at, want) in [
        (3, "kernel.not_in_source"),
        (4, "source.ambiguous"),
        (5, "kernel.unrecognised"),
    ] {
        let refused = stage.refused("kernel.pull", &pull("refused", &references[at]))?;
        assert_eq!(code(&refused), want, "{refused}");
        assert_eq!(stage.last_operation()?["state"], "failed");
    }
    assert_kernels(&stage, &["apple", "eci", KERNEL, "titled"])
}

#[test]
fn images_without_one_kernel_are_refused_and_links_stay_inside() -> Result<()> {
    if tools::must_skip("images_without_one_kernel", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut layout = Layout::create(stage.path("layout"))?;
    let cases: [(&str, Vec<Entry>, &str); 5] = [
        (
            "none",
            vec![Entry::file("etc/hello", "x")],
            "kernel.not_in_source",
        ),
        (
            "several",
            vec![
                Entry::file("boot/vmlinuz-1", kernel("1")),
                Entry::file("boot/vmlinuz-2", kernel("2")),
            ],
            "kernel.not_in_source",
        ),
        (
            // Followed inside the image, where there is nothing; never on this host.
            "outside",
            vec![Entry::symlink(
                "boot/vmlinux",
                format!("../../../..{}", stage.path("vmlinux").display()),
            )],
            "kernel.not_in_source",
        ),
        (
            "loop",
            vec![
                Entry::symlink("boot/vmlinux", "vmlinuz"),
                Entry::symlink("boot/vmlinuz", "vmlinux"),
            ],
            "kernel.not_in_source",
        ),
        (
            "escaping",
            vec![
                Entry::file("boot/vmlinuz-1", kernel("1")),
                Entry::symlink("lib/modules/1/kernel", "/etc"),
            ],
            "kernel.broken_modules",
        ),
    ];
    for (tag, entries, _) in &cases {
        let layer = layout.add_layer(entries, Compression::Gzip)?;
        add_image(&mut layout, tag, &[layer])?;
    }
    let tags = cases.each_ref().map(|(tag, ..)| *tag);
    let (_registry, references) = start(&layout, &tags, Transport::Http)?;

    for ((tag, _, want), reference) in cases.iter().zip(&references) {
        let refused = stage.refused("kernel.pull", &pull("refused", reference))?;

        assert_eq!(code(&refused), *want, "{tag}: {refused}");
    }
    assert_kernels(&stage, &[KERNEL])
}

#[test]
fn a_url_gives_what_its_digest_says_and_nothing_else() -> Result<()> {
    if tools::must_skip("a_url_gives_what_its_digest_says", NEEDS)? {
        return Ok(());
    }
    // A registry over HTTPS serves files by URL like any other server.
    let folder = tempfile::tempdir()?;
    let mut layout = Layout::create(folder.path().join("layout"))?;
    let file = layout.add_blob(FILE, &kernel("by url"))?;
    let title = "org.opencontainers.image.title";
    add_artifact(&mut layout, "files", &[(&file, title, "vmlinux")])?;
    let (registry, _) = start(&layout, &["files"], Transport::Https)?;
    let authority = registry.authority().context("no authority")?;
    let authority = authority.display().to_string();
    let stage = Stage::with_config(&format!("[registry]\nca_files = [{authority:?}]\n"))?;
    let strict = Stage::new()?;
    let url = format!(
        "https://{}/v2/some/files/blobs/{}",
        registry.host(),
        file.digest
    );
    let with = |url: &str, digest: &str| json!({"name": "k", "url": url, "sha256": digest});

    let none = format!("sha256:{}", "0".repeat(64));
    for (params, want) in [
        (json!({"name": "k", "url": url}), "kernel.digest_required"),
        (with(&url, &none), "source.digest_mismatch"),
        (
            with(&url.replace("https", "http"), &none),
            "source.invalid_reference",
        ),
        (
            with(&url.replace("https://", "https://a:b@"), &none),
            "source.invalid_reference",
        ),
        (
            with(&format!("{}0", &url[..url.len() - 1]), &none),
            "source.not_found",
        ),
    ] {
        let refused = stage.refused("kernel.pull", &params)?;
        assert_eq!(code(&refused), want, "{params}: {refused}");
    }
    let refused = strict.refused("kernel.pull", &with(&url, &file.digest))?;
    assert_eq!(code(&refused), "registry.tls_failed");
    assert_kernels(&stage, &[KERNEL])?;

    let hex = file.digest.trim_start_matches("sha256:");
    let words = [
        "kernel",
        "pull",
        "k",
        &format!("{url}#sha256={hex}"),
        "--json",
    ];
    let host = format!("unix://{}", stage.daemon.socket().display());
    let mut command = Command::new(built("kiln")?);
    command
        .env("KILN_HOST", host)
        .args(words)
        .stdin(Stdio::null());
    let output = command.output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let pulled: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(read(&pulled, "path")?, kernel("by url"));
    assert_eq!(pulled["sha256"], file.digest);
    assert_kernels(&stage, &["k", KERNEL])
}

#[test]
fn a_cancelled_kernel_pull_leaves_nothing_and_frees_its_name() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    let mut params = pull("held", &tap.reference());
    params["detach"] = json!(true);

    let started = stage.call("kernel.pull", &params)?;
    let second = stage.refused("kernel.pull", &params)?;
    tap.wait_for_request()?;
    let id = json!({"operation_id": started["operation_id"]});
    let ended = stage.call("operation.cancel", &id)?;

    assert_eq!(started["operation"]["kind"], "kernel.pull");
    assert_eq!(code(&second), "kernel.already_exists");
    assert_eq!(ended["state"], "cancelled");
    assert_eq!(ended["error"]["code"], "operation.cancelled");
    assert_kernels(&stage, &[KERNEL])?;
    stage.assert_nothing_left()?;
    // Its image has no kernel: it is fetched to its end, and then refused.
    tap.open();
    let refused = stage.refused("kernel.pull", &pull("held", &tap.reference()))?;
    assert_eq!(code(&refused), "kernel.not_in_source");
    Ok(())
}
