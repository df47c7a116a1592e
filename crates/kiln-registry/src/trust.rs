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
    /// Whether the caller will have no plain HTTP spoken to anybody.
    pub(crate) https_only: bool,
}

/// Which addresses a host that a registry named may have: public ones, and those of the sort that
/// the registry's own is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Public ones only: the registry is public itself, or nobody knows what it is.
    Public,
    /// Also those of private networks, because the registry lies on one.
    Private,
    /// Also those of this host, because the registry is on it. Whoever may open a port here must
    /// not thereby get the daemon to ask the network that the host lies in.
    Loopback,
    /// Also those of the cable, because the registry has such an address.
    LinkLocal,
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
        let may_be_plain = !self.https_only
            && (is_loopback_pair || (self.is_insecure && (is_same_host || is_named)));
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
            Kind::Public | Kind::Nobodys => Self::Public,
            Kind::Private => Self::Private,
            Kind::Loopback => Self::Loopback,
            Kind::LinkLocal => Self::LinkLocal,
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
            Kind::Private => self == Self::Private,
            Kind::Loopback => self == Self::Loopback,
            Kind::LinkLocal => self == Self::LinkLocal,
            Kind::Nobodys => false,
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

/// Addresses at which clouds tell the machines in them who they are, and give them credentials, and
/// which are not link-local or reserved anyway. No registry is there.
const METADATA: &[IpAddr] = &[
    // Amazon, over IPv6: of the machine, and of what runs in its cluster.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    // Google, over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    // Alibaba.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Azure's host agent.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Link-local addresses of the same kind: where most clouds have it, and Amazon's containers.
const LINK_LOCAL_METADATA: &[Ipv4Addr] = &[
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
];

/// What an address is by the IANA special-purpose registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Public,
    /// Of a private network: RFC 1918, a carrier's shared space (RFC 6598), unique local (RFC 4193).
    Private,
    /// Of this host.
    Loopback,
    /// Of the cable.
    LinkLocal,
    /// Multicast, documentation, reserved, metadata: nobody has business there.
    Nobodys,
}

fn kind(address: IpAddr) -> Kind {
    if METADATA.contains(&address.to_canonical()) {
        return Kind::Nobodys;
    }
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    let [a, b, c, _] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_reserved = matches!((a, b, c), (0, _, _) | (192, 0, 0) | (198, 18 | 19, _)) || a >= 224;
    if is_reserved || address.is_documentation() || LINK_LOCAL_METADATA.contains(&address) {
        Kind::Nobodys
    } else if address.is_private() || is_shared {
        Kind::Private
    } else if address.is_loopback() {
        Kind::Loopback
    } else if address.is_link_local() {
        Kind::LinkLocal
    } else {
        Kind::Public
    }
}

