//! `registry.copy`: from a registry, a layout or an archive to a registry, without building.

use std::sync::Arc;

use kiln_api::Failure;
use kiln_api::codes;
use kiln_api::operation::Stage;
use kiln_api::registry::copy::CopyParams;
use kiln_api::transfer::{Transfer, TransferOutcome};
use kiln_domain::access::{Actor, Role};
use kiln_domain::{OperationId, OperationKind, Platform, Source};
use kiln_registry::{Breadth, ImageSource, read_graph};

use super::finish::{Ending, Happened};
use super::shipment::Shipment;
use super::{Destination, Transfers, answer};
use crate::board::Running;
use crate::failures::{
    fetch_failure, host_file_failure, name_failure, of_source, pool_failure, source_failure,
};
use crate::fetch::{FetchRequest, Shelf};
use crate::pulls::{
    Attendance, Makes, Opening, cancelled, claim_source, credentials, unless_cancelled,
};
use crate::remotes::{identities, tls_verify};

/// What the job takes along.
struct Job {
    actor: Actor,
    request: FetchRequest,
    breadth: Breadth,
    into: Destination,
    has_referrers: bool,
}

impl Transfers {
    /// Copies an image to a registry; the work goes on when the caller hangs up.
    pub async fn copy(
        &self,
        actor: &Actor,
        params: CopyParams,
    ) -> Result<TransferOutcome, Failure> {
        let recorded = recorded(&params);
        let into = self.destination(
            actor,
            &params.into,
            &params.tags,
            params.into_credentials.map(credentials),
            params.into_tls_verify,
        )?;
        let source = self.remotes.source(&params.from);
        let source = source.map_err(|error| name_failure(&error))?;
        if params.referrers {
            refuse_referrers_of(&source)?;
        }
        let platform: Option<Platform> = params
            .platform
            .map(|text| text.parse())
            .transpose()
            .map_err(|error| Failure::from_error(codes::source::INVALID_PLATFORM, &error))?;
        let claimed = claim_source(&self.files, actor, &source, params.source_files.as_ref())?;
        let opened = self.records.look_pool.run(move || claimed.open()).await;
        let opened = opened.map_err(|error| pool_failure(&error))?;
        let files = opened.map_err(|error| host_file_failure(&error))?;
        let opening = Opening {
            kind: OperationKind::RegistryCopy,
            actor: *actor,
            makes: Makes::Nothing,
            subject: format!("{source} to {}", into.reference),
            params: recorded,
        };
        let job = Job {
            actor: *actor,
            request: FetchRequest {
                identities: identities(
                    &source,
                    params.from_credentials,
                    params.from_mirror_credentials,
                ),
                tls: tls_verify(params.from_tls_verify),
                source,
                files,
                platform: platform.unwrap_or(Platform::linux(self.records.architecture)),
            },
            breadth: platform.map_or(Breadth::Everything, Breadth::Platform),
            into,
            has_referrers: params.referrers,
        };
        let desk = self.clone();
        let launched = self
            .records
            .launch(
                opening,
                Attendance::of(params.detach),
                |id, running| async move {
                    let done = desk.run_copy(id, job, running.clone()).await;
                    done.map_err(|failure| unless_cancelled(&running, failure))
                },
            )
            .await?;
        answer(launched)
    }

    async fn run_copy(
        self,
        id: OperationId,
        job: Job,
        running: Arc<Running>,
    ) -> Result<Transfer, Failure> {
        running.enter(Stage::Resolve);
        let done = tokio::select! {
            done = self.send_source(&job, &running) => done?,
            () = running.cancelled() => return Err(cancelled()),
        };
        let from = job.request.source.to_string();
        let happened = Happened::sent("registry.copied", None, &from, &done);
        let ending = Ending {
            id,
            actor: job.actor,
            running,
        };
        let result = serde_json::to_value(&done).unwrap_or_default();
        self.finish(ending, result, happened).await?;
        Ok(done)
    }

    async fn send_source(&self, job: &Job, running: &Arc<Running>) -> Result<Transfer, Failure> {
        let from = &job.request.source;
        let opened = self.fetcher.open(&job.request).await;
        let source = opened.map_err(|error| of_source(from, fetch_failure(&error)))?;
        let graph = read_graph(&source, job.breadth).await;
        let mut graph = graph.map_err(|error| of_source(from, source_failure(&error)))?;
        let referrers = if job.has_referrers {
            let added = self.add_referrers(&source, &mut graph).await;
            added.map_err(|failure| of_source(from, failure))?
        } else {
            0
        };
        let shipment = Shipment {
            desk: self,
            source: Some(&source),
            mount_from: ImageSource::reference(&source),
            cached: cached_for(&job.actor),
            into: &job.into,
            running,
        };
        // A digest that the caller names is no damage.
        shipment.check_digest(graph.root)?;
        let sent = shipment.send(&graph, referrers).await;
        sent.map_err(|failure| of_source(from, failure))
    }
}

/// Refuses what would be told as done and is not: these places hold one image and nothing beside it.
fn refuse_referrers_of(source: &Source) -> Result<(), Failure> {
    match source {
        Source::Registry(_) | Source::OciLayout { .. } | Source::OciArchive { .. } => Ok(()),
        Source::DockerArchive { .. } | Source::Directory { .. } => {
            let message = format!("{source} holds nothing that refers to its image");
            Err(Failure::new(codes::request::INVALID_PARAMS, message)
                .with_hint("copy it without --referrers", None))
        }
    }
}

/// A manifest may name any digest: who may not see everything would get strangers' blobs.
pub(super) fn cached_for(actor: &Actor) -> Shelf {
    match actor.role {
        Role::Superadmin => Shelf::Open,
        Role::OrgAdmin | Role::User | Role::Agent => Shelf::Closed,
    }
}

/// The parameters as an operation records them: without credentials and handles.
fn recorded(params: &CopyParams) -> serde_json::Value {
    serde_json::json!({
        "from": params.from, "into": params.into, "tags": params.tags,
        "platform": params.platform, "referrers": params.referrers,
    })
}
