//! A small registry of the distribution specification 1.1, in memory: what Debian's registry does
//! not know. It lists referrers in pages and filters them, deletes tags, and can leave out each of
//! these.
//!
//! It takes pushes of real tools, in plain HTTP, from everybody. What it was asked is kept.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::fixtures::sha256_hex;
use crate::http::{self, Message};

/// How long a client may take to send its request.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Media type of indexes (OCI image specification 1.1).
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a registry can do beyond giving and taking images.
#[derive(Clone, Copy, Debug)]
pub struct Offers {
    /// Whether it lists its repositories.
    pub catalog: bool,
    /// Whether it lists referrers.
    pub referrers: bool,
    /// Whether it filters them by their kind.
    pub filters: bool,
    /// What may be deleted.
    pub deletes: Deletes,
    /// Most entries in a page of any list, whatever is asked for.
    pub page: usize,
}

/// What may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    /// Manifests and single tags.
    Tags,
    /// Manifests, with all their tags.
    Manifests,
    /// Nothing.
    Nothing,
    /// Nothing, for want of a working disk behind the registry.
    Broken,
}

impl Default for Offers {
    /// Everything, in pages of two.
    fn default() -> Self {
        Self {
            catalog: true,
            referrers: true,
            filters: true,
            deletes: Deletes::Tags,
            page: 2,
        }
    }
}

/// A running registry; dropping it stops it.
#[derive(Debug)]
pub struct OciRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    offers: Offers,
    stopping: AtomicBool,
    store: Mutex<Store>,
    asked: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Store {
    repositories: BTreeMap<String, Repository>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// How many uploads were opened: each has a name of its own.
    opened: usize,
}

#[derive(Debug, Default)]
struct Repository {
    /// By digest: media type and bytes.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    tags: BTreeMap<String, String>,
    blobs: BTreeMap<String, Vec<u8>>,
}

