//! The few rtnetlink messages that set an interface up.
//!
//! ```text
//! nlmsghdr: length u32 · type u16 · flags u16 · sequence u32 · port u32   host byte order
//! body:     ifinfomsg, ifaddrmsg or rtmsg
//! then:     attributes: length u16 · type u16 · value, padded to 4 bytes
//! ```
//! Every request asks for an acknowledgement: `NLMSG_ERROR` with a negative errno, or 0.
//! Source: rtnetlink(7), netlink(7).

use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use kiln_boot::Cidr;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const HEADER_BYTES: usize = 16;

/// Longest time the kernel may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Longest answer that is read; acknowledgements repeat the request.
const ANSWER_BYTES: usize = 4096;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// An address for an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Number of the interface.
    pub(crate) index: u32,
    /// The address with its network.
    pub(crate) address: Cidr,
}

/// The way to everywhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Number of the interface.
    pub(crate) index: u32,
    /// The router.
    pub(crate) gateway: Ipv4Addr,
    /// Whether the router is in the network of the interface; the kernel is told where not.
    pub(crate) is_neighbour: bool,
}

/// A socket to the kernel's routing.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: OwnedFd,
    sequence: Cell<u32>,
}

impl Socket {
    /// Opens one.
    pub(crate) fn open() -> io::Result<Self> {
        let kind = SocketType::RAW;
        let flags = SocketFlags::CLOEXEC;
        let descriptor = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, None)?;
        rustix::net::bind(&descriptor, &SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&descriptor, Timeout::Recv, Some(ANSWER_LIMIT))?;
        Ok(Self {
            descriptor,
            sequence: Cell::new(0),
        })
    }

    /// Raises the interface `index`; one that is up stays so.
    pub(crate) fn raise(&self, index: u32) -> io::Result<()> {
        self.request(|sequence| raise(sequence, index))
    }

    /// Gives an interface an address; one that it has stays.
    pub(crate) fn add_address(&self, address: &Address) -> io::Result<()> {
        self.request(|sequence| add_address(sequence, address))
    }

    /// Sets the default route.
    pub(crate) fn add_default_route(&self, route: &Route) -> io::Result<()> {
        self.request(|sequence| add_default_route(sequence, route))
    }

    fn request(&self, message: impl FnOnce(u32) -> Vec<u8>) -> io::Result<()> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(
            &self.descriptor,
            &message(sequence),
            SendFlags::empty(),
            &kernel,
        )?;
        let mut buffer = [0; ANSWER_BYTES];
        loop {
            let flags = RecvFlags::empty();
            let (_, length) = rustix::net::recv(&self.descriptor, &mut buffer, flags)?;
            let answer = buffer.get(..length).unwrap_or_default();
            match acknowledgement(answer, sequence) {
                Some(0) => return Ok(()),
                Some(code) => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
                // The answer to something else.
                None => {}
            }
        }
    }
}

fn raise(sequence: u32, index: u32) -> Vec<u8> {
    let mut message = Message::new(RTM_NEWLINK, 0, sequence);
    message.bytes.extend_from_slice(&[0, 0]);
    message.bytes.extend_from_slice(&0_u16.to_ne_bytes());
    // Index, flags, and which of the flags change.
    for word in [index, IFF_UP, IFF_UP] {
        message.bytes.extend_from_slice(&word.to_ne_bytes());
    }
    message.finish()
}

fn add_address(sequence: u32, address: &Address) -> Vec<u8> {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let mut message = Message::new(RTM_NEWADDR, flags, sequence);
    let Address { index, address } = *address;
    // Family, prefix, flags, scope (everywhere), index.
    message
        .bytes
        .extend_from_slice(&[AF_INET, address.prefix_bits(), 0, 0]);
    message.bytes.extend_from_slice(&index.to_ne_bytes());
    message.attribute(IFA_LOCAL, address.address().octets());
    message.attribute(IFA_ADDRESS, address.address().octets());
    if address.prefix_bits() < 31 {
        message.attribute(IFA_BROADCAST, address.broadcast().octets());
    }
    message.finish()
}

fn add_default_route(sequence: u32, route: &Route) -> Vec<u8> {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let mut message = Message::new(RTM_NEWROUTE, flags, sequence);
    // Family, lengths of destination and source, type of service, table, origin, scope, type.
    let words = [AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST];
    message.bytes.extend_from_slice(&words);
    let route_flags = if route.is_neighbour { 0 } else { RTNH_F_ONLINK };
    message.bytes.extend_from_slice(&route_flags.to_ne_bytes());
    message.attribute(RTA_GATEWAY, route.gateway.octets());
    message.attribute(RTA_OIF, route.index.to_ne_bytes());
    message.finish()
}

