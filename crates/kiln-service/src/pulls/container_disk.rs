//! A containerDisk of KubeVirt: an ordinary image that is no root filesystem but has a disk in it.
//!
//! ```text
//! config names no program ─▶ layers ─▶ /disk/<one file> ─▶ rootfs.ext4
//!                                      /boot/vmlinuz  /boot/initrd.img ─▶ the kernel that comes along
//! ```
//! What tells it apart from an image that merely has a directory `/disk`: at the top there are
//! `/disk` and perhaps `/boot`, and nothing else, and in `/disk` lies one regular file and nothing
//! else. Anything more is an image like any other.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_api::image::{Boot, BootChoice, Image};
use kiln_api::operation::Stage;
use kiln_api::{Failure, codes};
use kiln_artifacts::Staging;
use kiln_artifacts::names::ROOTFS;
use kiln_bootable::Taken;
use kiln_domain::oci::bootable::BootWords;
use kiln_domain::{Digest, OperationId};
use kiln_layers::Pack;
use kiln_store::version_blobs::BlobRole;
use kiln_tree::{InodeKind, Limits, MergeError, NodeId, Tree};

use super::Pulls;
use super::bootable::{
    Shipped, SizeAsked, named_kernel, rootfs_failure, shipped_boot, shipped_kernel, shown_disk,
};
use super::commit::{Finished, Origin};
use super::job::{Resting, or_cancelled, unless_cancelled};
use super::pull::Job;
use crate::board::Running;
use crate::failures::{artifact_failure, catalogue_failure, fetch_failure, storage_code};
use crate::fetch::{FetchError, FetchRequest, MAX_FILE_BYTES, RootPlace, root_of};
use crate::seams::Resolved;
use crate::tree_file::TreeFile;

/// Most layers of one: a disk is one, and kernels beside it another.
const MAX_LAYERS: usize = 8;

/// Bytes copied at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// The files of a containerDisk.
#[derive(Debug)]
pub(super) struct ContainerDisk {
    disk: TreeFile,
    /// Which layer it lies in.
    layer: usize,
    kernel: Option<TreeFile>,
    initrd: Option<TreeFile>,
}

/// Why the files of a containerDisk cannot be had.
#[derive(Debug, thiserror::Error)]
enum ContainerDiskError {
    #[error("the layers cannot be merged")]
    Merge(#[from] MergeError),
    #[error("cannot read a decoded layer")]
    Pack(#[source] io::Error),
    #[error(
        "a kernel or initrd beside the disk has {size_bytes} bytes; {MAX_FILE_BYTES} are taken"
    )]
    TooLarge { size_bytes: u64 },
    #[error("cannot copy the kernel that lies beside the disk")]
    Copy(#[source] io::Error),
    #[error("the operation was cancelled")]
    Cancelled,
}

/// Tells whether an image can be a containerDisk by its documents: it has nothing to run, and few
/// layers.
pub(super) fn may_be_disk(resolved: &Resolved) -> bool {
    let config = &resolved.config.config;
    config.entrypoint.is_empty() && config.cmd.is_empty() && resolved.layers.len() <= MAX_LAYERS
}

impl ContainerDisk {
    /// Finds the files; nothing where the image is another. It blocks.
    fn of(packs: &[Pack], cancelled: &AtomicBool) -> Result<Option<Self>, ContainerDiskError> {
        let is_beside = |path: &[u8]| {
            let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
            matches!(top, b"" | b"disk" | b"boot")
        };
        // Most images are others, and need not be merged for that to be known.
        let mut entries = packs.iter().flat_map(|pack| pack.index().entries());
        if !entries.all(|entry| is_beside(entry.path)) {
            return Ok(None);
        }
        let indexes = packs.iter().map(|pack| pack.index().clone()).collect();
        let tree = Tree::merge(indexes, &Limits::default(), cancelled)?;
        let Some(disk) = sole_disk(&tree) else {
            return Ok(None);
        };
        let file = |node: NodeId| {
            let inode = tree.inode(tree.inode_of(node));
            let (InodeKind::Regular(body), Some(pack)) = (inode.kind, packs.get(inode.layer))
            else {
                return Ok(None);
            };
            let pack = pack.file().try_clone().map_err(ContainerDiskError::Pack)?;
            Ok::<_, ContainerDiskError>(Some(TreeFile::new(Arc::new(pack), body)))
        };
        let beside = |path: &[u8]| {
            let found = tree.lookup(path).map(file).transpose()?.flatten();
            match found.as_ref().map(TreeFile::length) {
                Some(size_bytes) if size_bytes > MAX_FILE_BYTES => {
                    Err(ContainerDiskError::TooLarge { size_bytes })
                }
                _ => Ok(found),
            }
        };
        let Some(found) = file(disk)? else {
            return Ok(None);
        };
        let kernel = beside(b"boot/vmlinuz")?;
        Ok(Some(Self {
            disk: found,
            layer: tree.inode(tree.inode_of(disk)).layer,
            // Without its kernel an initrd is of no use.
            initrd: kernel.as_ref().and(beside(b"boot/initrd.img")?),
            kernel,
        }))
    }
}

/// Finds the one file in `/disk` of a tree that has nothing else but `/boot`.
fn sole_disk(tree: &Tree) -> Option<NodeId> {
    let is_other = |node: &NodeId| !matches!(tree.name(*node), b"disk" | b"boot");
    if tree.children(tree.root()).any(|node| is_other(&node)) {
        return None;
    }
    let folder = tree.lookup(b"disk")?;
    let mut files = tree.children(folder);
    let file = files.next().filter(|_| files.next().is_none())?;
    let kind = tree.inode(tree.inode_of(file)).kind;
    matches!(kind, InodeKind::Regular(_)).then_some(file)
}

impl Pulls {
    /// Fetches the layers of what may be a containerDisk, and looks whether it is one.
    pub(super) async fn container_disk(
        &self,
        request: &FetchRequest,
        resolved: &Resolved,
        running: &Arc<Running>,
    ) -> Result<Option<ContainerDisk>, Failure> {
        running.enter(Stage::Fetch);
        self.check_room(resolved, running).await?;
        let fetching = self.fetch.layers(request, resolved, running);
        let packs = or_cancelled(running, fetching, fetch_failure).await?;
        let entry = running.clone();
        let look = move || ContainerDisk::of(&packs, entry.work().flag());
        let found = self.on_build_pool(running, look).await?;
        found.map_err(|error| unless_cancelled(running, container_disk_failure(&error)))
    }

