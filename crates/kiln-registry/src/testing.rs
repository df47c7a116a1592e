//! A scripted HTTP server for tests: it answers as it is told and remembers what it was asked.
//!
//! It also serves as a proxy for plain HTTP, so that one server plays every host of a story.

use std::sync::{Arc, Mutex};

use kiln_domain::oci::Descriptor;
use kiln_domain::{Credentials, Digest, Reference, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::client::Registry;
use crate::config::Config;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `GET` or `POST`.
    pub(crate) method: String,
    /// The request target: a path, or a whole URL when asked as a proxy.
    pub(crate) target: String,
    /// Header names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The body is as long as announced.
    Whole,
    /// The connection closes after so many bytes of the announced body.
    Cut(usize),
    /// So many bytes come, then nothing, and the connection stays open.
    Stall(usize),
    /// No length is announced; the body ends with the connection.
    Unannounced,
    /// The connection closes without a word.
    Nothing,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            ending: Ending::Whole,
        }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, body)
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::new(status, "")
    }

    /// Closes the connection without a word.
    pub(crate) fn hang_up() -> Self {
        Self {
            ending: Ending::Nothing,
            ..Self::status(200)
        }
    }

    pub(crate) fn redirect(location: &str) -> Self {
        Self::status(307).with("location", location)
    }

    pub(crate) fn demand(challenge: &str) -> Self {
        Self::status(401).with("www-authenticate", challenge)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.ending = Ending::Cut(bytes);
        self
    }

    pub(crate) fn stall_after(mut self, bytes: usize) -> Self {
        self.ending = Ending::Stall(bytes);
        self
    }

    pub(crate) fn unannounced(mut self) -> Self {
        self.ending = Ending::Unannounced;
        self
    }
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    authority: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Starts a server on a free loopback port. `script` sees each request and how many requests
    /// of the same target came before it.
    pub(crate) async fn start(
        script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, seen) = (Arc::new(script), asked.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, script.clone(), seen.clone()));
            }
        });
        Self {
            authority,
            asked,
            accepting,
        }
    }

    /// Returns `127.0.0.1:<port>`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns every request but the first look whether the server speaks plain HTTP.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        let is_probe = |asked: &&Asked| asked.target.ends_with("/v2/");
        asked
            .iter()
            .filter(|asked| !is_probe(asked))
            .cloned()
            .collect()
    }

    /// Returns every request, that first look too.
    pub(crate) fn asked_in_all(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn targets(&self) -> Vec<String> {
        let asked = self.asked();
        asked.into_iter().map(|asked| asked.target).collect()
    }

    /// A reference to `app:1` in this registry.
    pub(crate) fn reference(&self) -> Reference {
        format!("{}/app:1", self.authority).parse().unwrap()
    }

    pub(crate) fn registry(&self, credentials: Option<Credentials>) -> Registry {
        Registry::new(&self.reference(), credentials, impatient()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<impl Fn(&Asked, usize) -> Reply>,
    seen: Arc<Mutex<Vec<Asked>>>,
) {
    let Some(asked) = read_request(&mut stream).await else {
        return;
    };
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|seen| seen.target == asked.target);
        let before = before.count();
        seen.push(asked.clone());
        before
    };
    let reply = script(&asked, before);
    write_reply(&mut stream, &reply).await;
}

async fn read_request(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        stream.read_buf(&mut body).await.ok()?;
    }
    Some(Asked {
        method,
        target,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Writes what the reply says. The client may hang up at any time, which is no failure here.
async fn write_reply(stream: &mut TcpStream, reply: &Reply) {
    if matches!(reply.ending, Ending::Nothing) {
        return;
    }
    let mut head = format!(
        "HTTP/1.1 {} Scripted\r\nconnection: close\r\n",
        reply.status
    );
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if !matches!(reply.ending, Ending::Unannounced) {
        head.extend(["content-length: ", &reply.body.len().to_string(), "\r\n"]);
    }
    head.push_str("\r\n");
    let count = match reply.ending {
        Ending::Cut(count) | Ending::Stall(count) => count,
        Ending::Whole | Ending::Unannounced | Ending::Nothing => reply.body.len(),
    };
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&reply.body[..count]).await?;
        stream.flush().await
    };
    if sent.await.is_ok() && matches!(reply.ending, Ending::Stall(_)) {
        std::future::pending::<()>().await;
    }
}

/// A configuration that gives up soon, so that tests of failures are quick, and not so soon that a
/// busy machine's pauses look like silence.
pub(crate) fn impatient() -> Arc<Config> {
    Arc::new(Config {
        attempts: 1,
        stall_timeout: std::time::Duration::from_secs(4),
        ..Config::default()
    })
}

