//! Disks that are too small: said early where it can be known, cleanly where it cannot, and never
//! of a pull that fits.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use kiln_testkit::daemon::{Daemon, RpcError, Start};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::{elf, process, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::operations::Tap;
use crate::source::{noise, oci, of_layers};
use crate::stage::{LIMIT, code, entries, pull};

pub(crate) const NEEDS: &[Need] = &[Need::Root, tools::MOUNT];

/// A daemon on a filesystem in memory, and a kernel and images beside it.
pub(crate) struct Small {
    pub(crate) daemon: Daemon,
    disk: Disk,
    folder: TempDir,
}

/// A filesystem in memory; unmounted when whoever uses it is gone.
pub(crate) struct Disk(TempDir);

impl Disk {
    /// Makes one.
    pub(crate) fn new(mebibytes: u32) -> Result<Self> {
        let disk = Self(crate::stage::folder()?);
        let mut command = process::command(tools::require(tools::MOUNT)?);
        command.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]);
        command.arg(disk.path());
        process::run(command, LIMIT)?;
        Ok(disk)
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut command = process::command("umount");
        command.arg(self.path());
        // A mount that will not go is left for whoever runs the tests to see.
        drop(process::run(command, LIMIT));
    }
}

impl Small {
    pub(crate) fn new(mebibytes: u32) -> Result<Self> {
        Self::with_config(mebibytes, "")
    }

    pub(crate) fn with_config(mebibytes: u32, config: &str) -> Result<Self> {
        let disk = Disk::new(mebibytes)?;
        let folder = tempfile::tempdir()?;
        let kernel = folder.path().join("vmlinux");
        fs::write(&kernel, elf::smallest(elf::X86_64))?;
        let root = disk.path().join("root");
        fs::create_dir(&root)?;
        fs::write(root.join("config.toml"), config)?;
        let daemon = Daemon::start_in(&root, Start::default())?;
        let params = json!({"name": crate::stage::KERNEL, "kernel_path": kernel});
        daemon.call("kernel.import", &params)?;
        Ok(Self {
            daemon,
            disk,
            folder,
        })
    }

    /// Makes an image of one layer of noise.
    pub(crate) fn noise(
        &self,
        seed: u64,
        mebibytes: usize,
        compression: Compression,
    ) -> Result<Layout> {
        let name = format!("layout-{seed}");
        of_layers(&self.folder.path().join(name), |layout| {
            let entries = [Entry::file("large", noise(seed, mebibytes << 20))];
            Ok(vec![layout.add_layer(&entries, compression)?])
        })
    }

    pub(crate) fn pull(&self, layout: &Layout, name: &str) -> Result<Value> {
        Ok(self
            .daemon
            .call("image.pull", &pull(&oci(layout, "1"), name))?)
    }

    fn start(&self, tap: &Tap, name: &str) -> Result<String> {
        let mut params = pull(&tap.reference(), name);
        params["detach"] = json!(true);
        let started = self.daemon.call("image.pull", &params)?;
        crate::stage::text(&started, "operation_id")
    }

    /// Takes all space but `left_bytes`, and returns the file that does.
    pub(crate) fn fill_up_to(&self, left_bytes: u64) -> Result<PathBuf> {
        let found = rustix::fs::statvfs(self.disk.path())?;
        let free_bytes = found.f_bfree * found.f_frsize;
        let taken = free_bytes.checked_sub(left_bytes).context("full already")?;
        let filler = vec![1; usize::try_from(taken)?];
        let path = self.disk.path().join("filler");
        match fs::write(&path, filler) {
            // The daemon has written meanwhile: nothing is left, as it was to be.
            Err(error) if left_bytes == 0 && error.kind() == ErrorKind::StorageFull => Ok(path),
            written => written.map(|()| path).context("cannot fill the disk"),
        }
    }

    /// Pulls what must not fit, and fails unless it is said so and nothing half-made is left.
    fn refused(&self, layout: &Layout) -> Result<RpcError> {
        let params = pull(&oci(layout, "1"), "large");
        let refused = self.daemon.call("image.pull", &params);
        let error = refused.err().context("it fitted")?.refused()?;
        assert_eq!(code(&error), "storage.full", "{error}");
        assert_eq!(error.data["retryable"], true);
        for place in ["images", "cache/ingest"] {
            assert_eq!(self.entries(place)?, Vec::<String>::new(), "{place}");
        }
        self.daemon.call("daemon.info", &json!({}))?;
        Ok(error)
    }

    pub(crate) fn entries(&self, below: &str) -> Result<Vec<String>> {
        entries(&self.daemon.root().join(below))
    }
}

/// Tells whether an error was foreseen, in the directory it names.
pub(crate) fn is_foreseen(error: &RpcError, directory: &str) -> bool {
    let hint = error.data["hint"]["text"].as_str().unwrap_or_default();
    let says = |text: &str| error.message.contains(text);
    says("needs at least") && says("free") && says(directory) && hint.contains("MiB in /")
}

