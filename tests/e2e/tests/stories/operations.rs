//! Long work: detached, waited for, watched, cancelled, abandoned, and killed with the daemon.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layer, Layout};
use kiln_testkit::wait;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::source::{self, noise, oci};
use crate::stage::{LIMIT, Stage, code, pull, text};
use crate::websocket::WebSocket;

/// A registry that serves one image and stops in the middle of its last layer, until it is opened.
pub(crate) struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
    folder: TempDir,
}

struct Shared {
    layout: Mutex<Vec<(String, Vec<u8>)>>,
    large: String,
    blobs_asked: AtomicUsize,
    is_open: AtomicBool,
}

impl Tap {
    /// Starts one whose image has one layer.
    pub(crate) fn start() -> Result<Self> {
        Self::of_layers(|layout| {
            let entries = [Entry::file("large", noise(7, 2 << 20))];
            Ok(vec![layout.add_layer(&entries, Compression::Gzip)?])
        })
    }

    /// Starts one whose image has the layers that `make` makes.
    fn of_layers(make: impl FnOnce(&Layout) -> Result<Vec<Layer>>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut large = String::new();
        let layout = source::of_layers(&folder.path().join("layout"), |layout| {
            let layers = make(layout)?;
            large.clone_from(&layers.last().context("no layer")?.blob.digest);
            Ok(layers)
        })?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let shared = Arc::new(Shared {
            layout: Mutex::new(documents(&layout)?),
            large,
            blobs_asked: AtomicUsize::new(0),
            is_open: AtomicBool::new(false),
        });
        let address = listener.local_addr()?;
        let serving = shared.clone();
        // Ends with the process: nobody waits for a listener that has no more callers.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                thread::spawn(move || shared.answer(stream).ok());
            }
        });
        Ok(Self {
            address,
            shared,
            folder,
        })
    }

    pub(crate) fn reference(&self) -> String {
        format!("{}/slow/image:1", self.address)
    }

    /// Waits until somebody is in the middle of the layer.
    pub(crate) fn wait_for_request(&self) -> Result<()> {
        wait::until("request for the layer", LIMIT, || {
            Ok((self.blobs_asked() > 0).then_some(()))
        })
    }

    pub(crate) fn blobs_asked(&self) -> usize {
        self.shared.blobs_asked.load(Ordering::SeqCst)
    }

    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        self.shared.is_open.store(true, Ordering::SeqCst);
        debug_assert!(self.folder.path().exists());
    }
}

/// Everything a registry serves of a layout, by the end of its path.
fn documents(layout: &Layout) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let index: Value = serde_json::from_slice(&std::fs::read(layout.folder().join("index.json"))?)?;
    let manifest = text(&index["manifests"][0], "digest")?;
    let blobs = layout.folder().join("blobs/sha256");
    for name in crate::stage::entries(&blobs)? {
        let bytes = std::fs::read(blobs.join(&name))?;
        if format!("sha256:{name}") == manifest {
            found.push(("/manifests/1".to_owned(), bytes.clone()));
        }
        found.push((format!("sha256:{name}"), bytes));
    }
    Ok(found)
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let target = head.split(' ').nth(1).context("no target")?;
        let documents = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let found = documents.iter().find(|(name, _)| target.ends_with(name));
        let Some((_, bytes)) = found.cloned() else {
            let status = if target == "/v2/" {
                "200 OK"
            } else {
                "404 Not Found"
            };
            write!(
                stream,
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )?;
            return Ok(());
        };
        drop(documents);
        let media_type = if target.contains("/manifests/") {
            "application/vnd.oci.image.manifest.v1+json"
        } else {
            "application/octet-stream"
        };
        let length = bytes.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: {media_type}\r\n\
             content-length: {length}\r\n\r\n"
        )?;
        if target.ends_with(&self.large) {
            let (first, rest) = bytes.split_at(length / 2);
            stream.write_all(first)?;
            self.blobs_asked.fetch_add(1, Ordering::SeqCst);
            wait::until("open tap", LIMIT, || {
                Ok(self.is_open.load(Ordering::SeqCst).then_some(()))
            })?;
            stream.write_all(rest)?;
        } else {
            stream.write_all(&bytes)?;
        }
        Ok(())
    }
}

fn get(stage: &Stage, id: &str) -> Result<Value> {
    stage.call("operation.get", &json!({"operation_id": id}))
}

