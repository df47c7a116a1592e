//! Stopping work: one switch that async code awaits and blocking code polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// A switch that is thrown once and stays thrown. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    token: CancellationToken,
    flag: Arc<AtomicBool>,
}

impl Cancel {
    /// Throws the switch; doing it again changes nothing.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.token.cancel();
    }

    /// Tells whether it was thrown.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Waits until it is thrown.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Borrows the flag that blocking code polls.
    pub fn flag(&self) -> &AtomicBool {
        &self.flag
    }
}
