//! What the program sees of the machine, and how it says so.

use std::env;
use std::fmt::Write as _;
use std::fs;

use rustix::process::{getegid, geteuid, getgroups};

use crate::accounts::account;

/// The variable that the demo's image sets.
const VARIABLE: &str = "GREETING";

/// What is said of a thing that cannot be found out.
const UNKNOWN: &str = "unknown";

/// Returns everything that is said.
pub(crate) fn greeting() -> String {
    let rows = [
        ("kernel", kernel()),
        ("hostname", hostname()),
        ("user", user()),
        ("groups", groups()),
        ("directory", directory()),
        ("environment", variable()),
        ("memory", memory()),
        ("root", root()),
        ("uptime", uptime()),
    ];
    let mut text = format!("\nHello from a virtual machine! I am {}.\n\n", program());
    for (label, fact) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {label:<11}  {fact}");
    }
    text.push('\n');
    text
}

fn program() -> String {
    let path = env::args().next().unwrap_or_else(|| UNKNOWN.to_owned());
    format!("{path}, the image's own entrypoint")
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!(
        "{} {} on {}",
        uname.sysname().to_string_lossy(),
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy()
    )
}

fn hostname() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

fn user() -> String {
    account(&read("/etc/passwd"), geteuid().as_raw())
}

fn groups() -> String {
    let table = read("/etc/group");
    let mut ids = vec![getegid().as_raw()];
    for group in getgroups().unwrap_or_default() {
        if !ids.contains(&group.as_raw()) {
            ids.push(group.as_raw());
        }
    }
    let names: Vec<String> = ids.into_iter().map(|id| account(&table, id)).collect();
    names.join(", ")
}

fn directory() -> String {
    match env::current_dir() {
        Ok(directory) => directory.display().to_string(),
        Err(_) => UNKNOWN.to_owned(),
    }
}

fn variable() -> String {
    match env::var(VARIABLE) {
        Ok(value) => format!("{VARIABLE}={value}"),
        Err(_) => format!("{VARIABLE} is not set"),
    }
}

fn memory() -> String {
    match total_kib(&read("/proc/meminfo")) {
        Some(kib) => format!("{} MiB", kib / 1024),
        None => UNKNOWN.to_owned(),
    }
}

/// Reads the first line of `/proc/meminfo` (proc(5)): `MemTotal:         482104 kB`.
fn total_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn root() -> String {
    let Some(mounted) = mounted_root(&read("/proc/mounts")) else {
        return UNKNOWN.to_owned();
    };
    match rustix::fs::statvfs("/") {
        Ok(space) => {
            let mib = space.f_blocks.saturating_mul(space.f_frsize) >> 20;
            format!("{mounted}, {mib} MiB")
        }
        Err(_) => mounted,
    }
}

/// Reads `/proc/mounts` (fstab(5)): device, place, type, options. The last one covers the others.
fn mounted_root(mounts: &str) -> Option<String> {
    let fields = |line: &str| -> Option<String> {
        let mut fields = line.split(' ');
        let (device, place) = (fields.next()?, fields.next()?);
        let (kind, options) = (fields.next()?, fields.next()?);
        let access = options.split(',').next()?;
        (place == "/").then(|| format!("{device}, {kind}, {access}"))
    };
    mounts.lines().filter_map(fields).next_back()
}

fn uptime() -> String {
    match read("/proc/uptime").split(' ').next() {
        Some(seconds) if !seconds.is_empty() => format!("{seconds} s"),
        _ => UNKNOWN.to_owned(),
    }
}

/// Reads a file; one that cannot be read says nothing.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_understood() {
        let meminfo = "MemTotal:         482104 kB\nMemFree:          1 kB\n";
        let mounts = "rootfs / rootfs rw 0 0\nproc /proc proc rw,nosuid 0 0\n\
                      /dev/vda / ext4 ro,relatime 0 0\n";

        assert_eq!(total_kib(meminfo), Some(482_104));
        assert_eq!(total_kib("MemTotal: much kB\n"), None);
        let root = mounted_root(mounts);
        assert_eq!(root.as_deref(), Some("/dev/vda, ext4, ro"));
        assert_eq!(mounted_root("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn every_fact_is_a_line() {
        let text = greeting();

        assert!(
            text.starts_with("\nHello from a virtual machine! I am "),
            "{text}"
        );
        assert_eq!(
            text.lines().filter(|line| line.starts_with("  ")).count(),
            9
        );
    }
}
