//! How pulls end that do not run through: raced, cancelled, broken, abandoned.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use kiln_api::codes;
use kiln_api::image::PullParams;
use kiln_api::operation::{Stage, WaitParams};
use kiln_domain::OperationState;
use kiln_service::{BuildRootfs, ConnectionId, Ext4Builder};
use kiln_store::StoreError;
use kiln_store::names::NameHolder;

use crate::house::{House, eventually, root, within_limit};
use crate::stand_ins::{Act, EndlessBuilder, OneLayer, PanickingBuilder};

const REFERENCE: &str = "debian:bookworm";

#[tokio::test(flavor = "multi_thread")]
async fn of_many_pulls_of_one_name_one_wins_and_the_others_fetch_nothing() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;

    let pulls = (0..16).map(|_| house.pull(house.params(REFERENCE)));
    let ended = within_limit("the race", join_all(pulls)).await?;

    let (won, lost): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 15));
    for failure in lost.into_iter().filter_map(Result::err) {
        let is_about_name =
            failure.is(codes::image::ALREADY_EXISTS) || failure.is(codes::image::NAME_RESERVED);
        assert!(is_about_name, "{failure:?}");
    }
    assert_eq!(source.calls(), (1, 1));
    assert_eq!(house.in_images()?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_recorded_is_removed_again() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;
    // The commit is the first to notice: by then the directory stands under its final name.
    source.then(Act::LoseNames(house.store.clone()));

    let failed = house.pull(house.params(REFERENCE)).await;

    let failure = failed.err().context("it did not fail")?;
    assert!(
        failure.message.contains("does not hold the name"),
        "{failure:?}"
    );
    house.assert_untouched("debian-bookworm").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_leaves_nothing_wherever_it_was() -> Result<()> {
    let cases: [(Act, Arc<dyn BuildRootfs>, Stage); 2] = [
        (Act::Block, Arc::new(Ext4Builder), Stage::Fetch),
        (Act::Serve, Arc::new(EndlessBuilder), Stage::Merge),
    ];
    for (act, builder, stage) in cases {
        let source = OneLayer::new(&[("marker", "ok")])?;
        source.then(act);
        let house = House::with_builder(source, builder)?;
        let started = house.start(house.params(REFERENCE)).await?;
        eventually("the stage", async || {
            let running = house.board.find(started.id).context("it has ended")?;
            Ok(running.progress().stage == stage)
        })
        .await?;
        assert_eq!(house.in_images()?.len(), 1, "no staging directory");

        let root = root();
        let cancelling = house.operations.cancel(&root, started.id);
        let ended = within_limit("cancelling", cancelling).await??;

        assert_eq!(ended.state, OperationState::Cancelled, "{stage:?}");
        let failure = ended.error.context("no error")?;
        assert!(failure.is(codes::operation::CANCELLED), "{failure:?}");
        house.assert_untouched("debian-bookworm").await?;
        let again = house.operations.cancel(&root, started.id).await;
        let failure = again.err().context("it was cancelled twice")?;
        assert!(
            failure.is(codes::operation::ALREADY_FINISHED),
            "{failure:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_others_follow_is_cancelled_only_without_asking_for_them() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    source.then(Act::Block);
    let house = House::new(source)?;
    let id = house.start(house.params(REFERENCE)).await?.id;
    let (own, other) = (ConnectionId::unique(), ConnectionId::unique());
    let (root, desk) = (root(), &house.operations);
    let watch = |connection| desk.watch(&root, connection, id);
    let wait = WaitParams {
        operation_id: id,
        timeout_ms: None,
    };
    let _own = [watch(own).await?, watch(own).await?];

    let stream = watch(other).await?;
    let watched = desk.cancel_unless_watched(&root, own, id).await?;
    drop(stream);
    let mut waiting = Box::pin(desk.wait(&root, other, wait));
    let counted = async {
        eventually("the one who waits", async || {
            Ok(desk.get(&root, id).await?.watchers == Some(2))
        })
        .await?;
        anyhow::Ok(desk.cancel_unless_watched(&root, own, id).await?)
    };
    let waited_for = tokio::select! {
        counted = counted => counted?,
        ended = &mut waiting => anyhow::bail!("it has ended: {ended:?}"),
    };
    drop(waiting);
    let cancelling = desk.cancel_unless_watched(&root, own, id);
    let cancelled = within_limit("cancelling", cancelling).await??;

    for (operation, how) in [(watched, "watched"), (waited_for, "waited for")] {
        assert_eq!(operation.state, OperationState::Running, "{how}");
        assert_eq!(operation.watchers, Some(2), "{how}");
    }
    assert_eq!(cancelled.state, OperationState::Cancelled);
    assert_eq!(cancelled.watchers, None);
    Ok(())
}

/// Whoever cancels, waits, or just reads the state hears of an end only when it is one.
#[tokio::test(flavor = "multi_thread")]
async fn no_end_is_told_before_the_last_thread_has_ended() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let has_ended = Arc::new(AtomicBool::new(false));
    source.then(Act::Linger(has_ended.clone()));
    let house = House::new(source.clone())?;
    let started = house.start(house.params(REFERENCE)).await?;
    eventually("the fetch", async || Ok(source.calls().1 > 0)).await?;
    let root = root();
    let id = started.id;

    let cancelling = async {
        let ended = house.operations.cancel(&root, id).await;
        (ended, has_ended.load(Ordering::SeqCst))
    };
    let reading = async {
        loop {
            let operation = house.operations.get(&root, id).await;
            let seen = has_ended.load(Ordering::SeqCst);
            if !matches!(&operation, Ok(found) if found.state == OperationState::Running) {
                return (operation, seen);
            }
            tokio::task::yield_now().await;
        }
    };
    let both = async { tokio::join!(cancelling, reading) };
    let (cancelled, read) = within_limit("the end", both).await?;

    for (told, had_ended) in [cancelled, read] {
        assert_eq!(told?.state, OperationState::Cancelled);
        assert!(had_ended, "told while a thread was at work");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_seam_is_an_internal_error_and_nothing_more() -> Result<()> {
    let cases: [(Act, Arc<dyn BuildRootfs>); 2] = [
        (Act::Panic, Arc::new(Ext4Builder)),
        (Act::Serve, Arc::new(PanickingBuilder)),
    ];
    for (act, builder) in cases {
        let source = OneLayer::new(&[("marker", "ok")])?;
        source.then(act);
        let house = House::with_builder(source, builder)?;

        let pulling = house.pull(house.params(REFERENCE));
        let failed = within_limit("the panic", pulling).await?;

        let failure = failed.err().context("it did not fail")?;
        assert!(failure.is(codes::daemon::INTERNAL), "{failure:?}");
        assert!(failure.operation_id.is_some());
        house.assert_untouched("debian-bookworm").await?;
        let failed = house.operations_in(OperationState::Failed).await?;
        assert_eq!(failed.len(), 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_threads_of_a_job_that_panics_are_told_and_waited_for() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let has_ended = Arc::new(AtomicBool::new(false));
    source.then(Act::PanicWithThread(has_ended.clone()));
    let house = House::new(source)?;

    let pulling = house.pull(house.params(REFERENCE));
    let failed = within_limit("the panic", pulling).await?;

    // A thread that nobody tells is given up after ten seconds, and still at work.
    assert!(has_ended.load(Ordering::SeqCst), "a thread is at work");
    let failure = failed.err().context("it did not fail")?;
    assert!(failure.is(codes::daemon::INTERNAL), "{failure:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_when_its_caller_hangs_up() -> Result<()> {
    let source = OneLayer::new(&[("marker", "ok")])?;
    let house = House::new(source.clone())?;

    let pulling = house.pull(house.params(REFERENCE));
    let hung_up = tokio::select! {
        _ = pulling => false,
        reached = eventually("the fetch", async || Ok(source.calls().1 > 0)) => reached.is_ok(),
    };

    assert!(hung_up, "it was over before anybody could hang up");
    eventually("the image", async || {
        let holder = house.holder("debian-bookworm").await?;
        Ok(matches!(holder, Some(NameHolder::Image { .. })))
    })
    .await
}

/// Whoever hangs up, at whatever moment, leaves either nothing or a pull that runs to its end.
#[tokio::test(flavor = "multi_thread")]
async fn hanging_up_at_any_moment_strands_no_operation_and_no_name() -> Result<()> {
    let house = House::new(OneLayer::new(&[("marker", "ok")])?)?;
    let mut polls = 0;
    loop {
        polls += 1;
        let name = format!("hung-up-{polls}");
        let params = PullParams {
            name: Some(name.parse()?),
            ..house.params(REFERENCE)
        };
        let is_over = {
            let mut pulling = pin!(house.pull(params));
            let mut left = polls;
            poll_fn(|context| match pulling.as_mut().poll(context) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if left == 1 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            })
            .await
        };

        // Writes keep their order, so what the dropped call asked for has happened after this.
        house.store.write(|_| Ok::<_, StoreError>(())).await?;
        eventually("the end of what was begun", async || {
            let running = house.operations_in(OperationState::Running).await?;
            let held = house.holder(&name).await?;
            Ok(running.is_empty() && !matches!(held, Some(NameHolder::Reservation { .. })))
        })
        .await
        .with_context(|| format!("hung up after {polls} polls"))?;
        if let Some(ended) = is_over {
            ended?;
            break;
        }
    }
    assert!(polls > 3, "a pull that never waits: {polls}");
    Ok(())
}
