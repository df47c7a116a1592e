//! The messages of DHCP for IPv4: two that are sent, three that are understood.
//!
//! ```text
//! 0 op, hardware type, hardware length, hops   4 transaction   8 seconds   10 flags
//! 12 client  16 yours  20 server  24 relay     28 hardware address (16)
//! 44 server name (64)  108 file (128)          236 magic        240 options
//! option: code u8 · length u8 · value; 0 pads, 255 ends
//! ```
//! Source: RFC 2131, RFC 2132. Servers are not trusted: every length is checked, and what does
//! not answer this client's question is dropped.

use std::net::Ipv4Addr;

use kiln_boot::Cidr;

use super::lease::Lease;

/// Longest message that is read.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1500;

const OPTIONS_AT: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Shortest message that every relay passes on: that of BOOTP.
const SHORTEST_SENT: usize = 300;

const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const HARDWARE_BYTES: u8 = 6;
/// Answers are wanted by broadcast: without an address nothing else arrives.
const BROADCAST_FLAG: u16 = 0x8000;

const OPTION_PAD: u8 = 0;
const OPTION_MASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_NAMESERVERS: u8 = 6;
const OPTION_DOMAIN: u8 = 15;
const OPTION_REQUESTED: u8 = 50;
const OPTION_KIND: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_WANTED: u8 = 55;
const OPTION_CLIENT: u8 = 61;
const OPTION_END: u8 = 255;

const KIND_DISCOVER: u8 = 1;
const KIND_OFFER: u8 = 2;
const KIND_REQUEST: u8 = 3;
const KIND_ACK: u8 = 5;
const KIND_NAK: u8 = 6;

/// Most name servers that are kept: C libraries take three.
const MAX_NAMESERVERS: usize = 3;

/// Who asks, and in which conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// Number that answers repeat.
    pub(crate) transaction: u32,
    /// Ethernet address of the interface.
    pub(crate) hardware: [u8; 6],
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It would grant this.
    Offer(Offer),
    /// It grants this.
    Ack(Lease),
    /// It does not grant what was asked for.
    Nak,
}

/// An address that a server holds ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// The server.
    pub(crate) server: Ipv4Addr,
}

impl Conversation {
    /// Asks who has an address.
    pub(crate) fn discover(self) -> Vec<u8> {
        self.message(KIND_DISCOVER, &[])
    }

    /// Asks for what one server has offered.
    pub(crate) fn request(self, offer: Offer) -> Vec<u8> {
        let options = [
            (OPTION_REQUESTED, offer.address.octets()),
            (OPTION_SERVER, offer.server.octets()),
        ];
        self.message(KIND_REQUEST, &options)
    }

    /// Reads a message; nothing when it is no answer to this conversation.
    pub(crate) fn parse(self, message: &[u8]) -> Option<Answer> {
        let [op, kind, length, _] = *message.first_chunk::<4>()?;
        let is_answer = (op, kind, length) == (BOOT_REPLY, ETHERNET, HARDWARE_BYTES)
            && message.get(4..8)? == self.transaction.to_be_bytes()
            && message.get(28..34)? == self.hardware
            && message.get(236..OPTIONS_AT)? == MAGIC;
        if !is_answer {
            return None;
        }
        let options = Options::read(message.get(OPTIONS_AT..)?)?;
        let address = ipv4(message.get(16..20)?)?;
        match *options.get(OPTION_KIND)? {
            [KIND_OFFER] => Some(Answer::Offer(Offer {
                address: usable(address)?,
                server: options.first_address(OPTION_SERVER)?,
            })),
            [KIND_ACK] => options.lease(usable(address)?).map(Answer::Ack),
            [KIND_NAK] => Some(Answer::Nak),
            _ => None,
        }
    }

    fn message(self, kind: u8, addresses: &[(u8, [u8; 4])]) -> Vec<u8> {
        let mut bytes = vec![BOOT_REQUEST, ETHERNET, HARDWARE_BYTES, 0];
        bytes.extend_from_slice(&self.transaction.to_be_bytes());
        bytes.extend_from_slice(&0_u16.to_be_bytes());
        bytes.extend_from_slice(&BROADCAST_FLAG.to_be_bytes());
        bytes.resize(28, 0);
        bytes.extend_from_slice(&self.hardware);
        bytes.resize(236, 0);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[OPTION_KIND, 1, kind]);
        bytes.extend_from_slice(&[OPTION_CLIENT, 7, ETHERNET]);
        bytes.extend_from_slice(&self.hardware);
        for (code, address) in addresses {
            bytes.extend_from_slice(&[*code, 4]);
            bytes.extend_from_slice(address);
        }
        let wanted = [
            OPTION_MASK,
            OPTION_ROUTER,
            OPTION_NAMESERVERS,
            OPTION_DOMAIN,
        ];
        bytes.extend_from_slice(&[OPTION_WANTED, 4]);
        bytes.extend_from_slice(&wanted);
        bytes.push(OPTION_END);
        bytes.resize(bytes.len().max(SHORTEST_SENT), 0);
        bytes
    }
}

/// The options of a message, in order.
struct Options<'a> {
    found: Vec<(u8, &'a [u8])>,
}

impl<'a> Options<'a> {
    /// Reads options up to their end; nothing when one reaches beyond the message.
    fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let mut found = Vec::new();
        loop {
            match *bytes {
                [OPTION_PAD, ref rest @ ..] => bytes = rest,
                [OPTION_END, ..] | [] => return Some(Self { found }),
                [code, length, ref rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(usize::from(length))?;
                    found.push((code, value));
                    bytes = rest;
                }
                [_] => return None,
            }
        }
    }

    /// Returns the first option with `code`.
    fn get(&self, code: u8) -> Option<&'a [u8]> {
        let found = self.found.iter().find(|(known, _)| *known == code);
        found.map(|(_, value)| *value)
    }

    /// Returns the addresses that an option lists; none when its length is no multiple of four.
    fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let value = self.get(code).filter(|value| value.len() % 4 == 0);
        value
            .unwrap_or_default()
            .chunks_exact(4)
            .filter_map(ipv4)
            .collect()
    }

    fn first_address(&self, code: u8) -> Option<Ipv4Addr> {
        self.addresses(code).first().copied()
    }

    fn lease(&self, address: Ipv4Addr) -> Option<Lease> {
        let mask = self.first_address(OPTION_MASK)?;
        let mut nameservers = self.addresses(OPTION_NAMESERVERS);
        nameservers.truncate(MAX_NAMESERVERS);
        Some(Lease {
            address: Cidr::new(address, prefix_bits(mask)?)?,
            router: self.first_address(OPTION_ROUTER).and_then(usable),
            nameservers,
            domain: self.get(OPTION_DOMAIN).and_then(domain),
        })
    }
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk::<4>().copied().map(Ipv4Addr::from)
}

/// Returns an address that one machine can have.
fn usable(address: Ipv4Addr) -> Option<Ipv4Addr> {
    let is_usable = !address.is_unspecified()
        && !address.is_broadcast()
        && !address.is_multicast()
        && !address.is_loopback();
    is_usable.then_some(address)
}

/// Returns the length of a mask whose ones all come first.
fn prefix_bits(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    let is_mask = bits.checked_shl(ones).unwrap_or(0) == 0;
    u8::try_from(ones).ok().filter(|_| is_mask)
}

/// Reads a domain, which goes into a file of lines and words.
fn domain(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).ok()?;
    let is_domain = (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    is_domain.then(|| text.to_owned())
}

#[cfg(test)]
#[path = "dhcp/tests.rs"]
mod tests;
