//! The guest's network: loopback always, the rest by DHCP or as stated.
//!
//! Nothing here keeps a guest from running: what cannot be done is told in one line. Not here: a
//! lease is not renewed, and IPv6 is left to the kernel.

mod client;
mod dhcp;
mod interface;
mod lease;
mod netlink;

use std::io;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use kiln_boot::{Cidr, Network, Resolv, StaticAddress};

use crate::console;
use crate::names::Learnt;
use interface::Interface;
use netlink::{Address, Route, Socket};

/// Longest time to wait for an interface: its driver has been loaded already.
const INTERFACE_LIMIT: Duration = Duration::from_secs(5);

/// Pause between two looks for one.
const PAUSE: Duration = Duration::from_millis(10);

/// Sets the network up and returns what it told about names.
pub(crate) fn set_up(network: &Network) -> Learnt {
    let socket = match Socket::open() {
        Ok(socket) => socket,
        Err(error) => {
            console::say(format_args!("cannot set the network up: {error}"));
            return Learnt::default();
        }
    };
    if let Err(error) = raise_loopback(&socket) {
        console::say(format_args!("cannot raise loopback: {error}"));
    }
    match network {
        Network::None => Learnt::default(),
        Network::Dhcp => ask_everywhere(&socket),
        Network::Static(addresses) => set_static(&socket, addresses),
    }
}

fn raise_loopback(socket: &Socket) -> io::Result<()> {
    let loopback = interface::named("lo").ok_or(io::ErrorKind::NotFound)?;
    // The kernel gives it its addresses.
    socket.raise(loopback.index)
}

fn set_static(socket: &Socket, addresses: &[StaticAddress]) -> Learnt {
    for one in addresses {
        let StaticAddress {
            interface,
            address,
            gateway,
        } = one;
        let set = wait_for(|| interface::named(interface))
            .ok_or_else(|| io::Error::other("there is no such interface"))
            .and_then(|found| configure(socket, &found, *address, *gateway));
        if let Err(error) = set {
            console::say(format_args!(
                "cannot give {interface} the address {address}: {error}"
            ));
        }
    }
    Learnt {
        address: addresses.first().map(|one| one.address.address()),
        resolv: Resolv::default(),
    }
}

/// Asks on every Ethernet interface; the first to be given an address and name servers decides.
fn ask_everywhere(socket: &Socket) -> Learnt {
    let found = wait_for(|| Some(interface::ethernet()).filter(|found| !found.is_empty()));
    let Some(interfaces) = found else {
        console::say(format_args!(
            "there is no network interface to ask for an address on"
        ));
        return Learnt::default();
    };
    let mut learnt = Learnt::default();
    let mut router_is_known = false;
    for interface in &interfaces {
        match ask(socket, interface, router_is_known) {
            Ok(lease) => {
                router_is_known |= lease.router.is_some();
                learnt.address = learnt.address.or(Some(lease.address.address()));
                if learnt.resolv.is_empty() {
                    learnt.resolv = lease.resolv();
                }
            }
            Err(error) => {
                console::say(format_args!(
                    "no address for {} by DHCP: {error}",
                    interface.name
                ));
            }
        }
    }
    learnt
}

fn ask(socket: &Socket, interface: &Interface, router_is_known: bool) -> io::Result<lease::Lease> {
    socket.raise(interface.index)?;
    let lease = client::acquire(interface)?;
    let router = lease.router.filter(|_| !router_is_known);
    configure(socket, interface, lease.address, router)?;
    Ok(lease)
}

fn configure(
    socket: &Socket,
    interface: &Interface,
    address: Cidr,
    gateway: Option<Ipv4Addr>,
) -> io::Result<()> {
    socket.raise(interface.index)?;
    let index = interface.index;
    socket.add_address(&Address { index, address })?;
    if let Some(gateway) = gateway {
        let is_neighbour = address.holds(gateway);
        socket.add_default_route(&Route {
            index,
            gateway,
            is_neighbour,
        })?;
    }
    Ok(())
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + INTERFACE_LIMIT;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        thread::sleep(PAUSE);
    }
}
