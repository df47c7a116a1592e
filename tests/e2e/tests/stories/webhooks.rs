//! "Push, and the host has the new bootable version."

mod envelopes;
mod lasting;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context as _, Result};
use kiln_testkit::http::{self, Message};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::registry::{Access, Extras, PASSWORD, Registry, Transport, USER};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::source::oci;
use crate::stage::{KERNEL, LIMIT, Stage, folder};

const NEEDS: &[Need] = &[
    tools::DOCKER_REGISTRY,
    tools::SKOPEO,
    tools::OPENSSL,
    tools::HTPASSWD,
];

const SECRET: &str = "correct horse battery staple";

/// A registry that notifies a daemon which pulls by rule.
struct Pipeline {
    stage: Stage,
    registry: Registry,
    port: u16,
    layout: Layout,
    /// Goes after the daemon.
    _secrets: TempDir,
}

impl Pipeline {
    fn new(access: Access, action: &str) -> Result<Self> {
        Self::with(access, action, true, "")
    }

    /// A pipeline whose registry may say nothing, and whose daemon has this configuration besides.
    fn with(access: Access, action: &str, notifies: bool, others: &str) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let notifications = json!({"notifications": {"endpoints": [{
            "name": "kiln", "url": format!("http://127.0.0.1:{port}/webhooks"),
            "headers": {"Authorization": [format!("Bearer {SECRET}")]},
            "timeout": "5s", "threshold": 3, "backoff": "200ms",
        }]}});
        let extras = Extras {
            members: if notifies { notifications } else { Value::Null },
            ..Extras::default()
        };
        let registry = Registry::start_with(access, Transport::Http, &extras)?;
        let secrets = folder()?;
        // The daemon reads it at its start, and again when it is started again.
        let secret = secrets.path().join("secret");
        fs::write(&secret, format!("{SECRET}\n"))?;
        let config = format!(
            "[webhooks]\nlisten = \"127.0.0.1:{port}\"\nsecret_file = \"{}\"\n\
             [[webhooks.rule]]\nregistry = {:?}\nrepository = \"apps/*\"\ntag = \"v*\"\n\
             action = {action:?}\n{others}\n",
            secret.display(),
            registry.host()
        );
        let stage = Stage::with_config(&config)?;
        stage.call("kernel.set_default", &json!({"name": KERNEL}))?;
        let layout = Layout::create(stage.path("layout"))?;
        let pipeline = Self {
            stage,
            registry,
            port,
            layout,
            _secrets: secrets,
        };
        Ok(pipeline)
    }

    /// Builds an image with `content` and pushes it, and returns its digest.
    fn push(&mut self, content: &str, target: &str) -> Result<String> {
        let layer = self
            .layout
            .add_layer(&[Entry::file("content", content)], Compression::Gzip)?;
        let image = self.layout.add_image(&[layer], &Platform::linux("amd64"))?;
        self.layout.tag(content, &image)?;
        self.registry.push(&oci(&self.layout, content), target)?;
        Ok(image.digest)
    }

    fn log_in(&self) -> Result<()> {
        let params = json!({
            "registry": format!("{}/apps", self.registry.host()),
            "credentials": {"username": USER, "secret": PASSWORD}, "unchecked": true,
        });
        self.stage.call("registry.login", &params).map(drop)
    }

    /// Posts what a registry would.
    fn notify(&self, authorization: &str, body: &Value) -> Result<Message> {
        self.post(&[("authorization", authorization)], body)
    }

    /// Posts what a product would, with the fields that it sends.
    fn post(&self, fields: &[(&str, &str)], body: &Value) -> Result<Message> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let body = body.to_string();
        let request = http::Request {
            method: "POST",
            target: "/webhooks",
            fields,
            body: body.as_bytes(),
        };
        http::exchange(&mut stream, "localhost", request)
    }

    fn images(&self) -> Result<Vec<Value>> {
        let listed = self.stage.call("image.list", &json!({}))?;
        Ok(listed["items"].as_array().context("no items")?.clone())
    }

    /// Waits until exactly one image is there, and it is of this digest.
    fn only_image(&self, digest: &str) -> Result<Value> {
        wait::until("the image of the push", LIMIT, || {
            let images = self.images()?;
            let is_it = images.len() == 1 && images[0]["source"]["manifest_digest"] == digest;
            Ok(is_it.then(|| images[0].clone()))
        })
        .with_context(|| format!("{:?}", self.events("webhook.")))
    }

    fn events(&self, kind: &str) -> Result<Vec<Value>> {
        let events = self.stage.call("event.list", &json!({"limit": 1000}))?;
        let events = events["items"].as_array().context("no events")?;
        let is_it = |event: &&Value| {
            event["kind"]
                .as_str()
                .is_some_and(|text| text.starts_with(kind))
        };
        Ok(events.iter().filter(is_it).cloned().collect())
    }
}