/// A message in the making.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        Self { bytes }
    }

    /// Adds an attribute of four bytes, which needs no padding.
    fn attribute(&mut self, kind: u16, value: [u8; 4]) {
        self.bytes.extend_from_slice(&8_u16.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&value);
    }

    fn finish(mut self) -> Vec<u8> {
        // Messages of this module are below a hundred bytes.
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        for (to, from) in self.bytes.iter_mut().zip(length.to_ne_bytes()) {
            *to = from;
        }
        self.bytes
    }
}

/// Finds the acknowledgement of request `sequence` in a datagram: 0, or a negative errno.
fn acknowledgement(mut datagram: &[u8], sequence: u32) -> Option<i32> {
    while let Some(header) = datagram.first_chunk::<HEADER_BYTES>() {
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let message = datagram
            .get(..length)
            .filter(|message| message.len() >= HEADER_BYTES)?;
        let is_ours = u32::from_ne_bytes([s0, s1, s2, s3]) == sequence;
        if is_ours && u16::from_ne_bytes([k0, k1]) == NLMSG_ERROR {
            let code = message.get(HEADER_BYTES..)?.first_chunk::<4>()?;
            return Some(i32::from_ne_bytes(*code));
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut message = Message::new(kind, 0, sequence);
        message.bytes.extend_from_slice(body);
        message.finish()
    }

    #[test]
    fn requests_are_what_rtnetlink_documents() {
        let index = 2;
        let address = Address {
            index,
            address: "10.0.2.15/24".parse().unwrap(),
        };
        let route = Route {
            index,
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            is_neighbour: false,
        };

        let up = raise(7, index);
        let given = add_address(8, &address);
        let routed = add_default_route(9, &route);

        assert_eq!(up.len(), 32);
        assert_eq!(up[..16], [32, 0, 0, 0, 16, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(up[16..], [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(
            given[..16],
            [48, 0, 0, 0, 20, 0, 5, 5, 8, 0, 0, 0, 0, 0, 0, 0]
        );
        let local = [8, 0, 2, 0, 10, 0, 2, 15];
        let whole = [8, 0, 1, 0, 10, 0, 2, 15];
        let broadcast = [8, 0, 4, 0, 10, 0, 2, 255];
        let head = [2, 24, 0, 0, 2, 0, 0, 0];
        assert_eq!(given[16..], [head, local, whole, broadcast].concat());
        let head = [2, 0, 0, 0, 254, 3, 0, 1, 4, 0, 0, 0];
        assert_eq!(routed[16..28], head);
        assert_eq!(
            routed[28..],
            [8, 0, 5, 0, 10, 0, 2, 2, 8, 0, 4, 0, 2, 0, 0, 0]
        );
    }

    #[test]
    fn the_answer_is_the_one_to_the_request() {
        let ok = answer(NLMSG_ERROR, 3, &0_i32.to_ne_bytes());
        let refused = answer(NLMSG_ERROR, 3, &(-17_i32).to_ne_bytes());
        let other = answer(NLMSG_ERROR, 2, &(-1_i32).to_ne_bytes());
        let link = answer(RTM_NEWLINK, 3, &[0; 7]);
        let padded = [link.as_slice(), &[0], &ok].concat();
        let cases: Vec<(Vec<u8>, Option<i32>)> = vec![
            (ok.clone(), Some(0)),
            (refused.clone(), Some(-17)),
            (other.clone(), None),
            ([other, refused].concat(), Some(-17)),
            (padded, Some(0)),
            (ok[..18].to_vec(), None),
            (answer(NLMSG_ERROR, 3, &[0, 0]), None),
            (vec![0; 64], None),
            (vec![0xff; 64], None),
            (Vec::new(), None),
        ];
        for (datagram, want) in cases {
            assert_eq!(acknowledgement(&datagram, 3), want, "{datagram:?}");
        }
    }

    #[test]
    fn loopback_is_there_and_up_already() -> io::Result<()> {
        let loopback = crate::network::interface::named("lo").ok_or(io::ErrorKind::NotFound)?;
        // Without rights, or on an interface that does not exist, the kernel refuses: what is
        // checked is that its answer is understood.
        let refused = Socket::open()?.raise(loopback.index.wrapping_add(1_000_000));
        assert!(refused.is_err());
        Ok(())
    }
}
