//! What a DHCP server grants.

use std::net::{IpAddr, Ipv4Addr};

use kiln_boot::{Cidr, Resolv};

/// An address and what comes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The address and its network.
    pub(crate) address: Cidr,
    /// The first router.
    pub(crate) router: Option<Ipv4Addr>,
    /// Name servers, the preferred one first.
    pub(crate) nameservers: Vec<Ipv4Addr>,
    /// The domain in which short names are looked for.
    pub(crate) domain: Option<String>,
}

impl Lease {
    /// Returns what it tells about names.
    pub(crate) fn resolv(&self) -> Resolv {
        Resolv {
            nameservers: self.nameservers.iter().copied().map(IpAddr::V4).collect(),
            search: self.domain.iter().cloned().collect(),
        }
    }
}
