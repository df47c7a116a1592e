//! The kernel catalogue: named kernels, complete or not there.
//!
//! ```text
//!             copy or unpack, describe         seal, rename, sync <kernels>
//! import ──▶ .<name>.staging ──────────────────────────────────────────────▶ <name>
//!                  │ failure                                                   │ remove
//!                  ▼                                                           ▼
//!              nothing left                                               nothing left
//! ```
//!
//! Not here: which of them an image gets, and which images have one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_files::{Counted, Directory, FileError, Usage, at};
use rustix::fs::FileType;

use crate::config::{ConfigError, KernelConfig};
use crate::deb::{DebError, DebPackage};
use crate::error::KernelError;
use crate::facts::{KernelFacts, KernelFormat};
use crate::inspect::{extract_elf, inspect};
use crate::modules::{ModulesLimits, ModulesStaged};
use crate::name::{CONFIG, KERNEL, RECORD, VMLINUX, is_kernel_name};
use crate::record::{Record, RecordError};
use crate::stage::{
    FileFacts, KernelFiles, StageError, Staged, describe, stage_files, stage_initrd,
};

const STAGING_SUFFIX: &str = ".staging";
const REMOVING_SUFFIX: &str = ".removing";
const UNWANTED_SUFFIX: &str = ".unwanted";

/// The directory `<kernels>`, open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalogue {
    kernels: Arc<Directory>,
}

/// One kernel of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What it is called here.
    pub name: String,
    /// Where its files are.
    pub directory: PathBuf,
    /// What the file `kernel` is.
    pub facts: KernelFacts,
    /// The ELF file inside, when `kernel` is a bzImage.
    pub vmlinux: Option<FileFacts>,
    /// The initial RAM disk, when there is one.
    pub initrd: Option<FileFacts>,
    /// The configuration, when there is one.
    pub config: Option<FileFacts>,
    /// The modules, when there are some.
    pub modules: Option<ModulesStaged>,
}

/// One line of the list of all kernels.
#[derive(Debug)]
pub struct Listed {
    /// What it is called.
    pub name: String,
    /// What is known about it, or why that cannot be told.
    pub kernel: Result<Kernel, CatalogueError>,
}

/// Where a new kernel comes from.
#[derive(Debug)]
pub enum Import {
    /// Its files.
    Files {
        /// The kernel, and what it boots with.
        files: KernelFiles,
        /// How it was configured, open for reading; also compressed as `/proc/config.gz` is.
        config: Option<File>,
    },
    /// A Debian package, which has kernel, configuration and modules, but no initrd.
    Deb {
        /// The package, open for reading.
        package: File,
        /// The initial RAM disk, open for reading.
        initrd: Option<File>,
    },
}

/// What stands in the directory of kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: OsString,
    /// Whether it is a kernel; else it is one in the making or on its way out, or none of ours.
    pub is_kernel: bool,
    /// What it takes, with all below it.
    pub usage: Usage,
}

/// What a removal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The kernel was there and is gone.
    Removed,
    /// There was none.
    Absent,
}

/// What a sweep found and did. Each list is sorted.
#[derive(Debug, Default)]
pub struct Swept {
    /// Names whose unfinished imports were removed.
    pub staging: Vec<String>,
    /// Names whose removal was finished.
    pub removing: Vec<String>,
    /// Kernels that stand whole although their removal was announced; for the caller to decide.
    pub unwanted: Vec<String>,
    /// Names that are none of ours; untouched.
    pub foreign: Vec<OsString>,
    /// Leftovers that could not be removed; the next sweep tries again.
    pub failures: Vec<FileError>,
}

/// Why the catalogue did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The name is not one for a kernel.
    #[error("{name:?} is not a kernel name")]
    InvalidName {
        /// The name, as given.
        name: String,
    },
    /// There is a kernel of that name, or one is being imported.
    #[error("a kernel called {name} exists already")]
    AlreadyExists {
        /// The name.
        name: String,
    },
    /// What is known about a kernel cannot be read.
    #[error("kernel.json of the kernel {name} is not understood")]
    Record {
        /// The kernel.
        name: String,
        /// Why not.
        source: RecordError,
    },
    /// The file is no kernel, or one that is not understood.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The package gives no kernel.
    #[error(transparent)]
    Deb(#[from] DebError),
    /// The configuration is none.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that belongs to the kernel cannot be taken in.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl CatalogueError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Kernel(error) => error.is_no_space(),
            Self::Deb(error) => error.is_no_space(),
            Self::Stage(error) => error.is_no_space(),
            Self::File(error) => error.is_no_space(),
            Self::InvalidName { .. }
            | Self::AlreadyExists { .. }
            | Self::Record { .. }
            | Self::Config(_) => false,
        }
    }
}

