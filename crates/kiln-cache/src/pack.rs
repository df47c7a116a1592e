//! One pack on its way into the cache.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;

use kiln_domain::Digest;
use tempfile::NamedTempFile;

use crate::cache::Cache;
use crate::error::{CacheError, at};
use crate::files;

/// A pack without a name. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct PendingPack {
    file: NamedTempFile,
    cache: Cache,
}

impl PendingPack {
    pub(crate) fn begin(cache: &Cache) -> Result<Self, CacheError> {
        Ok(Self {
            file: files::create_temporary(cache.ingest_directory(), "pack.")?,
            cache: cache.clone(),
        })
    }

    /// Returns the file to write the pack to; it is open for reading, too.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Gives the pack its name, in place of one that has it, and returns its file.
    ///
    /// Call it only after both the digest and the diff id of the layer were checked. Nothing is
    /// synced: a pack can be made again, and its footer shows whether a crash has torn it.
    pub fn keep_as(self, diff_id: &Digest) -> Result<File, CacheError> {
        let target = self.cache.pack_path(diff_id);
        self.file
            .as_file()
            .set_permissions(fs::Permissions::from_mode(0o400))
            .map_err(at("make read-only", self.file.path()))?;
        if let Some(directory) = target.parent() {
            files::create_directory(directory)?;
        }
        self.file
            .persist(&target)
            .map_err(|lost| at("rename to", &target)(lost.error))
    }
}
