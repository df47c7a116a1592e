//! The real building step: packs → merged tree → ext4 image.

use std::fs::File;
use std::path::PathBuf;

use kiln_api::operation::Stage;
use kiln_domain::Digest;
use kiln_ext4::{Identity, Plan, PlanError, Profile, Size, Source, WriteError};
use kiln_layers::Pack;
use kiln_tree::{Limits, MergeError, Tree};

use crate::board::Running;
use crate::seams::BuildRootfs;
use crate::space::{NoRoom, Space, Storing};
use crate::spare::Spare;

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
    /// Where the output lies, for messages.
    pub directory: PathBuf,
    /// What makes way for it.
    pub spare: Spare,
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
    /// The disk has no room for it. Nothing was written.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
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
        let sources: Vec<Source<'_>> = request
            .packs
            .iter()
            .map(|pack| Source {
                file: pack.file(),
                sums: pack.sums(),
                zero_runs: pack.zero_runs(),
            })
            .collect();
        request
            .spare
            .room_for(|| match Space::of_file(output, &request.directory) {
                Some(space) => space.check(disk_bytes(&plan, &sources, &space)),
                None => Ok(()),
            })?;
        running.enter(Stage::Build);
        let progress = |done, total| running.bytes(done, total);
        let written = plan.write(&sources, output, &progress, cancelled)?;
        Ok(Built {
            size_bytes: written.size_bytes,
            sums: written.sums.encode(),
        })
    }
}

/// Tells how many bytes an image takes of its disk: holes take none, and neither do bodies that
/// are shared with their packs. Where that cannot be known nothing counts.
fn disk_bytes(plan: &Plan<'_>, sources: &[Source<'_>], space: &Space) -> u64 {
    let disk = plan.disk_bytes(sources);
    let is_copied = |source: &Source<'_>| {
        rustix::fs::fstat(source.file).is_ok_and(|pack| space.keeps_copies_from(pack.st_dev))
    };
    match space.storing {
        Storing::Unknown => 0,
        _ if sources.iter().all(is_copied) => disk.bodies + disk.others,
        _ => disk.others,
    }
}
