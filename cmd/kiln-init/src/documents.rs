//! Reads what the guest is told: `boot.json`, and `instance.json` laid over it where there is one.
//!
//! One word may stand on the kernel's command line, since it depends on the monitor alone:
//! `kiln.end=reboot` or `kiln.end=poweroff`.

use std::fs::File;
use std::io::{self, Read as _};

use kiln_boot::{BOOT_FILE, Boot, End, INSTANCE_FILE, Instance, MAX_DOCUMENT_BYTES, ReadError};

use crate::error::{Failure, at};

/// Where the kernel shows its command line.
const COMMAND_LINE: &str = "/proc/cmdline";

/// Reads both documents, and the word of the command line, which an instance's own beats.
pub(crate) fn read() -> Result<Boot, Failure> {
    let bytes = bytes_of(BOOT_FILE).map_err(at("read", BOOT_FILE))?;
    let mut boot = Boot::parse(&bytes).map_err(in_file(BOOT_FILE))?;
    // Where it cannot be read there is nothing on it for us.
    let line = std::fs::read_to_string(COMMAND_LINE).unwrap_or_default();
    boot.end = end(&line).unwrap_or(boot.end);
    match bytes_of(INSTANCE_FILE) {
        Ok(bytes) => Instance::parse(&bytes)
            .and_then(|instance| instance.lay_over(boot))
            .map_err(in_file(INSTANCE_FILE)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(boot),
        Err(error) => Err(at("read", INSTANCE_FILE)(error)),
    }
}

/// Finds the last word about the machine's end on a kernel's command line.
fn end(line: &str) -> Option<End> {
    line.split_whitespace().rev().find_map(|word| match word {
        "kiln.end=reboot" => Some(End::Reboot),
        "kiln.end=poweroff" => Some(End::Poweroff),
        _ => None,
    })
}

fn in_file(path: &'static str) -> impl FnOnce(ReadError) -> Failure {
    move |source| Failure::Document { path, source }
}

/// Reads one byte more than is accepted, so that too much is seen as such.
fn bytes_of(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_DOCUMENT_BYTES as u64 + 1;
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_known_word_about_the_end_counts() {
        let cases = [
            ("console=ttyS0 quiet kiln.end=reboot\n", Some(End::Reboot)),
            ("kiln.end=reboot kiln.end=poweroff", Some(End::Poweroff)),
            ("kiln.end=reboot kiln.end=never", Some(End::Reboot)),
            ("xkiln.end=reboot", None),
            ("", None),
        ];
        for (line, want) in cases {
            assert_eq!(end(line), want, "{line:?}");
        }
    }
}
