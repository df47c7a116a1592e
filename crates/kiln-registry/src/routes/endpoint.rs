//! One place that is asked, and everything that holds there.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kiln_domain::{Reference, RegistryName};
use tokio::sync::Semaphore;
use url::{Host, Url};

use super::certificates::PemFile;
use super::proxy::Proxies;
use super::rules::{ProxyRule, UseFor, Ways};
use super::{Network, TlsVerify, certificates::HostCertificates};
use crate::config::Config;
use crate::headers::Headers;
use crate::trust::{Reach, is_loopback};

/// How often a mirror is tried at most, where trying again may help: there is somebody else to
/// ask.
const MIRROR_ATTEMPTS: u32 = 2;

/// Longest time that one pull loses to the faults of one mirror.
const MIRROR_PATIENCE: Duration = Duration::from_secs(30);

/// What a place is for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has copies.
    Mirror,
    /// The image lies there.
    Location,
}

/// How a place is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// HTTPS with a certificate that is trusted, or not at all.
    Https,
    /// The place is on this host: whichever of HTTP and HTTPS it speaks.
    Loopback,
    /// It is configured or asked to be insecure: HTTP too, and any certificate.
    Insecure,
}

/// One place that is asked.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What it is.
    pub role: Role,
    /// Its host.
    pub registry: RegistryName,
    /// What the image is called there; none where a registry as a whole is asked.
    pub reference: Option<Reference>,
    /// Why it is asked.
    pub reason: &'static str,
    /// Whether it may say what a tag means.
    pub resolves_tags: bool,
    /// Why, or why not.
    pub tags_reason: &'static str,
    /// How it is spoken to.
    pub security: Security,
    /// Files of authorities that are trusted there, beside those that are trusted everywhere.
    pub authorities: Vec<String>,
    /// The file of our certificate there.
    pub client_certificate: Option<String>,
    /// The proxy on the way, without its user name and password.
    pub proxy: Option<String>,
    /// Whence the proxy comes, or why there is none.
    pub proxy_reason: String,
    /// Names of headers that are sent along.
    pub headers: Vec<String>,
    /// How many downloads there are at a time, where that was limited.
    pub concurrency: Option<usize>,
    /// What the transport is told.
    pub(crate) config: Arc<Config>,
    pub(crate) permits: Option<Arc<Semaphore>>,
}

