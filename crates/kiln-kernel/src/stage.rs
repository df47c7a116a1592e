//! Puts kernel, initrd and modules into a directory: into the catalogue, or beside a root file
//! system that is in the making.
//!
//! ```text
//! <into>/kernel   <into>/initrd.img   <into>/modules/
//! ```
//!
//! What is described and hashed is the copy, so a file that its owner changes meanwhile is
//! described as it lies here. Syncing and publishing are not here.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use kiln_domain::Digest;
use kiln_files::{Directory, FileError, at};

use crate::catalogue::Kernel;
use crate::error::KernelError;
use crate::facts::KernelFacts;
use crate::inspect::inspect;
use crate::modules::{
    ModulesEntry, ModulesError, ModulesLimits, ModulesStaged, share_modules,
    stage_modules_from_dir, stage_modules_from_entries, stage_modules_from_tar,
};
use crate::name::{INITRD, KERNEL, MODULES, VMLINUX};
use crate::pump::{Hasher, pump};
use crate::source::{MAX_KERNEL_BYTES, Section};

/// Longest initrd, in bytes. Those of installers reach a few hundred MiB.
const MAX_INITRD_BYTES: u64 = 1 << 30;

/// The files of a kernel, as a caller hands them over.
#[derive(Debug)]
pub struct KernelFiles {
    /// The kernel, open for reading.
    pub kernel: File,
    /// The initial RAM disk, open for reading.
    pub initrd: Option<File>,
    /// Its modules.
    pub modules: Option<ModulesSource>,
}

/// Where modules come from.
pub enum ModulesSource {
    /// A directory, walked with our own rights: only from callers that have them, too.
    Directory(PathBuf),
    /// A tar stream, whose entries are relative to the top of the modules.
    Tar(Box<dyn Read + Send>),
    /// Entries one by one, each behind the directory it lies in.
    Entries(Box<dyn Iterator<Item = ModulesEntry> + Send>),
}

impl fmt::Debug for ModulesSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Tar(_) => f.write_str("Tar(..)"),
            Self::Entries(_) => f.write_str("Entries(..)"),
        }
    }
}

/// Which file of a kernel in the catalogue is to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelForm {
    /// The file as it was given.
    AsGiven,
    /// The ELF file inside a bzImage, which every virtual machine monitor takes; the file as it
    /// was given when there is none inside.
    Unpacked,
}

impl KernelForm {
    /// Chooses the one form that every monitor boots; see [`KernelFacts::as_started`].
    pub fn best_of(facts: &KernelFacts) -> Self {
        if facts.as_started().format == facts.format {
            Self::AsGiven
        } else {
            Self::Unpacked
        }
    }
}

/// Length and content of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Length, in bytes.
    pub size_bytes: u64,
    /// SHA-256 of all of it.
    pub sha256: Digest,
}

/// What was put into a directory.
#[derive(Debug)]
pub struct Staged {
    /// The kernel.
    pub kernel: FileFacts,
    /// What the kernel is, or why it was not understood. Whether that matters is the caller's
    /// decision: some monitors boot what Kiln does not know.
    pub recognised: Result<KernelFacts, KernelError>,
    /// The initial RAM disk, when there is one.
    pub initrd: Option<FileFacts>,
    /// The modules, when there are some.
    pub modules: Option<ModulesStaged>,
}

/// Why the files of a kernel could not be put into a directory.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file is longer than any of its kind.
    #[error("the {what} is longer than {limit_bytes} bytes")]
    TooLarge {
        /// `kernel` or `initrd.img`.
        what: &'static str,
        /// The longest that is accepted.
        limit_bytes: u64,
    },
    /// A file of the catalogue is not what it was when it was imported.
    #[error("{} was damaged since it was imported: it should be {expected}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it was.
        expected: Digest,
    },
    /// The copy of the kernel could not be read back.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The modules cannot be taken in.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl StageError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Kernel(error) => error.is_no_space(),
            Self::Modules(error) => error.is_no_space(),
            Self::File(error) => error.is_no_space(),
            Self::TooLarge { .. } | Self::Damaged { .. } => false,
        }
    }
}

/// Copies the files that a caller handed over into the existing directory `into`, cloned where
/// the file system can. On failure `into` may hold a part of them.
pub fn stage_files(
    files: KernelFiles,
    into: &Path,
    cancelled: &AtomicBool,
) -> Result<Staged, StageError> {
    let directory = Directory::open(into)?;
    let kernel = copy_in(
        &files.kernel,
        &directory,
        KERNEL,
        MAX_KERNEL_BYTES,
        cancelled,
    )?;
    let recognised = match inspect(&kernel, cancelled) {
        Err(error) if !error.is_about_content() => return Err(error.into()),
        result => result,
    };
    let kernel = match &recognised {
        Ok(facts) => FileFacts {
            size_bytes: facts.size_bytes,
            sha256: facts.sha256,
        },
        Err(_) => describe(&kernel, cancelled)?,
    };
    let initrd = match &files.initrd {
        Some(file) => Some(stage_initrd(file, &directory, cancelled)?),
        None => None,
    };
    let modules = match files.modules {
        Some(source) => Some(stage_modules(source, &directory, cancelled)?),
        None => None,
    };
    Ok(Staged {
        kernel,
        recognised,
        initrd,
        modules,
    })
}

