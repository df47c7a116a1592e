//! A bootable artifact that was pulled before: its root filesystem, and what else of it lies in a
//! published version, is taken from there, and nothing is fetched that is here.
//!
//! ```text
//! manifest digest ─▶ version that came as it ─▶ rootfs.ext4 cloned or copied ─▶ sums right?
//!                                           └─▶ kernel, initrd, modules, sums: digest as listed?
//! ```
//! A manifest fixes every byte of its artifact, so that its digest says which versions are equal. It
//! does not say who may have them: see [`may_have`].

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_api::Failure;
use kiln_api::image::{Boot, TakenDisk};
use kiln_api::operation::Stage;
use kiln_artifacts::names::{INITRD, KERNEL, ROOTFS, ROOTFS_SUMS};
use kiln_artifacts::{ArtifactError, Artifacts, Staging};
use kiln_bootable::{ImageFiles, PackError};
use kiln_domain::access::{Actor, may_see};
use kiln_domain::oci::Descriptor;
use kiln_domain::oci::bootable::Part;
use kiln_domain::{Digest, Reference};
use kiln_store::{StoreError, images, versions};
use serde::Deserialize as _;

use super::Pulls;
use super::bootable::{Obtained, PartFiles, RootfsError, WantedPart, rootfs_failure};
use super::job::{Ids, Resting, or_cancelled, unless_cancelled};
use super::twin::check_room_for_copy;
use crate::board::Running;
use crate::failures::{artifact_failure, fetch_failure, room_failure, store_failure};
use crate::images::{OpenError, modules_tar};
use crate::seams::{Bootable, DiskParts};

/// Bytes hashed at a time; the cancel flag is looked at as often.
const BUFFER_BYTES: usize = 1 << 20;

/// What a version has of the artifact that it came as.
#[derive(Debug)]
struct Here {
    rootfs: File,
    files: PartFiles,
}

