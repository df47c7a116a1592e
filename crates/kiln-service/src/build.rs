//! The real building step: packs → merged tree → ext4 image.

use std::fs::File;

use kiln_api::operation::Stage;
use kiln_domain::Digest;
use kiln_ext4::{Identity, Plan, PlanError, Profile, Size, Source, WriteError};
use kiln_layers::Pack;
use kiln_tree::{Limits, MergeError, Tree};

use crate::board::Running;
use crate::seams::BuildRootfs;

/// What to build, from what.
#[derive(Debug)]
pub struct BuildRequest {
    /// The layers' packs, bottom first.
    pub packs: Vec<Pack>,
    /// What the bytes are a function of.
    pub derivation: Digest,
    /// Seconds since 1970 that the filesystem says it was made at.
    pub epoch: i64,
    /// The size asked for.
    pub size_bytes: Option<u64>,
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// Length of the image in bytes.
    pub size_bytes: u64,
    /// The content of `rootfs.sums`.
    pub sums: Vec<u8>,
}

/// Why a root filesystem could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The layers cannot be merged.
    #[error("the layers cannot be merged")]
    Merge(#[from] MergeError),
    /// The merged tree does not fit ext4, or the size asked for.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Writing failed.
    #[error("the root filesystem cannot be written")]
    Write(#[from] WriteError),
}

/// Builds with Kiln's own ext4 writer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ext4Builder;

impl BuildRootfs for Ext4Builder {
    fn build(
        &self,
        request: BuildRequest,
        output: &File,
        running: &Running,
    ) -> Result<Built, BuildError> {
        let indexes = request
            .packs
            .iter()
            .map(|pack| pack.index().clone())
            .collect();
        let cancelled = running.work().flag();
        let tree = Tree::merge(indexes, &Limits::default(), cancelled)?;
        let identity = Identity::derive(request.derivation.as_bytes(), request.epoch);
        let size = request.size_bytes.map_or(Size::Default, Size::Bytes);
        let plan = Plan::new(&tree, Profile::RwV1, &identity, size, cancelled)?;
        running.enter(Stage::Build);
        let sources: Vec<Source<'_>> = request
            .packs
            .iter()
            .map(|pack| Source {
                file: pack.file(),
                sums: pack.sums(),
                zero_runs: pack.zero_runs(),
            })
            .collect();
        let progress = |done, total| running.bytes(done, total);
        let written = plan.write(&sources, output, &progress, cancelled)?;
        Ok(Built {
            size_bytes: written.size_bytes,
            sums: written.sums.encode(),
        })
    }
}
