//! Follows an operation to its end: progress on stderr, Ctrl-C, the caller's time limit.
//!
//! Leaving never ends the work: the daemon owns it. Only a first Ctrl-C on work that this client
//! started, and that nobody else follows, cancels it.

use std::time::{Duration, Instant};

use kiln_api::image::Image;
use kiln_api::operation::{Cancel, CancelParams, LayerProgress, LayerState, Operation, Progress};
use kiln_api::{Failure, codes};
use kiln_client::{Client, ClientError};
use kiln_domain::{OperationId, OperationState};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::CommandError;
use crate::output;
use crate::progress::Renderer;
use crate::session::Session;
use crate::text::{cell, size};

/// The exit code of somebody who pressed Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// What a first Ctrl-C means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// This client started the work: it ends, unless somebody else follows it.
    Cancels,
    /// The work is somebody else's: leave it.
    Leaves,
}

/// What happens next.
enum Event {
    Item(Option<Result<Box<Operation>, ClientError>>),
    Interrupted,
    Tick,
    Expired,
}

/// What came of cancelling.
enum Cancelled {
    Ends,
    NotNow { others: u64 },
}

/// An operation at its end.
pub(crate) struct Ended {
    /// As the last item shows it.
    pub(crate) operation: Operation,
    /// The last progress that was seen; there is none at the end.
    pub(crate) progress: Option<Progress>,
    /// How long this client waited.
    pub(crate) took: Duration,
}

/// Follows an operation and returns it when it succeeded.
pub(crate) async fn to_the_end(
    session: &Session,
    client: &Client,
    id: OperationId,
    interrupt: Interrupt,
) -> Result<Ended, CommandError> {
    let ended = to_any_end(session, client, id, interrupt).await?;
    Ok(Ended {
        operation: successful(ended.operation)?,
        ..ended
    })
}

/// Follows an operation and returns it, however it ended.
pub(crate) async fn to_any_end(
    session: &Session,
    client: &Client,
    id: OperationId,
    interrupt: Interrupt,
) -> Result<Ended, CommandError> {
    let mut renderer = session.renderer();
    let ended = watch(session, client, id, interrupt, &mut renderer).await;
    renderer.close();
    ended
}

async fn watch(
    session: &Session,
    client: &Client,
    id: OperationId,
    interrupt: Interrupt,
    renderer: &mut Renderer,
) -> Result<Ended, CommandError> {
    let begun = Instant::now();
    // One stream for the whole time: a second Ctrl-C while the first is served is not lost.
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut watch = client.watch(id).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let expiry = sleep_for(session.timeout());
    tokio::pin!(expiry);
    let mut progress = None;
    let mut may_cancel = interrupt == Interrupt::Cancels;
    loop {
        let event = tokio::select! {
            item = watch.next() => Event::Item(item.map(|item| item.map(Box::new))),
            _ = interrupts.recv() => Event::Interrupted,
            _ = ticks.tick() => Event::Tick,
            () = &mut expiry => Event::Expired,
        };
        match event {
            Event::Item(Some(Ok(operation))) => {
                renderer.observe(&operation, begun.elapsed());
                progress = operation.progress.clone().or(progress);
                if operation.state.is_final() {
                    return Ok(Ended {
                        operation: *operation,
                        progress,
                        took: begun.elapsed(),
                    });
                }
            }
            Event::Item(Some(Err(error))) => return Err(error.into()),
            Event::Item(None) => return Err(lost(id)),
            Event::Tick => renderer.tick(begun.elapsed()),
            Event::Expired => return Err(expired(session, id)),
            Event::Interrupted if may_cancel => {
                may_cancel = false;
                renderer.note("cancelling; press Ctrl-C again to leave at once\n");
                tokio::select! {
                    cancelled = cancel(client, id) => {
                        if let Cancelled::NotNow { others } = cancelled? {
                            return Err(detached(renderer, id, others));
                        }
                    }
                    _ = interrupts.recv() => return Err(left(renderer, id)),
                }
            }
            Event::Interrupted => return Err(left(renderer, id)),
        }
    }
}

fn left(renderer: &Renderer, id: OperationId) -> CommandError {
    renderer.note(&format!("leaving; how it ends tells:  kiln op wait {id}\n"));
    CommandError::Reported(EXIT_INTERRUPTED)
}

fn detached(renderer: &Renderer, id: OperationId, others: u64) -> CommandError {
    let who = if others == 1 {
        "1 other follows it".to_owned()
    } else {
        format!("{others} others follow it")
    };
    renderer.note(&format!(
        "detached: {who}, so it goes on; how it ends tells:  kiln op wait {id}\n"
    ));
    CommandError::Reported(EXIT_INTERRUPTED)
}

