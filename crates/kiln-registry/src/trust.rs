//! Where a registry may send us: the rules for token realms, redirects and addresses.
//!
//! A registry is a stranger. It must not learn credentials by naming a realm of its own choice,
//! nor use the daemon to reach services on this host or its private network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::{Host, Url};

/// Token realms of large public registries whose realm lies on another domain.
const KNOWN_REALMS: &[(&str, &str)] = &[("dhi.io", "auth.docker.io")];

/// What is known about the registry whose answers are judged.
#[derive(Debug)]
pub(crate) struct Trust {
    /// The registry's host, without the port.
    pub(crate) host: Host<String>,
    /// Hosts of the configuration that any registry may name.
    pub(crate) trusted_hosts: Vec<String>,
    /// Whether the configuration allows plain HTTP with this registry.
    pub(crate) is_insecure: bool,
}

/// Which addresses a host that a registry named may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Public ones only: the registry is public itself.
    Public,
    /// Also those of private networks, because the registry lies on one.
    Private,
    /// All: the registry is on this host.
    Everywhere,
}

/// A name resolved to nothing but addresses out of reach.
#[derive(Debug, thiserror::Error)]
#[error("the address is out of reach")]
pub(crate) struct OutOfReach;

impl Trust {
    /// Checks a token realm. Credentials go only to the registry's own registrable domain, to a
    /// shipped or configured exception, or, for a loopback registry, to loopback.
    pub(crate) fn check_realm(&self, realm: &str) -> Result<Url, &'static str> {
        let url = parse(realm)?;
        let host = url.host().ok_or("it names no host")?;
        let is_same_host = host.to_owned() == self.host;
        let is_loopback_pair = is_loopback(&self.host) && is_loopback(&host.to_owned());
        let is_named = self.is_trusted(&url) || self.is_known(&host);
        // Being insecure is said of a registry, not of its whole domain.
        let may_be_plain = is_loopback_pair || (self.is_insecure && (is_same_host || is_named));
        if url.scheme() == "http" && !may_be_plain {
            return Err("it is not https");
        }
        if is_same_host || is_loopback_pair || is_named || self.shares_domain(&host) {
            Ok(url)
        } else {
            Err("it lies on another domain")
        }
    }

    /// Checks where a redirect of `from` leads; the result is absolute.
    pub(crate) fn check_redirect(from: &Url, location: &str) -> Result<Url, &'static str> {
        let target = from.join(location).map_err(|_| "it is not a URL")?;
        let target = parse(target.as_str())?;
        if from.scheme() == "https" && target.scheme() == "http" {
            return Err("it leaves https");
        }
        Ok(target)
    }

    /// Says whether `url` leads to the registry's own host or to one the configuration trusts.
    pub(crate) fn is_home(&self, url: &Url) -> bool {
        self.is_own_host(url) || self.is_trusted(url)
    }

    /// Says whether `url` leads to the registry's own host.
    pub(crate) fn is_own_host(&self, url: &Url) -> bool {
        url.host().is_some_and(|host| host.to_owned() == self.host)
    }

    fn is_trusted(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else {
            return false;
        };
        let with_port = url.port().map(|port| format!("{host}:{port}"));
        self.trusted_hosts.iter().any(|trusted| {
            trusted.eq_ignore_ascii_case(host)
                || with_port
                    .as_ref()
                    .is_some_and(|with_port| trusted.eq_ignore_ascii_case(with_port))
        })
    }

    fn is_known(&self, realm: &Host<&str>) -> bool {
        let (Host::Domain(own), Host::Domain(realm)) = (&self.host, realm) else {
            return false;
        };
        KNOWN_REALMS.contains(&(own.as_str(), *realm))
    }

    fn shares_domain(&self, other: &Host<&str>) -> bool {
        let (Host::Domain(own), Host::Domain(other)) = (&self.host, other) else {
            return false;
        };
        let own = registrable_domain(own);
        own.is_some() && own == registrable_domain(other)
    }
}

/// The part of a name somebody registered: `example.co.uk` of `auth.example.co.uk`.
fn registrable_domain(name: &str) -> Option<&str> {
    psl::domain_str(name.trim_end_matches('.'))
}

fn parse(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "it is not a URL")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it is neither https nor http");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it carries a user name or password");
    }
    Ok(url)
}

/// Says whether two URLs have scheme, host and port in common.
pub(crate) fn shares_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Says whether a host as written, without asking anybody, is this one.
pub(crate) fn is_loopback(host: &Host<String>) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

