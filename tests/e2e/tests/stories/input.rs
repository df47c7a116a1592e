//! Bad input: each its own code, the nouns in the message, a hint, nothing left, the daemon alive.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result};
use kiln_testkit::elf;
use kiln_testkit::images::entry::{Entry, write_end};
use kiln_testkit::images::layout::{Compression, Layout};
use serde_json::{Value, json};

use crate::source::{self, noise, oci, of_layers};
use crate::stage::{KERNEL, LIMIT, Stage, code, entries, pull};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Fails unless the call is refused with `want`, says `noun`, and leaves nothing behind.
fn assert_refused(
    stage: &Stage,
    method: &str,
    params: &Value,
    want: &str,
    noun: &str,
) -> Result<()> {
    let error = stage.refused(method, params)?;

    assert_eq!(code(&error), want, "{method} {params}: {error}");
    let causes = error.data["cause"].to_string();
    let said = format!("{} {causes}", error.message);
    assert!(said.contains(noun), "{want}: no {noun:?} in {said}");
    assert!(error.data["hint"]["text"].is_string(), "{want}: {error}");
    stage.assert_nothing_left().with_context(|| want.to_owned())
}

/// Makes an image of one layer blob as it is, with a diff id and a size that may be lies.
fn one_blob(
    folder: &Path,
    media_type: &str,
    blob: &[u8],
    diff_id: Option<&str>,
    extra_bytes: u64,
) -> Result<String> {
    let mut layout = Layout::create(folder)?;
    let layer = layout.add_blob(media_type, blob)?;
    let diff_id = diff_id.unwrap_or(&layer.digest);
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let config = layout.add_blob(CONFIG, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size_bytes},
        "layers": [{
            "mediaType": media_type, "digest": layer.digest,
            "size": layer.size_bytes + extra_bytes,
        }],
    });
    let manifest = layout.add_blob(MANIFEST, manifest.to_string().as_bytes())?;
    layout.tag("1", &manifest)?;
    Ok(oci(&layout, "1"))
}

fn tar_of(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    for entry in entries {
        entry.write_to(&mut archive)?;
    }
    write_end(&mut archive)?;
    Ok(archive)
}

#[test]
fn blobs_that_are_not_what_was_said_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    let wrong_id = format!("sha256:{}", "0".repeat(64));
    let good = tar_of(&[Entry::file("marker", noise(1, 40_000))])?;
    let at = |name: &str| stage.path(name);

    let damaged = of_layers(&at("damaged"), |layout| {
        let entries = [Entry::file("marker", noise(1, 40_000))];
        Ok(vec![layout.add_layer(&entries, Compression::Gzip)?])
    })?;
    damage_largest(damaged.folder())?;
    let cut = |name: &str, compression, suffix: &str| -> Result<String> {
        let layout = Layout::create(at(&format!("{name}-whole")))?;
        let layer = layout.add_layer(&[Entry::file("a", noise(2, 40_000))], compression)?;
        let bytes = fs::read(layout.blob_path(&layer.blob))?;
        let half = bytes.get(..bytes.len() / 2).context("no half")?;
        one_blob(
            &at(name),
            &format!("{TAR}{suffix}"),
            half,
            Some(&layer.diff_id),
            0,
        )
    };
    let cases = [
        (oci(&damaged, "1"), "source.damaged", "sha256:"),
        (
            one_blob(&at("longer"), TAR, &good, None, 1)?,
            "source.damaged",
            "bytes",
        ),
        (
            one_blob(&at("other"), TAR, &good, Some(&wrong_id), 0)?,
            "layer.diff_id_mismatch",
            "000000",
        ),
        (
            one_blob(&at("odd"), "application/vnd.example.odd", &good, None, 0)?,
            "source.unsupported",
            "vnd.example.odd",
        ),
        (
            cut("gzip", Compression::Gzip, "+gzip")?,
            "layer.broken_compression",
            "gzip",
        ),
        (
            cut("zstd", Compression::Zstd, "+zstd")?,
            "layer.broken_compression",
            "zstd",
        ),
        (
            one_blob(&at("no-tar"), TAR, &[b'x'; 2048], None, 0)?,
            "layer.malformed",
            "header",
        ),
    ];
    for (reference, want, noun) in cases {
        assert_refused(&stage, "image.pull", &pull(&reference, "bad"), want, noun)?;
    }
    Ok(())
}

