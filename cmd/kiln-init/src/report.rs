//! Tells how the image's program ended: one line on the console, and its JSON on vsock where
//! somebody listens.

use std::io::{self, Write as _};
use std::path::Path;

use kiln_boot::{Outcome, REPORT_PREFIX};

use crate::console;
use crate::kernel_calls;

/// A way to the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reporter {
    port: Option<u32>,
}

impl Reporter {
    /// Looks whether the guest has a vsock; later, `/dev` is gone.
    pub(crate) fn new(port: Option<u32>) -> Self {
        let port = port.filter(|_| Path::new("/dev/vsock").exists());
        Self { port }
    }

    /// Tells it once, everywhere.
    pub(crate) fn tell(self, outcome: &Outcome) {
        let json = outcome.to_json();
        if let Some(port) = self.port {
            match send(port, &json) {
                // The driver is there and the machine has no such device: nobody expects a report.
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => console::say(format_args!(
                    "nobody on the host takes a report on vsock port {port}: {error}"
                )),
            }
        }
        // A program may have left the line unfinished. The terminal makes two `\r` of this, by which
        // a reader of the console tells our line end from the program's own.
        let line = format!("\r\n{REPORT_PREFIX}{json}\n");
        drop(io::stderr().write_all(line.as_bytes()));
        console::drain();
    }
}

fn send(port: u32, json: &str) -> io::Result<()> {
    let mut host = kernel_calls::connect_to_host(port)?;
    host.write_all(json.as_bytes())?;
    host.write_all(b"\n")
}