/// Why a file of a version cannot stand in for a part. It is fetched then.
#[derive(Debug, thiserror::Error)]
enum PartError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Modules(#[from] OpenError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("cannot read a file of the image")]
    Read(#[from] io::Error),
}

impl Pulls {
    /// Takes the artifact from a version that came as the same one, and fetches what that lacks of
    /// what is `wanted`; `None` where there is no such version, or it is damaged.
    pub(super) async fn take_here(
        &self,
        ids: Ids,
        actor: &Actor,
        bootable: &Bootable,
        wanted: &[WantedPart],
        running: &Arc<Running>,
    ) -> Result<Option<Obtained>, Failure> {
        let Some((version, disk)) = self.equal_version(actor, bootable).await? else {
            return Ok(None);
        };
        let Some(here) = self.open_here(&version, wanted, running).await? else {
            return Ok(None);
        };
        self.check_local(bootable, wanted, running).await?;
        let Here { rootfs, mut files } = here;
        let is_lacking = |(part, _): &&WantedPart| !files.contains_key(part);
        let lacking: Vec<WantedPart> = wanted.iter().filter(is_lacking).cloned().collect();
        if !lacking.is_empty() {
            running.enter(Stage::Fetch);
            let fetching = self.fetch_files(bootable, &lacking, None, running);
            files.extend(fetching.await?.0);
        }
        running.enter(Stage::Build);
        let staging = self.stage(ids).await?;
        let staging = self.copy_here(staging, rootfs, running).await?;
        let sums = files.remove(&Part::Sums);
        match self.judge_rootfs(staging, sums, running).await? {
            Ok((staging, rootfs_size_bytes)) => Ok(Some(Obtained {
                staging: Resting::new(staging, running),
                rootfs_size_bytes,
                disk,
                files,
            })),
            Err(error @ RootfsError::Verify(_)) => {
                Err(unless_cancelled(running, rootfs_failure(&error)))
            }
            Err(error) => {
                tracing::error!(version, %error, "an image is damaged: its artifact is fetched");
                Ok(None)
            }
        }
    }

    /// Reads what a file of this host has of the artifact, though its bytes are here already: whoever
    /// imports a file wants to know that it is whole, and its manifest alone says nothing of that. A
    /// registry was asked for the manifest, and nobody asks for it to be tested.
    async fn check_local(
        &self,
        bootable: &Bootable,
        wanted: &[WantedPart],
        running: &Arc<Running>,
    ) -> Result<(), Failure> {
        if bootable.source.is_remote() {
            return Ok(());
        }
        running.enter(Stage::Fetch);
        let mut blobs: Vec<Descriptor> = match &bootable.parts.disk {
            DiskParts::Chunks(chunks) => {
                let chunks = chunks.iter();
                chunks.map(|chunk| chunk.descriptor.clone()).collect()
            }
            DiskParts::Whole(disk) => vec![disk.clone()],
        };
        blobs.extend(wanted.iter().map(|(_, layer)| layer.clone()));
        let checking = self.fetch.check(bootable, &blobs, running);
        or_cancelled(running, checking, fetch_failure).await
    }

    /// Finds the newest version that came as this artifact and that the caller may have, and what its root
    /// filesystem was taken out of.
    async fn equal_version(
        &self,
        actor: &Actor,
        bootable: &Bootable,
    ) -> Result<Option<(String, Option<TakenDisk>)>, Failure> {
        let (actor, digest) = (*actor, bootable.manifest_digest);
        let place = place_of(bootable.source_kind, Some(&bootable.source_reference));
        let find = move |tx: &kiln_store::ReadTransaction<'_>| {
            for row in versions::by_artifact(tx, &digest)? {
                let Some(image) = images::get(tx, row.image_id)? else {
                    continue;
                };
                let came_from = place_of(&row.source_kind, row.source_reference.as_deref());
                if may_have(&actor, image.owner_id, came_from.as_ref(), place.as_ref()) {
                    let boot = row.boot.and_then(|boot| Boot::deserialize(boot).ok());
                    return Ok(Some((row.id.to_string(), boot.and_then(|boot| boot.disk))));
                }
            }
            Ok::<_, StoreError>(None)
        };
        let found = self.records.store.read(find).await;
        found.map_err(|error| store_failure(&error))
    }

    /// Opens what a version has; `None` where its root filesystem cannot be opened.
    async fn open_here(
        &self,
        version: &str,
        wanted: &[WantedPart],
        running: &Arc<Running>,
    ) -> Result<Option<Here>, Failure> {
        let artifacts = self.artifacts.clone();
        let (version, wanted) = (version.to_owned(), wanted.to_vec());
        let entry = running.clone();
        let open = move || {
            // A directory that vanished under us is no reason to fail: then it is fetched.
            let rootfs = artifacts.open_file(&version, ROOTFS).ok()??;
            let mut files = PartFiles::new();
            for (part, layer) in wanted {
                let cancelled = entry.work().flag();
                match part_of(&artifacts, &version, part, &layer, cancelled) {
                    Ok(Some(file)) => drop(files.insert(part, file)),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(version, %error, "a part is fetched again"),
                }
            }
            Some(Here { rootfs, files })
        };
        self.on_build_pool(running, open).await
    }

    async fn copy_here(
        &self,
        staging: Staging,
        rootfs: File,
        running: &Arc<Running>,
    ) -> Result<Staging, Failure> {
        let cancel = running.work().clone();
        let (images, spare) = (self.records.images.clone(), self.records.spare.clone());
        let copy = move || {
            spare
                .room_for(|| check_room_for_copy(&rootfs, &images))
                .map_err(|error| room_failure(&error, &error))?;
            let copied = staging.copy_in(&rootfs, ROOTFS, cancel.flag());
            copied.map_err(|error| artifact_failure(&error))?;
            Ok(staging)
        };
        let copied: Result<Staging, Failure> = self.on_build_pool(running, copy).await?;
        copied.map_err(|failure| unless_cancelled(running, failure))
    }
}

/// Tells whether a caller, whom a registry has just given the manifest, may have the bytes of a
/// version that came as it.
///
/// They may if they may see the image. They may also if both came from one repository: registries
/// give rights by the repository, so that who got its manifest may get its blobs. Another place
/// proves nothing: anybody can serve a manifest that they have seen.
fn may_have(
    actor: &Actor,
    owner_uid: u32,
    came_from: Option<&Place>,
    asked: Option<&Place>,
) -> bool {
    may_see(actor, owner_uid).is_ok() || (asked.is_some() && came_from == asked)
}

