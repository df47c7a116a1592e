//! An OCI image layout in a directory, new or one that gets an image more.
//!
//! Who names images in it at the same time waits for a lock on the directory; the index is replaced
//! in one step, so a reader sees the old one or the new one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use kiln_domain::Digest;
use kiln_domain::oci::Descriptor;
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use super::error::OutgoingError;
use super::{
    OutgoingDocument, REF_NAME, entry_of, layout_marker, make_directory, put_bytes, referrer_entry,
};
use crate::client::MAX_DOCUMENT_BYTES;

#[derive(Debug)]
pub(super) struct NewLayout {
    path: PathBuf,
    tag: Option<String>,
    /// Whether the directory was made here.
    is_new: bool,
}

impl Drop for NewLayout {
    /// Removes a directory that was made for a copy of which nothing came. With one blob in it, it
    /// stays for the next try.
    fn drop(&mut self) {
        let path = &self.path;
        if !self.is_new || path.join("index.json").exists() {
            return;
        }
        // What cannot be removed is not empty, or the user's to look at.
        if std::fs::remove_dir(path.join("blobs/sha256")).is_ok() {
            drop(std::fs::remove_dir(path.join("blobs")));
            drop(std::fs::remove_file(path.join("oci-layout")));
            drop(std::fs::remove_dir(path));
        }
    }
}

impl NewLayout {
    pub(super) fn open(path: &Path, tag: Option<&str>) -> Result<Self, OutgoingError> {
        let is_layout = path.join("index.json").exists() || path.join("oci-layout").exists();
        let is_occupied = || std::fs::read_dir(path).is_ok_and(|mut found| found.next().is_some());
        if !is_layout && is_occupied() {
            return Err(OutgoingError::Occupied {
                path: path.to_owned(),
                expected: "an OCI image layout",
            });
        }
        let layout = Self {
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            is_new: !path.exists(),
        };
        if is_layout {
            // What could not be added to at the end is known before anything is fetched.
            layout.read_index(&path.join("index.json"))?;
        }
        make_directory(&path.join("blobs/sha256"))?;
        if !path.join("oci-layout").exists() {
            put_bytes(&path.join("oci-layout"), &layout_marker())?;
        }
        Ok(layout)
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.to_hex())
    }

    pub(super) fn finish(
        &self,
        root: &OutgoingDocument,
        below: &[OutgoingDocument],
        referrers: &[Descriptor],
    ) -> Result<(), OutgoingError> {
        for document in below.iter().chain([root]) {
            let path = self.blob_path(&document.descriptor.digest);
            put_bytes(&path, &document.bytes)?;
        }
        let at = |step| kiln_files::at::<io::Error>(step, &self.path);
        let directory = File::open(&self.path).map_err(at("open"))?;
        // Goes with the descriptor.
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)
            .map_err(|errno| at("lock")(errno.into()))?;
        let path = self.path.join("index.json");
        let mut index = self.read_index(&path)?;
        let tag = self.tag.as_deref();
        let digest = root.descriptor.digest.to_string();
        if let Some(manifests) = index["manifests"].as_array_mut() {
            manifests.retain(|entry| !stands_for(entry, tag, &digest));
            for referrer in referrers {
                let digest = referrer.digest.to_string();
                manifests.retain(|entry| !stands_for(entry, None, &digest));
                manifests.push(referrer_entry(referrer));
            }
            manifests.push(entry_of(&root.descriptor, tag));
        }
        put_bytes(&path, index.to_string().as_bytes())
    }

    /// Reads the index that is there, with members we do not know; else begins one.
    fn read_index(&self, path: &Path) -> Result<Value, OutgoingError> {
        let occupied = || OutgoingError::Occupied {
            path: self.path.clone(),
            expected: "an OCI image layout",
        };
        let found = match std::fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let media_type = "application/vnd.oci.image.index.v1+json";
                let index = json!({
                    "schemaVersion": 2, "mediaType": media_type, "manifests": [],
                });
                return Ok(index);
            }
            Err(error) => return Err(kiln_files::at("read", path)(error).into()),
        };
        if !found.is_file() || found.len() > MAX_DOCUMENT_BYTES {
            return Err(occupied());
        }
        let bytes = std::fs::read(path).map_err(kiln_files::at::<io::Error>("read", path))?;
        let index: Value = serde_json::from_slice(&bytes).map_err(|_| occupied())?;
        if index["manifests"].is_array() {
            Ok(index)
        } else {
            Err(occupied())
        }
    }
}

/// Says whether an entry makes way for the new one: the one of the same name, or the same image
/// without one.
fn stands_for(entry: &Value, tag: Option<&str>, digest: &str) -> bool {
    let name = entry["annotations"][REF_NAME].as_str();
    match tag {
        Some(tag) => name == Some(tag),
        None => name.is_none() && entry["digest"] == *digest,
    }
}
