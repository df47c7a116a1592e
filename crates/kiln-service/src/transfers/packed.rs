//! `image.push` of the built image: packed here, part by part, and sent as it is packed.
//!
//! ```text
//! files of the version ─▶ part ─pack─▶ file without a name ─▶ there? ─▶ sent, three side by side
//!                                                       documents ◀──────────┘
//! ```
//! What a part is called is known when it is packed, so that every part is packed, and those that
//! the registry has are not sent: of a version that changed little, few are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kiln_api::image::Image;
use kiln_api::image::push::{PushForm, PushParams};
use kiln_api::operation::{LayerProgress, LayerState, Stage};
use kiln_api::transfer::{Transfer, TransferOutcome};
use kiln_api::{Failure, codes};
use kiln_artifacts::Artifacts;
use kiln_artifacts::names::{INITRD, KERNEL, ROOTFS, ROOTFS_SUMS};
use kiln_bootable::{
    ImageFiles, PackError, container_disk_bytes, container_disk_documents, pack_container_disk,
};
use kiln_domain::access::Actor;
use kiln_domain::oci::Descriptor;
use kiln_domain::oci::bootable::{BootableManifest, Part};
use kiln_domain::{OperationId, OperationKind};
use kiln_registry::{Content, Graph, Pushed};
use kiln_store::Object;

use super::finish::{Ending, Happened};
use super::push::{Found, recorded};
use super::shipment::Shipment;
use super::whereabouts::Counted;
use super::{Destination, Transfers, answer};
use crate::board::Running;
use crate::failures::{fetch_failure, pool_failure, source_failure, storage_code};
use crate::fetch::Shelf;
use crate::images::{OpenError, modules_tar, open_failure};
use crate::needs::Needed;
use crate::pulls::{Attendance, Makes, Opening, cancelled, credentials, unless_cancelled};
use crate::views;

/// Parts that are packed and sent at a time: while one is sent another is packed.
const PARTS_AT_A_TIME: usize = 3;

/// What the job takes along.
pub(super) struct Job {
    pub(super) actor: Actor,
    pub(super) image: Found,
    pub(super) into: Destination,
    pub(super) errand: Errand,
}

/// What is to come of it.
#[derive(Clone, Debug)]
pub(super) enum Errand {
    /// It is sent.
    Send,
    /// It is packed, which tells its digest, and only asked for; a blob is counted once.
    Tell(Arc<Counted>),
}

/// A part that is there.
struct Done {
    layer: Descriptor,
    pushed: Pushed,
}