struct Reply {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl OciRegistry {
    /// Starts an empty registry on a free loopback port.
    pub fn start(offers: Offers) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        let address = listener.local_addr().context("cannot learn the port")?;
        let shared = Arc::new(Shared {
            offers,
            stopping: AtomicBool::new(false),
            store: Mutex::default(),
            asked: Mutex::default(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(&listener, &shared))
        };
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    /// Returns where it listens: the first part of a reference, such as `127.0.0.1:5000`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Puts a manifest or index under a tag, or under its digest alone, and returns the digest.
    pub fn add_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        document: &Value,
    ) -> Result<String> {
        let bytes = serde_json::to_vec(document)?;
        let digest = digest_of(&bytes);
        let mut store = self.shared.store();
        let repository = store.repositories.entry(repository.to_owned()).or_default();
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest.clone());
        }
        let manifest = (media_type.to_owned(), bytes);
        repository.manifests.insert(digest.clone(), manifest);
        Ok(digest)
    }

    /// Puts a blob and returns its digest.
    pub fn add_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        let mut store = self.shared.store();
        let repository = store.repositories.entry(repository.to_owned()).or_default();
        repository.blobs.insert(digest.clone(), bytes.to_owned());
        digest
    }

    /// Returns the tags of a repository with their digests.
    pub fn tags(&self, repository: &str) -> BTreeMap<String, String> {
        let store = self.shared.store();
        let found = store.repositories.get(repository);
        found.map(|found| found.tags.clone()).unwrap_or_default()
    }

    /// Returns the digests of a repository's manifests.
    pub fn manifests(&self, repository: &str) -> Vec<String> {
        let store = self.shared.store();
        let found = store.repositories.get(repository);
        found.map_or_else(Vec::new, |found| found.manifests.keys().cloned().collect())
    }

    /// Returns what it was asked so far, oldest first: `GET /v2/_catalog?n=2`.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for OciRegistry {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread; when that fails, nobody can connect and it has ended already.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        // Ends by itself: reading has a limit.
        thread::spawn(move || drop(shared.answer(&stream)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    fn answer(&self, mut stream: &TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(READ_LIMIT))?;
        let request = http::receive(stream)?;
        let mut words = request.start.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        lock(&self.asked).push(format!("{method} {target}"));
        let reply = self.reply(&method, &target, request);
        let mut head = format!("HTTP/1.1 {} Reply\r\nconnection: close\r\n", reply.status);
        for (name, value) in &reply.fields {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.extend([
            "content-length: ",
            &reply.body.len().to_string(),
            "\r\n\r\n",
        ]);
        stream.write_all(head.as_bytes()).context("cannot answer")?;
        if method != "HEAD" {
            stream.write_all(&reply.body).context("cannot answer")?;
        }
        Ok(())
    }

    fn reply(&self, method: &str, target: &str, request: Message) -> Reply {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some(path) = path.strip_prefix("/v2/") else {
            return Reply::error(404, "NOT_FOUND");
        };
        let mut store = self.store();
        match path {
            "" => return Reply::json(200, &json!({})),
            "_catalog" if self.offers.catalog => {
                let names = store.repositories.keys().cloned().collect();
                return self.list("repositories", "_catalog", names, query);
            }
            _ => {}
        }
        if let Some(name) = path.strip_suffix("/tags/list") {
            let Some(repository) = store.repositories.get(name) else {
                return Reply::error(404, "NAME_UNKNOWN");
            };
            let tags = repository.tags.keys().cloned().collect();
            return self.list("tags", path, tags, query);
        }
        if let Some((name, digest)) = path.split_once("/referrers/")
            && self.offers.referrers
        {
            let found = store.repositories.get(name);
            let found = found.map_or_else(Vec::new, |found| found.referrers(digest));
            return self.referrers(path, found, query);
        }
        if let Some((name, wanted)) = path.split_once("/manifests/") {
            return self.manifest(&mut store, method, [name, wanted], request);
        }
        if let Some((name, upload)) = path.split_once("/blobs/uploads/") {
            let begins = request.field("content-range").and_then(begin_of);
            return store.upload(method, [name, upload], query, begins, request.body);
        }
        if let Some((name, digest)) = path.split_once("/blobs/") {
            return store.blob(method, name, digest);
        }
        Reply::error(404, "NOT_FOUND")
    }

    fn list(&self, member: &str, path: &str, names: Vec<String>, query: &str) -> Reply {
        let after = parameter(query, "last");
        let asked = parameter(query, "n").and_then(|n| n.parse().ok());
        let page = asked.unwrap_or(usize::MAX).min(self.offers.page);
        let mut rest: Vec<String> = names
            .into_iter()
            .filter(|name| after.as_ref().is_none_or(|after| name > after))
            .collect();
        let has_more = rest.len() > page;
        rest.truncate(page);
        let last = rest.last().cloned().unwrap_or_default();
        let reply = Reply::json(200, &json!({ member: rest, "name": "x" }));
        if !has_more {
            return reply;
        }
        reply.with(
            "link",
            format!(
                "</v2/{path}?last={}&n={page}>; rel=\"next\"",
                escaped(&last)
            ),
        )
    }

    fn referrers(&self, path: &str, mut found: Vec<Value>, query: &str) -> Reply {
        let wanted = parameter(query, "artifactType");
        let is_filtered = self.offers.filters && wanted.is_some();
        if is_filtered {
            found.retain(|entry| entry["artifactType"].as_str() == wanted.as_deref());
        }
        let skip: usize = parameter(query, "skip")
            .and_then(|skip| skip.parse().ok())
            .unwrap_or(0);
        let count = found.len();
        let page: Vec<Value> = found
            .into_iter()
            .skip(skip)
            .take(self.offers.page)
            .collect();
        let given = skip + page.len();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": page});
        let mut reply = Reply::json(200, &index);
        reply.fields = vec![("content-type".to_owned(), INDEX.to_owned())];
        if is_filtered {
            reply = reply.with("oci-filters-applied", "artifactType".to_owned());
        }
        if given < count {
            let kind = wanted.map_or_else(String::new, |kind| {
                format!("&artifactType={}", escaped(&kind))
            });
            let link = format!("</v2/{path}?skip={given}{kind}>; rel=\"next\"");
            reply = reply.with("link", link);
        }
        reply
    }

    fn manifest(
        &self,
        store: &mut Store,
        method: &str,
        [name, wanted]: [&str; 2],
        request: Message,
    ) -> Reply {
        let repository = match method {
            "PUT" => store.repositories.entry(name.to_owned()).or_default(),
            _ => match store.repositories.get_mut(name) {
                Some(found) => found,
                None => return Reply::error(404, "NAME_UNKNOWN"),
            },
        };
        match method {
            "PUT" => {
                let media_type = request.field("content-type").unwrap_or_default().to_owned();
                repository.put(wanted, media_type, request.body)
            }
            "DELETE" => repository.delete(wanted, self.offers.deletes),
            _ => repository.get(wanted),
        }
    }
}

impl Repository {
    fn digest(&self, wanted: &str) -> String {
        let tagged = self.tags.get(wanted).cloned();
        tagged.unwrap_or_else(|| wanted.to_owned())
    }

    fn get(&self, wanted: &str) -> Reply {
        let digest = self.digest(wanted);
        let Some((media_type, bytes)) = self.manifests.get(&digest) else {
            return Reply::error(404, "MANIFEST_UNKNOWN");
        };
        Reply {
            status: 200,
            fields: vec![("content-type".to_owned(), media_type.clone())],
            body: bytes.clone(),
        }
        .with("docker-content-digest", digest)
    }

    fn put(&mut self, wanted: &str, media_type: String, bytes: Vec<u8>) -> Reply {
        let digest = digest_of(&bytes);
        if wanted.starts_with("sha256:") {
            if wanted != digest {
                return Reply::error(400, "DIGEST_INVALID");
            }
        } else {
            self.tags.insert(wanted.to_owned(), digest.clone());
        }
        let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let subject = document["subject"]["digest"].as_str().map(str::to_owned);
        self.manifests.insert(digest.clone(), (media_type, bytes));
        let reply = Reply::json(201, &json!({})).with("docker-content-digest", digest.clone());
        let reply = reply.with("location", format!("/v2/x/manifests/{digest}"));
        match subject {
            Some(subject) => reply.with("oci-subject", subject),
            None => reply,
        }
    }

    fn delete(&mut self, wanted: &str, deletes: Deletes) -> Reply {
        let is_digest = wanted.starts_with("sha256:");
        match deletes {
            Deletes::Nothing => return Reply::error(405, "UNSUPPORTED"),
            Deletes::Broken => {
                let error = json!({"code": "UNKNOWN", "message": "no disk behind the registry"});
                return Reply::json(500, &json!({ "errors": [error] }));
            }
            Deletes::Manifests if !is_digest => return Reply::error(400, "DIGEST_INVALID"),
            _ => {}
        }
        let is_removed = if is_digest {
            self.tags.retain(|_, digest| digest != wanted);
            self.manifests.remove(wanted).is_some()
        } else {
            self.tags.remove(wanted).is_some()
        };
        if is_removed {
            Reply::json(202, &json!({}))
        } else {
            Reply::error(404, "MANIFEST_UNKNOWN")
        }
    }

    fn referrers(&self, subject: &str) -> Vec<Value> {
        let manifests = self.manifests.iter();
        let found = manifests.filter_map(|(digest, (media_type, bytes))| {
            let document: Value = serde_json::from_slice(bytes).ok()?;
            if document["subject"]["digest"] != *subject {
                return None;
            }
            let kind = match &document["artifactType"] {
                Value::Null => &document["config"]["mediaType"],
                stated => stated,
            };
            let mut entry = json!({
                "mediaType": media_type, "digest": digest, "size": bytes.len(), "artifactType": kind,
            });
            if !document["annotations"].is_null() {
                entry["annotations"] = document["annotations"].clone();
            }
            Some(entry)
        });
        found.collect()
    }
}

impl Store {
    fn upload(
        &mut self,
        method: &str,
        [name, upload]: [&str; 2],
        query: &str,
        begins: Option<usize>,
        body: Vec<u8>,
    ) -> Reply {
        if method == "POST" {
            return self.open_upload(name, query);
        }
        let at = format!("/v2/{name}/blobs/uploads/{upload}");
        let Some(bytes) = self.uploads.get_mut(upload) else {
            return Reply::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        let stands = |status: u16, held: usize| {
            let range = format!("0-{}", held.saturating_sub(1));
            Reply::json(status, &json!({}))
                .with("location", at.clone())
                .with("range", range)
        };
        match method {
            "GET" => return stands(204, bytes.len()),
            "DELETE" => {
                self.uploads.remove(upload);
                return Reply::json(204, &json!({}));
            }
            _ => {}
        }
        // A part that begins elsewhere is refused, and the answer says where the upload stands (OCI
        // distribution spec, "Pushing a blob in chunks").
        if begins.is_some_and(|begins| begins != bytes.len()) {
            return stands(416, bytes.len());
        }
        bytes.extend(body);
        if method == "PATCH" {
            return stands(202, bytes.len());
        }
        let bytes = self.uploads.remove(upload).unwrap_or_default();
        let digest = digest_of(&bytes);
        if parameter(query, "digest").as_deref() != Some(&digest) {
            return Reply::error(400, "DIGEST_INVALID");
        }
        let repository = self.repositories.entry(name.to_owned()).or_default();
        repository.blobs.insert(digest.clone(), bytes);
        Self::created(name, digest)
    }

    /// Opens an upload, or takes a blob over from another repository that has it.
    fn open_upload(&mut self, name: &str, query: &str) -> Reply {
        if let (Some(digest), Some(from)) = (parameter(query, "mount"), parameter(query, "from")) {
            let found = self.repositories.get(&from);
            let found = found.and_then(|found| found.blobs.get(&digest)).cloned();
            if let Some(bytes) = found {
                let repository = self.repositories.entry(name.to_owned()).or_default();
                repository.blobs.insert(digest.clone(), bytes);
                return Self::created(name, digest);
            }
        }
        self.opened += 1;
        let upload = format!("u{}", self.opened);
        let location = format!("/v2/{name}/blobs/uploads/{upload}");
        self.uploads.insert(upload, Vec::new());
        Reply::json(202, &json!({}))
            .with("location", location)
            .with("range", "0-0".to_owned())
    }

    fn created(name: &str, digest: String) -> Reply {
        Reply::json(201, &json!({}))
            .with("location", format!("/v2/{name}/blobs/{digest}"))
            .with("docker-content-digest", digest)
    }

    fn blob(&mut self, method: &str, name: &str, digest: &str) -> Reply {
        let found = self.repositories.get_mut(name);
        let Some(repository) = found.filter(|found| found.blobs.contains_key(digest)) else {
            return Reply::error(404, "BLOB_UNKNOWN");
        };
        if method == "DELETE" {
            repository.blobs.remove(digest);
            return Reply::json(202, &json!({}));
        }
        Reply {
            status: 200,
            fields: vec![(
                "content-type".to_owned(),
                "application/octet-stream".to_owned(),
            )],
            body: repository.blobs[digest].clone(),
        }
    }
}

impl Reply {
    fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            fields: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.to_string().into_bytes(),
        }
    }

    fn error(status: u16, code: &str) -> Self {
        let error = json!({"errors": [{"code": code, "message": "as the test wants it"}]});
        Self::json(status, &error)
    }

    fn with(mut self, name: &str, value: String) -> Self {
        self.fields.push((name.to_owned(), value));
        self
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(bytes))
}

