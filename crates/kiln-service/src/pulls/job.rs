//! What a pull and a registration have in common: ids, staging, and stopping on request.

use std::sync::Arc;
use std::thread;

use kiln_api::Failure;
use kiln_api::operation::Stage;
use kiln_artifacts::Staging;
use kiln_domain::{ImageId, VersionId};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Pulls;
use super::commit::cancelled;
use super::kernel_choice::{ChosenKernel, StagedKernel, choice_failure};
use crate::board::Running;
use crate::boot::BootPlan;
use crate::failures::{artifact_failure, pool_failure};

/// What threads are called that remove what is half made.
const PUT_AWAY: &str = "put-away";

/// The ids of an image that is being made; the version's names its directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    pub(super) image_id: ImageId,
    pub(super) version_id: VersionId,
}

impl Ids {
    pub(super) fn random() -> Self {
        Self {
            image_id: ImageId::new(uuid::Uuid::new_v4()),
            version_id: VersionId::new(uuid::Uuid::new_v4()),
        }
    }
}

/// What lies half made while the job waits for something else. Should the job end meanwhile, it is
/// dropped on a thread of its own: removing a large file is the disk's work, and not for a thread of
/// the runtime. The operation has not ended before that.
#[derive(Debug)]
pub(super) struct Resting<T: Send + 'static> {
    content: Option<T>,
    at_work: Option<TaskTrackerToken>,
}

impl<T: Send + 'static> Resting<T> {
    pub(super) fn new(content: T, running: &Running) -> Self {
        Self {
            content: Some(content),
            at_work: Some(running.at_work()),
        }
    }

    /// Takes it out, to go on with it.
    #[expect(clippy::expect_used, reason = "only this and the drop take it out")]
    pub(super) fn wake(mut self) -> T {
        self.content.take().expect("it is there until it is taken")
    }
}

impl<T: Send + 'static> Drop for Resting<T> {
    fn drop(&mut self) {
        let (content, at_work) = (self.content.take(), self.at_work.take());
        if content.is_none() {
            return;
        }
        let put_away = move || {
            drop(content);
            drop(at_work);
        };
        // Without a thread it is dropped with the closure, here: slow, and right.
        let thread = thread::Builder::new().name(PUT_AWAY.to_owned());
        drop(thread.spawn(put_away));
    }
}

impl Pulls {
    /// Makes the staging directory; it disappears with the value.
    pub(super) async fn stage(&self, ids: Ids) -> Result<Staging, Failure> {
        let artifacts = self.artifacts.clone();
        let stage = move || artifacts.stage(&ids.version_id.to_string());
        self.look(move || stage().map_err(|error| artifact_failure(&error)))
            .await
    }

    /// Runs a short look at the file system off the runtime's threads, which no slow disk may hold
    /// up.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let looked = self.records.look_pool.run(look).await;
        looked.map_err(|error| pool_failure(&error))?
    }

    /// Copies the kernel into staging and composes its initrd, on the build pool.
    pub(super) async fn stage_kernel(
        &self,
        staging: Staging,
        kernel: ChosenKernel,
        plan: BootPlan,
        running: &Arc<Running>,
    ) -> Result<(Staging, StagedKernel), Failure> {
        running.enter(Stage::Stage);
        let cancel = running.work().clone();
        let initrds = self.initrds.clone();
        let work = move || {
            let staged = kernel.stage(&staging, &plan, &initrds, cancel.flag());
            staged.map(|staged| (staging, staged))
        };
        let staged = self.on_build_pool(running, work).await?;
        staged.map_err(|error| unless_cancelled(running, choice_failure(&error)))
    }

    /// Runs blocking work on the build pool; what was cancelled while it waited never starts.
    pub(super) async fn on_build_pool<T: Send + 'static>(
        &self,
        running: &Arc<Running>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let work = while_wanted(running.clone(), work);
        let done = self.records.build_pool.run(work).await;
        done.map_err(|error| pool_failure(&error))?
    }
}