/// Decides whether a mirror may say what tags mean, and why. Fails, with the reason, where it is
/// not asked for this image at all.
pub(super) fn tags_at(
    use_for: UseFor,
    registry: &RegistryName,
    asked: &Reference,
) -> Result<(bool, &'static str), &'static str> {
    match use_for {
        UseFor::Digests => Ok((false, "the configuration has it for digests only")),
        UseFor::Tags if asked.digest().is_some() => Err("it is for tags only"),
        UseFor::Everything | UseFor::Tags => Ok((true, "the configuration says so")),
        UseFor::Unsaid if is_ours(registry) => {
            Ok((true, "its address is of this host or a private network"))
        }
        UseFor::Unsaid => Ok((
            false,
            "nothing says that this mirror may (resolve = true would)",
        )),
    }
}

/// Says whether a host, as written, is an address of this host or of a private network.
fn is_ours(registry: &RegistryName) -> bool {
    let Some(host) = host_of(registry) else {
        return false;
    };
    let address: IpAddr = match &host {
        Host::Ipv4(address) => (*address).into(),
        Host::Ipv6(address) => (*address).into(),
        Host::Domain(_) => return is_loopback(&host),
    };
    Reach::of(&[(address, 0).into()]) != Reach::Public
}

fn host_of(registry: &RegistryName) -> Option<Host<String>> {
    let url = Url::parse(&format!("https://{registry}/")).ok()?;
    url.host().map(|host| host.to_owned())
}

impl Endpoint {
    /// Keeps back what the administrator set up for a place that proves who it is: a caller who
    /// does not ask for proof does not ask in the administrator's name either.
    pub(super) fn without_secrets(mut self) -> Self {
        let mut config = Config::clone(&self.config);
        config.headers = Headers::default();
        config.client_pem = None;
        self.config = Arc::new(config);
        self.headers.clear();
        self.client_certificate = None;
        self
    }
}

impl Network {
    pub(super) fn endpoint_of(
        &self,
        role: Role,
        registry: RegistryName,
        reference: Option<Reference>,
        tls: TlsVerify,
        ways: Option<&Ways>,
        reason: &'static str,
    ) -> Endpoint {
        let certificates = self.certificates.iter();
        let of_host = certificates.filter(|found| found.registry == registry);
        let of_host: Option<&HostCertificates> = of_host.into_iter().next();
        let own = ways.map(|ways| self.read(ways)).unwrap_or_default();
        let authorities = own.authority.iter();
        let authorities = authorities.chain(of_host.iter().flat_map(|host| &host.authorities));
        let authorities: Vec<&PemFile> = authorities.collect();
        let client = own
            .client
            .as_ref()
            .or_else(|| of_host.and_then(|host| host.clients.first()));
        let is_listed = |host: &String| host == registry.as_str();
        let is_here = host_of(&registry).is_some_and(|host| is_loopback(&host));
        let security = match tls {
            TlsVerify::Waived => Security::Insecure,
            TlsVerify::AsConfigured if self.config.insecure_hosts.iter().any(is_listed) => {
                Security::Insecure
            }
            TlsVerify::AsConfigured if is_here => Security::Loopback,
            TlsVerify::AsConfigured | TlsVerify::Demanded => Security::Https,
        };
        let origin = "the configuration of the registry".to_owned();
        let proxies = match ways.and_then(|ways| ways.proxy.as_ref()) {
            Some(ProxyRule::Through(proxy)) => Proxies::always(proxy.clone(), origin),
            Some(ProxyRule::Direct) => Proxies::never(origin),
            None => self.config.proxies.clone(),
        };
        let mut config = Config::clone(&self.config);
        config.insecure_hosts.retain(|host| !is_listed(host));
        if security == Security::Insecure {
            config.insecure_hosts.push(registry.to_string());
            config.insecure_may_be_https = tls == TlsVerify::Waived;
        }
        config.https_only = tls == TlsVerify::Demanded;
        let pems = authorities.iter().map(|file| file.pem.clone());
        config.extra_ca_pem.extend(pems);
        config.client_pem = client.cloned();
        config.headers = ways.map(|ways| ways.headers.clone()).unwrap_or_default();
        if let Some(timeout) = ways.and_then(|ways| ways.timeout) {
            config.stall_timeout = timeout;
            config.connect_timeout = config.connect_timeout.min(timeout);
        }
        if role == Role::Mirror {
            config.attempts = config.attempts.min(MIRROR_ATTEMPTS);
            config.patience = config.patience.min(MIRROR_PATIENCE);
        }
        let (proxy, proxy_reason) = proxy_on_the_way(&proxies, &registry, is_here);
        config.proxies = proxies;
        let concurrency = ways.and_then(|ways| ways.concurrency);
        let permits = concurrency.map(|count| self.permits.of(&registry, count));
        Endpoint {
            role,
            reference,
            reason,
            resolves_tags: true,
            tags_reason: "it is where the image lies",
            security,
            authorities: authorities.iter().map(|file| file.path.clone()).collect(),
            client_certificate: client.map(|file| file.path.clone()),
            proxy,
            proxy_reason,
            headers: config
                .headers
                .iter()
                .map(|(name, _)| name.to_owned())
                .collect(),
            concurrency,
            config: Arc::new(config),
            permits,
            registry,
        }
    }

    /// Finds the files that a rule names among those that were read.
    fn read(&self, ways: &Ways) -> OwnFiles {
        let file = |path: &std::path::PathBuf| {
            let pem = self.files.get(path)?.clone();
            let path = path.display().to_string();
            Some(PemFile { path, pem })
        };
        let client = ways.client.as_ref().and_then(|(certificate, key)| {
            let mut both = file(certificate)?;
            both.pem.push(b'\n');
            both.pem.extend_from_slice(&file(key)?.pem);
            Some(both)
        });
        OwnFiles {
            authority: ways.ca.as_ref().and_then(file),
            client,
        }
    }
}

#[derive(Default)]
struct OwnFiles {
    authority: Option<PemFile>,
    client: Option<PemFile>,
}

/// Says which proxy the first request to a place goes through, and why.
fn proxy_on_the_way(
    proxies: &Proxies,
    registry: &RegistryName,
    is_here: bool,
) -> (Option<String>, String) {
    let url = Url::parse(&format!("https://{registry}/")).ok();
    let Some(url) = url.filter(|_| !is_here) else {
        return (None, "this host is never proxied".to_owned());
    };
    match proxies.of_url(&url) {
        Some(proxy) => (Some(proxy.to_string()), proxies.origin().to_owned()),
        None if proxies.origin().is_empty() => (None, "none is configured".to_owned()),
        None => (None, format!("none by {}", proxies.origin())),
    }
}
