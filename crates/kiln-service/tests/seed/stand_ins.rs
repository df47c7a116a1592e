//! Stand-ins for the seams: a source of one layer that does as it is told, and a builder that
//! does not build.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use kiln_domain::Digest;
use kiln_domain::oci::{Descriptor, ImageConfig};
use kiln_layers::{Declared, Limits, Pack};
use kiln_service::{
    Bootable, BootableFiles, BootableTarget, BuildError, BuildRequest, BuildRootfs, Built,
    FetchError, FetchNeeds, FetchRequest, FetchTree, Found, Resolved, Running, SeamFuture,
    SourceBlob,
};
use kiln_store::version_blobs::BlobRole;
use kiln_store::{Store, names};
use kiln_testkit::images::entry::{Entry, write_end};

/// What fetching the layers does, one call after the other; [`Act::Serve`] when nothing is left.
#[derive(Debug)]
pub(crate) enum Act {
    /// Gives the layer.
    Serve,
    /// Fails with this text.
    Fail(&'static str),
    /// Panics.
    Panic,
    /// Gives the layer, after the other end has spoken or is gone.
    Wait(tokio::sync::oneshot::Receiver<()>),
    /// Never comes to an end by itself.
    Block,
    /// Never comes to an end by itself, and has a thread that goes on for a while when it is
    /// cancelled; then it throws this.
    Linger(Arc<AtomicBool>),
    /// Panics, and has a thread that goes on until it is told that the work was given up, and for a
    /// while behind that; then it throws this.
    PanicWithThread(Arc<AtomicBool>),
    /// Gives the layer, after every reservation in the store is gone.
    LoseNames(Store),
}

/// A source whose every reference is an image of one layer.
#[derive(Debug)]
pub(crate) struct OneLayer {
    archive: Vec<u8>,
    diff_id: Digest,
    acts: Mutex<VecDeque<Act>>,
    needs: Mutex<FetchNeeds>,
    container: Mutex<serde_json::Value>,
    resolved: AtomicUsize,
    fetched: AtomicUsize,
}

impl OneLayer {
    /// Makes a source of the layer with these files.
    pub(crate) fn new(files: &[(&str, &str)]) -> Result<Arc<Self>> {
        let mut archive = Vec::new();
        for (path, content) in files {
            Entry::file(*path, *content).write_to(&mut archive)?;
        }
        write_end(&mut archive)?;
        let diff_id = *decode(&archive)?.diff_id().as_bytes();
        Ok(Arc::new(Self {
            archive,
            diff_id: Digest::from_bytes(diff_id),
            acts: Mutex::default(),
            needs: Mutex::default(),
            container: Mutex::new(serde_json::json!({"Cmd": ["/bin/sh"]})),
            resolved: AtomicUsize::new(0),
            fetched: AtomicUsize::new(0),
        }))
    }

    /// Says what the next call that nobody has spoken for does.
    pub(crate) fn then(&self, act: Act) {
        self.acts().push_back(act);
    }

    /// Says what fetching the layer takes.
    pub(crate) fn set_needs(&self, needs: FetchNeeds) {
        *self.needs.lock().unwrap_or_else(PoisonError::into_inner) = needs;
    }

    /// Says how the image's config says that its container runs.
    pub(crate) fn set_container(&self, container: serde_json::Value) {
        *self
            .container
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = container;
    }

    /// Counts the references looked up, and the times layers were asked for.
    pub(crate) fn calls(&self) -> (usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        (count(&self.resolved), count(&self.fetched))
    }

