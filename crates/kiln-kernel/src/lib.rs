//! Kernels: their formats, their Debian packages, their modules, and the catalogue of them.
//!
//! ```text
//! <kernels>/<name>/            complete, durable, and never changed again
//!   kernel                     as it was given
//!   vmlinux                    the ELF file inside, when `kernel` is a bzImage
//!   initrd.img                 optional
//!   modules/                   optional: what /lib/modules/<release>/ holds
//!   config                     optional: how the kernel was configured
//!   kernel.json                what is known about them, with a format number
//! <kernels>/.<name>.staging/   work in progress; removed by a sweep at start-up
//! <kernels>/.<name>.removing/  on its way out; removed by a sweep at start-up
//! ```
//!
//! From these it tells which monitors boot a kernel, and composes the initrd of a guest:
//!
//! ```text
//! config, modules/ ─▶ drivers that are wanted ─▶ order of loading ─▶ base initrd ─▶ composed
//!        └──────────▶ verdict per monitor              per image, per run: archives ──┘
//! ```
//!
//! Not here: which kernel an image gets, the init of a guest, and starting anything.

mod archive;
mod arm64;
mod banner;
mod bases;
mod bzimage;
mod catalogue;
mod check;
mod compression;
mod config;
mod cpio;
mod deb;
mod elf;
mod error;
mod facts;
mod guest;
mod init_program;
mod initrd;
mod inspect;
mod known;
mod load_order;
mod lz4;
mod modinfo;
mod module_tree;
mod modules;
mod modules_tar;
mod name;
mod pump;
mod record;
mod source;
mod stage;
#[cfg(test)]
mod testing;
mod wanted;

pub use archive::ArchiveError;
pub use bases::BaseInitrds;
pub use catalogue::{Catalogue, CatalogueError, Import, Kernel, Listed, Removal, Standing, Swept};
pub use check::{Boots, KnownKernel, Monitor, Reason, Verdict, Weight, check};
pub use config::{ConfigError, Feature, KernelConfig};
pub use cpio::{CpioEntry, CpioError, CpioLimits, CpioNode, CpioWriter};
pub use cpio::{padded, read_cpio, read_initramfs};
pub use deb::{DebError, DebKernel, DebPackage};
pub use error::KernelError;
pub use facts::{Architecture, Compression, KernelFacts, KernelFormat};
pub use guest::{GuestBase, GuestError};
pub use init_program::{
    InitFileError, InitProgramError, MAX_INIT_BYTES, init_architecture, read_init,
};
pub use initrd::{BaseInitrd, InitrdCompression, InitrdError};
pub use initrd::{compose, image_archive, instance_archive};
pub use inspect::{extract_elf, inspect};
pub use kiln_files::FileError;
pub use known::{Beside, KernelFolder, KnownError};
pub use load_order::{LoadOrderError, ModuleHost, OrderedModule};
pub use modinfo::{ModinfoError, ModuleFacts};
pub use module_tree::{ModuleNames, ModuleTree, ModuleTreeError, Presence};
pub use modules::{ModulesEntry, ModulesEntryKind, ModulesError, ModulesLimits, ModulesStaged};
pub use modules::{stage_modules_from_dir, stage_modules_from_entries, stage_modules_from_tar};
pub use modules_tar::write_modules_tar;
pub use record::RecordError;
pub use stage::{FileFacts, KernelFiles, KernelForm, ModulesSource, StageError, Staged};
pub use stage::{stage, stage_files};
pub use wanted::{
    DriverPlan, Lack, MissingDriver, Need, WANTED_DRIVERS, WantedDriver, plan_drivers,
};