/// Judges an address that carries one of IPv4 by that: a translator on the way would go there.
fn kind_v6(address: Ipv6Addr) -> Kind {
    let inner = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        kind(Ipv4Addr::new(a, b, c, d).into())
    };
    if let Some(mapped) = address.to_ipv4_mapped() {
        return kind_v4(mapped);
    }
    match address.segments() {
        // NAT64's well-known prefix (RFC 6052), and 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => inner(high, low),
        // Teredo (RFC 4380) hides the address that it leads to; the others are documentation.
        [0x2001, 0 | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Kind::Nobodys,
        [first, ..] if first & 0xe000 == 0x2000 => Kind::Public,
        _ if address.is_loopback() => Kind::Loopback,
        _ if address.is_unique_local() => Kind::Private,
        _ if address.is_unicast_link_local() => Kind::LinkLocal,
        _ => Kind::Nobodys,
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
            https_only: false,
        }
    }

    #[test]
    fn who_will_have_no_plain_http_is_sent_to_no_plain_realm() {
        for host in ["localhost", "insecure.example.com"] {
            let strict = Trust {
                https_only: true,
                ..trust(host, &[])
            };
            let realm = |scheme: &str| format!("{scheme}://{host}:5001/token");

            let plain = strict.check_realm(&realm("http")).unwrap_err();
            assert_eq!(plain, "it is not https");
            strict.check_realm(&realm("https")).unwrap();
            trust(host, &[]).check_realm(&realm("http")).unwrap();
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
    fn a_registry_reaches_public_addresses_and_those_of_its_own_sort() {
        let reaches = [
            Reach::Public,
            Reach::Private,
            Reach::Loopback,
            Reach::LinkLocal,
        ];
        let public = [true, true, true, true];
        let private = [false, true, false, false];
        let loopback = [false, false, true, false];
        let link_local = [false, false, false, true];
        let nobodys = [false; 4];
        let cases = [
            ("8.8.8.8", public),
            ("2606:4700::1", public),
            ("::ffff:8.8.8.8", public),
            ("64:ff9b::808:808", public),
            ("2002:808:808::1", public),
            ("10.1.2.3", private),
            ("172.16.0.1", private),
            ("192.168.1.1", private),
            ("100.64.0.1", private),
            ("100.127.255.255", private),
            ("fd00::1", private),
            ("fc00::1", private),
            ("::ffff:10.0.0.1", private),
            ("64:ff9b::a00:1", private),
            ("2002:a00:1::", private),
            ("127.0.0.1", loopback),
            ("127.9.9.9", loopback),
            ("::1", loopback),
            ("::ffff:127.0.0.1", loopback),
            ("2002:7f00:1::", loopback),
            ("169.254.0.1", link_local),
            ("::ffff:169.254.0.1", link_local),
            ("fe80::1", link_local),
            ("febf::1", link_local),
            ("169.254.169.254", nobodys),
            ("::ffff:169.254.169.254", nobodys),
            ("64:ff9b::a9fe:a9fe", nobodys),
            ("2002:a9fe:a9fe::", nobodys),
            ("169.254.170.2", nobodys),
            ("fd00:ec2::254", nobodys),
            ("100.100.100.200", nobodys),
            ("::ffff:100.100.100.200", nobodys),
            ("64:ff9b::6464:64c8", nobodys),
            ("168.63.129.16", nobodys),
            ("0.0.0.0", nobodys),
            ("0.1.2.3", nobodys),
            ("192.0.0.192", nobodys),
            ("192.0.2.1", nobodys),
            ("198.18.0.1", nobodys),
            ("224.0.0.1", nobodys),
            ("240.0.0.1", nobodys),
            ("255.255.255.255", nobodys),
            ("::", nobodys),
            ("::127.0.0.1", nobodys),
            ("64:ff9b:1::1", nobodys),
            ("100::1", nobodys),
            ("2001::1", nobodys),
            ("2001:db8::1", nobodys),
            ("3fff::1", nobodys),
            ("fec0::1", nobodys),
            ("ff02::1", nobodys),
        ];
        for (address, want) in cases {
            let parsed: IpAddr = address.parse().unwrap();
            let got = reaches.map(|reach| reach.includes(parsed));
            assert_eq!(got, want, "reaching {address}");
        }
    }

    #[test]
    fn what_a_registry_may_reach_follows_from_its_own_addresses() {
        let cases: [(&[&str], Reach); 10] = [
            (&["8.8.8.8"], Reach::Public),
            (&["10.0.0.1", "192.168.0.1", "fd00::1"], Reach::Private),
            (&["100.64.0.1"], Reach::Private),
            (&["127.0.0.1", "::1"], Reach::Loopback),
            (&["169.254.0.1", "fe80::1"], Reach::LinkLocal),
            (&["169.254.169.254"], Reach::Public),
            (&["0.0.0.0"], Reach::Public),
            (&["127.0.0.1", "10.0.0.1"], Reach::Public),
            (&["10.0.0.1", "8.8.8.8"], Reach::Public),
            (&[], Reach::Public),
        ];
        for (addresses, want) in cases {
            let socket = |text: &&str| SocketAddr::new(text.parse().unwrap(), 443);
            let addresses: Vec<SocketAddr> = addresses.iter().map(socket).collect();
            assert_eq!(Reach::of(&addresses), want, "a registry at {addresses:?}");
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