#[test]
fn detached_work_can_be_waited_for() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    let id = stage.start(pull(&tap.reference(), "slow"))?;
    tap.wait_for_request()?;

    let early = stage.refused(
        "operation.wait",
        &json!({"operation_id": id, "timeout_ms": 50}),
    )?;
    let taken = stage.refused("image.pull", &pull(&tap.reference(), "slow"))?;
    let running = get(&stage, &id)?;
    tap.open();
    let ended = stage.call("operation.wait", &json!({"operation_id": id}))?;

    assert_eq!(code(&early), "operation.still_running");
    assert_eq!(code(&taken), "image.name_reserved");
    assert_eq!(taken.data["operation_id"], id);
    assert_eq!(running["state"], "running");
    assert_eq!(running["progress"]["stage"], "fetch");
    assert_eq!(running["progress"]["layers"][0]["state"], "fetching");
    assert_eq!(ended["state"], "succeeded");
    assert_eq!(ended["result"]["name"], "slow");
    assert_eq!(tap.blobs_asked(), 1, "the loser fetched something");
    let image = stage.call("image.get", &json!({"image": "slow"}))?;
    assert_eq!(image["id"], ended["result"]["id"]);
    Ok(())
}

#[test]
fn a_cancelled_pull_leaves_nothing_and_ends_soon() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    let id = stage.start(pull(&tap.reference(), "slow"))?;
    tap.wait_for_request()?;

    let start = Instant::now();
    let ended = stage.call("operation.cancel", &json!({"operation_id": id}))?;
    let took = start.elapsed();

    assert_eq!(ended["state"], "cancelled");
    assert_eq!(ended["error"]["code"], "operation.cancelled");
    // What was promised is 10 s for the files; the answer comes when the record stands.
    assert!(took < Duration::from_secs(10), "{took:?}");
    // Right now, not soon: an operation has ended when its files are gone.
    stage.assert_nothing_left()?;
    let again = stage.refused("operation.cancel", &json!({"operation_id": id}))?;
    assert_eq!(code(&again), "operation.already_finished");
    tap.open();
    stage.pull(&tap.reference(), "slow")?;
    Ok(())
}

/// Whoever is told that an operation was cancelled may look at once: its threads have ended.
#[test]
fn a_pull_cancelled_in_mid_decode_has_no_thread_left_when_its_end_is_told() -> Result<()> {
    let stage = Stage::new()?;
    // Held at its last layer, so it cannot have ended before it is cancelled.
    let tap = Tap::of_layers(|layout| {
        let layers = 0..4_u8;
        let layer = |number| {
            let files = (0..8_u8).map(|file| {
                let bytes = [number, file, 7, 9].repeat(1 << 20);
                Entry::file(format!("large-{number}-{file}"), bytes)
            });
            layout.add_layer(&files.collect::<Vec<_>>(), Compression::Plain)
        };
        layers.map(layer).collect()
    })?;
    for round in 0..8 {
        let id = stage.start(pull(&tap.reference(), "large"))?;
        wait::until("bytes of a layer", LIMIT, || {
            let bytes = &get(&stage, &id)?["progress"]["fetched_bytes"];
            Ok((bytes.as_u64() > Some(round << 20)).then_some(()))
        })?;
        assert!(!stage.entries("cache/ingest")?.is_empty(), "nothing begun");

        let ended = stage.call("operation.cancel", &json!({"operation_id": id}))?;
        let left = (stage.unfinished()?, stage.entries("images")?);

        assert_eq!(ended["state"], "cancelled");
        assert_eq!(left, (Vec::new(), Vec::new()), "round {round}");
        for folder in ["cache/blobs/sha256", "cache/packs", "cache/ingest"] {
            let path = stage.root().join(folder);
            std::fs::remove_dir_all(&path)?;
            std::fs::create_dir(&path)?;
        }
    }
    Ok(())
}

#[test]
fn a_registry_that_drips_holds_up_nobody_elses_pull_of_the_same_layer() -> Result<()> {
    // A thread each: what is held up here is not the decoders.
    let stage = Stage::with_config("[limits]\ndecode_threads = 2\n")?;
    let (dripping, fast) = (Tap::start()?, Tap::start()?);
    assert_eq!(
        dripping.shared.large, fast.shared.large,
        "not the same layer"
    );
    let held = stage.start(pull(&dripping.reference(), "held"))?;
    dripping.wait_for_request()?;
    fast.open();

    let id = stage.start(pull(&fast.reference(), "fast"))?;
    let wait = json!({"operation_id": id, "timeout_ms": 30_000});
    let ended = stage.call("operation.wait", &wait)?;

    assert_eq!(ended["state"], "succeeded");
    assert_eq!(get(&stage, &held)?["state"], "running");
    assert_eq!(fast.blobs_asked(), 1, "the layer came from somewhere else");
    dripping.open();
    let ended = stage.call("operation.wait", &json!({"operation_id": held}))?;
    assert_eq!(ended["state"], "succeeded");
    Ok(())
}

