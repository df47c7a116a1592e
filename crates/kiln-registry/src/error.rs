//! Why an image's documents or blobs could not be had, in terms of what the caller can do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kiln_domain::Digest;
use kiln_domain::oci::{DocumentError, LayerError, PlatformNotFound};

use crate::browse::BrowseError;
use crate::routes::ClientProblem;
use crate::scope::ANYTHING;
use crate::text::ServerText;

/// Why a manifest, a config or a blob could not be had.
///
/// Messages name the registry and the thing asked for; what a server said is cut and escaped.
/// No message holds a secret or a signed URL.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The registry's name is no address, such as `256.1.1.1`.
    #[error("{host} is not the address of a registry")]
    HostInvalid {
        /// The name, as the reference has it.
        host: String,
    },
    /// The registry's address does not resolve, or nobody listens there, or the connection broke.
    #[error("cannot reach {host}")]
    Unreachable {
        /// The host, as the reference names it.
        host: String,
        /// What happened, without the URL.
        #[source]
        source: reqwest::Error,
    },
    /// The answer has more or longer headers than are read.
    #[error("{host} answered with too many or too long headers")]
    HeadersTooLarge {
        /// The host.
        host: String,
        /// What the reader said, without the URL.
        #[source]
        source: reqwest::Error,
    },
    /// What the server sends is no HTTP.
    #[error("{host} does not answer in HTTP")]
    NotHttp {
        /// The host.
        host: String,
        /// What the reader said, without the URL.
        #[source]
        source: reqwest::Error,
    },
    /// The server was silent, or slower than allowed, for too long.
    #[error("{host} did not deliver {what} in {} seconds", tenths(*after))]
    Timeout {
        /// The host.
        host: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// No trusted encrypted connection can be made.
    #[error("cannot make a trusted connection to {host}")]
    Tls {
        /// The host.
        host: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The server does not answer in TLS.
    #[error("{host} does not answer in HTTPS")]
    NotHttps {
        /// The host.
        host: String,
    },
    /// The registry wants to know who asks, and there are no credentials.
    #[error(
        "{host} needs credentials for {subject}, or does not have it{}",
        said(message)
    )]
    AuthRequired {
        /// The registry.
        host: String,
        /// What was asked for: a repository, its catalogue.
        subject: String,
        /// What the server said.
        message: ServerText,
    },
    /// The registry refuses the credentials it was given.
    #[error(
        "{host} refused the credentials{}{}",
        asked_for(subject),
        said(message)
    )]
    AuthFailed {
        /// The registry.
        host: String,
        /// What was asked for: a repository, its catalogue.
        subject: String,
        /// What the server said.
        message: ServerText,
    },
    /// The registry knows who asks and says no.
    #[error("{host} denies access to {subject}{}", said(message))]
    Denied {
        /// The registry.
        host: String,
        /// What was asked for: a repository, its catalogue.
        subject: String,
        /// What the server said.
        message: ServerText,
    },
    /// The registry has no such repository, tag or manifest.
    #[error("{reference} does not exist{}", said(message))]
    ReferenceNotFound {
        /// What was asked for, in full.
        reference: String,
        /// What the server said.
        message: ServerText,
    },
    /// A blob that the manifest names is not there.
    #[error("{place} does not have the blob {digest}")]
    BlobNotFound {
        /// The registry and repository, or the path.
        place: String,
        /// The blob.
        digest: Digest,
    },
    /// The registry asks to slow down, for longer than Kiln waits.
    #[error("{host} limits the rate of requests{}{}", wish(*retry_after), said(message))]
    RateLimited {
        /// The registry.
        host: String,
        /// How long to wait, when the server said so.
        retry_after: Option<Duration>,
        /// What the server said.
        message: ServerText,
    },
    /// The server has a problem of its own (status 5xx), lost patience with the request (408), or
    /// has lost what it was sent before (404, 416).
    #[error("{host} answered with status {status}{}{}", wish(*retry_after), said(message))]
    ServerError {
        /// The registry.
        host: String,
        /// The HTTP status.
        status: u16,
        /// How long to wait, when the server said so.
        retry_after: Option<Duration>,
        /// What the server said.
        message: ServerText,
    },
    /// The server answered something no rule of the protocol foresees.
    #[error("{host} answered with the unexpected status {status}{}", said(message))]
    UnexpectedStatus {
        /// The registry.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: ServerText,
    },
    /// The registry takes nothing there: it is a mirror, read-only, or being cleaned up.
    #[error("{host} does not allow {subject}{}", said(message))]
    ReadOnly {
        /// The registry.
        host: String,
        /// What was to be done.
        subject: String,
        /// What the server said.
        message: ServerText,
    },
    /// The registry, or a proxy before it, takes no request of that length.
    #[error("{host} does not take requests of that length{}", said(message))]
    ContentTooLarge {
        /// The registry.
        host: String,
        /// What the server said.
        message: ServerText,
    },
    /// There is no more room for the caller in the registry.
    #[error("{host} has no more room{}", said(message))]
    QuotaExceeded {
        /// The registry.
        host: String,
        /// What the server said.
        message: ServerText,
    },
    /// The tag exists and may not be moved.
    #[error("{reference} may not be moved to another image{}", said(message))]
    TagImmutable {
        /// The tag, in full.
        reference: String,
        /// What the server said.
        message: ServerText,
    },
    /// The registry does not take what was sent.
    #[error("{host} refused {subject} with status {status}{}", said(message))]
    PushRefused {
        /// The registry.
        host: String,
        /// What was to be done.
        subject: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: ServerText,
    },
    /// The demand for credentials cannot be understood.
    #[error("{host} demands credentials {}", demanded(challenge))]
    ChallengeMalformed {
        /// The registry.
        host: String,
        /// The `WWW-Authenticate` header.
        challenge: ServerText,
    },
    /// The answer of the token endpoint cannot be used.
    #[error("{host} did not answer with a token: {problem}")]
    TokenMalformed {
        /// The host of the token endpoint.
        host: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The registry wants credentials sent to a place that is none of its own.
    #[error("{host} names {}, which is refused: {reason}", named(realm))]
    RealmRefused {
        /// The registry.
        host: String,
        /// The realm.
        realm: ServerText,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The URL is not one Kiln fetches from.
    #[error("{url} is not fetched: {reason}")]
    UrlRefused {
        /// The URL, without its query.
        url: ServerText,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The file is longer than is taken.
    #[error("{url} has more than {limit_bytes} bytes")]
    TooLarge {
        /// The URL, without its query.
        url: String,
        /// The longest that is taken, in bytes.
        limit_bytes: u64,
    },
    /// The server redirects to a place Kiln does not go, or too often.
    #[error("{host} redirects to {target}, which is refused: {reason}")]
    RedirectRefused {
        /// The registry.
        host: String,
        /// Scheme and host of the target.
        target: ServerText,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A redirect or realm leads to an address on this host or on a private network.
    #[error("{host} lies on this host or a private network, where no registry may send us")]
    AddressRefused {
        /// The host that was named.
        host: String,
    },
    /// A manifest, index or config breaks a rule.
    #[error("{document} is refused")]
    Document {
        /// Which document: a reference or a digest.
        document: String,
        /// Which rule.
        #[source]
        source: DocumentError,
    },
    /// A layer is of a kind that cannot be built from.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// There is no image for the platform.
    #[error(transparent)]
    PlatformNotFound(#[from] PlatformNotFound),
    /// Indexes lie too deep in each other, or list too many candidates.
    #[error("{reference} nests more than {limit} {of_what}")]
    TooNested {
        /// What was asked for.
        reference: String,
        /// The limit.
        limit: usize,
        /// `levels of indexes` or `manifests`.
        of_what: &'static str,
    },
    /// The bytes are not the ones asked for.
    #[error("{what} has the digest {found}, not {expected}")]
    DigestMismatch {
        /// Which bytes.
        what: String,
        /// The digest asked for or announced.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// There are fewer or more bytes than the descriptor says.
    #[error("{digest} has {found_bytes} bytes or more, not {expected_bytes}")]
    SizeMismatch {
        /// The content.
        digest: Digest,
        /// The size of the descriptor, in bytes.
        expected_bytes: u64,
        /// How many bytes came before that was clear.
        found_bytes: u64,
    },
    /// Nothing lies at the path.
    #[error("{} does not exist", path.display())]
    PathNotFound {
        /// The path.
        path: PathBuf,
    },
    /// What lies at the path is not what the source says.
    #[error("{} is not {expected}", path.display())]
    NotASource {
        /// The path.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// The archive is compressed as a whole.
    #[error("{} is compressed with {with}, decompress it first", path.display())]
    ArchiveCompressed {
        /// The path.
        path: PathBuf,
        /// The format.
        with: &'static str,
    },
    /// The archive breaks a rule of tar.
    #[error("{} is damaged at byte {offset}: {problem}", path.display())]
    ArchiveMalformed {
        /// The path.
        path: PathBuf,
        /// Where the broken header begins.
        offset: u64,
        /// Which rule.
        problem: &'static str,
    },
    /// The layout or archive has several images and the source does not say which.
    #[error("{} holds several images, name one of: {}", path.display(), tags.join(", "))]
    TagAmbiguous {
        /// The path.
        path: PathBuf,
        /// The names there are.
        tags: Vec<String>,
    },
    /// The layout or archive has no image of that name.
    #[error("{} holds no image {tag:?}, there is {}", path.display(), tags.join(", "))]
    TagMissing {
        /// The path.
        path: PathBuf,
        /// The name asked for.
        tag: String,
        /// The names there are.
        tags: Vec<String>,
    },
    /// A file could not be read.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A certificate authority of the configuration is not PEM.
    #[error("an extra certificate authority is not a PEM certificate")]
    ExtraCertificate(#[source] reqwest::Error),
    /// A file of certificate authorities has none.
    #[error("there is no PEM certificate in it")]
    NoCertificate,
    /// A client certificate or its key is not PEM, or they do not belong together.
    #[error("the client certificate {path} and its key cannot be used")]
    ClientCertificate {
        /// The certificate's file.
        path: String,
        /// What the reader said.
        #[source]
        source: reqwest::Error,
    },
    /// The files of a host's client certificates are not complete, or do not belong together.
    #[error("{host} is not asked: {problem}")]
    ClientFiles {
        /// The registry.
        host: String,
        /// Which files, and what is wrong with them.
        problem: ClientProblem,
    },
    /// The registry wants to see a certificate of ours, and not the one it was shown.
    #[error("{host} {}", wanted(sent.as_deref()))]
    ClientCertificateWanted {
        /// The registry.
        host: String,
        /// The file of the certificate that it was shown.
        sent: Option<String>,
        /// What it said.
        #[source]
        source: reqwest::Error,
    },
    /// A header of the configuration is none.
    #[error("the header {name:?} of the configuration is none")]
    Header {
        /// Its name.
        name: String,
    },
    /// The configuration of this host forbids what was asked for, or has a rule for it that cannot be
    /// used.
    #[error("{what} is blocked by {origin}{}", unusable(problem.as_deref()))]
    Blocked {
        /// A reference, or a registry.
        what: String,
        /// `FILE:LINE`.
        origin: String,
        /// Why the rule cannot be used.
        problem: Option<String>,
    },
    /// Looking around went wrong in a way of its own.
    #[error(transparent)]
    Browse(#[from] BrowseError),
    /// The transport could not be set up, for want of trusted certificates for instance.
    #[error("cannot set up the transport")]
    Setup(#[source] reqwest::Error),
}

impl FetchError {
    /// Says whether the same request may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::RateLimited { .. } => true,
            // What a server does not implement it will not implement a second later, and what it
            // has lost it will not find.
            Self::ServerError { status, .. } => match status {
                501 | 505 => false,
                status => matches!(status, 408 | 500..),
            },
            _ => false,
        }
    }

    /// Returns how long the server asks to wait before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::ServerError { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

/// Writes seconds with one digit behind the point, where there is something to write.
fn tenths(time: Duration) -> String {
    let tenths = (time.as_millis() + 50) / 100;
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        rest => format!("{}.{rest}", tenths / 10),
    }
}

/// Appends how long a server asks to wait, when it does.
fn wish(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| {
        format!(", and asks to wait {} seconds", wait.as_secs())
    })
}

fn unusable(problem: Option<&str>) -> String {
    problem.map_or_else(String::new, |problem| {
        format!(", whose rule cannot be used: {problem}")
    })
}

fn wanted(sent: Option<&str>) -> String {
    match sent {
        Some(path) => format!("does not take the client certificate {path}"),
        None => "wants a client certificate, and none is configured for it".to_owned(),
    }
}

/// Names what credentials were for, where that is less than everything.
fn asked_for(subject: &str) -> String {
    match subject {
        ANYTHING => String::new(),
        subject => format!(" for {subject}"),
    }
}

fn demanded(challenge: &ServerText) -> String {
    if challenge.is_empty() {
        return "and says not which (it has no WWW-Authenticate header)".to_owned();
    }
    format!("in a way that is not understood: {challenge}")
}

fn named(realm: &ServerText) -> String {
    if realm.is_empty() {
        return "no token realm".to_owned();
    }
    format!("the token realm {realm}")
}

/// Appends what a server said, when it said anything.
fn said(message: &ServerText) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(" ({message})")
    }
}