    /// The job from where the source turned out to be a containerDisk.
    pub(super) async fn run_container_disk(
        self,
        id: OperationId,
        job: Job,
        resolved: Resolved,
        found: ContainerDisk,
        running: Arc<Running>,
    ) -> Result<Image, Failure> {
        if let Some(size_bytes) = job.size_bytes {
            return Err(SizeAsked { size_bytes }.failure());
        }
        let ContainerDisk {
            disk,
            layer,
            kernel,
            initrd,
        } = found;
        let architecture = resolved.platform.architecture();
        let named = match &kernel {
            Some(_) => job.kernel.unless_shipped(),
            None => Some(job.kernel.without_shipped()?),
        };
        let booting = match (named, kernel) {
            (None, Some(kernel)) => {
                let (kernel, initrd) = self.copy_beside(kernel, initrd, &running).await?;
                self.check_kernel(&kernel, architecture).await?;
                let words = resolved.config.config.labels.get(BootWords::LABEL);
                let words = words.and_then(|value| BootWords::of_label(value));
                if job.boot == BootChoice::Auto {
                    let boot = shipped_boot(words.as_ref());
                    self.check_initrd(&boot, initrd.as_ref()).await?;
                }
                let shipped = Shipped {
                    kernel,
                    initrd,
                    modules: None,
                };
                shipped_kernel(shipped, job.boot, None, words.as_ref())?
            }
            (Some(named), _) => named_kernel(named, job.boot, None)?,
            (None, None) => {
                return Err(Failure::new(
                    codes::daemon::INTERNAL,
                    "the kernel is missing",
                ));
            }
        };
        running.enter(Stage::Build);
        let staging = self.stage(job.ids).await?;
        let digest = resolved.layers.get(layer).map(|one| one.descriptor.digest);
        let digest = digest.unwrap_or(resolved.manifest_digest);
        let (staging, taken) = self.take_out(staging, disk, digest, &running).await?;
        let judged = self.judge_rootfs(staging, None, &running).await?;
        let (staging, rootfs_size_bytes) =
            judged.map_err(|error| unless_cancelled(&running, rootfs_failure(&error)))?;
        let staging = Resting::new(staging, &running).wake();
        let view = booting.plan.view.clone();
        let staged = self.stage_kernel(staging, booting.kernel, booting.plan, &running);
        let (staging, kernel) = staged.await?;
        let monitors = booting.monitors.unwrap_or_else(|| kernel.monitors.clone());
        let config = resolved
            .blobs
            .iter()
            .find(|blob| blob.role == BlobRole::Config);
        let finished = Finished {
            operation_id: id,
            image_id: job.ids.image_id,
            version_id: job.ids.version_id,
            name: job.name,
            actor: job.actor,
            org: job.org,
            architecture,
            rootfs_size_bytes,
            boot: Boot {
                monitors,
                disk: Some(shown_disk(taken)),
                ..view
            },
            kernel,
            origin: Origin {
                source_kind: resolved.source_kind,
                source_reference: resolved.source_reference.clone(),
                manifest_digest: Some(resolved.manifest_digest),
                config_digest: config.map(|blob| blob.digest),
                original: None,
                // Nothing was built of the layers: it is nobody's twin.
                derivation: None,
                image_config: resolved.container_config(),
                blobs: resolved.blobs,
            },
        };
        self.records.publish(staging, finished, &running).await
    }

