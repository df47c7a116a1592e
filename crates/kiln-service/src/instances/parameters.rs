//! What a call says of a machine, checked where it has no type of its own.
//!
//! The limits are such that a page of a thousand machines at their largest stays below 20 MiB, and
//! so below what the door answers with.

use kiln_api::failure::printable;
use kiln_api::instance::{Port, RegisterParams};

/// Longest path of a directory or a console, in bytes: several times what home directories and ids
/// take.
const PATH_MAX: usize = 1_024;

/// Longest name of a monitor or an accelerator, or of an address, in bytes: those there are take
/// less than half.
const WORD_MAX: usize = 64;

/// Most ports of one machine: each costs up to 140 bytes wherever the machine is listed.
const PORTS_MAX: usize = 64;

/// Longest reason that is kept, in characters; it is for people.
const REASON_MAX: usize = 500;

/// A parameter breaks a rule.
#[derive(Debug, thiserror::Error)]
#[error("{what} {rule}")]
pub(super) struct ParameterError {
    what: &'static str,
    rule: &'static str,
}

/// Checks what has no type of its own.
pub(super) fn check(params: &RegisterParams) -> Result<(), ParameterError> {
    for (what, path) in [
        ("the directory", &params.directory),
        ("the console's path", &params.console_path),
    ] {
        let is_path =
            path.starts_with('/') && path.len() <= PATH_MAX && !path.contains(char::is_control);
        if !is_path {
            let rule = "must be an absolute path of at most 1024 bytes without control characters";
            return Err(ParameterError { what, rule });
        }
    }
    if params.cpus == 0 || params.memory_bytes == 0 || i64::try_from(params.memory_bytes).is_err() {
        return Err(ParameterError {
            what: "processors and memory",
            rule: "must be more than none, and memory less than 8 EiB",
        });
    }
    if params.ports.len() > PORTS_MAX {
        return Err(ParameterError {
            what: "the list of ports",
            rule: "may have 64 entries",
        });
    }
    let mut addresses = params.ports.iter().map(|port| &port.host_address);
    addresses.try_for_each(|address| check_word("a port's address", address))
}

/// Refuses what is no word such as the names of monitors.
pub(super) fn check_word(what: &'static str, text: &str) -> Result<(), ParameterError> {
    // What JSON would escape is in no such word.
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if (1..=WORD_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
        return Ok(());
    }
    Err(ParameterError {
        what,
        rule: "must be a word of at most 64 visible ASCII characters without quotes and backslashes",
    })
}

/// Returns ports as they are kept.
pub(super) fn ports(ports: &[Port]) -> serde_json::Value {
    let one = |port: &Port| {
        serde_json::json!({
            "host_address": port.host_address,
            "host_port": port.host_port,
            "guest_port": port.guest_port,
        })
    };
    ports.iter().map(one).collect()
}

/// Returns a reason as it is kept: it may quote a guest, which says what it likes.
pub(super) fn shortened(reason: &str) -> String {
    printable(&reason.chars().take(REASON_MAX).collect::<String>())
}
