//! Proxies: which one a request goes through, if any.
//!
//! The rules for exceptions are those of Go's `golang.org/x/net/http/httpproxy`, because docker,
//! podman and skopeo follow them and people have written their `NO_PROXY` for these. Not here:
//! reading the environment.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

/// Why a text is not a proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It is no URL with a host.
    #[error("the proxy is not a URL such as http://proxy.example:3128")]
    NotAUrl,
    /// Its scheme is one that is not spoken.
    #[error("proxies are spoken to in http or https, not in {scheme}")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
}

/// A proxy. What is shown of it has no user name and no password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// Reads a URL; without a scheme it is one of plain HTTP.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let text = text.trim();
        let url = if text.contains("://") {
            Url::parse(text)
        } else {
            Url::parse(&format!("http://{text}"))
        };
        let url = url.map_err(|_| ProxyError::NotAUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            let scheme = url.scheme().to_owned();
            return Err(ProxyError::Scheme { scheme });
        }
        if url.host().is_none() {
            return Err(ProxyError::NotAUrl);
        }
        Ok(Self(url))
    }

    /// Returns the URL with its user name and password, for the one place that connects.
    pub(crate) fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{host}", self.0.scheme())?;
        match self.0.port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

/// What the environment says about proxies, word by word.
///
/// `Debug` prints which are set, not what they say: they may hold passwords.
#[derive(Clone, Default)]
pub struct ProxyWords {
    /// `HTTPS_PROXY`, else `https_proxy`.
    pub https: Option<String>,
    /// `HTTP_PROXY`, else `http_proxy`.
    pub http: Option<String>,
    /// `ALL_PROXY`, else `all_proxy`: for the schemes that have none of their own.
    pub all: Option<String>,
    /// `NO_PROXY`, else `no_proxy`.
    pub none: Option<String>,
}

impl fmt::Debug for ProxyWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |word: &Option<String>| word.as_ref().map(|_| "***");
        f.debug_struct("ProxyWords")
            .field("https", &set(&self.https))
            .field("http", &set(&self.http))
            .field("all", &set(&self.all))
            .field("none", &self.none)
            .finish()
    }
}

/// Which proxy is used for which URL.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    https: Option<ProxyUrl>,
    http: Option<ProxyUrl>,
    exceptions: Exceptions,
    /// Whence they come: for those who ask why.
    origin: String,
}

impl Proxies {
    /// Reads what the environment says.
    ///
    /// An empty word counts as none. Loopback hosts are never proxied.
    pub fn of_environment(words: &ProxyWords) -> Result<Self, ProxyError> {
        let parse = |word: &Option<String>| {
            let word = word.as_deref().filter(|word| !word.trim().is_empty());
            word.map(ProxyUrl::parse).transpose()
        };
        let all = parse(&words.all)?;
        let https = parse(&words.https)?.or_else(|| all.clone());
        let http = parse(&words.http)?.or(all);
        if https.is_none() && http.is_none() {
            return Ok(Self::default());
        }
        Ok(Self {
            https,
            http,
            exceptions: Exceptions::parse(words.none.as_deref().unwrap_or_default()),
            origin: "the daemon's environment".to_owned(),
        })
    }

    /// Uses one proxy for everything but loopback hosts, whatever `NO_PROXY` says.
    pub fn always(proxy: ProxyUrl, origin: String) -> Self {
        Self {
            https: Some(proxy.clone()),
            http: Some(proxy),
            exceptions: Exceptions::default(),
            origin,
        }
    }

    /// Uses none.
    pub fn never(origin: String) -> Self {
        Self {
            origin,
            ..Self::default()
        }
    }

    /// Says whence they come; nothing where there are none.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the proxy for a scheme, where no exception holds.
    pub fn of_scheme(&self, scheme: &str) -> Option<&ProxyUrl> {
        match scheme {
            "https" => self.https.as_ref(),
            "http" => self.http.as_ref(),
            _ => None,
        }
    }

    /// Returns the proxy for a URL, if one is to be used.
    pub fn of_url(&self, url: &Url) -> Option<&ProxyUrl> {
        let proxy = self.of_scheme(url.scheme())?;
        let host = url.host()?.to_owned();
        let port = url.port_or_known_default();
        if crate::trust::is_loopback(&host) || self.exceptions.include(&host, port) {
            return None;
        }
        Some(proxy)
    }
}

