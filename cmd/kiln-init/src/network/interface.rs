//! The network interfaces of this machine, as sysfs lists them.

use std::fs;
use std::path::Path;

/// The kind of an Ethernet interface, from the kernel's `if_arp.h`.
const ETHERNET: &str = "1";

/// An interface with an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Its number.
    pub(crate) index: u32,
    /// Its address; zero for loopback.
    pub(crate) hardware: [u8; 6],
}

/// Finds the interface `name`.
pub(crate) fn named(name: &str) -> Option<Interface> {
    let folder = Path::new("/sys/class/net").join(name);
    let word = |file: &str| fs::read_to_string(folder.join(file)).ok();
    Some(Interface {
        name: name.to_owned(),
        index: word("ifindex")?.trim_end().parse().ok()?,
        hardware: hardware_address(word("address")?.trim_end())?,
    })
}

/// Finds all Ethernet interfaces, in the order of their numbers.
pub(crate) fn ethernet() -> Vec<Interface> {
    let entries = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten();
    let is_ethernet = |folder: &Path| {
        fs::read_to_string(folder.join("type")).is_ok_and(|kind| kind.trim_end() == ETHERNET)
    };
    let mut found: Vec<Interface> = entries
        .filter(|entry| is_ethernet(&entry.path()))
        .filter_map(|entry| named(&entry.file_name().to_string_lossy()))
        .collect();
    found.sort_by_key(|interface| interface.index);
    found
}

fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| is_two_digits(part))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

fn is_two_digits(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_have_six_bytes() {
        let cases = [
            ("52:54:00:12:34:56", Some([0x52, 0x54, 0, 0x12, 0x34, 0x56])),
            ("52:54:00:12:34", None),
            ("52:54:00:12:34:56:78", None),
            ("52:54:00:12:34:+5", None),
            ("5:54:00:12:34:56", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(hardware_address(text), want, "{text:?}");
        }
    }
}
