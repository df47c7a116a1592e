//! What lies on the disk, and why: counted, explained, and removed without harm to what is in use.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use kiln_testkit::daemon::built;
use kiln_testkit::faults::{FaultRegistry, PASSWORD, USER, find};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::{process, tools, wait};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::descriptors::{NEEDS, NOBODY, as_nobody, as_user, open_stage};
use crate::instances::{Nature, machine};
use crate::operations::Tap;
use crate::source::{self, noise, oci};
use crate::stage::{LIMIT, Stage, code, entries, pull, text};

/// All that a prune can take.
fn everything() -> Value {
    json!({"cache": true, "images_older_than_seconds": 0})
}

fn usage(stage: &Stage) -> Result<Value> {
    stage.call("storage.usage", &json!({}))
}

/// Returns a number that is told of one kind; none where the kind is not there.
fn of_kind(told: &Value, kind: &str, field: &str) -> u64 {
    let kinds = told["kinds"].as_array();
    let found = kinds.and_then(|kinds| kinds.iter().find(|one| one["kind"] == kind));
    found.and_then(|found| found[field].as_u64()).unwrap_or(0)
}

/// Counts the blocks below a folder, in bytes, each inode once, without the folder's own.
fn blocks_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut seen = HashSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if seen.insert(metadata.ino()) {
                bytes += metadata.blocks() * 512;
            }
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(bytes)
}

/// Makes a layout with images `web` and `other`: one layer is both's, one is each one's own.
fn shared_layers(stage: &Stage) -> Result<Layout> {
    let mut layout = Layout::create(stage.path("layout"))?;
    let layer = |name: &str, seed| {
        let entries = [Entry::file(name, noise(seed, 300_000))];
        layout.add_layer(&entries, Compression::Gzip)
    };
    let base = layer("base", 1)?;
    let images = [("web", layer("web", 2)?), ("other", layer("other", 3)?)];
    for (tag, own) in images {
        let platform = Platform::linux("amd64");
        let image = layout.add_image(&[base.clone(), own], &platform)?;
        layout.tag(tag, &image)?;
    }
    Ok(layout)
}

/// Asks what would go, prunes, and fails unless the very same went and as much is free as was said.
fn prune_as_foretold(stage: &Stage, mut params: Value) -> Result<Value> {
    let on_disk = || -> Result<u64> {
        let root = stage.root();
        let mut bytes = 0;
        for below in ["images", "cache"] {
            bytes += blocks_below(&root.join(below))?;
        }
        Ok(bytes)
    };
    params["dry_run"] = json!(true);
    let before = on_disk()?;
    let foretold = stage.call("storage.prune", &params)?;
    assert_eq!(on_disk()?, before, "a look changed something");
    params["dry_run"] = json!(false);
    let pruned = stage.call("storage.prune", &params)?;
    let after = on_disk()?;

    assert_eq!(foretold["items"], pruned["items"]);
    assert_eq!(foretold["kinds"], pruned["kinds"]);
    assert_eq!(pruned["freed_bytes"], before - after, "{pruned}");
    assert_eq!(
        (&foretold["dry_run"], &pruned["dry_run"]),
        (&json!(true), &json!(false))
    );
    Ok(pruned)
}

#[test]
fn what_is_on_the_disk_is_counted_by_kind_each_inode_once() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "web")?;
    // What hangs whoever opens it is not opened.
    for below in ["images/pipe", "cache/blobs/sha256/pipe", "kernels/pipe"] {
        mknodat(CWD, stage.root().join(below), FileType::Fifo, Mode::RWXU, 0)?;
    }

    let told = usage(&stage)?;
    let verbose = stage.call("storage.usage", &json!({"verbose": true}))?;

    let directory = text(&image, "artifact_dir")?;
    let of_directory =
        blocks_below(Path::new(&directory))? + fs::metadata(&directory)?.blocks() * 512;
    assert_eq!(of_kind(&told, "image", "disk_bytes"), of_directory);
    assert_eq!(of_kind(&told, "image", "reclaimable_bytes"), 0);
    let blobs = stage.root().join("cache/blobs/sha256");
    assert_eq!(of_kind(&told, "blob", "count"), 4);
    assert_eq!(of_kind(&told, "blob", "disk_bytes"), blocks_below(&blobs)?);
    assert_eq!(of_kind(&told, "blob", "reclaimable_count"), 4);
    for (kind, count) in [
        ("pack", 2),
        ("link", 2),
        ("kernel", 1),
        ("staging", 0),
        ("partial", 0),
    ] {
        assert_eq!(of_kind(&told, kind, "count"), count, "{kind}: {told}");
    }
    assert!(of_kind(&told, "database", "disk_bytes") > 0);
    let kinds = told["kinds"].as_array().context("no kinds")?;
    let sum: u64 = kinds
        .iter()
        .filter_map(|kind| kind["disk_bytes"].as_u64())
        .sum();
    assert_eq!(told["total"]["disk_bytes"], sum);
    assert_eq!(told["items"], Value::Null);
    let items = verbose["items"].as_array().context("no items")?;
    let web = items
        .iter()
        .find(|item| item["image"] == "web")
        .context("no image")?;
    assert_eq!(
        (&web["kind"], &web["kept_by"]),
        (&json!("image"), &json!("image"))
    );
    Ok(())
}