/// The hosts of `NO_PROXY`.
#[derive(Clone, Debug, Default)]
struct Exceptions {
    all: bool,
    rules: Vec<Exception>,
}

#[derive(Clone, Debug)]
enum Exception {
    /// `10.0.0.0/8`.
    Network(IpAddr, u32),
    /// `10.0.0.1` or `10.0.0.1:5000`.
    Address(IpAddr, Option<u16>),
    /// `example.com`: it and all below it; `.example.com` and `*.example.com`: all below it.
    Domain {
        /// With a dot in front.
        suffix: String,
        includes_itself: bool,
        port: Option<u16>,
    },
}

impl Exceptions {
    /// Reads the list. What is neither host, address nor network is passed over, as Go does: a
    /// word that means nothing there must not stop a daemon here.
    fn parse(text: &str) -> Self {
        let mut exceptions = Self::default();
        for word in text.split(',') {
            let word = word.trim().to_ascii_lowercase();
            if word == "*" {
                exceptions.all = true;
            } else {
                exceptions.rules.extend(exception(&word));
            }
        }
        exceptions
    }

    fn include(&self, host: &Host<String>, port: Option<u16>) -> bool {
        self.all || self.rules.iter().any(|rule| rule.includes(host, port))
    }
}

fn exception(word: &str) -> Option<Exception> {
    if let Some((address, bits)) = word.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        let bits: u32 = bits.parse().ok()?;
        return (bits <= width(address)).then_some(Exception::Network(address, bits));
    }
    let (host, port) = split_port(word)?;
    if let Ok(address) = host.parse() {
        return Some(Exception::Address(address, port));
    }
    let host = host.strip_prefix('*').unwrap_or(host);
    let (suffix, includes_itself) = match host.strip_prefix('.') {
        Some(rest) => (rest, false),
        None => (host, true),
    };
    (!suffix.is_empty()).then(|| Exception::Domain {
        suffix: format!(".{suffix}"),
        includes_itself,
        port,
    })
}

/// Splits `host`, `host:port`, `[v6]:port` and `v6`.
fn split_port(word: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = word.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None => Some((host, None)),
        };
    }
    match word.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => Some((host, Some(port.parse().ok()?))),
        _ => Some((word, None)),
    }
}

impl Exception {
    fn includes(&self, host: &Host<String>, port: Option<u16>) -> bool {
        let is_port = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        match self {
            Self::Network(network, bits) => {
                address_of(host).is_some_and(|address| shares_bits(address, *network, *bits))
            }
            Self::Address(address, wanted) => address_of(host) == Some(*address) && is_port(wanted),
            Self::Domain {
                suffix,
                includes_itself,
                port: wanted,
            } => {
                let Host::Domain(name) = host else {
                    return false;
                };
                let name = name.trim_end_matches('.');
                let is_itself = *includes_itself && suffix.strip_prefix('.') == Some(name);
                (is_itself || name.ends_with(suffix.as_str())) && is_port(wanted)
            }
        }
    }
}

fn address_of(host: &Host<String>) -> Option<IpAddr> {
    match host {
        Host::Ipv4(address) => Some((*address).into()),
        Host::Ipv6(address) => Some((*address).into()),
        Host::Domain(_) => None,
    }
}

