//! The guest's console: where init says its few lines, and the terminal of the image's program.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

/// Says one line. A console that cannot be written to has nobody who could be told.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    // One write, so that no other program's line comes between.
    let line = format!("kiln-init: {line}\n");
    drop(io::stderr().write_all(line.as_bytes()));
}

/// Makes the console the standard input, output and error.
///
/// The kernel opens them for process 1 only where the initrd has the device node.
pub(crate) fn attach() {
    let Ok(console) = open("/dev/console") else {
        return;
    };
    // Each can fail only when there is no such descriptor, which these always may become.
    let _ = rustix::stdio::dup2_stdin(&console);
    let _ = rustix::stdio::dup2_stdout(&console);
    let _ = rustix::stdio::dup2_stderr(&console);
}

/// Opens the terminal behind the console, such as `/dev/ttyS0`, which, unlike the console itself,
/// has a name that programs can find; the console where that is not known.
pub(crate) fn terminal() -> io::Result<OwnedFd> {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    match terminal_name(&active).map(|name| open(&format!("/dev/{name}"))) {
        Some(Ok(terminal)) => Ok(terminal),
        _ => Ok(open("/dev/console")?),
    }
}

/// Waits until the console has sent what was written to it: switching off does not.
pub(crate) fn drain() {
    // Only a terminal has anything to wait for.
    let _ = rustix::termios::tcdrain(io::stderr());
}

fn open(path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The last console is the one that `/dev/console` means.
fn terminal_name(active: &str) -> Option<&str> {
    let name = active.split_whitespace().last()?;
    // `tty0` is whichever virtual terminal is in front.
    (!name.contains('/') && name != "tty0").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_console_is_the_terminal() {
        let cases = [
            ("ttyS0\n", Some("ttyS0")),
            ("tty0 ttyS0\n", Some("ttyS0")),
            ("hvc0", Some("hvc0")),
            ("tty0\n", None),
            ("", None),
            ("../x", None),
        ];
        for (active, want) in cases {
            assert_eq!(terminal_name(active), want, "{active:?}");
        }
    }
}