/// Reads where a part begins: `7` of `7-11`, and of `bytes 7-11/12`, as some send it.
fn begin_of(range: &str) -> Option<usize> {
    let range = range.strip_prefix("bytes ").unwrap_or(range);
    range.split_once('-')?.0.trim().parse().ok()
}

/// Finds a parameter of a query and undoes its escapes.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pair = query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then_some(value)
    })?;
    let mut bytes = Vec::new();
    let mut rest = pair.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = tail;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Escapes what means something in a query.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_back_as_they_were() {
        for text in ["a/b+c d", "sha256:00", "plain", ""] {
            let query = format!("n=2&last={}", escaped(text));
            assert_eq!(parameter(&query, "last").as_deref(), Some(text));
        }
        assert_eq!(parameter("n=2", "last"), None);
        assert_eq!(parameter("last=%zz", "last"), None);
    }

    fn field<'a>(reply: &'a Reply, name: &str) -> &'a str {
        let found = reply.fields.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// Opens an upload in `app` and returns its name.
    fn opened(store: &mut Store) -> String {
        let reply = store.upload("POST", ["app", ""], "", None, Vec::new());
        assert_eq!(reply.status, 202);
        let location = field(&reply, "location");
        location.rsplit('/').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn an_upload_says_where_it_stands_and_ends_once() {
        let mut store = Store::default();
        let upload = opened(&mut store);
        let place = ["app", upload.as_str()];
        let part = |store: &mut Store, begins, bytes: &[u8]| {
            store.upload("PATCH", place, "", begins, bytes.to_vec())
        };

        assert_eq!(field(&part(&mut store, Some(0), b"hello"), "range"), "0-4");
        let gap = part(&mut store, Some(7), b"world");
        assert_eq!((gap.status, field(&gap, "range")), (416, "0-4"));
        let stands = store.upload("GET", place, "", None, Vec::new());
        assert_eq!((stands.status, field(&stands, "range")), (204, "0-4"));
        let query = format!("digest={}", digest_of(b"hello"));
        let closed = store.upload("PUT", place, &query, None, Vec::new());
        assert_eq!(closed.status, 201);
        assert_eq!(store.upload("GET", place, "", None, Vec::new()).status, 404);

        let upload = opened(&mut store);
        let place = ["app", upload.as_str()];
        assert_eq!(
            store.upload("DELETE", place, "", None, Vec::new()).status,
            204
        );
        assert_eq!(
            store.upload("PATCH", place, "", None, Vec::new()).status,
            404
        );
        assert_ne!(opened(&mut store), upload, "two uploads of one name");
    }

    #[test]
    fn a_blob_is_taken_over_from_a_repository_that_has_it() {
        let mut store = Store::default();
        let upload = opened(&mut store);
        let digest = digest_of(b"blob");
        let query = format!("digest={digest}");
        store.upload("PUT", ["app", &upload], &query, None, b"blob".to_vec());
        let mut mount = |from: &str| {
            let query = format!("mount={digest}&from={from}");
            store
                .upload("POST", ["other", ""], &query, None, Vec::new())
                .status
        };

        assert_eq!(mount("none"), 202);
        assert_eq!(mount("app"), 201);
        assert_eq!(store.blob("HEAD", "other", &digest).status, 200);
    }
}