    /// Takes the root filesystem out of the disk, which lies in a blob.
    async fn take_out(
        &self,
        staging: Staging,
        disk: TreeFile,
        digest: Digest,
        running: &Arc<Running>,
    ) -> Result<(Staging, Taken), Failure> {
        let entry = running.clone();
        let (images, spare) = (self.records.images.clone(), self.records.spare.clone());
        let take = move || {
            let rootfs = staging
                .create(ROOTFS)
                .map_err(|error| artifact_failure(&error))?;
            let place = RootPlace {
                rootfs: Arc::new(rootfs),
                directory: images,
                spare,
            };
            let taken = root_of(&disk, &place, entry.work().flag());
            let taken =
                taken.map_err(|source| fetch_failure(&FetchError::Foreign { digest, source }))?;
            tracing::info!(%digest, ?taken, "the root filesystem was taken out of a disk");
            Ok((staging, taken))
        };
        let taken: Result<_, Failure> = self.on_build_pool(running, take).await?;
        taken.map_err(|failure| unless_cancelled(running, failure))
    }

    /// Copies kernel and initrd out of the layer, into files without names.
    async fn copy_beside(
        &self,
        kernel: TreeFile,
        initrd: Option<TreeFile>,
        running: &Arc<Running>,
    ) -> Result<(File, Option<File>), Failure> {
        let catalogue = self.kernels.clone();
        let entry = running.clone();
        let work = move || {
            let copy_one = |file: TreeFile| {
                let scratch = catalogue.scratch();
                let scratch = scratch.map_err(|error| catalogue_failure(&error))?;
                let copied = copy(file, scratch, entry.work().flag());
                copied.map_err(|error| container_disk_failure(&error))
            };
            Ok((copy_one(kernel)?, initrd.map(copy_one).transpose()?))
        };
        let copied: Result<_, Failure> = self.on_build_pool(running, work).await?;
        copied.map_err(|failure| unless_cancelled(running, failure))
    }
}

/// Copies a file, and puts the copy at its beginning.
fn copy(
    mut from: TreeFile,
    mut to: File,
    cancelled: &AtomicBool,
) -> Result<File, ContainerDiskError> {
    use std::io::{Read as _, Seek as _, Write as _};
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(ContainerDiskError::Cancelled);
        }
        let count = from.read(&mut buffer).map_err(ContainerDiskError::Copy)?;
        if count == 0 {
            to.rewind().map_err(ContainerDiskError::Copy)?;
            return Ok(to);
        }
        let piece = buffer.get(..count).unwrap_or_default();
        to.write_all(piece).map_err(ContainerDiskError::Copy)?;
    }
}

fn container_disk_failure(error: &ContainerDiskError) -> Failure {
    let code = match error {
        ContainerDiskError::Merge(MergeError::Cancelled) | ContainerDiskError::Cancelled => {
            codes::operation::CANCELLED
        }
        ContainerDiskError::Merge(_) => codes::layer::MALFORMED,
        ContainerDiskError::TooLarge { .. } => codes::layer::LIMIT_EXCEEDED,
        ContainerDiskError::Pack(source) | ContainerDiskError::Copy(source) => storage_code(source),
    };
    Failure::from_error(code, error)
}
