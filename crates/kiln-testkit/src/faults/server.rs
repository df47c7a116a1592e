//! The two servers of a fault registry, and what they were asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::net::sockopt::set_socket_linger;
use serde_json::json;

use super::fault::{Fault, How, Place, Ranges, Times};
use super::image::OddImage;
use super::misbehave::{Connection, Good, misbehave, write_good};
use super::uploads::{self, Kept, Uploads};
use super::{PASSWORD, TOKEN_PREFIX, USER};
use crate::http::{self, Message};

/// Name of the image.
const REPOSITORY: &str = "some/app";

/// How long a client may take to send a request, or to hang up.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// How often a server that has nothing to do looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// One request, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The `Range` field.
    pub range: Option<String>,
    /// The `Authorization` field.
    pub authorization: Option<String>,
    /// Bytes of the body that were handed to the connection.
    pub body_bytes: u64,
}

/// A running registry with one fault; dropping it stops it.
#[derive(Debug)]
pub struct FaultRegistry {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) fault: Fault,
    pub(super) image: OddImage,
    uploads: Uploads,
    pub(super) home: SocketAddr,
    pub(super) stranger: SocketAddr,
    pub(super) is_stopping: AtomicBool,
    /// Whether nobody is let in any more.
    pub(super) is_closed: AtomicBool,
    /// Whether the fault is over, whatever it says itself.
    is_mended: AtomicBool,
    /// How often the place of the fault was asked.
    seen: AtomicUsize,
    /// Tokens are numbered; those before this one are no longer taken.
    tokens: AtomicUsize,
    oldest_token: AtomicUsize,
    asked: Mutex<Vec<Asked>>,
    stranger_asked: Mutex<Vec<Asked>>,
    /// A second handle of every connection, to end it with. It goes with the first: only when
    /// none is left is a connection closed, or reset.
    open: Mutex<BTreeMap<u64, TcpStream>>,
}

impl FaultRegistry {
    /// Starts a registry with this fault on free loopback ports.
    pub fn start(fault: Fault) -> Result<Self> {
        Self::start_with(fault, fault.name)
    }

    /// Starts a registry with this fault, whose image depends on `word`.
    pub fn start_with(fault: Fault, word: &str) -> Result<Self> {
        Self::start_of(fault, OddImage::whole(word)?)
    }

    /// Starts a registry with this fault, that serves the first image, or other artifact, of the OCI
    /// layout in `folder`.
    pub fn start_layout(fault: Fault, folder: &Path) -> Result<Self> {
        Self::start_of(fault, OddImage::of_layout(folder)?)
    }

    fn start_of(fault: Fault, mut image: OddImage) -> Result<Self> {
        match fault.how {
            How::Image(make_odd) => make_odd(&mut image),
            How::Edit(pointer, value) => image.set_at(pointer, value)?,
            _ => {}
        }
        let home = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        let stranger = TcpListener::bind(("127.0.0.2", 0)).context("cannot listen")?;
        let shared = Arc::new(Shared {
            fault,
            image,
            uploads: Uploads::default(),
            home: home.local_addr()?,
            stranger: stranger.local_addr()?,
            is_stopping: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            is_mended: AtomicBool::new(false),
            seen: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            oldest_token: AtomicUsize::new(0),
            asked: Mutex::default(),
            stranger_asked: Mutex::default(),
            open: Mutex::default(),
        });
        let threads = [(home, Who::Home), (stranger, Who::Stranger)]
            .map(|(listener, who)| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || listen(&listener, who, &shared))
            })
            .into();
        Ok(Self { shared, threads })
    }

    /// Returns the reference of its image.
    pub fn reference(&self) -> String {
        format!("{}/{REPOSITORY}:1", self.shared.home)
    }

    /// Returns the reference of its image by digest.
    pub fn pinned(&self) -> String {
        let digest = self.shared.image.root();
        format!("{}/{REPOSITORY}@{digest}", self.shared.home)
    }

    /// Returns the reference of a place that takes content, and has none yet.
    pub fn destination(&self) -> String {
        format!("{}/{}:1", self.shared.home, uploads::REPOSITORY)
    }

    /// Returns what was sent to that place and taken.
    pub fn kept(&self) -> Kept {
        self.shared.uploads.kept().clone()
    }

    /// Returns its host and port.
    pub fn host(&self) -> String {
        self.shared.home.to_string()
    }

    /// Returns what it serves.
    pub fn image(&self) -> &OddImage {
        &self.shared.image
    }

    /// From now on it is a good registry.
    pub fn mend(&self) {
        self.shared.is_mended.store(true, Ordering::SeqCst);
    }

    /// Returns what it was asked, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// Returns what it was asked of its first layer with a token, oldest first.
    pub fn first_layer_asked(&self) -> Vec<Asked> {
        let mut asked = self.asked();
        let path = format!("/v2/{REPOSITORY}/blobs/{}", self.shared.image.first_layer());
        asked.retain(|asked| asked.target == path && asked.authorization.is_some());
        asked
    }

    /// Returns what the stranger was asked, oldest first.
    pub fn stranger_asked(&self) -> Vec<Asked> {
        lock(&self.shared.stranger_asked).clone()
    }
}