/// What the cache holds makes a manifest neither better nor worse: a damaged blob of it is fetched
/// again, and a whole one shows that a descriptor states the wrong size.
#[test]
fn a_cached_blob_of_another_size_is_not_believed() -> Result<()> {
    let stage = Stage::new()?;
    let good = tar_of(&[Entry::file("marker", noise(1, 40_000))])?;
    let right = one_blob(&stage.path("right"), TAR, &good, None, 0)?;
    let wrong = one_blob(&stage.path("wrong"), TAR, &good, None, 1)?;
    stage.pull(&right, "first")?;
    let blobs = stage.root().join("cache/blobs/sha256");
    let cached = entries(&blobs)?.into_iter().map(|name| blobs.join(name));
    let mut cached = cached.filter(|path| fs::read(path).is_ok_and(|bytes| bytes == good));
    let cached = cached.next().context("the layer is not in the cache")?;

    let refused = stage.refused("image.pull", &pull(&wrong, "bad"))?;
    assert_eq!(code(&refused), "source.damaged", "{refused}");
    assert_eq!(refused.data["retryable"], false, "{refused}");
    assert_eq!(fs::read(&cached)?, good, "a lie took the blob away");

    stage.call("image.forget", &json!({"image": "first"}))?;
    for name in entries(&stage.root().join("cache/packs"))? {
        fs::remove_file(stage.root().join("cache/packs").join(name))?;
    }
    fs::set_permissions(&cached, fs::Permissions::from_mode(0o600))?;
    File::options().write(true).open(&cached)?.set_len(10_000)?;
    stage.pull(&right, "second")?;
    assert_eq!(fs::read(&cached)?, good, "the damaged blob is still there");
    Ok(())
}

/// Changes a byte in the middle of a layout's largest blob.
fn damage_largest(layout: &Path) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    let mut found = Vec::new();
    for name in entries(&blobs)? {
        let path = blobs.join(name);
        found.push((fs::metadata(&path)?.len(), path));
    }
    let (length, path) = found.into_iter().max().context("no blob")?;
    let mut bytes = fs::read(&path)?;
    let middle = usize::try_from(length / 2)?;
    *bytes.get_mut(middle).context("empty")? ^= 0x55;
    Ok(fs::write(path, bytes)?)
}

#[test]
fn layers_that_trick_or_cannot_be_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    let many = (0..300).fold(Entry::file("many", ""), |entry, number| {
        entry.xattr(&format!("user.number-{number}"), "x")
    });
    let cases = [
        ("up", Entry::file("../escape", "x"), "layer.malformed", ".."),
        (
            "inside",
            Entry::file("a/../../escape", "x"),
            "layer.malformed",
            "..",
        ),
        (
            "link",
            Entry::hardlink("link", "../../../../etc/passwd"),
            "layer.malformed",
            "..",
        ),
        (
            "dangling",
            Entry::hardlink("link", "not/there"),
            "layer.cannot_be_applied",
            "not/there",
        ),
        ("many", many, "layer.limit_exceeded", "256"),
        (
            "large",
            Entry::file("large", "").xattr("user.large", vec![b'x'; 60_000]),
            "rootfs.cannot_hold",
            "large",
        ),
    ];
    for (name, entry, want, noun) in cases {
        let blob = tar_of(&[entry])?;
        let reference = one_blob(&stage.path(name), TAR, &blob, None, 0)?;

        assert_refused(&stage, "image.pull", &pull(&reference, "bad"), want, noun).context(name)?;
    }
    assert!(!stage.path("escape").exists() && !Path::new("/escape").exists());
    Ok(())
}

