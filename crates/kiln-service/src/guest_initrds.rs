//! The initrds of guests: our init, the bases made of it, and what an image adds.
//!
//! Which kernels there are, how an image boots, and where the result goes are not here. All of it
//! blocks.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use kiln_api::{Failure, codes};
use kiln_boot::{Boot, ReadError};
use kiln_kernel::{
    Architecture, BaseInitrds, CpioError, GuestError, InitrdError, KernelFolder, Monitor, compose,
    image_archive, read_init,
};

/// Our init, wherever it lies, and the stock of bases made of it.
#[derive(Clone, Debug)]
pub struct GuestInitrds {
    candidates: Vec<PathBuf>,
    bases: BaseInitrds,
}

/// A base initrd, ready for what an image adds.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    bytes: Vec<u8>,
    /// Monitors that nothing is known to keep from booting the kernel.
    pub(crate) monitors: Vec<Monitor>,
}

/// Why there is no initrd.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestInitrdError {
    #[error(
        "Kiln's init for {architecture} guests is not installed: {}",
        list(looked_at)
    )]
    NoInit {
        architecture: Architecture,
        looked_at: Vec<PassedOver>,
    },
    #[error("our init cannot boot on this kernel")]
    Guest(#[from] GuestError),
    #[error("the base of the initrd cannot be made")]
    Base(#[from] InitrdError),
    #[error("what init is told cannot be written")]
    Document(#[from] ReadError),
    #[error("the initrd cannot be composed")]
    Archive(#[from] CpioError),
}

/// A place where our init is not.
#[derive(Debug)]
pub(crate) struct PassedOver {
    path: PathBuf,
    why: String,
}

impl GuestInitrds {
    /// Takes the files in which our init may be, and the stock of bases. The first file wins that
    /// is an init for the architecture that is asked for.
    pub fn new(candidates: Vec<PathBuf>, bases: BaseInitrds) -> Self {
        Self { candidates, bases }
    }

    /// Makes, or finds, the base for a kernel.
    pub(crate) fn base(
        &self,
        kernel: KernelFolder<'_>,
        cancelled: &AtomicBool,
    ) -> Result<Base, GuestInitrdError> {
        let init = self.init(kernel.facts.architecture)?;
        let guest = kernel.guest_base(&init, cancelled)?;
        Ok(Base {
            bytes: self.bases.obtain(&guest.base)?,
            monitors: guest.monitors,
        })
    }

    /// Finds our init for an architecture. A program that is replaced while the daemon runs is
    /// seen by the next call.
    fn init(&self, architecture: Architecture) -> Result<Vec<u8>, GuestInitrdError> {
        let mut looked_at = Vec::new();
        for path in &self.candidates {
            let why = match read_init(path, architecture) {
                Ok(program) => return Ok(program),
                Err(error) => error.to_string(),
            };
            let path = path.clone();
            looked_at.push(PassedOver { path, why });
        }
        Err(GuestInitrdError::NoInit {
            architecture,
            looked_at,
        })
    }
}

impl Base {
    /// Appends what an image tells init.
    pub(crate) fn with(&self, boot: &Boot) -> Result<Vec<u8>, GuestInitrdError> {
        let archive = image_archive(&boot.to_bytes()?)?;
        Ok(compose(&self.bytes, &[&archive]))
    }
}

fn list(places: &[PassedOver]) -> String {
    let shown: Vec<String> = places
        .iter()
        .map(|place| format!("{}: {}", place.path.display(), place.why))
        .collect();
    if shown.is_empty() {
        return "no place is known for it".to_owned();
    }
    shown.join("; ")
}

/// Gives an error its code.
pub(crate) fn guest_initrd_failure(error: &GuestInitrdError) -> Failure {
    match error {
        GuestInitrdError::NoInit { .. } => Failure::from_error(codes::boot::NO_INIT, error)
            .with_hint(
                "install kiln-init beside kilnd, name it in the configuration as guest.init, or make the image with --boot none",
                None,
            ),
        GuestInitrdError::Guest(GuestError::NoInitrd | GuestError::Unreachable { .. }) => {
            Failure::from_error(codes::kernel::CANNOT_BOOT, error).with_hint(
                "choose another kernel, or make the image with --boot none and boot it your own way",
                None,
            )
        }
        GuestInitrdError::Guest(GuestError::Known(_)) => {
            Failure::from_error(codes::kernel::UNRECOGNISED, error)
        }
        GuestInitrdError::Guest(GuestError::Order(_) | GuestError::Initrd(_))
        | GuestInitrdError::Base(_) => Failure::from_error(codes::kernel::BROKEN_MODULES, error),
        GuestInitrdError::Document(_) | GuestInitrdError::Archive(_) => {
            Failure::from_error(codes::boot::INVALID_CONFIG, error)
        }
    }
}
