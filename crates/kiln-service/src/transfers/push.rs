//! `image.push`: the OCI image that an image was made from, byte for byte.
//!
//! Its manifest, config and layers come from the cache; what the cache has dropped comes from
//! where the image came from, by digest.

use std::collections::HashSet;
use std::sync::Arc;

use kiln_api::image::Credentials;
use kiln_api::image::push::{PushForm, PushParams};
use kiln_api::operation::Stage;
use kiln_api::registry::RegistryCredentials;
use kiln_api::transfer::{Transfer, TransferOutcome};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{Digest, OperationId, OperationKind, Reference, Source};
use kiln_registry::routes::TlsVerify;
use kiln_registry::{Breadth, Graph, ImageSource, read_graph};
use kiln_store::images::ImageRow;
use kiln_store::version_blobs::{self, VersionBlob};
use kiln_store::versions::VersionRow;
use kiln_store::{Object, StoreError};

use super::finish::{Ending, Happened};
use super::shipment::Shipment;
use super::{Destination, Transfers, answer};
use crate::board::Running;
use crate::failures::{fetch_failure, source_failure};
use crate::fetch::{FetchRequest, Shelf, SourceFiles};
use crate::find_image::{FindImageError, Named, architecture, find_image, find_image_failure};
use crate::needs::Needed;
use crate::pulls::{Attendance, Makes, Opening, cancelled, credentials, unless_cancelled};
use crate::remotes::{identities, tls_verify};

/// Largest manifest, in bytes, as the registry's client takes them.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// What the job takes along.
pub(super) struct Job {
    pub(super) actor: Actor,
    pub(super) image: Found,
    pub(super) manifest: Digest,
    pub(super) into: Destination,
    pub(super) has_all_platforms: bool,
    pub(super) has_referrers: bool,
    pub(super) from: Origin,
}

/// Who to be where the image came from, and how to speak to it.
pub(super) struct Origin {
    pub(super) credentials: Option<Credentials>,
    pub(super) mirror_credentials: Vec<RegistryCredentials>,
    pub(super) tls: TlsVerify,
}

/// An image that a call named.
pub(super) struct Found {
    pub(super) row: ImageRow,
    pub(super) version: VersionRow,
    blobs: Vec<VersionBlob>,
}