/// A repository of a registry.
type Place = (String, String);

fn place_of(source_kind: &str, reference: Option<&str>) -> Option<Place> {
    if source_kind != "registry" {
        return None;
    }
    let reference: Reference = reference?.parse().ok()?;
    let (registry, repository) = (reference.registry(), reference.repository());
    Some((registry.to_owned(), repository.to_owned()))
}

/// Opens the file of a version that is a part of the artifact, when its bytes are those of the
/// layer. It blocks.
fn part_of(
    artifacts: &Artifacts,
    version: &str,
    part: Part,
    layer: &Descriptor,
    cancelled: &AtomicBool,
) -> Result<Option<File>, PartError> {
    let found = match part {
        Part::Sums => artifacts.open_file(version, ROOTFS_SUMS)?,
        Part::Kernel => artifacts.open_file(version, KERNEL)?,
        Part::Initrd => artifacts.open_file(version, INITRD)?,
        Part::Modules => return packed_modules(artifacts, version, layer, cancelled),
        Part::Chunk { .. } => None,
    };
    let Some(mut file) = found else {
        return Ok(None);
    };
    let is_same = file.metadata()?.len() == layer.size_bytes
        && digest_of(&mut file, cancelled)? == Some(layer.digest);
    file.rewind()?;
    Ok(is_same.then_some(file))
}

/// Packs the modules of a version as they were packed for the artifact; another zstd gives other
/// bytes, and then they are fetched.
fn packed_modules(
    artifacts: &Artifacts,
    version: &str,
    layer: &Descriptor,
    cancelled: &AtomicBool,
) -> Result<Option<File>, PartError> {
    let Some(modules) = modules_tar(artifacts, version, cancelled)? else {
        return Ok(None);
    };
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let open = |name| artifacts.open_file(version, name);
    let files = ImageFiles {
        rootfs: open(ROOTFS)?.ok_or_else(missing)?,
        kernel: open(KERNEL)?.ok_or_else(missing)?,
        initrd: None,
        modules: Some(modules),
        sums: None,
    };
    let mut packed = artifacts.scratch()?;
    let made = kiln_bootable::pack(Part::Modules, &files, &mut packed, &|_| {}, cancelled)?;
    packed.rewind()?;
    Ok((made.digest == layer.digest).then_some(packed))
}

/// Hashes a file; `None` when somebody asked to stop. It blocks.
fn digest_of(file: &mut File, cancelled: &AtomicBool) -> io::Result<Option<Digest>> {
    let mut hasher = crate::fetch::Hasher::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match file.read(&mut buffer)? {
            0 => return Ok(Some(hasher.finish())),
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(reference: &str) -> Option<Place> {
        place_of("registry", Some(reference))
    }

    #[test]
    fn a_manifest_that_was_seen_is_no_right_to_what_it_lists() {
        const OWNER: u32 = 1000;
        let owner = Actor::from_peer(OWNER, OWNER, None, 0);
        let root = Actor::from_peer(0, 0, None, 0);
        let other = Actor::from_peer(OWNER + 1, OWNER + 1, None, 0);
        let came_from = place("one.example/private/app:1");
        let cases = [
            (&other, place("one.example/private/app:2"), true),
            (&other, place("one.example/private/other:1"), false),
            (&other, place("two.example/private/app:1"), false),
            (&other, None, false),
            (&owner, place("two.example/private/app:1"), true),
            (&root, None, true),
        ];
        for (actor, asked, want) in cases {
            let may = may_have(actor, OWNER, came_from.as_ref(), asked.as_ref());
            assert_eq!(may, want, "{actor:?} {asked:?}");
        }
        // What came from files proves nothing either.
        assert!(!may_have(&other, OWNER, None, None));
        assert_eq!(place_of("oci-archive", Some("one.example/app:1")), None);
    }
}
