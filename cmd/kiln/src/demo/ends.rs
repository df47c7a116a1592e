//! Signals that end the demo, whatever it is waiting for.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::CommandError;

/// The exit code of somebody who pressed Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// They are listened to from here on; none has its usual effect any more.
pub(super) struct Ends {
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Ends {
    /// Begins to listen.
    pub(super) fn listen() -> Result<Self, CommandError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    /// Works until that is done or one comes, which lets go of the work at once.
    ///
    /// It is looked at first: what listens to Ctrl-C by itself says nothing about it here.
    pub(super) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        tokio::select! {
            biased;
            () = self.next() => Err(interrupted()),
            done = work => done,
        }
    }
}

/// What the demo ends with then.
pub(super) fn interrupted() -> CommandError {
    CommandError::Reported(EXIT_INTERRUPTED)
}