/// Makes work that does not start, or whose result is dropped, when its operation was cancelled.
///
/// Work and result may hold a staging directory, whose removal is the disk's work: neither is
/// dropped anywhere but where the work runs.
pub(crate) fn while_wanted<T>(
    running: Arc<Running>,
    work: impl FnOnce() -> T,
) -> impl FnOnce() -> Result<T, Failure> {
    move || {
        check(&running)?;
        let done = work();
        check(&running)?;
        Ok(done)
    }
}

/// Ends a job that was cancelled.
pub(super) fn check(running: &Running) -> Result<(), Failure> {
    if running.is_cancelled() {
        Err(cancelled())
    } else {
        Ok(())
    }
}

/// Work that was told to stop fails in one way or another; the caller asked for it.
pub(crate) fn unless_cancelled(running: &Running, failure: Failure) -> Failure {
    if running.is_cancelled() {
        cancelled()
    } else {
        failure
    }
}

/// Waits for a step, or for the caller to stop it: then the step's future is dropped.
pub(crate) async fn or_cancelled<T, E>(
    running: &Running,
    step: impl Future<Output = Result<T, E>>,
    describe: impl FnOnce(&E) -> Failure,
) -> Result<T, Failure> {
    tokio::select! {
        done = step => done.map_err(|error| unless_cancelled(running, describe(&error))),
        () = running.cancelled() => Err(cancelled()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use kiln_api::codes;
    use kiln_domain::OperationId;

    use super::*;
    use crate::blocking::Pool;
    use crate::board::Board;

    /// Notes the thread it is dropped on.
    #[derive(Debug)]
    struct Staged(Arc<Mutex<Option<String>>>);

    impl Drop for Staged {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = thread::current().name().map(str::to_owned);
        }
    }

    /// When the operation of a test is cancelled.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Moment {
        BeforeTheWork,
        DuringTheWork,
    }

    #[tokio::test]
    async fn what_rests_when_its_job_fails_is_gone_before_the_operation_has_ended() {
        let board = Arc::new(Board::new(1));
        let mut entry = None;
        let admission = board.admit().unwrap();
        let id = OperationId::new(uuid::Uuid::new_v4());
        board.start(id, admission, |running| {
            entry = Some(running.clone());
            async move { running.cancelled().await }
        });
        let running = entry.unwrap();
        let dropped = Arc::new(Mutex::default());
        let resting = Resting::new(Staged(dropped.clone()), &running);

        drop(resting);
        running.threads_ended().await;

        let thread = dropped.lock().unwrap().take();
        assert_eq!(thread.as_deref(), Some(PUT_AWAY));
        running.cancel();
        board.stop(Duration::ZERO).await;
    }

    async fn check_dropped_on_the_pool(moment: Moment) {
        let board = Arc::new(Board::new(1));
        let mut entry = None;
        let admission = board.admit().unwrap();
        let id = OperationId::new(uuid::Uuid::new_v4());
        board.start(id, admission, |running| {
            entry = Some(running.clone());
            async move { running.cancelled().await }
        });
        let running = entry.unwrap();
        let dropped = Arc::new(Mutex::default());
        let staged = Staged(dropped.clone());
        if moment == Moment::BeforeTheWork {
            running.cancel();
        }

        let asked = running.clone();
        let work = while_wanted(running, move || {
            assert_eq!(moment, Moment::DuringTheWork, "it has started");
            asked.cancel();
            staged
        });
        let done = Pool::new("build", 1).run(work).await.unwrap();

        let failure = done.expect_err("it was not cancelled");
        assert!(failure.is(codes::operation::CANCELLED), "{failure:?}");
        let thread = dropped.lock().unwrap().take();
        assert_eq!(thread.as_deref(), Some("build"), "{moment:?}");
        board.stop(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn what_a_cancelled_job_has_half_made_is_dropped_where_it_was_made() {
        check_dropped_on_the_pool(Moment::BeforeTheWork).await;
        check_dropped_on_the_pool(Moment::DuringTheWork).await;
    }
}
