//! Who listens on a port of this host.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use crate::text::cell;

/// How many ports behind a taken one are tried.
const TRIED: u16 = 100;

/// The state of a socket that listens (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Holder {
    pub(in crate::registry) pid: u32,
    pub(in crate::registry) name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", cell(&self.name), self.pid)
    }
}

/// Ports below need root unless the system says otherwise (`ip-sysctl`).
const USUAL_FIRST_OPEN: u16 = 1024;

/// Where it says so.
const FIRST_OPEN_FILE: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// How a port of 127.0.0.1 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Port {
    /// This user can listen there.
    Free,
    /// Somebody listens there.
    Taken,
    /// This user may not listen there, whoever does.
    Forbidden,
}

/// Looks how a port is, by listening there for a moment.
pub(in crate::registry) fn look(port: u16) -> Port {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Port::Free,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Port::Forbidden,
        Err(_) => Port::Taken,
    }
}

/// Says whether a port of 127.0.0.1 can be listened on.
pub(in crate::registry) fn is_free(port: u16) -> bool {
    look(port) == Port::Free
}

/// Says why this user may not listen on a port.
pub(in crate::registry) fn forbidden(port: u16) -> String {
    let first = first_open();
    if port < first {
        format!(
            "port {port} needs root: on this host the ports below {first} do \
             (net.ipv4.ip_unprivileged_port_start)"
        )
    } else {
        format!("the system does not let this user listen on port {port}")
    }
}

/// Returns the first port that everybody may listen on.
pub(in crate::registry) fn first_open() -> u16 {
    let text = fs::read_to_string(FIRST_OPEN_FILE).unwrap_or_default();
    text.trim().parse().unwrap_or(USUAL_FIRST_OPEN)
}

/// Returns the nearest free port above.
pub(in crate::registry) fn next_free(port: u16) -> Option<u16> {
    let last = port.saturating_add(TRIED);
    (port.saturating_add(1)..=last).find(|port| is_free(*port))
}

/// Finds the process that listens on a port; nothing where nobody does, or where this user may not
/// look into that process.
pub(in crate::registry) fn holder(port: u16) -> Option<Holder> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| listening(&text, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| has_one_open(*pid, &sockets))
        .map(|pid| Holder {
            pid,
            name: fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(
                |_| "a process".to_owned(),
                |name| name.trim_end().to_owned(),
            ),
        })
}

fn has_one_open(pid: u32, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        let target = fs::read_link(descriptor.path());
        target.is_ok_and(|target| {
            sockets
                .iter()
                .any(|socket| target.as_os_str() == socket.as_str())
        })
    })
}

/// Finds the inodes of the sockets that listen on a port in a table of the kernel's
/// (`proc_net(5)`): `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode`.
fn listening(table: &str, port: u16) -> Vec<u64> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local_port, 16) == Ok(port) && *fields.get(3)? == LISTEN;
        is_it.then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_found_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1 0 100 0 0 10 0\n\
                     1: 0100007F:1388 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 78 1 0 100 0 0 10 0\n\
                     2: 0100007F:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 79 1 0 100 0 0 10 0\n\
                     3: short\n";

        assert_eq!(listening(table, 5000), [77]);
        assert_eq!(listening(table, 5001), [79]);
        assert_eq!(listening(table, 5002), Vec::<u64>::new());
    }

    #[test]
    fn a_taken_port_has_a_holder_and_a_free_neighbour() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();

        assert!(!is_free(port));
        assert_eq!(
            holder(port).map(|holder| holder.pid),
            Some(std::process::id())
        );
        assert_ne!(next_free(port), Some(port));
    }
}