impl Catalogue {
    /// Opens `kernels`, and creates it first, for its owner only, when there is none.
    ///
    /// A directory of another user, or one that others may write, is refused.
    pub fn open(kernels: &Path) -> Result<Self, CatalogueError> {
        Ok(Self {
            kernels: Arc::new(Directory::open_or_create_private(kernels)?),
        })
    }

    /// Returns where the kernels are.
    pub fn path(&self) -> &Path {
        self.kernels.path()
    }

    /// Takes a kernel in under a new name. It must be one that [`inspect`] understands.
    ///
    /// Returns once everything is on the disk. On failure nothing is left behind.
    pub fn import(
        &self,
        name: &str,
        import: Import,
        cancelled: &AtomicBool,
    ) -> Result<Kernel, CatalogueError> {
        check_name(name)?;
        if self.kernels.kind_of(name.as_ref())?.is_some() {
            return Err(already_exists(name));
        }
        let staging = Staging::begin(self, name)?;
        let record = match import {
            Import::Files { files, config } => {
                staging.take_files(files, config.as_ref(), cancelled)?
            }
            Import::Deb { package, initrd } => {
                staging.take_package(&package, initrd.as_ref(), cancelled)?
            }
        };
        staging.publish(&record)?;
        Ok(self.kernel(name, record))
    }

    /// Makes a file without a name on the disk of the kernels, for what is on its way in. It goes
    /// when it is closed.
    pub fn scratch(&self) -> Result<File, CatalogueError> {
        Ok(self.kernels.create_unnamed()?)
    }

    /// Returns what is known about a kernel; `None` when there is none of that name.
    pub fn get(&self, name: &str) -> Result<Option<Kernel>, CatalogueError> {
        check_name(name)?;
        if self.kernels.kind_of(name.as_ref())?.is_none() {
            return Ok(None);
        }
        let directory = self.kernels.open_child(name.as_ref())?;
        let unreadable = |source| CatalogueError::Record {
            name: name.to_owned(),
            source,
        };
        let Some(file) = directory.open_file(RECORD.as_ref())? else {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(unreadable(RecordError::Read { source }));
        };
        let record = Record::read(file).map_err(unreadable)?;
        Ok(Some(self.kernel(name, record)))
    }

    /// Returns all kernels by name. One that cannot be read does not hide the others.
    pub fn list(&self) -> Result<Vec<Listed>, CatalogueError> {
        let mut kernels = Vec::new();
        for name in self.kernels.names()? {
            let Some(name) = name.to_str().filter(|name| is_kernel_name(name)) else {
                continue;
            };
            // One without an answer was removed since the names were read.
            if let Some(kernel) = self.get(name).transpose() {
                kernels.push(Listed {
                    name: name.to_owned(),
                    kernel,
                });
            }
        }
        Ok(kernels)
    }

    /// Tells what every name here takes, kernels and others, with whether it is a kernel's. What
    /// `counted` has seen under another name takes nothing more.
    pub fn survey(&self, counted: &mut Counted) -> Result<Vec<Standing>, CatalogueError> {
        let mut standing = Vec::new();
        for name in self.kernels.names()? {
            standing.push(Standing {
                is_kernel: self.is_kernel(&name)?,
                usage: self.kernels.usage_of(&name, counted)?,
                name,
            });
        }
        Ok(standing)
    }

