//! An OCI image layout in a tar archive, written front to back.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use kiln_domain::oci::Descriptor;
use kiln_files::{Existing, NewFile};
use serde_json::json;
use tar::{EntryType, Header};

use super::error::OutgoingError;
use super::{Checked, OutgoingDocument, entry_of, layout_marker, referrer_entry};

/// Unit of a tar archive, in bytes.
const BLOCK_BYTES: u64 = 512;

/// A tar archive that grows.
#[derive(Debug)]
pub(super) struct Tar {
    new: NewFile,
    path: PathBuf,
}

#[derive(Debug)]
pub(super) struct NewArchive {
    tar: Tar,
    tag: Option<String>,
}

impl NewArchive {
    pub(super) fn create(
        path: &Path,
        tag: Option<&str>,
        existing: Existing,
    ) -> Result<Self, OutgoingError> {
        let tar = Tar::create(path, existing)?;
        tar.put_bytes("oci-layout", &layout_marker())?;
        let tag = tag.map(str::to_owned);
        Ok(Self { tar, tag })
    }

    pub(super) fn put(
        &self,
        blob: &Descriptor,
        checked: &mut Checked<'_>,
    ) -> Result<(), OutgoingError> {
        let name = format!("blobs/sha256/{}", blob.digest.to_hex());
        self.tar.put(&name, blob.size_bytes, checked)
    }

    pub(super) fn finish(
        self,
        root: &OutgoingDocument,
        below: &[OutgoingDocument],
        referrers: &[Descriptor],
    ) -> Result<(), OutgoingError> {
        for document in below.iter().chain([root]) {
            let name = format!("blobs/sha256/{}", document.descriptor.digest.to_hex());
            self.tar.put_bytes(&name, &document.bytes)?;
        }
        let mut manifests: Vec<_> = referrers.iter().map(referrer_entry).collect();
        manifests.push(entry_of(&root.descriptor, self.tag.as_deref()));
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        let index = index.to_string();
        self.tar.put_bytes("index.json", index.as_bytes())?;
        self.tar.place()
    }
}

impl Tar {
    pub(super) fn create(path: &Path, existing: Existing) -> Result<Self, OutgoingError> {
        Ok(Self {
            new: NewFile::create(path, existing)?,
            path: path.to_owned(),
        })
    }

    /// Adds a blob. One that turns out to be another is an error, and the archive is given up.
    fn put(
        &self,
        name: &str,
        size_bytes: u64,
        checked: &mut Checked<'_>,
    ) -> Result<(), OutgoingError> {
        self.head(name, size_bytes)?;
        checked.pour(&self.path, &mut self.new.file())?;
        self.pad(size_bytes)
    }

    /// Adds the first `size_bytes` of a file.
    pub(super) fn put_file(
        &self,
        name: &str,
        size_bytes: u64,
        file: &mut impl io::Read,
    ) -> Result<(), OutgoingError> {
        self.head(name, size_bytes)?;
        let copied = io::copy(&mut io::Read::take(file, size_bytes), &mut self.new.file());
        copied.map_err(kiln_files::at::<io::Error>("write", &self.path))?;
        self.pad(size_bytes)
    }

    pub(super) fn put_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), OutgoingError> {
        self.head(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// Ends the archive and gives it its name.
    pub(super) fn place(self) -> Result<(), OutgoingError> {
        // Two empty blocks (POSIX, "ustar Interchange Format").
        self.write(&[0; 1024])?;
        Ok(self.new.place()?)
    }

    fn head(&self, name: &str, size_bytes: u64) -> Result<(), OutgoingError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        // Nothing depends on the time: the same image gives the same archive.
        header.set_mtime(0);
        header.set_size(size_bytes);
        let named = header.set_path(name);
        named.map_err(kiln_files::at::<io::Error>("write", &self.path))?;
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn pad(&self, size_bytes: u64) -> Result<(), OutgoingError> {
        let over = size_bytes % BLOCK_BYTES;
        let missing = if over == 0 { 0 } else { BLOCK_BYTES - over };
        let missing = usize::try_from(missing).unwrap_or_default();
        self.write(&vec![0; missing])
    }

    fn write(&self, bytes: &[u8]) -> Result<(), OutgoingError> {
        let written = self.new.file().write_all(bytes);
        Ok(written.map_err(kiln_files::at::<io::Error>("write", &self.path))?)
    }
}
