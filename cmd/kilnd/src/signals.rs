//! Signals: the first SIGTERM or SIGINT stops gracefully, the second at once.

use std::io;
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

/// Waits for the first signal that asks for an end, then tells `stop`. The second one ends the
/// process.
///
/// What an abrupt end leaves is repaired by the next start, as after a crash. Signals have a thread
/// of their own, which lasts as long as the process: whatever the rest waits for at its end, the
/// second signal is heard.
pub(crate) async fn wait(stop: watch::Sender<bool>) -> io::Result<()> {
    let (tell, told) = oneshot::channel();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || hear(tell))?;
    told.await.map_err(io::Error::other)??;
    tracing::info!("stopping; a second signal stops at once");
    stop.send_replace(true);
    Ok(())
}

/// Sees to the signals that must not end the process, and begins to listen for SIGHUP, which asks for
/// the configuration to be read anew.
pub(crate) fn prepare() -> io::Result<Signal> {
    outlive_file_limits()?;
    signal(SignalKind::hangup())
}

/// Takes the deadly part from SIGXFSZ: a file that must not grow (setrlimit(2)) is an error of the
/// call that writes, and of no other.
fn outlive_file_limits() -> io::Result<()> {
    let exceeded = rustix::process::Signal::XFSZ.as_raw();
    // The handler stays when the stream is dropped.
    signal(SignalKind::from_raw(exceeded)).map(drop)
}

fn hear(tell: oneshot::Sender<io::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(both(tell)),
        // Whoever is told no more has ended.
        Err(error) => drop(tell.send(Err(error))),
    }
}

async fn both(tell: oneshot::Sender<io::Result<()>>) {
    let asked = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let (mut terminate, mut interrupt) = match asked {
        [Ok(terminate), Ok(interrupt)] => (terminate, interrupt),
        [Err(error), _] | [_, Err(error)] => return drop(tell.send(Err(error))),
    };
    next(&mut terminate, &mut interrupt).await;
    drop(tell.send(Ok(())));
    next(&mut terminate, &mut interrupt).await;
    tracing::warn!("stopping at once");
    #[expect(clippy::exit, reason = "the second signal means: do not clean up")]
    std::process::exit(130);
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
