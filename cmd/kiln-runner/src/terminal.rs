//! The terminal of the person who runs a machine: raw while the guest has it.

use std::io;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// A terminal whose keys go to a guest as they are. It is as it was once this is dropped, also
/// when the program panics; a signal is no exception, since each is waited for.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes the terminal of the standard input raw.
    pub(crate) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone has nobody who could be told.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}
