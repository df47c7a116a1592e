//! What a pull and a registration have in common: ids, staging, and stopping on request.

use std::sync::Arc;

use kiln_api::Failure;
use kiln_api::operation::Stage;
use kiln_artifacts::Staging;
use kiln_domain::{ImageId, VersionId};

use super::Pulls;
use super::commit::cancelled;
use super::kernel_choice::{ChosenKernel, StagedKernel, choice_failure};
use crate::board::Running;
use crate::failures::{artifact_failure, pool_failure};

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

    /// Copies the kernel into staging on the build pool.
    pub(super) async fn stage_kernel(
        &self,
        staging: Staging,
        kernel: ChosenKernel,
        running: &Arc<Running>,
    ) -> Result<(Staging, StagedKernel), Failure> {
        running.enter(Stage::Stage);
        let cancel = running.work().clone();
        let work = move || {
            let staged = kernel.stage(&staging, cancel.flag());
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
        check(running)?;
        let done = self
            .records
            .build_pool
            .run(work)
            .await
            .map_err(|error| pool_failure(&error))?;
        check(running)?;
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
pub(super) fn unless_cancelled(running: &Running, failure: Failure) -> Failure {
    if running.is_cancelled() {
        cancelled()
    } else {
        failure
    }
}

/// Waits for a step, or for the caller to stop it: then the step's future is dropped.
pub(super) async fn or_cancelled<T, E>(
    running: &Running,
    step: impl Future<Output = Result<T, E>>,
    describe: impl FnOnce(&E) -> Failure,
) -> Result<T, Failure> {
    tokio::select! {
        done = step => done.map_err(|error| unless_cancelled(running, describe(&error))),
        () = running.cancelled() => Err(cancelled()),
    }
}
