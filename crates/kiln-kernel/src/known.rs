//! What a kernel tells about itself beyond its record: options and modules.
//!
//! It is read from the kernel's files when somebody asks. The record and the verdicts are not here.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use kiln_files::{Directory, FileError, at};

use crate::catalogue::Kernel;
use crate::config::{ConfigError, KernelConfig};
use crate::facts::KernelFacts;
use crate::load_order::ModuleHost;
use crate::module_tree::{ModuleTree, ModuleTreeError};
use crate::name::{CONFIG, KERNEL, MODULES};

/// A kernel that lies in a directory under the names of the catalogue, with what belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct KernelFolder<'a> {
    /// The directory.
    pub path: &'a Path,
    /// What the file `kernel` is.
    pub facts: &'a KernelFacts,
    /// Whether its modules lie beside it.
    pub modules: Beside,
}

/// Whether something lies beside a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// It does.
    There,
    /// It does not.
    Missing,
}

/// Why a kernel did not tell.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// Its configuration is damaged.
    #[error("the configuration in {} is not understood", path.display())]
    Config {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: ConfigError,
    },
    /// Its modules cannot be read.
    #[error(transparent)]
    Modules(#[from] ModuleTreeError),
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Kernel {
    /// Returns where it lies, to be asked for more than its record says.
    pub fn folder(&self) -> KernelFolder<'_> {
        KernelFolder {
            path: &self.directory,
            facts: &self.facts,
            modules: match self.modules {
                Some(_) => Beside::There,
                None => Beside::Missing,
            },
        }
    }
}

impl<'a> KernelFolder<'a> {
    /// Reads the configuration: the file that came with the kernel, or what is embedded in it.
    /// `None` when there is neither.
    pub fn read_config(&self, cancelled: &AtomicBool) -> Result<Option<KernelConfig>, KnownError> {
        let directory = Directory::open(self.path)?;
        let damaged = |source| KnownError::Config {
            path: self.path.to_owned(),
            source,
        };
        if let Some(file) = directory.open_file(CONFIG.as_ref())? {
            return KernelConfig::read(&file).map(Some).map_err(damaged);
        }
        let missing = || at("open", directory.child_path(KERNEL))(rustix::io::Errno::NOENT);
        let kernel = directory.open_file(KERNEL.as_ref())?.ok_or_else(missing)?;
        KernelConfig::embedded(&kernel, cancelled).map_err(damaged)
    }

    /// Opens the modules; `None` when the kernel came without.
    pub fn open_modules(&self, cancelled: &AtomicBool) -> Result<Option<ModuleTree>, KnownError> {
        if self.modules == Beside::Missing {
            return Ok(None);
        }
        let tree = ModuleTree::open(&self.path.join(MODULES), cancelled)?;
        Ok(Some(tree))
    }

    /// Returns what modules must fit to be loaded into this kernel.
    pub fn module_host(&self) -> ModuleHost<'a> {
        ModuleHost {
            architecture: self.facts.architecture,
            release: self.facts.release.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Import;
    use crate::config::Feature;
    use crate::facts::Compression;
    use crate::module_tree::Presence;
    use crate::stage::KernelFiles;
    use crate::testing::{self, Elf, import};

    static GO_ON: AtomicBool = AtomicBool::new(false);

    fn bare(kernel: &[u8]) -> Import {
        Import::Files {
            files: KernelFiles {
                kernel: testing::file(kernel),
                initrd: None,
                modules: None,
            },
            config: None,
        }
    }

    #[test]
    fn a_package_brings_configuration_and_modules() {
        let tar = testing::kernel_package_tar(&testing::packed_kernel(Compression::Lz4));
        let package = testing::deb("data.tar", &tar);
        let (_state, kernel) = import(Import::Deb {
            package: testing::file(&package),
            initrd: None,
        });

        let config = kernel.folder().read_config(&GO_ON).unwrap().unwrap();
        let modules = kernel.folder().open_modules(&GO_ON).unwrap().unwrap();

        assert_eq!(config.feature("EXT4_FS"), Feature::BuiltIn);
        assert!(matches!(
            modules.names().presence("ext4"),
            Presence::File(_)
        ));
        assert_eq!(modules.names().presence("crc16"), Presence::BuiltIn);
        assert_eq!(
            kernel.folder().module_host().release,
            Some(testing::RELEASE)
        );
    }

    #[test]
    fn a_bare_kernel_has_what_is_embedded_in_it() {
        let mut elf = testing::elf(&Elf::default());
        elf.extend(b"IKCFG_ST");
        elf.extend(testing::pack(Compression::Gzip, b"CONFIG_VIRTIO_BLK=y\n"));
        elf.extend(b"IKCFG_ED");
        let payload = testing::packed_payload(Compression::Xz, &elf);
        let (_state, kernel) = import(bare(&testing::bz_image(&payload)));

        let config = kernel.folder().read_config(&GO_ON).unwrap().unwrap();

        assert_eq!(config.feature("VIRTIO_BLK"), Feature::BuiltIn);
        assert!(kernel.folder().open_modules(&GO_ON).unwrap().is_none());
    }

    #[test]
    fn a_kernel_may_tell_nothing() {
        let (_state, kernel) = import(bare(&testing::elf(&Elf::default())));

        assert_eq!(kernel.folder().read_config(&GO_ON).unwrap(), None);
        assert!(kernel.folder().open_modules(&GO_ON).unwrap().is_none());
    }
}