/// Copies a kernel of the catalogue into the existing directory `into`, cloned where the file
/// system can, and compares the copies with what was imported. Its modules are shared with the
/// catalogue: each is one file with a name in both places.
pub fn stage(
    kernel: &Kernel,
    form: KernelForm,
    into: &Path,
    cancelled: &AtomicBool,
) -> Result<Staged, StageError> {
    let (from, into) = (Directory::open(&kernel.directory)?, Directory::open(into)?);
    let given = FileFacts {
        size_bytes: kernel.facts.size_bytes,
        sha256: kernel.facts.sha256,
    };
    let (name, expected) = match (form, kernel.vmlinux) {
        (KernelForm::Unpacked, Some(vmlinux)) => (VMLINUX, vmlinux),
        _ => (KERNEL, given),
    };
    copy_kept(&from, name, expected, &into, KERNEL, cancelled)?;
    if let Some(initrd) = kernel.initrd {
        copy_kept(&from, INITRD, initrd, &into, INITRD, cancelled)?;
    }
    let modules = match kernel.modules {
        Some(_) => {
            let (source, target) = (
                from.open_child(MODULES.as_ref())?,
                into.create_child(MODULES)?,
            );
            let limits = ModulesLimits::default();
            Some(share_modules(&source, target.path(), limits, cancelled)?)
        }
        None => None,
    };
    Ok(Staged {
        kernel: expected,
        recognised: Ok(kernel.facts.clone()),
        initrd: kernel.initrd,
        modules,
    })
}

pub(crate) fn stage_initrd(
    file: &File,
    into: &Directory,
    cancelled: &AtomicBool,
) -> Result<FileFacts, StageError> {
    let copy = copy_in(file, into, INITRD, MAX_INITRD_BYTES, cancelled)?;
    describe(&copy, cancelled)
}

/// Measures and hashes one of our own files.
pub(crate) fn describe(file: &File, cancelled: &AtomicBool) -> Result<FileFacts, StageError> {
    let cannot_read = |source| KernelError::Io {
        step: "read back",
        source,
    };
    let size_bytes = file.metadata().map_err(cannot_read)?.len();
    let mut hasher = Hasher::default();
    pump(
        Section::of(file, 0, size_bytes),
        &mut hasher,
        cancelled,
        cannot_read,
    )?;
    Ok(FileFacts {
        size_bytes,
        sha256: hasher.finish(),
    })
}

fn stage_modules(
    source: ModulesSource,
    into: &Directory,
    cancelled: &AtomicBool,
) -> Result<ModulesStaged, StageError> {
    let directory = into.create_child(MODULES)?;
    let limits = ModulesLimits::default();
    Ok(match source {
        ModulesSource::Directory(from) => {
            stage_modules_from_dir(&from, directory.path(), limits, cancelled)?
        }
        ModulesSource::Tar(stream) => {
            stage_modules_from_tar(stream, directory.path(), limits, cancelled)?
        }
        ModulesSource::Entries(entries) => {
            stage_modules_from_entries(entries, directory.path(), limits, cancelled)?
        }
    })
}

/// Copies one file in, and returns the copy, open for reading.
fn copy_in(
    source: &File,
    into: &Directory,
    name: &'static str,
    limit_bytes: u64,
    cancelled: &AtomicBool,
) -> Result<File, StageError> {
    let too_large = || StageError::TooLarge {
        what: name,
        limit_bytes,
    };
    let offered = source
        .metadata()
        .map_err(at("examine", into.child_path(name)))?;
    if offered.len() > limit_bytes {
        return Err(too_large());
    }
    let (copy, copied) = into.copy_in(source, name.as_ref(), cancelled)?;
    // A clone takes what is there at that moment, which may be more than was offered.
    if copied.size_bytes > limit_bytes {
        return Err(too_large());
    }
    Ok(copy)
}

/// Copies one file of the catalogue, and compares the copy with what was imported.
fn copy_kept(
    from: &Directory,
    name: &'static str,
    expected: FileFacts,
    into: &Directory,
    new_name: &'static str,
    cancelled: &AtomicBool,
) -> Result<(), StageError> {
    let damaged = || StageError::Damaged {
        path: from.child_path(name),
        expected: expected.sha256,
    };
    let source = from.open_file(name.as_ref())?.ok_or_else(damaged)?;
    let copy = copy_in(&source, into, new_name, u64::MAX, cancelled)?;
    if copy
        .metadata()
        .map_err(at("examine", into.child_path(new_name)))?
        .len()
        == expected.size_bytes
        && describe(&copy, cancelled)? == expected
    {
        Ok(())
    } else {
        Err(damaged())
    }
}