    /// Notes, durably, that a kernel is about to be removed: for before its record goes, so that a
    /// start after a crash in between knows that it is not one without a record.
    pub fn announce_removal(&self, name: &str) -> Result<(), CatalogueError> {
        check_name(name)?;
        match self.kernels.create_file(unwanted_name(name).as_ref()) {
            // An earlier removal came no further.
            Ok(_) | Err(FileError::AlreadyExists { .. }) => Ok(self.kernels.sync()?),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes an announcement back: the kernel stays.
    pub fn withdraw_removal(&self, name: &str) -> Result<(), CatalogueError> {
        check_name(name)?;
        self.kernels.remove(unwanted_name(name).as_ref())?;
        Ok(self.kernels.sync()?)
    }

    /// Removes a kernel. It is gone under its name, durably, before its files are deleted; a
    /// crash in between is finished by the sweep. Images have copies of their own.
    pub fn remove(&self, name: &str) -> Result<Removal, CatalogueError> {
        check_name(name)?;
        let aside = removing_name(name);
        if self.kernels.kind_of(name.as_ref())?.is_none() {
            return Ok(Removal::Absent);
        }
        // An earlier removal of the same name may have been cut short.
        self.kernels.remove(aside.as_ref())?;
        self.kernels.rename(name, &aside)?;
        self.kernels.sync()?;
        self.kernels.remove(aside.as_ref())?;
        self.kernels.remove(unwanted_name(name).as_ref())?;
        Ok(Removal::Removed)
    }

    /// Removes what a crash left, for use at start-up before anything is imported.
    ///
    /// Only the holder of the lock on the state directory may call this: it would eat the
    /// imports of a live daemon.
    pub fn sweep(&self) -> Result<Swept, CatalogueError> {
        let mut swept = Swept::default();
        for name in self.kernels.names()? {
            let text = name.to_str();
            if let Some(kernel) = text.and_then(|text| inner_name(text, STAGING_SUFFIX)) {
                match self.kernels.remove(&name) {
                    Ok(()) => swept.staging.push(kernel.to_owned()),
                    Err(error) => swept.failures.push(error),
                }
            } else if let Some(kernel) = text.and_then(|text| inner_name(text, REMOVING_SUFFIX)) {
                match self.kernels.remove(&name) {
                    Ok(()) => swept.removing.push(kernel.to_owned()),
                    Err(error) => swept.failures.push(error),
                }
            } else if let Some(kernel) = text.and_then(|text| inner_name(text, UNWANTED_SUFFIX)) {
                if self.is_kernel(kernel.as_ref())? {
                    swept.unwanted.push(kernel.to_owned());
                } else if let Err(error) = self.kernels.remove(&name) {
                    swept.failures.push(error);
                }
            } else if !self.is_kernel(&name)? {
                swept.foreign.push(name);
            }
        }
        self.kernels.sync()?;
        Ok(swept)
    }

    fn is_kernel(&self, name: &OsStr) -> Result<bool, CatalogueError> {
        let good_name = name.to_str().is_some_and(is_kernel_name);
        Ok(good_name && self.kernels.kind_of(name)? == Some(FileType::Directory))
    }

    fn kernel(&self, name: &str, record: Record) -> Kernel {
        Kernel {
            name: name.to_owned(),
            directory: self.kernels.child_path(name),
            facts: record.facts,
            vmlinux: record.vmlinux,
            initrd: record.initrd,
            config: record.config,
            modules: record.modules,
        }
    }
}

/// A kernel on its way in. Dropped, it is removed.
struct Staging<'a> {
    catalogue: &'a Catalogue,
    name: &'a str,
    directory: Directory,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Open,
    Published,
}

impl<'a> Staging<'a> {
    fn begin(catalogue: &'a Catalogue, name: &'a str) -> Result<Self, CatalogueError> {
        let created = catalogue.kernels.create_child(&staging_name(name));
        let directory = created.map_err(|error| match error {
            FileError::AlreadyExists { .. } => already_exists(name),
            other => other.into(),
        })?;
        Ok(Self {
            catalogue,
            name,
            directory,
            state: State::Open,
        })
    }

    fn take_files(
        &self,
        files: KernelFiles,
        config: Option<&File>,
        cancelled: &AtomicBool,
    ) -> Result<Record, CatalogueError> {
        let config = match config {
            Some(file) => Some(self.take_config(file, cancelled)?),
            None => None,
        };
        let staged: Staged = stage_files(files, self.directory.path(), cancelled)?;
        let facts = staged.recognised?;
        Ok(Record {
            vmlinux: self.unpack(&facts, cancelled)?,
            facts,
            initrd: staged.initrd,
            config,
            modules: staged.modules,
        })
    }