/// Cancels unless others follow the operation. One that ended meanwhile needs no cancelling: its
/// last item tells.
async fn cancel(client: &Client, id: OperationId) -> Result<Cancelled, CommandError> {
    let params = CancelParams {
        operation_id: id,
        unless_watched: true,
    };
    match client.call::<Cancel>(&params).await {
        Ok(operation) if operation.state == OperationState::Running => Ok(Cancelled::NotNow {
            // This client is one of them, and the others may have left since.
            others: operation
                .watchers
                .unwrap_or_default()
                .saturating_sub(1)
                .max(1),
        }),
        Ok(_) => Ok(Cancelled::Ends),
        Err(ClientError::Failed(failure)) if failure.is(codes::operation::ALREADY_FINISHED) => {
            Ok(Cancelled::Ends)
        }
        Err(error) => Err(error.into()),
    }
}

async fn sleep_for(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn lost(id: OperationId) -> CommandError {
    let message = format!("the progress of operation {id} broke off");
    CommandError::new(codes::daemon::INTERNAL, message)
}

fn expired(session: &Session, id: OperationId) -> CommandError {
    let seconds = session.timeout().unwrap_or_default().as_secs();
    let message = format!("operation {id} did not end within {seconds} seconds; it goes on");
    Failure::new(codes::operation::STILL_RUNNING, message)
        .with_hint("wait again:", Some(format!("kiln op wait {id}")))
        .with_operation(id)
        .into()
}

/// Returns the operation when it succeeded, else why it did not.
pub(crate) fn successful(operation: Operation) -> Result<Operation, CommandError> {
    let code = match operation.state {
        OperationState::Succeeded => return Ok(operation),
        OperationState::Cancelled => codes::operation::CANCELLED,
        OperationState::Interrupted => codes::operation::INTERRUPTED,
        OperationState::Running => codes::operation::STILL_RUNNING,
        OperationState::Failed => codes::daemon::INTERNAL,
    };
    let failure = operation.error.unwrap_or_else(|| {
        let message = format!("operation {} is {}", operation.id, operation.state);
        Failure::new(code, message).with_operation(operation.id)
    });
    Err(failure.into())
}

/// Prints a finished image; `work` is what it took.
pub(crate) fn print_image(
    session: &Session,
    image: &Image,
    work: Option<(&Progress, Duration)>,
) -> Result<(), CommandError> {
    let id = image.id.to_string();
    session
        .output()
        .one(image, &id, |image| summary(image, work))
}

fn summary(image: &Image, work: Option<(&Progress, Duration)>) -> String {
    let head = format!(
        "{} is ready ({}, {}, id {})\n",
        cell(image.name.as_str()),
        image.version.number,
        cell(&image.architecture),
        image.id
    );
    let mut lines = vec![
        (
            "  rootfs",
            format!(
                "{}  {}",
                cell(&image.rootfs.path),
                size(image.rootfs.size_bytes)
            ),
        ),
        ("  kernel", cell(&image.kernel.path)),
    ];
    if let Some(initrd) = &image.kernel.initrd_path {
        lines.push(("  initrd", cell(initrd)));
    }
    if let Some((progress, took)) = work {
        lines.push(("  took", effort(progress, took)));
    }
    head + &output::pairs(&lines)
}

/// Says what it took: `12.3 s, 34.1 MiB fetched, 2 of 3 layers from the cache`.
fn effort(progress: &Progress, took: Duration) -> String {
    let fetched = match progress.fetched_bytes {
        0 => "nothing".to_owned(),
        bytes => size(bytes),
    };
    let text = format!("{:.1} s, {fetched} fetched", took.as_secs_f64());
    let is_cached = |layer: &&LayerProgress| layer.state == LayerState::Cached;
    match progress.layers.iter().filter(is_cached).count() {
        0 => text,
        cached => format!(
            "{text}, {cached} of {} layers from the cache",
            progress.layers.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::testing;

    fn exit_of(state: OperationState, error: Option<Failure>) -> u8 {
        let operation = Operation {
            state,
            error,
            ..testing::operation()
        };
        successful(operation).map_or_else(|error| error.exit_code(), |_| 0)
    }

    #[test]
    fn the_end_of_an_operation_is_the_exit_code() {
        let not_found = Failure::new(codes::source::NOT_FOUND, "no such image");

        assert_eq!(exit_of(OperationState::Succeeded, None), 0);
        assert_eq!(exit_of(OperationState::Failed, Some(not_found)), 3);
        assert_eq!(exit_of(OperationState::Failed, None), 1);
        assert_eq!(exit_of(OperationState::Cancelled, None), 130);
        assert_eq!(exit_of(OperationState::Interrupted, None), 8);
    }

    #[test]
    fn the_effort_names_what_came_from_the_cache() {
        let mut progress = testing::progress();
        progress.fetched_bytes = 3 << 20;
        assert_eq!(
            effort(&progress, Duration::from_millis(1_260)),
            "1.3 s, 3.0 MiB fetched"
        );

        progress.layers[1].state = LayerState::Cached;
        assert_eq!(
            effort(&progress, Duration::from_secs(2)),
            "2.0 s, 3.0 MiB fetched, 1 of 2 layers from the cache"
        );
    }
}