/// Why an image could not be looked up with its blobs.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Find(#[from] FindImageError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Transfers {
    /// Sends an image to a registry; the work goes on when the caller hangs up.
    pub async fn push(
        &self,
        actor: &Actor,
        params: PushParams,
    ) -> Result<TransferOutcome, Failure> {
        match params.form {
            PushForm::Oci => {}
            PushForm::Bootable | PushForm::Containerdisk => {
                return self.push_packed(actor, params).await;
            }
        }
        let recorded = recorded(&params);
        let into = self.destination(
            actor,
            &params.into,
            &params.tags,
            params.into_credentials.map(credentials),
            params.into_tls_verify,
        )?;
        let architecture = params.architecture.as_deref();
        let image = self.look(actor, params.image, architecture).await?;
        let Some(manifest) = image.version.manifest_digest else {
            return Err(no_source(&image.row));
        };
        let opening = Opening {
            kind: OperationKind::ImagePush,
            actor: *actor,
            makes: Makes::Nothing,
            subject: format!("{} to {}", image.row.name, into.reference),
            params: recorded,
        };
        let job = Job {
            actor: *actor,
            image,
            manifest,
            into,
            has_all_platforms: params.all_platforms,
            has_referrers: params.referrers,
            from: Origin {
                credentials: params.from_credentials,
                mirror_credentials: params.from_mirror_credentials,
                tls: tls_verify(params.from_tls_verify),
            },
        };
        let desk = self.clone();
        let launched = self
            .records
            .launch(
                opening,
                Attendance::of(params.detach),
                |id, running| async move {
                    let done = desk.run_push(id, job, running.clone()).await;
                    done.map_err(|failure| unless_cancelled(&running, failure))
                },
            )
            .await?;
        answer(launched)
    }

    pub(super) async fn look(
        &self,
        actor: &Actor,
        text: String,
        wanted: Option<&str>,
    ) -> Result<Found, Failure> {
        let architecture = architecture(wanted)?;
        let (actor, naming) = (*actor, self.records.naming());
        let found = self
            .records
            .store
            .read(move |tx| {
                let named = Named {
                    text: &text,
                    architecture,
                    naming,
                };
                let (row, version) = find_image(tx, &actor, named)?;
                let blobs = version_blobs::of_version(tx, version.id)?;
                Ok::<_, LookError>(Found {
                    row,
                    version,
                    blobs,
                })
            })
            .await;
        found.map_err(|error| match &error {
            LookError::Find(error) => find_image_failure(error),
            LookError::Store(error) => crate::failures::store_failure(error),
        })
    }

    /// The job: documents, blobs, manifests, tags, record.
    async fn run_push(
        self,
        id: OperationId,
        job: Job,
        running: Arc<Running>,
    ) -> Result<Transfer, Failure> {
        running.enter(Stage::Resolve);
        let from = job.image.version.source_reference.clone();
        let from = from.unwrap_or_default();
        let work = self.send_image(&job, &running);
        let done = tokio::select! {
            done = work => done?,
            () = running.cancelled() => return Err(cancelled()),
        };
        let happened = Happened::sent(
            "image.pushed",
            Some(Object::image(job.image.row.id)),
            &from,
            &done,
        );
        let ending = Ending {
            id,
            actor: job.actor,
            running,
        };
        let result = serde_json::to_value(&done).unwrap_or_default();
        self.finish(ending, result, happened).await?;
        Ok(done)
    }

    /// Sends the OCI image.
    pub(super) async fn send_image(
        &self,
        job: &Job,
        running: &Arc<Running>,
    ) -> Result<Transfer, Failure> {
        let blobs = job.image.blobs.iter();
        let contents = blobs.map(|blob| Needed::Content(blob.digest));
        running.hold(&self.fetcher.needs(), contents);
        let (source, graph, referrers) = self.documents_of(job).await?;
        let own: HashSet<Digest> = job.image.blobs.iter().map(|blob| blob.digest).collect();
        let shipment = Shipment {
            desk: self,
            source: source.as_ref(),
            mount_from: source.as_ref().and_then(ImageSource::reference),
            cached: Shelf::Of(own),
            into: &job.into,
            running,
        };
        shipment.send(&graph, referrers).await
    }

    /// Reads what is to be sent, with the referrers and their number where they are wanted, and
    /// says who has what the cache has not.
    pub(super) async fn documents_of(
        &self,
        job: &Job,
    ) -> Result<(Option<ImageSource>, Graph, u64), Failure> {
        let source = self.source_of(job).await?;
        let referring = match (&source, job.has_referrers) {
            (_, false) => None,
            (Some(source), true) => Some(source),
            // Sending none would be told as done.
            (None, true) => return Err(no_referrers(job)),
        };
        let mut graph = self.graph_of(job, source.as_ref()).await?;
        let mut referrers = 0;
        if let Some(source) = referring {
            referrers = self.add_referrers(source, &mut graph).await?;
        }
        Ok((source, graph, referrers))
    }

    /// Prepares to ask the registry that the image came from. A layout or an archive was the
    /// caller's file, which nobody may open any more.
    async fn source_of(&self, job: &Job) -> Result<Option<ImageSource>, Failure> {
        let text = job.image.version.source_reference.as_deref();
        let Some(Ok(Source::Registry(reference))) = text.map(str::parse::<Source>) else {
            return Ok(None);
        };
        let Origin {
            credentials,
            mirror_credentials,
            tls,
        } = &job.from;
        let source = Source::Registry(reference);
        let request = FetchRequest {
            identities: identities(&source, credentials.clone(), mirror_credentials.clone()),
            tls: *tls,
            source,
            files: SourceFiles::None,
            platform: kiln_domain::Platform::linux(self.records.architecture),
        };
        let opened = self.fetcher.open(&request).await;
        opened.map(Some).map_err(|error| fetch_failure(&error))
    }

    /// Reads the documents: the image's own manifest, or the index around it.
    async fn graph_of(&self, job: &Job, source: Option<&ImageSource>) -> Result<Graph, Failure> {
        let name = &job.image.row.name;
        if job.has_all_platforms {
            let Some(source) = source else {
                let message = format!("{name} came from no registry, so its index is not known");
                return Err(Failure::new(codes::image::NO_OCI_SOURCE, message));
            };
            let graph = read_graph(source, Breadth::Everything).await;
            let graph = graph.map_err(|error| source_failure(&error))?;
            if graph.contains(&job.manifest) {
                return Ok(graph);
            }
            let message = format!(
                "{} no longer names the index that {name} was chosen from",
                source
                    .reference()
                    .map(Reference::to_string)
                    .unwrap_or_default()
            );
            return Err(Failure::new(codes::source::CHANGED, message)
                .with_hint("push the image's own manifest, without --all", None));
        }
        let cached = self
            .fetcher
            .cached_document(job.manifest, MAX_MANIFEST_BYTES)
            .await
            .map_err(|error| fetch_failure(&error))?;
        let bytes = match (cached, source) {
            (Some(bytes), _) => bytes,
            (
                None,
                Some(ImageSource::Registry {
                    registry,
                    reference,
                }),
            ) => {
                let fetched = registry
                    .manifest(&reference.with_digest(job.manifest))
                    .await;
                fetched.map_err(|error| source_failure(&error))?.bytes
            }
            (None, _) => return Err(gone(&job.image)),
        };
        Graph::of_manifest(bytes).map_err(|error| source_failure(&error))
    }
}

/// The parameters as an operation records them: without credentials.
pub(super) fn recorded(params: &PushParams) -> serde_json::Value {
    serde_json::json!({
        "image": params.image, "architecture": params.architecture, "into": params.into,
        "tags": params.tags, "as": params.form, "all_platforms": params.all_platforms,
        "referrers": params.referrers,
    })
}

pub(super) fn no_source(image: &ImageRow) -> Failure {
    let message = format!("{} was not made from an OCI image", image.name);
    Failure::new(codes::image::NO_OCI_SOURCE, message)
}

/// What refers to an image lies where it came from, and a layout or an archive was the caller's file.
fn no_referrers(job: &Job) -> Failure {
    let name = &job.image.row.name;
    let from = job.image.version.source_reference.as_deref();
    let message = match from {
        Some(from) => format!("{name} came from {from}, where nobody can look what refers to it"),
        None => format!("{name} came from nowhere, so what refers to it is not known"),
    };
    let hint = match from.map(str::parse::<Source>) {
        Some(Ok(from @ (Source::OciLayout { .. } | Source::OciArchive { .. }))) => {
            let into = &job.into.reference;
            format!("`kiln copy {from} {into} --referrers` takes along what lies beside it there")
        }
        _ => "push it without --referrers".to_owned(),
    };
    Failure::new(codes::image::NO_OCI_SOURCE, message).with_hint(hint, None)
}

fn gone(image: &Found) -> Failure {
    let from = image.version.source_reference.as_deref();
    let message = format!(
        "the cache no longer has the manifest of {}, and it came from {}",
        image.row.name,
        from.unwrap_or("nowhere")
    );
    Failure::new(codes::source::NOT_FOUND, message).with_hint(
        "pull it again, or copy it from where it is with `kiln copy`",
        None,
    )
}