impl Transfers {
    /// Sends a built image to a registry; the work goes on when the caller hangs up.
    pub(super) async fn push_packed(
        &self,
        actor: &Actor,
        params: PushParams,
    ) -> Result<TransferOutcome, Failure> {
        if params.all_platforms || params.referrers {
            let text = "other platforms and referrers go with the OCI image, not with a built one";
            return Err(Failure::new(codes::request::INVALID_PARAMS, text));
        }
        let recorded = recorded(&params);
        let given = params.into_credentials.map(credentials);
        let (into, tags) = (&params.into, &params.tags);
        let into = self.destination(actor, into, tags, given, params.into_tls_verify)?;
        if into.reference.digest().is_some() {
            let text = "the digest of what is packed is known when it is packed: name a tag";
            return Err(Failure::new(codes::request::INVALID_PARAMS, text));
        }
        let architecture = params.architecture.as_deref();
        let image = self.look(actor, params.image, architecture).await?;
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
            into,
            errand: Errand::Send,
        };
        let (desk, form) = (self.clone(), params.form);
        let launched = self
            .records
            .launch(
                opening,
                Attendance::of(params.detach),
                move |id, running| async move {
                    let done = Box::pin(desk.run_packed(id, job, form, running.clone())).await;
                    done.map_err(|failure| unless_cancelled(&running, failure))
                },
            )
            .await?;
        answer(launched)
    }

    async fn run_packed(
        self,
        id: OperationId,
        job: Job,
        form: PushForm,
        running: Arc<Running>,
    ) -> Result<Transfer, Failure> {
        running.enter(Stage::Resolve);
        let work = self.send_packed(&job, form, &running);
        let done = tokio::select! {
            done = work => {
                if done.is_err() {
                    // Other parts would be packed for nothing.
                    running.abandon();
                }
                done?
            }
            () = running.cancelled() => return Err(cancelled()),
        };
        let happened = pushed(&job.image, form, &done);
        let ending = Ending {
            id,
            actor: job.actor,
            running,
        };
        let result = serde_json::to_value(&done).unwrap_or_default();
        self.finish(ending, result, happened).await?;
        Ok(done)
    }

    /// Packs an image and sends it, or tells what would be sent.
    pub(super) async fn send_packed(
        &self,
        job: &Job,
        form: PushForm,
        running: &Arc<Running>,
    ) -> Result<Transfer, Failure> {
        let version = Needed::Version(job.image.version.id);
        running.hold(&self.fetcher.needs(), [version]);
        let files = Arc::new(self.files_of(job, form, running).await?);
        if form == PushForm::Containerdisk {
            return self.send_container_disk(job, files, running).await;
        }
        let planned = files.clone();
        let plan = move || kiln_bootable::plan(&planned);
        let parts = self.records.look_pool.run(plan).await;
        let parts = parts.map_err(|error| pool_failure(&error))?;
        let parts = parts.map_err(|error| pack_failure(&error))?;
        let shown = self.shown(job);
        running.enter(Stage::Send);
        running.layers(parts.iter().map(|part| waiting(*part, &files)).collect());
        let sending: Vec<_> = parts
            .into_iter()
            .enumerate()
            .map(|(index, part)| self.send_part(index, part, files.clone(), job, running))
            .collect();
        let done: Vec<Done> = stream::iter(sending)
            .buffered(PARTS_AT_A_TIME)
            .try_collect()
            .await?;
        let layers: Vec<Descriptor> = done.iter().map(|done| done.layer.clone()).collect();
        let internal = |error: &(dyn std::error::Error + 'static)| {
            Failure::from_error(codes::daemon::INTERNAL, error)
        };
        let config = shown.bootable_config(kiln_bootable::compression());
        let written =
            BootableManifest::write(&config, &layers).map_err(|error| internal(&error))?;
        written
            .check()
            .map_err(|error| Failure::from_error(codes::source::UNSUPPORTED, &error))?;
        let config = (written.config_descriptor, written.config);
        self.send_documents(job, done, config, written.manifest, running)
            .await
    }

    fn shown(&self, job: &Job) -> Image {
        let Found { row, version, .. } = &job.image;
        views::image(
            &self.records.images,
            row.clone(),
            version.clone(),
            Vec::new(),
        )
    }

    /// Sends an image as a disk for KubeVirt: one layer, packed whole.
    async fn send_container_disk(
        &self,
        job: &Job,
        files: Arc<ImageFiles>,
        running: &Arc<Running>,
    ) -> Result<Transfer, Failure> {
        running.enter(Stage::Send);
        let scratch = self.fetcher.scratch().await;
        let mut scratch = scratch.map_err(|error| fetch_failure(&error))?;
        let name = job.image.row.name.to_string();
        let entry = running.clone();
        let at_work = running.at_work();
        let pack = move || {
            let _at_work = at_work;
            let cancelled = entry.work().flag();
            entry.layers(vec![LayerProgress {
                digest: "disk".to_owned(),
                state: LayerState::Sending,
                bytes_done: 0,
                bytes_total: container_disk_bytes(&files, cancelled)?,
            }]);
            let tell = |count| entry.layer_bytes(0, count, 0);
            let layer = pack_container_disk(&files, &name, &mut scratch, &tell, cancelled)?;
            Ok((layer, scratch))
        };
        let packed = self.records.build_pool.run(pack).await;
        let packed = packed.map_err(|error| pool_failure(&error))?;
        let (layer, file) = packed.map_err(|error| pack_failure(&error))?;
        let content = Content::file(Arc::new(file), layer.descriptor.size_bytes);
        let sending = self.send(&layer.descriptor, content, job, running, Some(0));
        let pushed = sending.await?;
        running.layer(0, LayerState::Done);
        let labels = self.shown(job).container_disk_labels();
        let architecture = &job.image.version.architecture;
        let written = container_disk_documents(architecture, &labels, &layer);
        let done = vec![Done {
            layer: layer.descriptor,
            pushed,
        }];
        let config = (written.config_descriptor, written.config);
        self.send_documents(job, done, config, written.manifest, running)
            .await
    }

    /// Sends the config and then, under every tag, the manifest of layers that are there.
    async fn send_documents(
        &self,
        job: &Job,
        mut done: Vec<Done>,
        config: (Descriptor, Vec<u8>),
        manifest: Vec<u8>,
        running: &Arc<Running>,
    ) -> Result<Transfer, Failure> {
        let (layer, config) = config;
        let content = Content::bytes(config.into());
        let pushed = self.send(&layer, content, job, running, None).await?;
        done.push(Done { layer, pushed });
        let graph = Graph::of_manifest(manifest.into());
        let graph = graph.map_err(|error| source_failure(&error))?;
        let shipment = Shipment {
            desk: self,
            source: None,
            mount_from: None,
            cached: Shelf::Closed,
            into: &job.into,
            running,
        };
        let sent: Vec<(Pushed, u64)> = done
            .iter()
            .map(|done| (done.pushed, done.layer.size_bytes))
            .collect();
        match &job.errand {
            Errand::Send => shipment.conclude(&graph, &sent).await,
            Errand::Tell(_) => shipment.weigh(graph.root, &sent).await,
        }
    }

    /// Packs one part and sends it, unless it is there.
    async fn send_part(
        &self,
        index: usize,
        part: Part,
        files: Arc<ImageFiles>,
        job: &Job,
        running: &Arc<Running>,
    ) -> Result<Done, Failure> {
        let scratch = self.fetcher.scratch().await;
        let mut scratch = scratch.map_err(|error| fetch_failure(&error))?;
        running.layer(index, LayerState::Sending);
        let entry = running.clone();
        let at_work = running.at_work();
        let pack = move || {
            let _at_work = at_work;
            let tell = |count| entry.layer_bytes(index, count, 0);
            let cancelled = entry.work().flag();
            let layer = kiln_bootable::pack(part, &files, &mut scratch, &tell, cancelled)?;
            Ok((layer, scratch))
        };
        let packed = self.records.build_pool.run(pack).await;
        let packed = packed.map_err(|error| pool_failure(&error))?;
        let (layer, file) = packed.map_err(|error| pack_failure(&error))?;
        let content = Content::file(Arc::new(file), layer.size_bytes);
        let sending = self.send(&layer, content, job, running, Some(index));
        let pushed = sending.await?;
        running.layer(
            index,
            match pushed {
                Pushed::Sent => LayerState::Done,
                Pushed::Existed | Pushed::Mounted => LayerState::Cached,
            },
        );
        Ok(Done { layer, pushed })
    }

    /// Sends a blob, unless it is there; `index` is that of the part that it is.
    async fn send(
        &self,
        blob: &Descriptor,
        content: Content,
        job: &Job,
        running: &Arc<Running>,
        index: Option<usize>,
    ) -> Result<Pushed, Failure> {
        let shows = |state| {
            if let Some(index) = index {
                running.layer(index, state);
            }
        };
        let writer = &job.into.writer;
        let waits = || shows(LayerState::Waiting);
        let turn = self.whereabouts.turn(writer, blob.digest, waits).await;
        shows(LayerState::Sending);
        let sent = Arc::new(AtomicU64::new(0));
        let counter = sent.clone();
        let content = content.reporting(move |bytes| counter.store(bytes, Ordering::Relaxed));
        let sending = self.bring_blob(blob, content, job, running);
        turn.spend(|| sent.load(Ordering::Relaxed), sending).await
    }

    /// Sees to it that a blob is there, or tells what that takes.
    async fn bring_blob(
        &self,
        blob: &Descriptor,
        content: Content,
        job: &Job,
        running: &Running,
    ) -> Result<Pushed, Failure> {
        let Destination {
            registry,
            writer,
            reference,
            ..
        } = &job.into;
        let elsewhere = self.whereabouts.elsewhere(writer, blob.digest, reference);
        if let Errand::Tell(counted) = &job.errand {
            let found = registry.blob_size(reference, &blob.digest).await;
            let found = found.map_err(|error| source_failure(&error))?;
            return Ok(if found == Some(blob.size_bytes) {
                Pushed::Existed
            } else if elsewhere.is_none() && counted.counts(reference, blob.digest) {
                Pushed::Sent
            } else {
                Pushed::Mounted
            });
        }
        let pushing = registry.push_blob(reference, blob, content, elsewhere.as_ref());
        let pushed = pushing.await.map_err(|error| source_failure(&error))?;
        if pushed == Pushed::Sent {
            self.whereabouts.forget(writer, blob.digest);
        }
        self.whereabouts.note(writer, blob.digest, reference);
        if pushed == Pushed::Sent {
            running.sent(blob.size_bytes);
        }
        Ok(pushed)
    }

    /// Opens the files of a version; its modules are put into an archive, unless they stay behind.
    async fn files_of(
        &self,
        job: &Job,
        form: PushForm,
        running: &Arc<Running>,
    ) -> Result<ImageFiles, Failure> {
        let images = self.records.images.clone();
        let version = job.image.version.id.to_string();
        let entry = running.clone();
        let at_work = running.at_work();
        let open = move || {
            let _at_work = at_work;
            let artifacts = Artifacts::open(&images)?;
            let needed = |name: &str, file: kiln_api::image::ImageFile| {
                let gone = || OpenError::Gone {
                    file,
                    version: version.clone(),
                };
                artifacts.open_file(&version, name)?.ok_or_else(gone)
            };
            // A disk has its own modules, and takes no others along.
            let modules = match form {
                PushForm::Containerdisk => None,
                PushForm::Oci | PushForm::Bootable => {
                    modules_tar(&artifacts, &version, entry.work().flag())?
                }
            };
            Ok(ImageFiles {
                rootfs: needed(ROOTFS, kiln_api::image::ImageFile::Rootfs)?,
                kernel: needed(KERNEL, kiln_api::image::ImageFile::Kernel)?,
                initrd: artifacts.open_file(&version, INITRD)?,
                sums: artifacts.open_file(&version, ROOTFS_SUMS)?,
                modules,
            })
        };
        // An archive of modules is long work.
        let opened = self.records.build_pool.run(open).await;
        opened
            .map_err(|error| pool_failure(&error))?
            .map_err(|error| open_failure(&error))
    }
}

