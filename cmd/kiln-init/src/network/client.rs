//! Asks DHCP servers for an address: the four messages, and the patience between them.
//!
//! ```text
//! discover ─▶ offer ─▶ request ─▶ ack ─▶ lease
//!     ▲                   └──▶ nak, silence ─┐
//!     └──────────────────────────────────────┘   until the limit
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::rand::GetRandomFlags;

use super::dhcp::{Answer, Conversation, MAX_MESSAGE_BYTES, Offer};
use super::interface::Interface;
use super::lease::Lease;
use crate::kernel_calls;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// Longest time the whole conversation may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How long the first question waits for its answer; later ones wait twice as long each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// Asks on `interface`, which is up.
pub(crate) fn acquire(interface: &Interface) -> io::Result<Lease> {
    let conversation = Conversation {
        transaction: random()?,
        hardware: interface.hardware,
    };
    let socket = open(interface)?;
    let deadline = Instant::now() + LIMIT;
    let mut wait = FIRST_WAIT;
    while Instant::now() < deadline {
        let until = deadline.min(Instant::now() + wait);
        if let Some(lease) = converse(&socket, conversation, until)? {
            return Ok(lease);
        }
        wait = LONGEST_WAIT.min(wait.saturating_mul(2));
    }
    let seconds = LIMIT.as_secs();
    Err(io::Error::other(format!(
        "no server granted one within {seconds} s"
    )))
}

/// Has one conversation; nothing when it comes to no lease before `until`.
fn converse(
    socket: &OwnedFd,
    conversation: Conversation,
    until: Instant,
) -> io::Result<Option<Lease>> {
    send(socket, &conversation.discover())?;
    let mut asked: Option<Offer> = None;
    while let Some(message) = receive(socket, until)? {
        match conversation.parse(&message) {
            Some(Answer::Offer(offer)) if asked.is_none() => {
                send(socket, &conversation.request(offer))?;
                asked = Some(offer);
            }
            Some(Answer::Ack(lease)) if asked.is_some() => return Ok(Some(lease)),
            Some(Answer::Nak) => return Ok(None),
            // Offers of other servers, and what is no answer.
            Some(Answer::Offer(_) | Answer::Ack(_)) | None => {}
        }
    }
    Ok(None)
}

fn open(interface: &Interface) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_broadcast(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    kernel_calls::bind_to_interface(&socket, &interface.name)?;
    rustix::net::bind(
        &socket,
        &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT),
    )?;
    Ok(socket)
}

fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
    rustix::net::sendto(socket, message, SendFlags::empty(), &everybody)?;
    Ok(())
}

/// Returns the next message, or nothing when none comes before `until`.
fn receive(socket: &OwnedFd, until: Instant) -> io::Result<Option<Vec<u8>>> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(None);
    }
    sockopt::set_socket_timeout(socket, Timeout::Recv, Some(left))?;
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    match rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty()) {
        Ok((_, length)) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A guest has little chance early on: what the kernel has is random enough for a number that
/// tells two conversations apart.
fn random() -> io::Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::INSECURE)?;
    Ok(u32::from_ne_bytes(bytes))
}