impl Drop for FaultRegistry {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        for address in [self.shared.home, self.shared.stranger] {
            // Wakes the thread; when that fails, nobody can connect and it has ended already.
            drop(TcpStream::connect(address));
        }
        for stream in lock(&self.shared.open).values() {
            drop(stream.shutdown(Shutdown::Both));
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Home,
    Stranger,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(listener: &TcpListener, who: Who, shared: &Arc<Shared>) {
    for (number, stream) in (0..).zip(listener.incoming()) {
        let number = 2 * number + u64::from(who == Who::Home);
        if shared.is_stopping.load(Ordering::SeqCst) || shared.is_closed.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        if let Ok(second) = stream.try_clone() {
            lock(&shared.open).insert(number, second);
        }
        let shared = Arc::clone(shared);
        // Ends when the client hangs up, or when the registry is dropped and shuts it down.
        thread::spawn(move || {
            drop(shared.serve(&stream, who));
            lock(&shared.open).remove(&number);
        });
    }
}

impl Shared {
    /// Answers the requests of one connection until one ends it.
    fn serve(&self, stream: &TcpStream, who: Who) -> Result<()> {
        stream.set_read_timeout(Some(READ_LIMIT))?;
        stream.set_nodelay(true)?;
        loop {
            let mut reader = BufReader::new(stream);
            let mut request = http::receive_head(&mut reader)?;
            let mut words = request.start.split(' ').map(str::to_owned);
            let method = words.next().unwrap_or_default();
            let target = words.next().unwrap_or_default();
            let log = match who {
                Who::Home => &self.asked,
                Who::Stranger => &self.stranger_asked,
            };
            let field = |name| request.field(name).map(str::to_owned);
            let at = {
                let mut log = lock(log);
                log.push(Asked {
                    method: method.clone(),
                    target: target.clone(),
                    range: field("range"),
                    authorization: field("authorization"),
                    body_bytes: 0,
                });
                log.len() - 1
            };
            let count = |bytes: u64| {
                if let Some(asked) = lock(log).get_mut(at) {
                    asked.body_bytes += bytes;
                }
            };
            let asked = (method.as_str(), target.as_str());
            if who == Who::Home && self.stops_reading(asked, &request, &mut reader, stream)? {
                return Ok(());
            }
            http::receive_body(&mut reader, &mut request)?;
            let mut connection = Connection {
                stream,
                shared: self,
                is_bodiless: method == "HEAD",
                count: &count,
            };
            let goes_on = match who {
                Who::Home => self.answer(&mut connection, &request, asked)?,
                Who::Stranger => self.answer_as_stranger(&mut connection, &request, asked)?,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Gives its fault while a request is read, where it is one of those; says whether it did.
    fn stops_reading(
        &self,
        asked: (&str, &str),
        request: &Message,
        reader: &mut impl BufRead,
        stream: &TcpStream,
    ) -> Result<bool> {
        let how = self.fault.how;
        let is_here = matches!(how, How::ResetInRequest | How::Deaf)
            && self.place_of(asked) == self.fault.place
            && self.knows(request);
        if !is_here || !self.is_due() {
            return Ok(false);
        }
        if matches!(how, How::ResetInRequest) {
            let length = request.field("content-length").unwrap_or_default();
            let half = length.parse::<u64>().unwrap_or_default() / 2;
            std::io::copy(&mut reader.take(half), &mut std::io::sink())?;
            set_socket_linger(stream, Some(Duration::ZERO))?;
            return Ok(true);
        }
        let began = Instant::now();
        while !self.is_stopping.load(Ordering::SeqCst) && began.elapsed() < READ_LIMIT {
            thread::sleep(LOOK);
        }
        Ok(true)
    }

    /// Answers a request to the registry; says whether the connection goes on.
    fn answer(
        &self,
        connection: &mut Connection<'_>,
        request: &Message,
        asked: (&str, &str),
    ) -> Result<bool> {
        let place = self.place_of(asked);
        if matches!(place, Place::Token | Place::Root) && place == self.fault.place && self.is_due()
        {
            let good = self.good(asked, request);
            return misbehave(connection, &self.fault, &good, request);
        }
        // A probe comes first and without a token: it is told that this is a registry.
        if matches!(place, Place::Token | Place::Root) {
            return write_good(connection, &self.good(asked, request));
        }
        if !self.knows(request) {
            if self.fault.place == Place::Door && self.is_due() {
                return misbehave(connection, &self.fault, &Good::json(401, "{}"), request);
            }
            let realm = format!(
                r#"Bearer realm="http://{}/token",service="faults",scope="repository:{REPOSITORY}:pull""#,
                self.home
            );
            let good = Good::json(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
            return write_good(connection, &good.with("www-authenticate", &realm));
        }
        let applies = self.fault.place == place || self.fault.place == Place::Everywhere;
        if !applies || !self.is_due() {
            return write_good(connection, &self.good(asked, request));
        }
        let (method, target) = asked;
        let good = match self.fault.how {
            how if how.leaves_undone() => Good::json(200, "{}"),
            How::WithoutQuery => {
                let path = target.split('?').next().unwrap_or_default();
                self.good((method, path), request)
            }
            _ => self.good(asked, request),
        };
        misbehave(connection, &self.fault, &good, request)
    }

    /// The stranger has the blobs, and wants nothing for them; below `/locked/` it wants a
    /// password, which nobody should give it.
    fn answer_as_stranger(
        &self,
        connection: &mut Connection<'_>,
        request: &Message,
        asked: (&str, &str),
    ) -> Result<bool> {
        let path = asked.1.split('?').next().unwrap_or_default();
        if let Some(scheme) = path.strip_prefix("/locked/") {
            let scheme = scheme.split('/').next().unwrap_or_default();
            let challenge = match scheme {
                "basic" => r#"Basic realm="stranger""#.to_owned(),
                _ => format!(r#"Bearer realm="http://{}/token""#, self.stranger),
            };
            let good = Good::json(401, "{}").with("www-authenticate", &challenge);
            return write_good(connection, &good);
        }
        write_good(connection, &self.good(asked, request))
    }

    fn place_of(&self, (method, target): (&str, &str)) -> Place {
        let path = target.split('?').next().unwrap_or_default();
        if is_of_uploads(path) {
            return uploads::place_of(method, target);
        }
        let digest = path.rsplit('/').next().unwrap_or_default();
        if path == "/v2/" {
            Place::Root
        } else if path.starts_with("/token") {
            Place::Token
        } else if path.contains("/manifests/") {
            Place::Manifest
        } else if digest == self.image.config() {
            Place::Config
        } else if digest == self.image.first_layer() {
            Place::Layer
        } else {
            Place::Everywhere
        }
    }

    /// Counts a visit to the fault's place, and says whether the fault is shown this time.
    fn is_due(&self) -> bool {
        if self.is_mended.load(Ordering::SeqCst) {
            return false;
        }
        let before = self.seen.fetch_add(1, Ordering::SeqCst);
        match self.fault.times {
            Times::Once => before == 0,
            Times::Twice => before < 2,
            Times::Always => true,
        }
    }

    /// Returns what a good registry answers.
    fn good(&self, asked: (&str, &str), request: &Message) -> Good {
        let path = asked.1.split('?').next().unwrap_or_default();
        if is_of_uploads(path) {
            let manner = if self.is_mended.load(Ordering::SeqCst) {
                Ranges::Good
            } else {
                self.fault.ranges
            };
            return self.uploads.good(asked, request, manner, &self.image);
        }
        if path == "/v2/" {
            return Good::json(200, "{}");
        }
        if path.starts_with("/token") {
            let (status, body) = self.token(request);
            return Good::json(status, body);
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        if path.contains("/manifests/") {
            let digest = if name == "1" { self.image.root() } else { name };
            return match self.image.document(digest) {
                Some((media_type, bytes)) => Good::new(200, bytes.clone())
                    .with("content-type", media_type)
                    .with("docker-content-digest", digest),
                None => Good::json(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
            };
        }
        let Some(bytes) = self.image.blob(name) else {
            return Good::json(404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#);
        };
        let range = request
            .field("range")
            .filter(|_| !self.is_mended_from_ranges());
        self.ranged(bytes, range)
    }

    fn is_mended_from_ranges(&self) -> bool {
        self.fault.ranges == Ranges::Ignored && !self.is_mended.load(Ordering::SeqCst)
    }

    /// Answers with a part, in the manner of the fault.
    fn ranged(&self, bytes: &[u8], range: Option<&str>) -> Good {
        let octets = |good: Good| good.with("content-type", "application/octet-stream");
        let start = range
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|range| range.strip_suffix('-'))
            .and_then(|start| start.parse::<usize>().ok());
        let Some(start) = start else {
            return octets(Good::new(200, bytes.to_vec()));
        };
        let manner = if self.is_mended.load(Ordering::SeqCst) {
            Ranges::Good
        } else {
            self.fault.ranges
        };
        let part = bytes.get(start..).unwrap_or_default().to_vec();
        let (last, all) = (bytes.len().saturating_sub(1), bytes.len());
        let content_range = format!("bytes {start}-{last}/{all}");
        match manner {
            Ranges::Good | Ranges::Ignored | Ranges::Creeping if start >= all => {
                Good::json(416, "{}").with("content-range", &format!("bytes */{all}"))
            }
            Ranges::Good | Ranges::Ignored | Ranges::Creeping => {
                octets(Good::new(206, part)).with("content-range", &content_range)
            }
            Ranges::Refused => {
                Good::json(416, "{}").with("content-range", &format!("bytes */{all}"))
            }
            Ranges::Unsaid => octets(Good::new(206, part)),
            Ranges::Elsewhere => {
                let other = bytes.get(start / 2..).unwrap_or_default().to_vec();
                let said = format!("bytes {}-{last}/{all}", start / 2);
                octets(Good::new(206, other)).with("content-range", &said)
            }
            Ranges::Lying => {
                let mut part = part;
                part.reverse();
                octets(Good::new(206, part)).with("content-range", &content_range)
            }
        }
    }

    /// Gives a token to whoever has the password.
    fn token(&self, request: &Message) -> (u16, String) {
        let want = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        if request.field("authorization") != Some(want.as_str()) {
            return (401, r#"{"details":"wrong password"}"#.to_owned());
        }
        let number = self.tokens.fetch_add(1, Ordering::SeqCst);
        let token = json!({"token": format!("{TOKEN_PREFIX}-{number}"), "expires_in": 300});
        (200, token.to_string())
    }

    fn knows(&self, request: &Message) -> bool {
        let sent = request.field("authorization").unwrap_or_default();
        let number = sent
            .strip_prefix("Bearer ")
            .and_then(|token| token.strip_prefix(TOKEN_PREFIX))
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|number| number.parse::<usize>().ok());
        number.is_some_and(|number| number >= self.oldest_token.load(Ordering::SeqCst))
    }

    /// Takes none of the tokens given so far any more.
    pub(super) fn forget_tokens(&self) {
        let next = self.tokens.load(Ordering::SeqCst);
        self.oldest_token.store(next, Ordering::SeqCst);
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        // Wakes the listener, which then goes.
        drop(TcpStream::connect(self.home));
    }
}

/// Tells whether a path lies in the repository that takes content.
fn is_of_uploads(path: &str) -> bool {
    let rest = path.strip_prefix("/v2/");
    let rest = rest.and_then(|rest| rest.strip_prefix(uploads::REPOSITORY));
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// Reads until the client hangs up, or the registry is dropped.
pub(super) fn wait_for_end(mut stream: &TcpStream) {
    let mut buffer = [0; 512];
    while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
}

/// Waits for a moment, unless the client hangs up first: then it is false.
pub(super) fn pause(mut stream: &TcpStream, moment: Duration) -> bool {
    if stream.set_read_timeout(Some(moment)).is_err() {
        return false;
    }
    let mut buffer = [0; 512];
    match stream.read(&mut buffer) {
        Ok(count) => count > 0,
        Err(error) => matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
    }
}

/// Sends bytes at once.
pub(super) fn send(mut stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes)?;
    Ok(stream.flush()?)
}