#[test]
fn a_registry_that_drips_holds_up_nobody_who_fetches_nothing() -> Result<()> {
    let stage = Stage::with_config("[limits]\ndecode_threads = 1\n")?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "first")?;
    let tap = Tap::start()?;
    let held = stage.start(pull(&tap.reference(), "held"))?;
    tap.wait_for_request()?;

    let mut another = pull(&oci(&layout, "1"), "another");
    // Another size is another image: its layers are looked for, and found.
    another["size_bytes"] = json!(64 << 20);
    for params in [pull(&oci(&layout, "1"), "twin"), another] {
        let id = stage.start(params)?;
        let wait = json!({"operation_id": id, "timeout_ms": 30_000});
        assert_eq!(stage.call("operation.wait", &wait)?["state"], "succeeded");
    }

    assert_eq!(get(&stage, &held)?["state"], "running");
    stage.call("operation.cancel", &json!({"operation_id": held}))?;
    Ok(())
}

#[test]
fn a_subscription_ends_with_the_final_state() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    let id = stage.start(pull(&tap.reference(), "slow"))?;
    tap.wait_for_request()?;
    let mut socket = WebSocket::connect(&stage.daemon.socket())?;

    let accepted = socket.call("operation.watch", &json!({"operation_id": id}))?;
    let unknown = json!({"operation_id": "00000000-0000-4000-8000-000000000000"});
    let refused = socket.call("operation.watch", &unknown)?;
    tap.open();
    let mut states = Vec::new();
    while states.last().map(String::as_str) != Some("succeeded") {
        let item = socket.receive()?.context("closed before the end")?;
        assert_eq!(item["method"], "operation.progress");
        assert_eq!(item["params"]["subscription"], accepted["result"]);
        states.push(text(&item["params"]["result"], "state")?);
        assert!(states.len() < 1000, "no end: {states:?}");
    }

    assert!(states.iter().rev().skip(1).all(|state| state == "running"));
    assert_eq!(refused["error"]["data"]["code"], "operation.not_found");
    // An operation that has ended is one item: its end.
    socket.call("operation.watch", &json!({"operation_id": id}))?;
    let item = socket.receive()?.context("closed before the end")?;
    assert_eq!(item["params"]["result"]["state"], "succeeded");
    Ok(())
}

#[test]
fn a_pull_goes_on_when_its_client_hangs_up() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    let params = pull(&tap.reference(), "slow");
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "image.pull", "params": params});
    let body = body.to_string();
    let mut stream = UnixStream::connect(stage.daemon.socket())?;
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    tap.wait_for_request()?;

    drop(stream);
    tap.open();

    wait::until("the image", LIMIT, || {
        let found = stage.daemon.call("image.get", &json!({"image": "slow"}));
        Ok(found.is_ok().then_some(()))
    })
}

#[test]
fn a_killed_daemon_leaves_nothing_that_the_next_start_does_not_repair() -> Result<()> {
    let mut stage = Stage::new()?;
    let tap = Tap::start()?;
    let id = stage.start(pull(&tap.reference(), "slow"))?;
    tap.wait_for_request()?;
    assert_eq!(stage.entries("images")?.len(), 1, "no staging directory");

    stage.daemon.kill()?;
    stage.daemon.start_again()?;

    let operation = get(&stage, &id)?;
    assert_eq!(operation["state"], "interrupted");
    assert_eq!(operation["error"]["code"], "operation.interrupted");
    let told = stage.call("daemon.info", &json!({}))?;
    assert_eq!(told["recovered"]["interrupted_operations"], 1);
    assert_eq!(told["recovered"]["removed_staging"], 1);
    stage.assert_nothing_left()?;
    tap.open();
    let image = stage.pull(&tap.reference(), "slow")?;
    assert_eq!(image["name"], "slow");
    Ok(())
}

#[test]
fn more_operations_than_configured_are_refused_for_now() -> Result<()> {
    let stage = Stage::with_config("[limits]\nmax_operations = 1\n")?;
    let tap = Tap::start()?;
    let id = stage.start(pull(&tap.reference(), "slow"))?;

    let refused = stage.refused("image.pull", &pull(&tap.reference(), "other"))?;

    assert_eq!(code(&refused), "daemon.busy");
    assert_eq!(refused.data["retryable"], true);
    stage.call("operation.cancel", &json!({"operation_id": id}))?;
    Ok(())
}

#[test]
fn operations_are_listed_in_their_order_and_by_state() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "one")?;
    stage.refused("image.pull", &pull(&oci(&layout, "missing"), "two"))?;
    stage.pull(&oci(&layout, "1"), "three")?;

    let list = |params: Value| -> Result<Vec<String>> {
        let listed = stage.call("operation.list", &params)?;
        let items = listed["items"].as_array().context("no items")?;
        items.iter().map(|item| text(item, "state")).collect()
    };
    assert_eq!(list(json!({}))?, ["succeeded", "failed", "succeeded"]);
    assert_eq!(list(json!({"state": "failed"}))?, ["failed"]);
    let first = stage.call("operation.list", &json!({"limit": 1}))?;
    let after = &first["next"];
    assert_eq!(list(json!({"after": after}))?, ["failed", "succeeded"]);
    Ok(())
}