/// Tells what the name of an image has of a digest.
fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:")[..12].to_owned()
}

fn envelope(repository: &str, tag: &str, digest: &str) -> Value {
    json!({"events": [{"action": "push", "target": {
        "repository": repository, "tag": tag, "digest": digest,
    }}]})
}

#[test]
fn a_push_is_a_new_bootable_image_and_the_next_one_takes_its_place() -> Result<()> {
    if tools::must_skip("a_push_is_a_new_bootable_image", NEEDS)? {
        return Ok(());
    }
    let mut pipeline = Pipeline::new(Access::Bearer, "refresh")?;
    pipeline.log_in()?;

    let first = pipeline.push("one", "apps/web:v1")?;
    let image = pipeline.only_image(&first)?;
    pipeline.push("other", "apps/web:latest")?;
    pipeline.push("else", "tools/web:v1")?;
    let second = pipeline.push("two", "apps/web:v1")?;
    let newer = pipeline.only_image(&second)?;

    assert_eq!(
        image["name"],
        json!(format!("apps-web-v1-{}", short(&first)))
    );
    assert_eq!(
        newer["name"],
        json!(format!("apps-web-v1-{}", short(&second)))
    );
    assert!(
        image["boot"].is_object() || image["boot"].is_string(),
        "{image}"
    );
    // Told again, as registries do: the same image.
    let body = envelope("apps/web", "v1", &second);
    let told = pipeline.notify(SECRET, &body)?;
    assert_eq!(told.status()?, 202);
    wait::until("the end of the second telling", LIMIT, || {
        Ok((pipeline.events("webhook.pulled")?.len() == 3).then_some(()))
    })?;
    assert_eq!(pipeline.images()?.len(), 1);
    assert_eq!(pipeline.events("webhook.failed")?, Vec::<Value>::new());
    let log = fs::read_to_string(pipeline.stage.daemon.log())?;
    for secret in [SECRET, PASSWORD] {
        assert!(!log.contains(secret), "{log}");
        for name in ["kiln.db", "kiln.db-wal"] {
            let bytes = fs::read(pipeline.stage.root().join(name)).unwrap_or_default();
            let mut windows = bytes.windows(secret.len());
            assert!(!windows.any(|window| window == secret.as_bytes()), "{name}");
        }
    }
    Ok(())
}

#[test]
fn a_push_that_was_told_is_not_lost_with_the_daemon() -> Result<()> {
    if tools::must_skip("a_push_that_was_told_is_not_lost", NEEDS)? {
        return Ok(());
    }
    let mut pipeline = Pipeline::new(Access::Anonymous, "pull")?;
    // Nobody listens there yet: what the registry itself tells comes to nothing this time.
    pipeline.stage.daemon.stop()?;
    let digest = pipeline.push("one", "apps/web:v1")?;
    let registry = i32::try_from(pipeline.registry.id())
        .ok()
        .and_then(Pid::from_raw);
    let registry = registry.context("no process id")?;
    kill_process(registry, Signal::STOP)?;
    pipeline.stage.daemon.start_again()?;

    let told = pipeline.notify(SECRET, &envelope("apps/web", "v1", &digest))?;
    assert_eq!(told.status()?, 202);
    pipeline.stage.daemon.kill()?;
    kill_process(registry, Signal::CONT)?;
    pipeline.stage.daemon.start_again()?;

    pipeline.only_image(&digest)?;
    Ok(())
}

#[test]
fn strangers_and_failures_are_told_apart() -> Result<()> {
    if tools::must_skip("strangers_and_failures_are_told_apart", NEEDS)? {
        return Ok(());
    }
    let mut pipeline = Pipeline::new(Access::Basic, "pull")?;

    let stranger = pipeline.notify("Bearer guess", &json!({"events": []}))?;
    let nonsense = pipeline.notify(SECRET, &json!({"hello": "world"}))?;
    pipeline.push("one", "apps/web:v1")?;
    let failed = wait::until("the failure", LIMIT, || {
        Ok(pipeline.events("webhook.failed")?.first().cloned())
    })?;

    // A tag as long as they come: what is refused would be sent again, before anything else.
    let long = format!("v{}", "b".repeat(127));
    let digest = format!("sha256:{}", "0".repeat(64));
    let long = pipeline.notify(SECRET, &envelope("apps/web", &long, &digest))?;
    assert_eq!(long.status()?, 202);
    assert_eq!(stranger.status()?, 401);
    assert_eq!(nonsense.status()?, 400);
    // The daemon has no login there.
    assert_eq!(failed["data"]["code"], "registry.auth_required", "{failed}");
    assert_eq!(pipeline.images()?, Vec::<Value>::new());
    Ok(())
}