fn width(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn shares_bits(one: IpAddr, other: IpAddr, bits: u32) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    if width(one) != width(other) {
        return false;
    }
    // A shift by the whole width would overflow: no bits have to agree then.
    let rest = width(one) - bits;
    rest == 128 || number(one) >> rest == number(other) >> rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(none: &str) -> Proxies {
        Proxies::of_environment(&ProxyWords {
            https: Some("http://ann:hunter2@tls.proxy:3128".to_owned()),
            http: Some("plain.proxy".to_owned()),
            all: None,
            none: Some(none.to_owned()),
        })
        .unwrap()
    }

    #[test]
    fn exceptions_are_those_of_go() {
        let cases = [
            ("", "https://ghcr.io/", true),
            ("*", "https://ghcr.io/", false),
            ("ghcr.io", "https://ghcr.io/", false),
            ("ghcr.io", "https://pkg.ghcr.io/", false),
            ("ghcr.io", "https://notghcr.io/", true),
            (".ghcr.io", "https://ghcr.io/", true),
            (".ghcr.io", "https://pkg.ghcr.io/", false),
            ("*.ghcr.io", "https://pkg.ghcr.io/", false),
            ("*.ghcr.io", "https://ghcr.io/", true),
            ("GHCR.io", "https://ghcr.io/", false),
            ("a, ghcr.io ,b", "https://ghcr.io/", false),
            ("ghcr.io:443", "https://ghcr.io/", false),
            ("ghcr.io:8443", "https://ghcr.io/", true),
            ("ghcr.io:8443", "https://ghcr.io:8443/", false),
            ("10.0.0.0/8", "https://10.1.2.3/", false),
            ("10.0.0.0/8", "https://11.1.2.3/", true),
            ("10.0.0.0/8", "https://[fd00::1]/", true),
            ("0.0.0.0/0", "https://9.9.9.9/", false),
            ("::/0", "https://[2606::1]/", false),
            ("fd00::/16", "https://[fd00::1]/", false),
            ("10.1.2.3", "https://10.1.2.3:5000/", false),
            ("10.1.2.3:5000", "https://10.1.2.3:5000/", false),
            ("10.1.2.3:5001", "https://10.1.2.3:5000/", true),
            ("fd00::1", "https://[fd00::1]/", false),
            ("[fd00::1]:5000", "https://[fd00::1]:5000/", false),
            ("10.0.0.0/40,x:y:z,,:", "https://10.0.0.1/", true),
        ];
        for (none, url, is_proxied) in cases {
            let proxies = proxies(none);
            let got = proxies.of_url(&Url::parse(url).unwrap()).is_some();
            assert_eq!(got, is_proxied, "NO_PROXY={none} and {url}");
        }
    }

    #[test]
    fn the_scheme_decides_which_one_and_this_host_is_never_proxied() {
        let proxies = proxies("");
        let of = |url: &str| {
            let found = proxies.of_url(&Url::parse(url).unwrap());
            found.map(ToString::to_string)
        };

        assert_eq!(of("https://a/").unwrap(), "http://tls.proxy:3128");
        assert_eq!(of("http://a/").unwrap(), "http://plain.proxy");
        for own in ["http://localhost/", "https://127.0.0.9/", "http://[::1]:5/"] {
            assert_eq!(of(own), None, "{own}");
        }
        let always = Proxies::always(ProxyUrl::parse("p:1").unwrap(), "x".to_owned());
        assert!(always.of_url(&Url::parse("http://a/").unwrap()).is_some());
        assert!(
            always
                .of_url(&Url::parse("http://127.1/").unwrap())
                .is_none()
        );
    }

    #[test]
    fn one_for_all_stands_in_where_a_scheme_has_none() {
        let words = ProxyWords {
            http: Some("http://plain:1".to_owned()),
            https: Some("  ".to_owned()),
            all: Some("https://all:2".to_owned()),
            none: None,
        };
        let proxies = Proxies::of_environment(&words).unwrap();

        let of = |url: &str| {
            proxies
                .of_url(&Url::parse(url).unwrap())
                .unwrap()
                .to_string()
        };
        assert_eq!(of("https://a/"), "https://all:2");
        assert_eq!(of("http://a/"), "http://plain:1");
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_nothing_shows_a_password() {
        let socks = ProxyUrl::parse("socks5://p:1080");
        assert_eq!(
            socks,
            Err(ProxyError::Scheme {
                scheme: "socks5".to_owned()
            })
        );
        assert_eq!(ProxyUrl::parse("http://"), Err(ProxyError::NotAUrl));
        assert_eq!(ProxyUrl::parse("a b"), Err(ProxyError::NotAUrl));
        let shown = format!("{:?} {}", proxies(""), proxies("").https.unwrap());
        assert!(
            !shown.contains("hunter2") && !shown.contains("ann"),
            "{shown}"
        );
    }
}