    fn acts(&self) -> std::sync::MutexGuard<'_, VecDeque<Act>> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode(archive: &[u8]) -> Result<Pack> {
    let file = tempfile::tempfile()?;
    kiln_layers::decode(
        &mut &*archive,
        Declared::Unknown,
        None,
        &file,
        &Limits::default(),
        &|_| {},
        &AtomicBool::new(false),
    )?;
    Ok(Pack::open(file)?)
}

fn stand_in(error: anyhow::Error) -> FetchError {
    FetchError::StandIn(error.into())
}

impl FetchTree for OneLayer {
    fn resolve<'a>(
        &'a self,
        request: &'a FetchRequest,
        _running: &'a Running,
    ) -> SeamFuture<'a, Result<Found, FetchError>> {
        Box::pin(async move {
            self.resolved.fetch_add(1, Ordering::SeqCst);
            let config = serde_json::json!({
                "config": *self.container.lock().unwrap_or_else(PoisonError::into_inner),
                "os": "linux", "architecture": "amd64", "created": "2023-11-14T22:13:20Z",
                "rootfs": {"type": "layers", "diff_ids": [self.diff_id]},
            });
            let config = config.to_string();
            let parsed = ImageConfig::parse(config.as_bytes(), 1, 4 << 20)
                .map_err(|error| stand_in(error.into()))?;
            let blob = |role, digest, size: usize, diff_id| SourceBlob {
                digest,
                role,
                size_bytes: size as u64,
                diff_id,
            };
            let (config_digest, manifest) =
                (Digest::of(config.as_bytes()), Digest::of(b"manifest"));
            Ok(Found::Image(Box::new(Resolved {
                source_kind: "registry",
                source_reference: request.source.to_string(),
                platform: request.platform,
                manifest_digest: manifest,
                config: parsed,
                blobs: vec![
                    blob(BlobRole::Manifest, manifest, 8, None),
                    blob(BlobRole::Config, config_digest, config.len(), None),
                    blob(
                        BlobRole::Layer,
                        self.diff_id,
                        self.archive.len(),
                        Some(self.diff_id),
                    ),
                ],
                layers: Vec::new(),
                source: None,
            })))
        })
    }

    fn bootable<'a>(
        &'a self,
        _bootable: &'a Bootable,
        _target: BootableTarget,
        _running: &'a Arc<Running>,
    ) -> SeamFuture<'a, Result<BootableFiles, FetchError>> {
        Box::pin(async { Err(FetchError::StandIn("it has images only".into())) })
    }

    fn check<'a>(
        &'a self,
        _bootable: &'a Bootable,
        _blobs: &'a [Descriptor],
        _running: &'a Arc<Running>,
    ) -> SeamFuture<'a, Result<(), FetchError>> {
        Box::pin(async { Err(FetchError::StandIn("it has images only".into())) })
    }

    fn bootable_needs<'a>(
        &'a self,
        _bootable: &'a Bootable,
    ) -> SeamFuture<'a, Result<FetchNeeds, FetchError>> {
        Box::pin(async { Ok(FetchNeeds::default()) })
    }

    fn drop_chunks<'a>(&'a self, _bootable: &'a Bootable) -> SeamFuture<'a, ()> {
        Box::pin(async {})
    }

    fn knows<'a>(&'a self, _resolved: &'a Resolved) -> SeamFuture<'a, Result<bool, FetchError>> {
        Box::pin(async { Ok(true) })
    }

    fn needs<'a>(
        &'a self,
        _resolved: &'a Resolved,
    ) -> SeamFuture<'a, Result<FetchNeeds, FetchError>> {
        let needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        let needs = needs.clone();
        Box::pin(async { Ok(needs) })
    }

    fn layers<'a>(
        &'a self,
        _request: &'a FetchRequest,
        _resolved: &'a Resolved,
        running: &'a Arc<Running>,
    ) -> SeamFuture<'a, Result<Vec<Pack>, FetchError>> {
        Box::pin(async move {
            self.fetched.fetch_add(1, Ordering::SeqCst);
            let act = self.acts().pop_front().unwrap_or(Act::Serve);
            match act {
                Act::Serve => {}
                Act::Fail(text) => return Err(FetchError::StandIn(text.into())),
                Act::Panic => panic!("a stand-in panics on purpose"),
                Act::Wait(until) => drop(until.await),
                Act::Block => std::future::pending().await,
                Act::Linger(has_ended) => {
                    linger(running.clone(), has_ended);
                    std::future::pending::<()>().await;
                }
                Act::PanicWithThread(has_ended) => {
                    linger(running.clone(), has_ended);
                    panic!("on purpose, with a thread at work");
                }
                Act::LoseNames(store) => {
                    let lost = store.write(names::clear_reservations).await;
                    lost.map_err(|error| stand_in(error.into()))?;
                }
            }
            let pack = decode(&self.archive).map_err(stand_in)?;
            Ok(vec![pack])
        })
    }
}

/// Starts a thread of the operation that takes a moment to see that its work is of no use any more.
fn linger(running: Arc<Running>, has_ended: Arc<AtomicBool>) {
    let at_work = running.at_work();
    std::thread::spawn(move || {
        while !running.work().is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Longer than it takes to record an end and to tell of it.
        std::thread::sleep(Duration::from_millis(300));
        has_ended.store(true, Ordering::SeqCst);
        drop(at_work);
    });
}

/// A builder that panics.
#[derive(Debug)]
pub(crate) struct PanickingBuilder;

impl BuildRootfs for PanickingBuilder {
    fn build(&self, _: BuildRequest, _: &File, _: &Running) -> Result<Built, BuildError> {
        panic!("a stand-in panics on purpose")
    }
}

/// A builder that works until it is cancelled.
#[derive(Debug)]
pub(crate) struct EndlessBuilder;

impl BuildRootfs for EndlessBuilder {
    fn build(&self, _: BuildRequest, _: &File, running: &Running) -> Result<Built, BuildError> {
        while !running.is_cancelled() {
            std::thread::yield_now();
        }
        Err(BuildError::Write(kiln_ext4::WriteError::Cancelled))
    }
}