    fn take_package(
        &self,
        package: &File,
        initrd: Option<&File>,
        cancelled: &AtomicBool,
    ) -> Result<Record, CatalogueError> {
        let limits = ModulesLimits::default();
        let unpacked =
            DebPackage::open(package)?.extract_kernel(self.directory.path(), limits, cancelled)?;
        let facts = inspect(&self.reopen(KERNEL)?, cancelled)?;
        let initrd = match initrd {
            Some(file) => Some(stage_initrd(file, &self.directory, cancelled)?),
            None => None,
        };
        let config = match unpacked.config {
            Some(_) => Some(describe(&self.reopen(CONFIG)?, cancelled)?),
            None => None,
        };
        Ok(Record {
            vmlinux: self.unpack(&facts, cancelled)?,
            facts,
            initrd,
            config,
            modules: unpacked.modules,
        })
    }

    /// Keeps a configuration as text, so that whoever looks at it later needs no decoder.
    fn take_config(
        &self,
        file: &File,
        cancelled: &AtomicBool,
    ) -> Result<FileFacts, CatalogueError> {
        let text = KernelConfig::text(file)?;
        let mut kept = self.directory.create_file(CONFIG.as_ref())?;
        kept.write_all(&text)
            .map_err(at("write", self.directory.child_path(CONFIG)))?;
        Ok(describe(&kept, cancelled)?)
    }

    /// Writes the ELF file inside a bzImage beside it.
    fn unpack(
        &self,
        facts: &KernelFacts,
        cancelled: &AtomicBool,
    ) -> Result<Option<FileFacts>, CatalogueError> {
        if facts.format != KernelFormat::BzImage {
            return Ok(None);
        }
        let vmlinux = self.directory.create_file(VMLINUX.as_ref())?;
        extract_elf(&self.reopen(KERNEL)?, &vmlinux, cancelled)?;
        Ok(Some(describe(&vmlinux, cancelled)?))
    }

    fn reopen(&self, name: &str) -> Result<File, FileError> {
        let missing = || at("open", self.directory.child_path(name))(rustix::io::Errno::NOENT);
        self.directory.open_file(name.as_ref())?.ok_or_else(missing)
    }

    /// Makes the kernel visible under its name, durably, with its files read-only.
    fn publish(mut self, record: &Record) -> Result<(), CatalogueError> {
        let text = record.to_json().map_err(|source| CatalogueError::Record {
            name: self.name.to_owned(),
            source,
        })?;
        self.directory
            .create_file(RECORD.as_ref())?
            .write_all(&text)
            .map_err(at("write", self.directory.child_path(RECORD)))?;
        self.directory.seal()?;
        let kernels = &self.catalogue.kernels;
        match kernels.rename(&staging_name(self.name), self.name) {
            Err(FileError::AlreadyExists { .. }) => return Err(already_exists(self.name)),
            renamed => renamed?,
        }
        self.state = State::Published;
        if let Err(error) = kernels.sync() {
            // The caller hears of the failed sync, after which nothing may be believed.
            drop(self.catalogue.remove(self.name));
            return Err(error.into());
        }
        Ok(())
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if self.state == State::Open {
            // Nobody can be told here; what stays is removed by the sweep of the next start.
            let leftover = staging_name(self.name);
            drop(self.catalogue.kernels.remove(leftover.as_ref()));
        }
    }
}

/// The leading dot keeps it apart from every kernel, also one called `x.staging`.
fn staging_name(name: &str) -> String {
    format!(".{name}{STAGING_SUFFIX}")
}

fn removing_name(name: &str) -> String {
    format!(".{name}{REMOVING_SUFFIX}")
}

fn unwanted_name(name: &str) -> String {
    format!(".{name}{UNWANTED_SUFFIX}")
}

fn inner_name<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let name = text.strip_prefix('.')?.strip_suffix(suffix)?;
    is_kernel_name(name).then_some(name)
}

fn check_name(name: &str) -> Result<(), CatalogueError> {
    if is_kernel_name(name) {
        Ok(())
    } else {
        Err(CatalogueError::InvalidName {
            name: name.to_owned(),
        })
    }
}

fn already_exists(name: &str) -> CatalogueError {
    CatalogueError::AlreadyExists {
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