#[test]
fn a_full_disk_is_said_to_be_full_and_nothing_is_kept() -> Result<()> {
    if tools::must_skip("a_full_disk_is_said_to_be_full_and_nothing_is_kept", NEEDS)? {
        return Ok(());
    }
    let small = Small::new(24)?;

    // The blob alone does not fit: of the image nothing but its documents is fetched.
    let early = small.refused(&small.noise(3, 32, Compression::Plain)?)?;
    assert!(is_foreseen(&early, "/root/cache"), "{early}");
    assert_eq!(small.entries("cache/blobs/sha256")?.len(), 2);

    // What a layer unpacks to nobody knows before, so the disk runs full on the way.
    for (seed, compression) in [(4, Compression::Gzip), (5, Compression::Plain)] {
        let late = small.refused(&small.noise(seed, 14, compression)?)?;
        assert!(!is_foreseen(&late, "/"), "{late}");
        assert_eq!(small.entries("cache/packs")?, Vec::<String>::new());
    }

    // The layer fits, the image does not: known exactly, before a byte of it is written.
    let exact = small.refused(&small.noise(6, 9, Compression::Plain)?)?;
    assert!(is_foreseen(&exact, "/root/images"), "{exact}");
    assert_eq!(small.entries("cache/packs")?.len(), 1);
    drop(small.daemon);
    drop(small.disk);
    Ok(())
}

#[test]
fn a_pull_that_fits_is_not_refused() -> Result<()> {
    if tools::must_skip("a_pull_that_fits_is_not_refused", NEEDS)? {
        return Ok(());
    }
    let small = Small::new(32)?;
    // The image's gibibyte is mostly holes, and so is this file.
    let sparse = of_layers(&small.folder.path().join("sparse"), |layout| {
        let entries = [Entry::file("zeros", vec![0; 64 << 20])];
        Ok(vec![layout.add_layer(&entries, Compression::Gzip)?])
    })?;
    small.pull(&sparse, "sparse")?;
    // What an upper layer hides takes no room in the image: 8 MiB each in blob and pack only.
    let hidden = of_layers(&small.folder.path().join("hidden"), |layout| {
        let lower = [Entry::file("large", noise(8, 9 << 20))];
        let lower = layout.add_layer(&lower, Compression::Gzip)?;
        let upper = layout.add_layer(&[Entry::whiteout("large")], Compression::Gzip)?;
        Ok(vec![lower, upper])
    })?;

    let image = small.pull(&hidden, "hidden")?;

    assert_eq!(image["name"], "hidden");
    drop(small.daemon);
    drop(small.disk);
    Ok(())
}

/// What somebody else is fetching is on the disk in part: who waits for it needs no room for it.
#[test]
fn a_layer_that_is_being_fetched_is_not_counted_twice() -> Result<()> {
    if tools::must_skip("a_layer_that_is_being_fetched_is_not_counted_twice", NEEDS)? {
        return Ok(());
    }
    let small = Small::new(64)?;
    let tap = Tap::start()?;
    small.start(&tap, "one")?;
    tap.wait_for_request()?;
    // The tap's layer has 2 MiB: for blob, pack and image that would be 6, and 4 stay free.
    small.fill_up_to(8 << 20)?;

    let id = small.start(&tap, "two")?;
    // With room for it, it waits for the layer; its layers are listed then.
    let operation = wait::until("the second pull's layers", LIMIT, || {
        let operation = small
            .daemon
            .call("operation.get", &json!({"operation_id": id}))?;
        let layers = operation["progress"]["layers"].as_array().map(Vec::len);
        let is_decided = layers > Some(0) || operation["state"] != "running";
        Ok(is_decided.then_some(operation))
    })?;

    assert_eq!(operation["state"], "running", "{operation}");
    tap.open();
    drop(small.daemon);
    drop(small.disk);
    Ok(())
}

/// Calls that free a disk need a little of it themselves: room is kept back for them.
#[test]
fn a_disk_that_is_full_is_freed_with_what_was_kept_back() -> Result<()> {
    if tools::must_skip("a_disk_that_is_full_is_freed", NEEDS)? {
        return Ok(());
    }
    let small = Small::new(200)?;
    let reserve = small.daemon.root().join("kiln.db.reserve");
    wait::until("room that is kept back", LIMIT, || {
        Ok(reserve.exists().then_some(()))
    })?;
    let layout = small.noise(1, 20, Compression::Gzip)?;
    small.pull(&layout, "web")?;
    let other = small.noise(2, 1, Compression::Gzip)?;
    let gone = small.pull(&other, "gone")?;
    small
        .daemon
        .call("image.forget", &json!({"image": "gone"}))?;
    small.fill_up_to(0)?;
    // Until the log's own room is full, too.
    let modify = |n: u64| {
        let labels = json!({"set": {"large": format!("{n:04000}")}});
        let params = json!({"image": "web", "labels": labels});
        small.daemon.call("image.modify", &params)
    };
    let mut refused = None;
    for n in 0..10_000 {
        if let Err(error) = modify(n) {
            refused = Some(error.refused()?);
            break;
        }
    }
    let refused = refused.context("the disk was never full")?;
    assert_eq!(code(&refused), "storage.full", "{refused}");
    ensure!(reserve.exists(), "what frees nothing took it");

    let id = json!({"image_id": gone["id"]});
    let purged = small.daemon.call("image.purge_by_id", &id)?;
    let pruned = small
        .daemon
        .call("storage.prune", &json!({"cache": true}))?;

    assert!(purged["freed_bytes"].as_u64() > Some(1 << 20), "{purged}");
    assert!(pruned["freed_bytes"].as_u64() > Some(20 << 20), "{pruned}");
    modify(1)?;
    Ok(())
}