/// The modules of a kernel are one file each, however many images have them, and go with the last.
#[test]
fn modules_are_shared_with_the_kernel_and_outlive_it() -> Result<()> {
    let stage = Stage::new()?;
    let modules = stage.path("modules");
    fs::create_dir_all(modules.join("kernel"))?;
    fs::write(modules.join("kernel/a.ko"), noise(7, 100_000))?;
    let kernel = json!({
        "name": "modular", "kernel_path": stage.path("vmlinux"), "modules_dir": modules,
    });
    stage.call("kernel.import", &kernel)?;
    let layout = source::small(&stage.path("layout"))?;
    let mut folders = Vec::new();
    for name in ["one", "two"] {
        let mut params = pull(&oci(&layout, "1"), name);
        params["kernel_ref"] = json!("modular");
        params["boot"] = json!("none");
        let image = stage.call("image.pull", &params)?;
        folders.push(PathBuf::from(text(&image, "artifact_dir")?));
    }
    let module = |folder: &Path| folder.join("modules/kernel/a.ko");
    let found = |path: PathBuf| -> Result<(u64, u64, u32)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.ino(), metadata.nlink(), metadata.mode() & 0o777))
    };
    let kept = found(module(&stage.root().join("kernels/modular")))?;
    assert_eq!((kept.1, kept.2), (3, 0o400));
    assert_eq!(found(module(&folders[0]))?, kept);
    let told = usage(&stage)?;
    assert!(of_kind(&told, "kernel", "disk_bytes") > 100_000, "{told}");
    let sum = of_kind(&told, "image", "disk_bytes");
    for name in ["one", "two"] {
        stage.call("image.forget", &json!({"image": name}))?;
    }
    let told = usage(&stage)?;
    assert_eq!(of_kind(&told, "forgotten_image", "disk_bytes"), sum);
    assert_eq!(of_kind(&told, "forgotten_image", "reclaimable_bytes"), sum);

    stage.call("kernel.remove", &json!({"name": "modular"}))?;
    assert_eq!(fs::read(module(&folders[1]))?, noise(7, 100_000));
    let told = usage(&stage)?;
    let reclaimable = of_kind(&told, "forgotten_image", "reclaimable_bytes");
    assert!(reclaimable > sum + 100_000, "{told}");
    let pruned = prune_as_foretold(&stage, json!({"images_older_than_seconds": 0}))?;

    assert_eq!(
        of_kind(&pruned, "forgotten_image", "freed_bytes"),
        reclaimable
    );
    Ok(())
}

