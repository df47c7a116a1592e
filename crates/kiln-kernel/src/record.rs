//! `kernel.json`: what is known about a kernel of the catalogue.
//!
//! Every change of its shape raises the format number. A newer number is refused, so that an
//! older daemon never misreads what a newer one wrote.

use std::fs::File;
use std::io::{self, Read as _};

use kiln_domain::Digest;
use serde::{Deserialize, Serialize};

use crate::facts::{Architecture, Compression, KernelFacts, KernelFormat};
use crate::modules::ModulesStaged;
use crate::stage::FileFacts;

/// The format that is written, and the newest that is read.
pub(crate) const FORMAT: u32 = 1;
/// Longest record, in bytes; a real one has about 1 KiB.
const MAX_RECORD_BYTES: u64 = 64 << 10;

/// Why a record was not understood.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It was written by a newer daemon.
    #[error("it has format {found}, newer than {FORMAT}")]
    Newer {
        /// The format it has.
        found: u32,
    },
    /// It is not such a document.
    #[error("it is damaged")]
    Damaged {
        /// What the parser says.
        source: serde_json::Error,
    },
    /// It could not be read.
    #[error("it cannot be read")]
    Read {
        /// Why.
        source: io::Error,
    },
}

/// What is known about the files of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) facts: KernelFacts,
    pub(crate) vmlinux: Option<FileFacts>,
    pub(crate) initrd: Option<FileFacts>,
    pub(crate) config: Option<FileFacts>,
    pub(crate) modules: Option<ModulesStaged>,
}

/// The document as it is on the disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    kernel: KernelDocument,
    vmlinux: Option<FileDocument>,
    initrd: Option<FileDocument>,
    config: Option<FileDocument>,
    modules: Option<ModulesDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KernelDocument {
    format: KernelFormat,
    architecture: Architecture,
    compression: Option<Compression>,
    release: Option<String>,
    has_pvh_note: bool,
    sha256: Digest,
    size_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDocument {
    sha256: Digest,
    size_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModulesDocument {
    files: u64,
    bytes: u64,
}

/// The one field that every format has.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Record {
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, RecordError> {
        let mut text = serde_json::to_vec_pretty(&Document::from(self))
            .map_err(|source| RecordError::Damaged { source })?;
        text.push(b'\n');
        Ok(text)
    }

    pub(crate) fn read(file: File) -> Result<Self, RecordError> {
        let mut text = Vec::new();
        file.take(MAX_RECORD_BYTES)
            .read_to_end(&mut text)
            .map_err(|source| RecordError::Read { source })?;
        Self::from_json(&text)
    }

    fn from_json(text: &[u8]) -> Result<Self, RecordError> {
        let damaged = |source| RecordError::Damaged { source };
        let found = serde_json::from_slice::<FormatOnly>(text)
            .map_err(damaged)?
            .format;
        if found > FORMAT {
            return Err(RecordError::Newer { found });
        }
        let document: Document = serde_json::from_slice(text).map_err(damaged)?;
        Ok(document.into())
    }
}

impl From<&Record> for Document {
    fn from(record: &Record) -> Self {
        let facts = &record.facts;
        Self {
            format: FORMAT,
            kernel: KernelDocument {
                format: facts.format,
                architecture: facts.architecture,
                compression: facts.compression,
                release: facts.release.clone(),
                has_pvh_note: facts.has_pvh_note,
                sha256: facts.sha256,
                size_bytes: facts.size_bytes,
            },
            vmlinux: record.vmlinux.map(FileDocument::from),
            initrd: record.initrd.map(FileDocument::from),
            config: record.config.map(FileDocument::from),
            modules: record.modules.map(|modules| ModulesDocument {
                files: modules.files,
                bytes: modules.bytes,
            }),
        }
    }
}

impl From<Document> for Record {
    fn from(document: Document) -> Self {
        let kernel = document.kernel;
        Self {
            facts: KernelFacts {
                format: kernel.format,
                architecture: kernel.architecture,
                compression: kernel.compression,
                release: kernel.release,
                has_pvh_note: kernel.has_pvh_note,
                sha256: kernel.sha256,
                size_bytes: kernel.size_bytes,
            },
            vmlinux: document.vmlinux.map(FileFacts::from),
            initrd: document.initrd.map(FileFacts::from),
            config: document.config.map(FileFacts::from),
            modules: document.modules.map(|modules| ModulesStaged {
                files: modules.files,
                bytes: modules.bytes,
            }),
        }
    }
}

impl From<FileFacts> for FileDocument {
    fn from(facts: FileFacts) -> Self {
        Self {
            sha256: facts.sha256,
            size_bytes: facts.size_bytes,
        }
    }
}

impl From<FileDocument> for FileFacts {
    fn from(document: FileDocument) -> Self {
        Self {
            size_bytes: document.size_bytes,
            sha256: document.sha256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let file = FileFacts {
            size_bytes: 3,
            sha256: Digest::of(b"elf"),
        };
        Record {
            facts: KernelFacts {
                format: KernelFormat::BzImage,
                architecture: Architecture::X86_64,
                compression: Some(Compression::Lz4),
                release: Some("6.1.0".to_owned()),
                has_pvh_note: true,
                sha256: Digest::of(b"kernel"),
                size_bytes: 6,
            },
            vmlinux: Some(file),
            initrd: None,
            config: None,
            modules: Some(ModulesStaged { files: 2, bytes: 9 }),
        }
    }

    #[test]
    fn the_document_is_as_promised() {
        let kernel = Digest::of(b"kernel");
        let elf = Digest::of(b"elf");
        let want = format!(
            r#"{{
  "format": 1,
  "kernel": {{
    "format": "bzimage",
    "architecture": "x86_64",
    "compression": "lz4",
    "release": "6.1.0",
    "has_pvh_note": true,
    "sha256": "{kernel}",
    "size_bytes": 6
  }},
  "vmlinux": {{
    "sha256": "{elf}",
    "size_bytes": 3
  }},
  "initrd": null,
  "config": null,
  "modules": {{
    "files": 2,
    "bytes": 9
  }}
}}
"#
        );
        let text = record().to_json().unwrap();

        assert_eq!(String::from_utf8(text.clone()).unwrap(), want);
        assert_eq!(Record::from_json(&text).unwrap(), record());
    }

    #[test]
    fn a_newer_format_is_named_before_its_fields_are_looked_at() {
        let error = Record::from_json(br#"{"format": 2, "kernels": []}"#).unwrap_err();

        assert!(matches!(error, RecordError::Newer { found: 2 }), "{error}");
    }

    #[test]
    fn a_damaged_record_is_an_error() {
        let whole = String::from_utf8(record().to_json().unwrap()).unwrap();
        let unknown = whole.replace("\"files\"", "\"others\"");
        for text in ["", "{}", "[]", &whole[..whole.len() / 2], &unknown] {
            let error = Record::from_json(text.as_bytes()).unwrap_err();
            assert!(matches!(error, RecordError::Damaged { .. }), "{text}");
        }
    }
}