impl Reach {
    /// Says what a registry of these addresses may name.
    pub(crate) fn of(addresses: &[SocketAddr]) -> Self {
        let of = |address: &SocketAddr| match kind(address.ip()) {
            Kind::Public => Self::Public,
            Kind::Private => Self::Private,
            Kind::Local => Self::Everywhere,
        };
        let mut reaches = addresses.iter().map(of);
        // A name with addresses of several kinds gets the narrowest reach.
        match reaches.next() {
            Some(first) if reaches.all(|other| other == first) => first,
            _ => Self::Public,
        }
    }

    /// Says whether `address` may be spoken to.
    pub(crate) fn includes(self, address: IpAddr) -> bool {
        match kind(address) {
            Kind::Public => true,
            Kind::Private => self != Self::Public,
            Kind::Local => self == Self::Everywhere,
        }
    }

    /// Checks a URL whose host is an address, which no resolver sees.
    pub(crate) fn includes_literal(self, url: &Url) -> bool {
        match url.host() {
            Some(Host::Ipv4(address)) => self.includes(address.into()),
            Some(Host::Ipv6(address)) => self.includes(address.into()),
            Some(Host::Domain(_)) | None => true,
        }
    }
}

/// A resolver that leaves out addresses that are out of reach. What it returns is what is
/// connected to, so a second answer of the name server changes nothing.
#[derive(Debug)]
pub(crate) struct GuardedResolver(pub(crate) Reach);