#[test]
fn layers_that_two_images_share_stay_until_both_are_gone() -> Result<()> {
    let stage = Stage::new()?;
    let layout = shared_layers(&stage)?;
    for name in ["web", "other"] {
        stage.pull(&oci(&layout, name), name)?;
    }
    let manifest = stage.call("image.get", &json!({"image": "web"}))?;
    let base = shared_digest(&stage)?;
    let why = |object: &str| stage.call("image.why", &json!({"object": object}));

    let both = why(&base)?;
    assert_eq!(both["kind"], "blob");
    assert_eq!(both["kept_by"], "image");
    assert_eq!(both["freed_by"], "kiln prune --cache");
    let names: Vec<_> = both["images"].as_array().context("none")?.iter().collect();
    assert_eq!(
        (&names[0]["name"], &names[1]["name"]),
        (&json!("web"), &json!("other"))
    );
    assert_eq!(
        (&names[0]["part"], &names[0]["tags"]),
        (&json!("layer"), &json!(["latest"]))
    );

    // Nothing goes that images were made of, and no image that is not forgotten.
    let nothing = prune_as_foretold(&stage, json!({"images_older_than_seconds": 0}))?;
    assert_eq!(nothing["freed_bytes"], 0, "{nothing}");
    stage.call("image.forget", &json!({"image": "web"}))?;
    let young = prune_as_foretold(&stage, json!({"images_older_than_seconds": 3600}))?;
    assert_eq!(young["kinds"], json!([]));
    let forgotten = why(&text(&manifest["version"], "id")?)?;
    assert_eq!(forgotten["kind"], "forgotten_image");
    assert_eq!(
        forgotten["freed_by"],
        format!("kiln purge {}", text(&manifest, "id")?)
    );
    assert_eq!(
        of_kind(&usage(&stage)?, "forgotten_image", "reclaimable_count"),
        1
    );

    let first = prune_as_foretold(&stage, json!({"images_older_than_seconds": 0}))?;
    let counts = |told: &Value| {
        ["forgotten_image", "blob", "pack", "link"].map(|kind| of_kind(told, kind, "count"))
    };
    // Its own layer, manifest and config; what the other has, too, stays.
    assert_eq!(counts(&first), [1, 3, 1, 1], "{first}");
    assert_eq!(why(&base)?["images"].as_array().map(Vec::len), Some(1));
    stage.call("image.get", &json!({"image": "other"}))?;

    stage.call("image.forget", &json!({"image": "other"}))?;
    let second = prune_as_foretold(&stage, json!({"images_older_than_seconds": 0}))?;
    assert_eq!(counts(&second), [1, 4, 2, 2], "{second}");
    assert_eq!(stage.entries("images")?, Vec::<String>::new());
    assert_eq!(stage.entries("cache/packs")?, Vec::<String>::new());
    let gone = stage.refused("image.why", &json!({"object": base}))?;
    assert_eq!(code(&gone), "storage.not_found");
    Ok(())
}

/// Returns the digest of the blob that two images were made of.
fn shared_digest(stage: &Stage) -> Result<String> {
    for name in stage.entries("cache/blobs/sha256")? {
        let digest = format!("sha256:{name}");
        let why = stage.call("image.why", &json!({"object": digest}))?;
        if why["images"].as_array().map(Vec::len) == Some(2) {
            return Ok(digest);
        }
    }
    anyhow::bail!("no blob is shared")
}

