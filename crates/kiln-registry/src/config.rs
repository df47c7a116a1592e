//! What a client of registries may be told: whom to trust and how long to wait.

use std::time::Duration;

use crate::headers::Headers;
use crate::routes::{PemFile, Proxies};

/// Settings of the transport. The defaults are those of a host that pulls from public
/// registries over the internet.
#[derive(Clone, Debug)]
pub struct Config {
    /// Registries (`host` or `host:port`, as references write them) that are spoken to in plain
    /// HTTP. Loopback registries need no entry.
    pub insecure_hosts: Vec<String>,
    /// Whether those may speak HTTPS as well, with whatever certificate: then they are asked once
    /// which it is.
    pub insecure_may_be_https: bool,
    /// Whether nobody is spoken to in plain HTTP, not even registries on loopback.
    pub https_only: bool,
    /// Hosts that registries may send Kiln to although they lie on another domain or on a
    /// private network: token realms and the targets of redirects. A host trusted here may
    /// receive the credentials of any registry that names it as its realm.
    pub trusted_hosts: Vec<String>,
    /// Certificate authorities trusted beside the system's; each a PEM file's content.
    pub extra_ca_pem: Vec<Vec<u8>>,
    /// Who we are where a registry asks for a certificate: that and its key. No other host sees it.
    pub client_pem: Option<PemFile>,
    /// Headers for the registry itself and for no other host.
    pub headers: Headers,
    /// Which requests go through a proxy.
    pub proxies: Proxies,
    /// What the `User-Agent` header says.
    pub user_agent: String,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next byte of anything.
    pub stall_timeout: Duration,
    /// Longest time a manifest, a config, a token or an error may take in all.
    pub document_timeout: Duration,
    /// The slowest acceptable transfer of a blob.
    pub slowest: MinimumRate,
    /// How often a request is tried in all, where trying again may help.
    pub attempts: u32,
    /// The shortest wait before another attempt. The longest doubles from attempt to attempt, up
    /// to ten seconds; chance decides in between.
    pub backoff: Duration,
    /// Longest `Retry-After` that is waited for; a longer one is reported at once.
    pub longest_retry_after: Duration,
    /// Longest time that one pull loses to faults in all: attempts that failed, and the waiting
    /// after them.
    pub patience: Duration,
    /// How many bytes of a blob one request carries when it is sent: what is sent twice at most
    /// when a connection breaks. Registries may ask for more.
    pub chunk_bytes: u64,
}

/// A transfer rate that is measured over a window.
#[derive(Clone, Copy, Debug)]
pub struct MinimumRate {
    /// Bytes that must arrive in every window.
    pub bytes: u64,
    /// The window's length.
    pub window: Duration,
}

impl MinimumRate {
    /// Measures the same rate over a window no longer than `longest`.
    pub(crate) fn within(self, longest: Duration) -> Self {
        if self.window <= longest {
            return self;
        }
        let (short, whole) = (longest.as_millis(), self.window.as_millis());
        let bytes = u128::from(self.bytes) * short / whole.max(1);
        Self {
            bytes: u64::try_from(bytes).unwrap_or(self.bytes),
            window: longest,
        }
    }
}

impl Config {
    /// Says whether plain HTTP may be spoken to a registry because it is listed.
    pub(crate) fn is_insecure(&self, host: &str) -> bool {
        !self.https_only && self.insecure_hosts.iter().any(|listed| listed == host)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            insecure_hosts: Vec::new(),
            insecure_may_be_https: false,
            https_only: false,
            trusted_hosts: Vec::new(),
            extra_ca_pem: Vec::new(),
            client_pem: None,
            headers: Headers::default(),
            proxies: Proxies::default(),
            user_agent: concat!("kiln/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            document_timeout: Duration::from_secs(60),
            slowest: MinimumRate {
                bytes: 60 * 1024,
                window: Duration::from_secs(60),
            },
            attempts: 5,
            backoff: Duration::from_millis(200),
            longest_retry_after: Duration::from_secs(60),
            patience: Duration::from_secs(120),
            chunk_bytes: 16 << 20,
        }
    }
}
