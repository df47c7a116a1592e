//! How a guest's network interfaces get their addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the network is set up. Loopback always is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Not at all: the image's own init does it, or nobody.
    #[default]
    None,
    /// Every Ethernet interface asks a DHCP server; the first with a router gets the default
    /// route.
    Dhcp,
    /// As stated here.
    Static(Vec<StaticAddress>),
}

/// The address of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticAddress {
    /// Name of the interface, such as `eth0`.
    pub interface: String,
    /// Its address with the length of its prefix, such as `10.0.2.15/24`.
    pub address: Cidr,
    /// The router of the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
}

/// An IPv4 address with the length of its prefix, written `10.0.2.15/24`.
///
/// Invariant: the prefix is at most 32 bits long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: Ipv4Addr,
    prefix_bits: u8,
}

/// The text is no address with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no IPv4 address with a prefix, such as 10.0.2.15/24")]
pub struct ParseCidrError {
    /// What was given.
    pub text: String,
}

impl Cidr {
    /// Puts an address and the length of its prefix together; nothing for more than 32 bits.
    pub fn new(address: Ipv4Addr, prefix_bits: u8) -> Option<Self> {
        (prefix_bits <= 32).then_some(Self {
            address,
            prefix_bits,
        })
    }

    /// Returns the address.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Returns the length of the prefix in bits, 0 to 32.
    pub fn prefix_bits(self) -> u8 {
        self.prefix_bits
    }

    /// Returns the address to which everybody in the same network listens.
    pub fn broadcast(self) -> Ipv4Addr {
        let hosts = u32::MAX
            .checked_shr(u32::from(self.prefix_bits))
            .unwrap_or(0);
        Ipv4Addr::from(u32::from(self.address) | hosts)
    }

    /// Returns whether `other` lies in the same network.
    pub fn holds(self, other: Ipv4Addr) -> bool {
        let hosts = u32::MAX
            .checked_shr(u32::from(self.prefix_bits))
            .unwrap_or(0);
        u32::from(self.address) & !hosts == u32::from(other) & !hosts
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('/').and_then(|(address, bits)| {
            let is_plain = bits.bytes().all(|byte| byte.is_ascii_digit());
            Self::new(
                address.parse().ok()?,
                bits.parse().ok().filter(|_| is_plain)?,
            )
        });
        parsed.ok_or_else(|| ParseCidrError {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_bits)
    }
}

impl TryFrom<String> for Cidr {
    type Error = ParseCidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// Returns whether `name` can be an interface: 1 to 15 printable bytes that are no separator.
pub(crate) fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_a_prefix_of_at_most_32_bits() {
        let cases: &[(&str, Option<&str>)] = &[
            ("10.0.2.15/24", Some("10.0.2.255")),
            ("10.0.2.15/32", Some("10.0.2.15")),
            ("10.0.2.15/0", Some("255.255.255.255")),
            ("10.0.2.15/33", None),
            ("10.0.2.15/+8", None),
            ("10.0.2.15/", None),
            ("10.0.2.15", None),
            ("10.0.2/24", None),
            ("fd00::1/64", None),
        ];
        for (text, broadcast) in cases {
            let cidr = text.parse::<Cidr>().ok();
            let got = cidr.map(|cidr| cidr.broadcast().to_string());
            assert_eq!(got.as_deref(), *broadcast, "{text}");
            assert!(cidr.is_none_or(|cidr| cidr.to_string() == *text));
        }
    }

    #[test]
    fn neighbours_share_the_prefix() {
        let cidr: Cidr = "10.0.2.15/24".parse().unwrap();
        assert!(cidr.holds(Ipv4Addr::new(10, 0, 2, 2)));
        assert!(!cidr.holds(Ipv4Addr::new(10, 0, 3, 2)));
        let everything: Cidr = "10.0.2.15/0".parse().unwrap();
        assert!(everything.holds(Ipv4Addr::new(192, 168, 0, 1)));
    }
}