#[test]
fn a_cache_goes_whole_and_comes_back() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "web")?;

    let pruned = prune_as_foretold(&stage, json!({"cache": true}))?;

    assert_eq!(of_kind(&pruned, "blob", "count"), 4);
    for below in [
        "cache/blobs/sha256",
        "cache/packs",
        "cache/links",
        "cache/initrds",
    ] {
        assert_eq!(stage.entries(below)?, Vec::<String>::new(), "{below}");
    }
    let why = stage.call(
        "image.why",
        &json!({"object": image["source"]["manifest_digest"]}),
    )?;
    assert_eq!(
        (&why["path"], &why["freed_by"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(why["images"][0]["part"], "manifest");
    stage.pull(&oci(&layout, "1"), "again")?;
    let events = stage.call("event.list", &json!({"kind": "storage.pruned"}))?;
    assert_eq!(
        events["items"][0]["data"]["freed_bytes"],
        pruned["freed_bytes"]
    );
    Ok(())
}

#[test]
fn a_running_pull_keeps_what_it_needs() -> Result<()> {
    let stage = Stage::with_config("[registries.limits]\nstall_timeout_seconds = 5\n")?;
    let fault = find("layer_stall_in_body").context("no such fault")?;
    let registry = FaultRegistry::start_with(fault, "pruned")?;
    let mut params = pull(&registry.reference(), "image");
    params["credentials"] = json!({"username": USER, "secret": PASSWORD});
    let id = stage.start(params)?;
    // The second layer is there, the first one half.
    wait::until("a pack and half a layer", LIMIT, || {
        let partial = stage.entries("cache/ingest")?;
        let is_there = partial.iter().any(|name| name.ends_with(".partial"));
        let packs = stage.entries("cache/packs")?.len();
        Ok((is_there && packs == 1).then_some(()))
    })?;
    let blobs = stage.entries("cache/blobs/sha256")?;
    assert_eq!(blobs.len(), 3, "manifest, config and a layer");
    let layer = registry.image().first_layer().to_owned();
    let why = stage.call(
        "image.why",
        &json!({"object": format!("sha256:{}", blobs[0])}),
    )?;
    assert_eq!(
        (&why["kept_by"], &why["freed_by"]),
        (&json!("operation"), &Value::Null)
    );
    assert_eq!(why["uses"][0]["id"], id, "{why}");

    let pruned = stage.call("storage.prune", &everything())?;

    for kind in ["blob", "pack", "link", "partial"] {
        assert_eq!(of_kind(&pruned, kind, "count"), 0, "{kind}: {pruned}");
    }
    assert_eq!(stage.entries("cache/blobs/sha256")?.len(), 3);
    assert_eq!(stage.entries("cache/packs")?.len(), 1);
    registry.mend();
    let wait = json!({"operation_id": id, "timeout_ms": 60_000});
    let ended = stage.call("operation.wait", &wait)?;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    // The second layer was fetched once: nobody took it away.
    let asked = registry.asked();
    let blobs_asked = asked.iter().filter(|asked| {
        asked.target.contains("/blobs/")
            && !asked.target.contains(&layer)
            && asked.authorization.is_some()
    });
    assert_eq!(blobs_asked.count(), 2, "config and second layer, once each");
    let after = stage.call("storage.prune", &json!({"cache": true}))?;
    assert_eq!(of_kind(&after, "blob", "count"), 4);
    Ok(())
}

#[test]
fn what_a_lease_or_a_machine_keeps_is_not_pruned() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    for name in ["leased", "running"] {
        stage.pull(&oci(&layout, "1"), name)?;
    }
    let lease = stage.call(
        "image.lease",
        &json!({"image": "leased", "purpose": "copying"}),
    )?;
    let machine = machine(&stage, 1, "m", "running", Nature::Usual)?;
    for name in ["leased", "running"] {
        stage.call("image.forget", &json!({"image": name, "force": true}))?;
    }

    let kept = stage.call("storage.prune", &json!({"images_older_than_seconds": 0}))?;

    assert_eq!(kept["kinds"], json!([]), "{kept}");
    assert_eq!(
        of_kind(&usage(&stage)?, "forgotten_image", "reclaimable_count"),
        0
    );
    let leased = stage.call("image.why", &json!({"object": lease["version_id"]}))?;
    assert_eq!(leased["kept_by"], "holder");
    assert_eq!(
        (&leased["uses"][0]["kind"], &leased["uses"][0]["name"]),
        (&json!("lease"), &json!("copying"))
    );
    let running = stage.call("image.why", &json!({"object": machine.view["version_id"]}))?;
    assert_eq!(running["uses"][0]["name"], "m", "{running}");
    stage.call("image.release", &json!({"lease_id": lease["id"]}))?;
    drop(machine);
    wait::until("both images to go", LIMIT, || {
        stage.call("storage.prune", &json!({"images_older_than_seconds": 0}))?;
        Ok(stage.entries("images")?.is_empty().then_some(()))
    })
}

#[test]
fn a_prune_that_is_killed_leaves_each_thing_there_or_gone() -> Result<()> {
    let mut stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let names: Vec<String> = (0..12).map(|n| format!("image-{n}")).collect();
    let mut ids = Vec::new();
    for name in &names {
        let image = stage.pull(&oci(&layout, "1"), name)?;
        ids.push(text(&image, "id")?);
        stage.call("image.forget", &json!({"image": name}))?;
    }
    let images = stage.root().join("images");
    let whole = entries(&images)?.len();
    let socket = stage.daemon.socket();
    let pruning = thread::spawn(move || {
        // It ends with the daemon.
        drop(kiln_testkit::daemon::call(
            &socket,
            1,
            "storage.prune",
            &everything(),
        ));
    });
    wait::until("the first image to go", LIMIT, || {
        Ok((entries(&images)?.len() < whole).then_some(()))
    })?;
    stage.daemon.kill()?;
    pruning.join().ok();

    stage.daemon.start_again()?;

    let mut left = 0;
    for id in &ids {
        match stage.daemon.call("image.get", &json!({"image": id})) {
            Ok(image) => {
                left += 1;
                let directory = text(&image, "artifact_dir")?;
                ensure!(
                    Path::new(&directory).join("image.json").exists(),
                    "{directory}"
                );
            }
            Err(error) => assert_eq!(code(&error.refused()?), "image.not_found"),
        }
    }
    assert_eq!(entries(&images)?.len(), left);
    let pruned = stage.call("storage.prune", &everything())?;
    assert_eq!(of_kind(&pruned, "forgotten_image", "count"), left as u64);
    assert_eq!(entries(&images)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn others_see_sums_and_what_is_their_own_and_prune_nothing() -> Result<()> {
    if tools::must_skip(
        "others_see_sums_and_what_is_their_own_and_prune_nothing",
        NEEDS,
    )? {
        return Ok(());
    }
    let stage = open_stage()?;
    let layout = source::small(&stage.path("layout"))?;
    let secret = stage.pull(&oci(&layout, "1"), "secret")?;
    let digest = text(&secret["source"], "manifest_digest")?;
    let tap = Tap::start()?;
    tap.open();
    let own = as_nobody(|| stage.pull(&tap.reference(), "own"))?;

    let told = as_nobody(|| stage.call("storage.usage", &json!({"verbose": true})))?;
    let all = stage.call("storage.usage", &json!({"verbose": true}))?;

    assert_eq!(told["total"], all["total"]);
    let items = told["items"].as_array().context("no items")?;
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0]["image"], "own");
    // A digest of others is as good as none.
    let unknown = format!("sha256:{}", "0".repeat(64));
    let version = text(&secret["version"], "id")?;
    let path = text(&secret, "artifact_dir")?;
    for object in [&digest, &unknown, &path] {
        let why = json!({"object": object});
        let refused = as_nobody(|| stage.refused("image.why", &why))?;
        assert_eq!(code(&refused), "storage.not_found", "{object}");
        let shown = refused.message.replace(object.as_str(), "it");
        assert_eq!(
            shown,
            format!("nothing that Kiln keeps, or that user {NOBODY} may see, is called \"it\"")
        );
    }
    let mine = json!({"object": own["source"]["manifest_digest"]});
    let mine = as_nobody(|| stage.call("image.why", &mine))?;
    assert_eq!(mine["images"][0]["name"], "own");
    // Names and ids are refused as by every other method.
    for object in ["secret", &version] {
        let why = json!({"object": object});
        let named = as_user(54_003, || stage.refused("image.why", &why))?;
        assert_eq!(code(&named), "request.denied", "{object}");
    }
    let refused = as_nobody(|| stage.refused("storage.prune", &json!({"dry_run": true})))?;
    assert_eq!(code(&refused), "request.denied");
    Ok(())
}

#[test]
fn the_client_tells_of_the_disk_in_words() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "web")?;
    let kiln = |words: &[&str]| -> Result<String> {
        let mut command = process::command(built("kiln")?);
        let socket = format!("unix://{}", stage.daemon.socket().display());
        command.args(["--host", &socket]).args(words);
        Ok(process::run(command, LIMIT)?.text())
    };

    let df = kiln(&["df", "-v"])?;
    let directory = text(&image, "artifact_dir")?;
    let why = kiln(&["why", &directory])?;
    let kernel = kiln(&["image", "why", "tiny"])?;
    let foretold = kiln(&["prune", "--cache", "--dry-run"])?;
    let pruned = kiln(&["storage", "prune", "--images-older-than", "0s"])?;

    for words in ["KIND", "RECLAIMABLE", "total", "KEPT BY", "(web)"] {
        assert!(df.contains(words), "{words}: {df}");
    }
    for words in ["image    web v1.0.0 amd64 (latest)", "kept by  an image"] {
        assert!(why.contains(words), "{words}: {why}");
    }
    assert!(
        kernel.contains("`kiln kernel rm tiny` frees it"),
        "{kernel}"
    );
    // Whatever `df` names is told of, whole and in part, and so is each path of it.
    let usage = stage.call("storage.usage", &json!({"verbose": true}))?;
    for item in usage["items"].as_array().context("no items")? {
        let (item, kind) = (text(item, "item")?, text(item, "kind")?);
        let why = stage.call("image.why", &json!({"object": item}))?;
        let told = text(&why, "kind")?;
        assert!(
            told == kind || (kind == "link" && told == "blob"),
            "{item}: {told}"
        );
        if let Some(digits) = item.strip_prefix("sha256:") {
            let short = stage.call("image.why", &json!({"object": &digits[..12]}))?;
            assert_eq!(short["item"], json!(item));
        }
    }
    let database = stage.root().join("images/../kiln.db/");
    let database = stage.call("image.why", &json!({"object": database}))?;
    assert_eq!(database["kind"], "database");
    let version = directory.rsplit('/').next().unwrap_or_default();
    let inside = format!("images/{version}/rootfs.ext4");
    for object in [inside, "kiln.db-wal".to_owned()] {
        stage.call("image.why", &json!({"object": object}))?;
    }
    for folder in [stage.root(), stage.root().join("images")] {
        let error = stage.refused("image.why", &json!({"object": folder}))?;
        assert_eq!(code(&error), "storage.not_found");
        assert!(error.message.contains("is a directory in which"), "{error}");
    }
    assert!(foretold.contains("things would go, and"), "{foretold}");
    assert_eq!(pruned, "0 things went, and 0 B are freed");
    Ok(())
}