#[test]
fn sources_that_are_not_what_their_name_says_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    fs::write(stage.path("arm64"), elf::smallest(elf::AARCH64))?;
    let arm = json!({"name": "arm", "kernel_path": stage.path("arm64")});
    stage.call("kernel.import", &arm)?;
    fs::create_dir(stage.path("empty"))?;
    fs::write(stage.path("file"), "x")?;
    let mut layout = source::small(&stage.path("layout"))?;
    let second = source::small_image(&layout, "second")?;
    layout.tag("2", &second)?;
    let nonsense = layout.add_blob(MANIFEST, b"{\"schemaVersion\": 2, \"layers\": 7}")?;
    layout.tag("nonsense", &nonsense)?;
    let path = |name: &str| format!("oci:{}", stage.path(name).display());
    let cases = [
        (path("layout"), "source.ambiguous", "layout"),
        (path("layout:missing"), "source.not_found", "missing"),
        (
            path("layout:nonsense"),
            "source.malformed_manifest",
            "expected a sequence",
        ),
        (path("empty"), "source.unreadable", "empty"),
        (path("nowhere"), "file.not_found", "nowhere"),
        (path("file"), "file.wrong_kind", "directory"),
        (
            format!("oci-archive:{}", stage.path("file").display()),
            "source.unreadable",
            "damaged",
        ),
        (
            "Not A Reference".to_owned(),
            "source.invalid_reference",
            "Not A Reference",
        ),
    ];
    for (reference, want, noun) in cases {
        assert_refused(&stage, "image.pull", &pull(&reference, "bad"), want, noun)?;
    }

    let mut other = pull(&path("layout:1"), "bad");
    other["platform"] = json!("linux/arm64");
    other["kernel_ref"] = json!("arm");
    other["boot"] = json!("none");
    assert_refused(
        &stage,
        "image.pull",
        &other,
        "source.platform_not_found",
        "linux/arm64",
    )?;
    other["platform"] = json!("plan9/mips");
    assert_refused(
        &stage,
        "image.pull",
        &other,
        "source.invalid_platform",
        "plan9",
    )?;
    let unnamed = json!({"ref": path("___"), "kernel_ref": KERNEL});
    assert_refused(&stage, "image.pull", &unnamed, "image.name_invalid", "___")
}

#[test]
fn sizes_that_no_image_has_are_refused_before_anything_is_fetched() -> Result<()> {
    let stage = Stage::new()?;
    // Nobody is there to be asked.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let sized = |size_bytes: u64| {
        let mut params = pull(&format!("{nobody}/some/app:1"), "bad");
        params["size_bytes"] = json!(size_bytes);
        params
    };
    let most = 16_u64 << 40;
    for (size_bytes, want, limit) in [
        (0, "rootfs.too_small", "at least"),
        (1, "rootfs.too_small", "at least"),
        (65_536, "rootfs.too_small", "at least"),
        (most + 1, "rootfs.cannot_hold", "17592186044416 bytes"),
        (u64::MAX, "rootfs.cannot_hold", "17592186044416 bytes"),
    ] {
        assert_refused(&stage, "image.pull", &sized(size_bytes), want, limit)?;
    }
    // What this host's file system has no file for is told as early.
    for size_bytes in [most, most - 4096] {
        let file = File::create(stage.path("long"))?;
        if file.set_len(size_bytes).is_err() {
            let (want, noun) = ("rootfs.cannot_hold", "cannot make a file");
            assert_refused(&stage, "image.pull", &sized(size_bytes), want, noun)?;
        }
    }
    Ok(())
}

#[test]
fn a_pipe_in_place_of_an_index_holds_nobody_up() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let flat = stage.path("flat");
    fs::create_dir(&flat)?;
    let pipes = [
        layout.folder().join("index.json"),
        flat.join("manifest.json"),
    ];
    fs::remove_file(&pipes[0])?;
    for pipe in &pipes {
        let mode = rustix::fs::Mode::RWXU;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, pipe, kind, mode, 0)?;
    }
    let sources = [oci(&layout, "1"), format!("dir:{}", flat.display())];

    for (source, pipe) in sources.iter().zip(&pipes) {
        let refused = stage.refused("image.pull", &pull(source, "bad"))?;
        assert!(
            refused.message.contains(&pipe.display().to_string()),
            "{refused}"
        );
        for words in [
            &["pull", source, "--name", "bad", "--kernel", KERNEL][..],
            &["copy", source, "oci-archive:bad.tar"],
        ] {
            let mut command = kiln_testkit::process::command(kiln_testkit::daemon::built("kiln")?);
            let host = format!("unix://{}", stage.daemon.socket().display());
            command
                .env("KILN_HOST", host)
                .env("HOME", stage.path("home"))
                .args(words)
                .current_dir(stage.path("."));
            let mut running = kiln_testkit::process::start(command, "kiln")?;

            let status = running.wait(LIMIT)?;
            assert!(!status.success(), "{words:?}: {status}");
        }
    }
    assert!(!stage.path("bad.tar").exists());
    stage.assert_nothing_left()
}

