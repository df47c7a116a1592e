//! How a guest is called, and how it finds others by name.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    /// Its names, the canonical one first.
    pub names: Vec<String>,
}

/// What stands in `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resolv {
    /// Servers in the order they are asked; C libraries take the first three.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
    /// Domains in which short names are looked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

impl Resolv {
    /// Returns whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.nameservers.is_empty() && self.search.is_empty()
    }

    /// Returns the text of the file.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for server in &self.nameservers {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        text
    }
}

/// Returns the text of `/etc/hosts`: the loopback names, the guest's own, then `hosts`.
///
/// The guest's name stands at `own` where it has an address, else at 127.0.1.1 as Debian has it,
/// so that a program which looks itself up finds something.
pub(crate) fn hosts_text(hostname: Option<&str>, own: Option<IpAddr>, hosts: &[Host]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    if let Some(hostname) = hostname {
        let own = own.map_or_else(|| "127.0.1.1".to_owned(), |own| own.to_string());
        let short = hostname.split('.').next().unwrap_or(hostname);
        let alias = if short == hostname {
            String::new()
        } else {
            format!(" {short}")
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{own}\t{hostname}{alias}");
    }
    for host in hosts {
        let _ = writeln!(text, "{}\t{}", host.address, host.names.join(" "));
    }
    text
}

/// Returns whether `name` is a host name: labels of letters, digits and hyphens, joined by
/// dots, 64 bytes at most, which is what the kernel keeps.
pub(crate) fn is_hostname(name: &str) -> bool {
    name.len() <= 64
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

/// Returns whether `word` may stand in a line of a names file: it is printable and one word.
pub(crate) fn is_word(word: &str) -> bool {
    (1..=253).contains(&word.len())
        && word
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_cannot_end_its_line() {
        let cases = [
            ("web", true),
            ("web-1.example.org", true),
            ("A1", true),
            ("", false),
            ("a..b", false),
            ("-a", false),
            ("a-", false),
            ("a b", false),
            ("a\nb", false),
            ("a_b", false),
            ("ä", false),
        ];
        for (name, want) in cases {
            assert_eq!(is_hostname(name), want, "{name:?}");
        }
        assert!(is_hostname(&"a".repeat(64)));
        assert!(!is_hostname(&"a".repeat(65)));
    }

    #[test]
    fn the_files_are_what_c_libraries_read() {
        let resolv = Resolv {
            nameservers: vec!["10.0.2.3".parse().unwrap(), "fd00::3".parse().unwrap()],
            search: vec!["a.example".to_owned(), "b.example".to_owned()],
        };
        let want = "nameserver 10.0.2.3\nnameserver fd00::3\nsearch a.example b.example\n";
        assert_eq!(resolv.to_text(), want);

        let host = Host {
            address: "10.0.0.9".parse().unwrap(),
            names: vec!["db".to_owned(), "db.example".to_owned()],
        };
        let loopback = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
        let cases = [
            (None, None, "10.0.0.9\tdb db.example\n".to_owned()),
            (
                Some("web"),
                None,
                "127.0.1.1\tweb\n10.0.0.9\tdb db.example\n".to_owned(),
            ),
            (
                Some("web.example"),
                Some("10.0.2.15".parse().unwrap()),
                "10.0.2.15\tweb.example web\n10.0.0.9\tdb db.example\n".to_owned(),
            ),
        ];
        for (hostname, own, want) in cases {
            let text = hosts_text(hostname, own, std::slice::from_ref(&host));
            assert_eq!(text, format!("{loopback}{want}"));
        }
    }
}