impl reqwest::dns::Resolve for GuardedResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let reach = self.0;
        Box::pin(async move {
            let all = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let good: Vec<SocketAddr> = all.filter(|found| reach.includes(found.ip())).collect();
            if good.is_empty() {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, OutOfReach).into());
            }
            Ok(Box::new(good.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

enum Kind {
    Public,
    Private,
    Local,
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

/// Sorts by the IANA special-purpose registry. What is neither public nor private (multicast,
/// documentation, reserved) is treated as local: nobody has business there.
fn kind_v4(address: Ipv4Addr) -> Kind {
    let [a, b, c, _] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_reserved = matches!((a, b, c), (0, _, _) | (192, 0, 0) | (198, 18 | 19, _)) || a >= 224;
    if address.is_private() || is_shared {
        Kind::Private
    } else if address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || is_reserved
    {
        Kind::Local
    } else {
        Kind::Public
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    let [first, second, .., high, low] = address.segments();
    if let Some(inner) = address.to_ipv4_mapped() {
        return kind_v4(inner);
    }
    if (first, second) == (0x64, 0xff9b) {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        return kind_v4(Ipv4Addr::new(a, b, c, d));
    }
    if address.is_unique_local() {
        Kind::Private
    } else if first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0xdb8) {
        Kind::Public
    } else {
        Kind::Local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(host: &str, trusted: &[&str]) -> Trust {
        Trust {
            host: Host::parse(host).unwrap(),
            trusted_hosts: trusted.iter().map(|&host| host.to_owned()).collect(),
            is_insecure: host == "insecure.example.com",
        }
    }

    #[test]
    fn credentials_go_to_the_registrys_own_domain_only() {
        let other = Err("it lies on another domain");
        let plain = Err("it is not https");
        let cases: Vec<(&str, &str, Result<(), &str>)> = vec![
            (
                "registry-1.docker.io",
                "https://auth.docker.io/token",
                Ok(()),
            ),
            ("registry.gitlab.com", "https://gitlab.com/jwt/auth", Ok(())),
            ("ghcr.io", "https://ghcr.io/token", Ok(())),
            ("ghcr.io", "https://GHCR.IO:8443/token", Ok(())),
            ("ghcr.io", "https://evil.io/token", other),
            ("ghcr.io", "https://ghcr.io.evil.io/token", other),
            ("ghcr.io", "https://notghcr.io/token", other),
            ("ghcr.io", "http://ghcr.io/token", plain),
            (
                "ghcr.io",
                "https://user@ghcr.io/t",
                Err("it carries a user name or password"),
            ),
            (
                "ghcr.io",
                "file:///etc/passwd",
                Err("it is neither https nor http"),
            ),
            ("ghcr.io", "token", Err("it is not a URL")),
            ("ghcr.io", "https://127.0.0.1/token", other),
            // Public suffixes are nobody's domain.
            ("a.co.uk", "https://b.co.uk/token", other),
            ("a.github.io", "https://b.github.io/token", other),
            ("dhi.io", "https://auth.docker.io/token", Ok(())),
            ("10.0.0.1", "https://10.0.0.1:5001/token", Ok(())),
            ("10.0.0.1", "https://10.0.0.2/token", other),
            ("127.0.0.1", "http://localhost:5001/token", Ok(())),
            ("localhost", "http://127.0.0.9:1/token", Ok(())),
            ("localhost", "http://[::1]:1/token", Ok(())),
            ("localhost", "http://10.0.0.1/token", plain),
            ("localhost", "https://evil.io/token", other),
            ("example.com", "http://localhost/token", plain),
            ("example.com", "https://localhost/token", other),
            ("example.com", "https://sso.corp:8443/token", Ok(())),
            ("example.com", "https://sso.corp/token", other),
            ("example.com", "http://sso.corp:8443/token", plain),
            (
                "insecure.example.com",
                "http://insecure.example.com/token",
                Ok(()),
            ),
            (
                "insecure.example.com",
                "http://auth.example.com/token",
                plain,
            ),
            ("insecure.example.com", "http://evil.io/token", plain),
        ];
        for (host, realm, want) in cases {
            let got = trust(host, &["sso.corp:8443"]).check_realm(realm);
            assert_eq!(got.map(drop), want, "{host} names {realm}");
        }
    }

    #[test]
    fn redirects_stay_on_http_or_go_to_https() {
        let cases = [
            (
                "https://a/v2/",
                "https://b/x?sig=1",
                Ok("https://b/x?sig=1"),
            ),
            ("https://a/v2/x", "/y", Ok("https://a/y")),
            ("https://a/v2/x", "//b/y", Ok("https://b/y")),
            ("http://a/", "http://b/", Ok("http://b/")),
            ("http://a/", "https://b/", Ok("https://b/")),
            ("https://a/", "http://a/", Err("it leaves https")),
            (
                "https://a/",
                "file:///etc/passwd",
                Err("it is neither https nor http"),
            ),
            (
                "https://a/",
                "https://u:p@b/",
                Err("it carries a user name or password"),
            ),
            ("https://a/", "https://", Err("it is not a URL")),
        ];
        for (from, location, want) in cases {
            let got = Trust::check_redirect(&Url::parse(from).unwrap(), location);
            let got = got.as_ref().map(Url::as_str).map_err(|reason| *reason);
            assert_eq!(got, want, "{from} redirects to {location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let cases = [
            ("https://a/x", "https://a:443/y", true),
            ("https://a/", "https://A/", true),
            ("https://a/", "http://a/", false),
            ("https://a/", "https://a:8443/", false),
            ("https://a/", "https://b.a/", false),
        ];
        for (one, other, want) in cases {
            let parse = |text| Url::parse(text).unwrap();
            assert_eq!(
                shares_origin(&parse(one), &parse(other)),
                want,
                "{one} and {other}"
            );
        }
    }

    #[test]
    fn a_public_registry_reaches_no_private_address() {
        let reaches = [Reach::Public, Reach::Private, Reach::Everywhere];
        let cases = [
            ("8.8.8.8", [true, true, true]),
            ("10.1.2.3", [false, true, true]),
            ("172.16.0.1", [false, true, true]),
            ("192.168.1.1", [false, true, true]),
            ("100.64.0.1", [false, true, true]),
            ("127.0.0.1", [false, false, true]),
            ("169.254.169.254", [false, false, true]),
            ("0.0.0.0", [false, false, true]),
            ("224.0.0.1", [false, false, true]),
            ("255.255.255.255", [false, false, true]),
            ("2606:4700::1", [true, true, true]),
            ("fd00::1", [false, true, true]),
            ("::1", [false, false, true]),
            ("::", [false, false, true]),
            ("fe80::1", [false, false, true]),
            ("::ffff:127.0.0.1", [false, false, true]),
            ("::ffff:10.0.0.1", [false, true, true]),
            ("64:ff9b::a9fe:a9fe", [false, false, true]),
        ];
        for (address, want) in cases {
            let parsed: IpAddr = address.parse().unwrap();
            let got = reaches.map(|reach| reach.includes(parsed));
            assert_eq!(got, want, "reaching {address}");
        }
    }

    #[test]
    fn literal_addresses_are_checked_in_every_spelling() {
        for text in [
            "http://127.1/",
            "http://0x7f.0.0.1/",
            "http://2130706433/",
            "http://[::1]/",
        ] {
            let url = Url::parse(text).unwrap();
            assert!(!Reach::Public.includes_literal(&url), "reaching {text}");
        }
    }
}
