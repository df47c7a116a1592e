//! What our init needs to boot on a kernel: the base initrd, with the drivers that are modules.
//!
//! ```text
//! configuration, modules ─▶ drivers that are wanted ─▶ base: init + modules in their order
//! ```
//!
//! Which image boots on it, and what init is told, is not here.

use std::sync::atomic::AtomicBool;

use crate::check::{Boots, KnownKernel, Monitor, check};
use crate::config::{Feature, KernelConfig};
use crate::initrd::{BaseInitrd, InitrdCompression, InitrdError};
use crate::known::{KernelFolder, KnownError};
use crate::load_order::LoadOrderError;
use crate::module_tree::{ModuleNames, ModuleTree};
use crate::wanted::{DriverPlan, MissingDriver, WANTED_DRIVERS, plan_drivers};

/// A base initrd for one kernel, described and not made yet.
#[derive(Debug)]
pub struct GuestBase<'a> {
    /// What it is made of.
    pub base: BaseInitrd<'a>,
    /// Where the drivers are.
    pub drivers: DriverPlan,
    /// Monitors that nothing is known to keep from booting the kernel, in the form that monitors
    /// start best where there are two.
    pub monitors: Vec<Monitor>,
}

/// Why our init cannot boot on a kernel.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It takes no initrd, and our init lives in one.
    #[error("the kernel takes no initrd (BLK_DEV_INITRD is off)")]
    NoInitrd,
    /// It is known not to reach the root filesystem.
    #[error(
        "the kernel cannot reach a root filesystem: it lacks {}",
        list(missing)
    )]
    Unreachable {
        /// What is missing.
        missing: Vec<MissingDriver>,
    },
    /// It did not tell what it has.
    #[error(transparent)]
    Known(#[from] KnownError),
    /// Its modules cannot be put into an order.
    #[error(transparent)]
    Order(#[from] LoadOrderError),
    /// The base cannot be made of its modules.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
}

impl KernelFolder<'_> {
    /// Describes the base with which `init`, a static program, boots on this kernel.
    ///
    /// Where nothing tells which drivers a kernel has, they are taken to be inside it.
    pub fn guest_base<'a>(
        &self,
        init: &'a [u8],
        cancelled: &AtomicBool,
    ) -> Result<GuestBase<'a>, GuestError> {
        let config = self.read_config(cancelled)?;
        let is_off = |option| {
            let config = config.as_ref();
            config.is_some_and(|config| config.feature(option) == Feature::Off)
        };
        if is_off("BLK_DEV_INITRD") {
            return Err(GuestError::NoInitrd);
        }
        let mut modules = self.open_modules(cancelled)?;
        let host = self.module_host();
        let drivers = plan_drivers(WANTED_DRIVERS, modules.as_mut(), config.as_ref(), host)?;
        let missing: Vec<MissingDriver> = drivers.in_the_way().cloned().collect();
        if !missing.is_empty() {
            return Err(GuestError::Unreachable { missing });
        }
        let compression = InitrdCompression::for_kernel(config.as_ref());
        let base = match &modules {
            Some(tree) => BaseInitrd::read(init, tree, &drivers.load, compression)?,
            None => BaseInitrd::without_modules(init, compression),
        };
        let names = modules.as_ref().map(ModuleTree::names);
        let monitors = self.monitors(config.as_ref(), names);
        Ok(GuestBase {
            base,
            drivers,
            monitors,
        })
    }

    fn monitors(
        &self,
        config: Option<&KernelConfig>,
        modules: Option<&ModuleNames>,
    ) -> Vec<Monitor> {
        let facts = self.facts.as_started();
        let known = KnownKernel {
            facts: &facts,
            config,
            modules,
        };
        let boots = |monitor: &Monitor| check(known, *monitor).boots != Boots::No;
        Monitor::ALL.into_iter().filter(boots).collect()
    }
}

fn list(missing: &[MissingDriver]) -> String {
    let names: Vec<String> = missing
        .iter()
        .map(|missing| format!("{} ({})", missing.driver.module, missing.driver.option))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Import, Kernel};
    use crate::facts::Compression;
    use crate::stage::KernelFiles;
    use crate::testing::{self, Elf, import};

    static GO_ON: AtomicBool = AtomicBool::new(false);

    /// A bare kernel with an embedded configuration.
    fn configured(options: &str) -> (tempfile::TempDir, Kernel) {
        let mut elf = testing::elf(&Elf::default());
        elf.extend(b"IKCFG_ST");
        elf.extend(testing::pack(Compression::Gzip, options.as_bytes()));
        elf.extend(b"IKCFG_ED");
        import(Import::Files {
            files: KernelFiles {
                kernel: testing::file(&elf),
                initrd: None,
                modules: None,
            },
            config: None,
        })
    }

    #[test]
    fn a_kernel_that_tells_nothing_is_taken_at_its_word() {
        let (_state, kernel) = import(Import::Files {
            files: KernelFiles {
                kernel: testing::file(&testing::elf(&Elf::default())),
                initrd: None,
                modules: None,
            },
            config: None,
        });

        let guest = kernel.folder().guest_base(b"init", &GO_ON).unwrap();

        let want = BaseInitrd::without_modules(b"init", InitrdCompression::Gzip);
        assert_eq!(guest.base.address(), want.address());
        assert_eq!(guest.drivers.missing.len(), WANTED_DRIVERS.len());
        assert_eq!(guest.monitors, Monitor::ALL);
    }

    #[test]
    fn a_kernel_that_lacks_what_decides_is_refused_with_its_name() {
        let inside = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_VIRTIO_MMIO=y\nCONFIG_EXT4_FS=y\n";
        let (_state, kernel) = configured(inside);

        let error = kernel.folder().guest_base(b"init", &GO_ON).unwrap_err();

        let want = "the kernel cannot reach a root filesystem: it lacks virtio_blk \
                    (VIRTIO_BLK)";
        assert_eq!(error.to_string(), want);
        let (_state, kernel) = configured("CONFIG_VIRTIO_MMIO=y\n");
        let error = kernel.folder().guest_base(b"init", &GO_ON).unwrap_err();
        assert!(matches!(error, GuestError::NoInitrd), "{error}");
    }

    #[test]
    fn everything_built_in_needs_no_module() {
        let (_state, kernel) = configured(
            "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_ZSTD=y\nCONFIG_VIRTIO_PCI=y\n\
             CONFIG_VIRTIO_BLK=y\nCONFIG_EXT4_FS=y\n",
        );

        let guest = kernel.folder().guest_base(b"init", &GO_ON).unwrap();

        let want = BaseInitrd::without_modules(b"init", InitrdCompression::Zstd);
        assert_eq!(guest.base.address(), want.address());
        // Those with virtio-pci.
        let want = [Monitor::QemuQ35, Monitor::CloudHypervisor];
        assert_eq!(guest.monitors, want);
    }
}