#[test]
fn kernels_and_filesystems_that_are_none_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    fs::write(stage.path("text"), "no kernel")?;
    fs::create_dir(stage.path("folder"))?;
    symlink("loop", stage.path("loop"))?;
    let mut large = File::create(stage.path("large"))?;
    large.write_all(&elf::smallest(elf::X86_64))?;
    large.set_len(1 << 40)?;
    fs::create_dir(stage.path("modules"))?;
    let pipe = stage.path("modules/pipe");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0)?;
    let with_modules = json!({
        "name": "k", "kernel_path": stage.path("vmlinux"), "modules_dir": stage.path("modules"),
    });
    let import = |field: &str, file: &str| json!({"name": "k", field: stage.path(file)});
    let again = json!({"name": KERNEL, "kernel_path": stage.path("vmlinux")});
    let both = json!({
        "name": "k", "kernel_path": stage.path("vmlinux"), "deb_path": stage.path("text"),
    });
    let imports = [
        (
            import("kernel_path", "text"),
            "kernel.unrecognised",
            "kernel",
        ),
        (
            import("kernel_path", "folder"),
            "file.wrong_kind",
            "a directory",
        ),
        (import("kernel_path", "loop"), "file.unreadable", "loop"),
        (
            import("kernel_path", "missing"),
            "file.not_found",
            "missing",
        ),
        (import("kernel_path", "large"), "file.too_large", ""),
        (
            import("deb_path", "text"),
            "kernel.broken_package",
            "package",
        ),
        (with_modules, "kernel.broken_modules", "pipe"),
        (again, "kernel.already_exists", KERNEL),
        (both, "kernel.choice_conflict", "both"),
        (json!({"name": "k"}), "kernel.required", "kernel"),
        (
            json!({"name": "No Name"}),
            "request.invalid_params",
            "No Name",
        ),
    ];
    for (params, want, noun) in imports {
        assert_refused(&stage, "kernel.import", &params, want, noun)?;
        assert_eq!(stage.entries("kernels")?, [KERNEL], "{want}");
    }
    assert_refused(
        &stage,
        "kernel.get",
        &json!({"name": "k"}),
        "kernel.not_found",
        "k",
    )?;

    let layout = source::small(&stage.path("layout"))?;
    let reference = oci(&layout, "1");
    let mut both = pull(&reference, "bad");
    both["kernel_path"] = json!(stage.path("vmlinux"));
    let pulls = [
        (json!({"ref": reference}), "kernel.required", "kernel"),
        (both, "kernel.choice_conflict", KERNEL),
        (
            json!({"ref": reference, "kernel_ref": "none"}),
            "kernel.not_found",
            "none",
        ),
        (
            json!({"ref": reference, "kernel_path": stage.path("folder")}),
            "file.wrong_kind",
            "folder",
        ),
    ];
    for (params, want, noun) in pulls {
        assert_refused(&stage, "image.pull", &params, want, noun)?;
    }

    fs::write(stage.path("qcow2"), b"QFI\xfb and more")?;
    for (file, noun) in [("text", "raw ext4"), ("qcow2", "qcow2")] {
        let params = json!({"name": "r", "rootfs_path": stage.path(file), "kernel_ref": KERNEL});
        assert_refused(&stage, "image.register", &params, "rootfs.not_ext4", noun)?;
    }
    let nobody = json!({"operation_id": "00000000-0000-4000-8000-000000000000"});
    assert_refused(
        &stage,
        "operation.get",
        &nobody,
        "operation.not_found",
        "00000000",
    )
}

/// Answers everything beyond `/v2/` with one response, and returns the address.
fn canned(response: &'static str) -> Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    // Ends with the process.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.extend(byte);
            }
            let answer = format!("HTTP/1.1 {response}\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).ok();
        }
    });
    Ok(address.to_string())
}

#[test]
fn registries_that_refuse_or_fail_are_named_with_what_they_did() -> Result<()> {
    let stage = Stage::new()?;
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let cases = [
        (nobody.to_string(), "registry.unreachable"),
        (
            canned("403 Forbidden\r\ncontent-length: 0")?,
            "registry.denied",
        ),
        (
            canned("404 Not Found\r\ncontent-length: 0")?,
            "source.not_found",
        ),
        (
            canned("429 Too Many Requests\r\nretry-after: 86400\r\ncontent-length: 0")?,
            "registry.rate_limited",
        ),
        (
            canned("500 Internal Server Error\r\ncontent-length: 0")?,
            "registry.server_error",
        ),
        (
            canned("302 Found\r\nlocation: ftp://x/\r\ncontent-length: 0")?,
            "registry.unexpected_answer",
        ),
        (
            canned("401 Unauthorized\r\nwww-authenticate: Basic realm=\"x\"\r\ncontent-length: 0")?,
            "registry.auth_required",
        ),
    ];
    for (host, want) in cases {
        let params = pull(&format!("{host}/some/image:1"), "bad");

        assert_refused(&stage, "image.pull", &params, want, &host)?;
    }
    Ok(())
}
