//! A root filesystem that is here already: its bytes are the ones wanted, so they are cloned or
//! copied.
//!
//! Which version that is, and who may have it, is not here.

use std::fs::File;
use std::path::Path;

use kiln_artifacts::names::{ROOTFS, ROOTFS_SUMS};
use kiln_artifacts::{ArtifactError, Artifacts, Staging};
use kiln_domain::VersionId;

use crate::cancel::Cancel;
use crate::space::{NoRoom, Space};

/// An equal root filesystem that exists, held open.
#[derive(Debug)]
pub(super) struct Twin {
    rootfs: File,
    sums: File,
}

impl Twin {
    /// Opens one that was built here; `None` where its directory is gone.
    pub(super) fn open(
        artifacts: &Artifacts,
        id: VersionId,
    ) -> Result<Option<Self>, ArtifactError> {
        let id = id.to_string();
        let rootfs = artifacts.open_file(&id, ROOTFS)?;
        let sums = artifacts.open_file(&id, ROOTFS_SUMS)?;
        Ok(rootfs.zip(sums).map(|(rootfs, sums)| Self { rootfs, sums }))
    }

    /// Fails where the copy takes room of its own and there is too little. It blocks.
    pub(super) fn check_room(&self, images: &Path) -> Result<(), NoRoom> {
        check_room_for_copy(&self.rootfs, images)
    }

    pub(super) fn copy_into(
        &self,
        staging: &Staging,
        cancel: &Cancel,
    ) -> Result<u64, ArtifactError> {
        staging.copy_in(&self.sums, ROOTFS_SUMS, cancel.flag())?;
        let copied = staging.copy_in(&self.rootfs, ROOTFS, cancel.flag())?;
        Ok(copied.size_bytes)
    }
}

/// Fails where a copy of a root filesystem takes room of its own and there is too little. It blocks.
pub(super) fn check_room_for_copy(rootfs: &File, images: &Path) -> Result<(), NoRoom> {
    let Some(space) = Space::of_directory(images) else {
        return Ok(());
    };
    let Ok(found) = rustix::fs::fstat(rootfs) else {
        return Ok(());
    };
    if !space.keeps_copies_from(found.st_dev) {
        return Ok(());
    }
    // Holes are not copied.
    let blocks = u64::try_from(found.st_blocks).unwrap_or_default();
    space.check(blocks.saturating_mul(512))
}