pub(crate) fn ada() -> Credentials {
    Credentials::Password {
        username: "ada".to_owned(),
        secret: Secret::new("hunter2".to_owned()),
    }
}

/// `Basic` of ada's name and password.
pub(crate) const ADA: &str = "Basic YWRhOmh1bnRlcjI=";

/// A manifest with one gzip layer; what it points at need not exist.
pub(crate) fn manifest() -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":5}}]}}"#,
        Digest::of(b"{}"),
        Digest::of(b"layer"),
    )
}

pub(crate) fn descriptor(content: &[u8]) -> Descriptor {
    Descriptor::new(
        "application/octet-stream",
        Digest::of(content),
        content.len() as u64,
    )
}

/// Content under construction: documents and blobs by digest, as a layout or a registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    blobs: Vec<Vec<u8>>,
}

impl Content {
    /// Adds a blob and returns its descriptor.
    pub(crate) fn add(&mut self, media_type: &str, bytes: impl Into<Vec<u8>>) -> Descriptor {
        let bytes = bytes.into();
        let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        self.blobs.push(bytes);
        descriptor
    }

    /// Adds an image of one layer, which is `text` and no real tar, for `platform`
    /// (`linux/arm64`).
    pub(crate) fn image(&mut self, platform: &str, text: &str) -> Descriptor {
        let mut words = platform.split('/');
        let (os, architecture) = (words.next().unwrap(), words.next().unwrap());
        let layer = self.add("application/vnd.oci.image.layer.v1.tar", text);
        let config = self.add(
            "application/vnd.oci.image.config.v1+json",
            format!(
                r#"{{"os":"{os}","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
                layer.digest
            ),
        );
        self.document(
            OCI_MANIFEST,
            &serde_json::json!({"config": config, "layers": [layer]}),
        )
    }

    /// Adds an index of documents, each with the platform it is said to be for, if any.
    pub(crate) fn index(&mut self, entries: &[(Descriptor, Option<&str>)]) -> Descriptor {
        let manifests: Vec<Descriptor> = entries
            .iter()
            .map(|(descriptor, platform)| {
                let mut descriptor = descriptor.clone();
                descriptor.platform = platform.map(|platform| {
                    let mut words = platform.split('/').map(str::to_owned);
                    kiln_domain::oci::PlatformWords {
                        os: words.next().unwrap_or_default(),
                        architecture: words.next().unwrap_or_default(),
                        variant: words.next(),
                    }
                });
                descriptor
            })
            .collect();
        self.document(OCI_INDEX, &serde_json::json!({"manifests": manifests}))
    }

    fn document(&mut self, media_type: &str, members: &serde_json::Value) -> Descriptor {
        let mut document = members.clone();
        document["schemaVersion"] = 2.into();
        document["mediaType"] = media_type.into();
        self.add(media_type, document.to_string())
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<&Vec<u8>> {
        self.blobs.iter().find(|bytes| Digest::of(bytes) == *digest)
    }

    /// Lists the files of a layout whose index has these entries, named by their tags.
    pub(crate) fn layout(&self, entries: &[(&Descriptor, &str)]) -> Vec<(String, Vec<u8>)> {
        let manifests: Vec<Descriptor> = entries
            .iter()
            .map(|(descriptor, tag)| {
                let mut descriptor = (*descriptor).clone();
                if !tag.is_empty() {
                    let key = "org.opencontainers.image.ref.name".to_owned();
                    descriptor.annotations.insert(key, (*tag).to_owned());
                }
                descriptor
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        let blobs = self.blobs.iter().map(|bytes| {
            let name = format!("blobs/sha256/{}", Digest::of(bytes).to_hex());
            (name, bytes.clone())
        });
        let index = ("index.json".to_owned(), index.to_string().into_bytes());
        std::iter::once(index).chain(blobs).collect()
    }

    /// Starts a registry whose `app:1` is `root`.
    pub(crate) async fn serve(self, root: &Descriptor) -> Server {
        let root = root.clone();
        Server::start(move |asked, _| {
            let name = asked.target.rsplit('/').next().unwrap_or_default();
            let digest = match name {
                "1" => root.digest,
                digest => match digest.parse() {
                    Ok(digest) => digest,
                    Err(_) => return Reply::status(404),
                },
            };
            let Some(bytes) = self.get(&digest) else {
                return Reply::status(404);
            };
            let is_index = bytes.windows(11).any(|window| window == b"\"manifests\"");
            let media_type = if is_index { OCI_INDEX } else { OCI_MANIFEST };
            Reply::ok(bytes.clone()).with("content-type", media_type)
        })
        .await
    }
}

/// Packs files into a tar archive on disk.
pub(crate) fn tar_of(files: &[(String, Vec<u8>)]) -> std::fs::File {
    let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}
