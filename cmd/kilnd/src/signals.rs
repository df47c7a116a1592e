//! Signals: the first SIGTERM or SIGINT stops gracefully, the second at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Waits for the first signal that asks for an end, then tells `stop` and starts a task that ends
/// the process at the second one.
///
/// What an abrupt end leaves is repaired by the next start, as after a crash.
pub(crate) async fn wait(stop: watch::Sender<bool>) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; a second signal stops at once");
    stop.send_replace(true);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("stopping at once");
        #[expect(clippy::exit, reason = "the second signal means: do not clean up")]
        std::process::exit(130);
    });
    Ok(())
}

/// Begins to listen for SIGHUP, which asks for the configuration to be read anew.
pub(crate) fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
