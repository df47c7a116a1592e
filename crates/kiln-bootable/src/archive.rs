//! Blobs and documents in one file: an OCI image layout as a tar.
//!
//! ```text
//! oci-layout   blobs/   blobs/sha256/   blobs/sha256/<hex> …   index.json
//! ```
//! Only what an archive of Kiln's needs is written: no times, no owners, nothing twice.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use kiln_domain::Digest;
use kiln_domain::oci::Descriptor;
use kiln_domain::oci::bootable::BootableManifest;
use tar::{EntryType, Header};

/// What an archive is made of, in bytes.
const BLOCK_BYTES: u64 = 512;

/// Bytes moved at a time.
const PIECE_BYTES: usize = 256 << 10;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An archive that is being written, from front to end.
#[derive(Debug)]
pub struct Archive<W> {
    output: W,
    written: BTreeSet<Digest>,
}

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A blob could not be read back, or is shorter than it is described.
    #[error("cannot read the packed blob {digest}")]
    Blob {
        /// Which one.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("cannot write the archive")]
    Output(#[from] io::Error),
}

impl<W: Write> Archive<W> {
    /// Begins an archive.
    pub fn new(output: W) -> Result<Self, ArchiveError> {
        let mut archive = Self {
            output,
            written: BTreeSet::new(),
        };
        archive.document("oci-layout", LAYOUT)?;
        for directory in ["blobs/", "blobs/sha256/"] {
            archive.header(directory, EntryType::Directory, 0)?;
        }
        Ok(archive)
    }

    /// Adds a blob, as long as it is described; one that is there already is not added again.
    pub fn blob(&mut self, blob: &Descriptor, body: impl Read) -> Result<(), ArchiveError> {
        let digest = blob.digest;
        if !self.written.insert(digest) {
            return Ok(());
        }
        let name = format!("blobs/sha256/{}", digest.to_hex());
        self.header(&name, EntryType::Regular, blob.size_bytes)?;
        let mut body = body.take(blob.size_bytes);
        let mut buffer = vec![0; PIECE_BYTES];
        let mut left = blob.size_bytes;
        while left > 0 {
            let count = match body.read(&mut buffer) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            let count = count.map_err(|source| ArchiveError::Blob { digest, source })?;
            let piece = buffer.get(..count).unwrap_or_default();
            self.output.write_all(piece)?;
            left -= piece.len() as u64;
        }
        self.pad(blob.size_bytes)
    }

    /// Adds the documents of a bootable artifact and ends the archive.
    pub fn finish(mut self, documents: &BootableManifest) -> Result<W, ArchiveError> {
        self.blob(&documents.config_descriptor, &documents.config[..])?;
        self.blob(&documents.manifest_descriptor, &documents.manifest[..])?;
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [documents.manifest_descriptor],
        });
        self.document("index.json", index.to_string().as_bytes())?;
        // Two blocks of zeros are the end (POSIX, pax "ustar Interchange Format").
        self.output.write_all(&[0; 1024])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn document(&mut self, name: &str, content: &[u8]) -> Result<(), ArchiveError> {
        let size_bytes = content.len() as u64;
        self.header(name, EntryType::Regular, size_bytes)?;
        self.output.write_all(content)?;
        self.pad(size_bytes)
    }

    fn header(&mut self, name: &str, kind: EntryType, size: u64) -> Result<(), ArchiveError> {
        let mut header = Header::new_ustar();
        header.set_path(name)?;
        header.set_entry_type(kind);
        header.set_mode(match kind {
            EntryType::Directory => 0o755,
            _ => 0o644,
        });
        header.set_size(size);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.output.write_all(header.as_bytes())?;
        Ok(())
    }

    fn pad(&mut self, size_bytes: u64) -> Result<(), ArchiveError> {
        let rest = size_bytes.next_multiple_of(BLOCK_BYTES) - size_bytes;
        io::copy(&mut io::repeat(0).take(rest), &mut self.output)?;
        Ok(())
    }
}