/// What an event tells of a built image that was sent: the version, its form, its digest. It is
/// what later tells that the image is there, without packing it.
pub(super) fn pushed(image: &Found, form: PushForm, done: &Transfer) -> Happened {
    let object = Some(Object::image(image.row.id));
    let from = image.version.id.to_string();
    let mut happened = Happened::sent("image.pushed", object, &from, done);
    happened.data["as"] = serde_json::json!(form);
    happened
}

/// How a part stands before it is packed; its digest is not known yet.
fn waiting(part: Part, files: &ImageFiles) -> LayerProgress {
    let name = match part {
        Part::Chunk { offset_bytes, .. } => format!("rootfs+{}M", offset_bytes >> 20),
        Part::Kernel => "kernel".to_owned(),
        Part::Initrd => "initrd".to_owned(),
        Part::Modules => "modules".to_owned(),
        Part::Sums => "sums".to_owned(),
    };
    LayerProgress {
        digest: name,
        state: LayerState::Waiting,
        bytes_done: 0,
        bytes_total: kiln_bootable::length(part, files),
    }
}

fn pack_failure(error: &PackError) -> Failure {
    let code = match error {
        PackError::Cancelled => codes::operation::CANCELLED,
        PackError::PartialBlock { .. } => codes::source::UNSUPPORTED,
        PackError::Read { source, .. } | PackError::Write { source, .. } => storage_code(source),
    };
    Failure::from_error(code, error)
}
