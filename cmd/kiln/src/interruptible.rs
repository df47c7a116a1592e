//! Work of this process that Ctrl-C and the caller's time limit stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_api::{Failure, codes};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::CommandError;
use crate::session::Session;

/// What work that is stopped half way leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// Files that it removes itself: it is waited for.
    Files,
    /// Nothing. It may wait for ever for whoever reads what it writes, and is left alone; the process
    /// ends it.
    Nothing,
}

/// Runs `work` on a thread of its own, and throws the flag it gets when nobody wants it any more.
pub(crate) async fn run<T: Send + 'static>(
    session: &Session,
    leaves: Leaves,
    work: impl FnOnce(&AtomicBool) -> Result<T, Failure> + Send + 'static,
) -> Result<T, CommandError> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let flag = cancelled.clone();
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let timeout = session.timeout();
    let expired = async move {
        match timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut making = tokio::task::spawn_blocking(move || work(&flag));
    let is_late = tokio::select! {
        made = &mut making => return finished(made),
        _ = interrupts.recv() => false,
        _ = terminations.recv() => false,
        () = expired => true,
    };
    cancelled.store(true, Ordering::Relaxed);
    let ended = match leaves {
        Leaves::Files => finished(making.await),
        Leaves::Nothing => {
            let text = "it was stopped half way";
            Err(Failure::new(codes::operation::CANCELLED, text).into())
        }
    };
    match ended {
        Err(CommandError::Failed(failure))
            if is_late && failure.is(codes::operation::CANCELLED) =>
        {
            let text = "the file was not made in the time given";
            Err(Failure::new(codes::operation::STILL_RUNNING, text)
                .with_hint("nothing was kept; give it more time", None)
                .into())
        }
        ended => ended,
    }
}

fn finished<T>(
    made: Result<Result<T, Failure>, tokio::task::JoinError>,
) -> Result<T, CommandError> {
    match made {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(failure)) => Err(failure.into()),
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}
