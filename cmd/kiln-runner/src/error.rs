//! Why an image could not be run, as the person reads it.

use std::io;
use std::path::PathBuf;

use kiln_api::image::ImageFile;
use kiln_api::{Failure, codes};
use kiln_boot::{ChooseError, ReadError};
use kiln_client::{ClientError, HostError};
use kiln_files::FileError;
use kiln_kernel::{CpioError, KernelError};
use kiln_vmm::{ChoiceError, MachineError};

/// Why an image could not be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The order is missing or none.
    #[error("no order came with this program's start; it is started by `kiln run`")]
    NoOrder,
    /// There is no home directory to keep instances in.
    #[error("neither HOME nor XDG_STATE_HOME says where to keep the machine's files")]
    NoHome,
    /// The daemon's address.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The daemon refused, or did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file of the instance.
    #[error(transparent)]
    File(#[from] FileError),
    /// The daemon did not hand over a file of the image.
    #[error("the daemon did not open the image's {file}")]
    ImageFile {
        /// The file.
        file: ImageFile,
    },
    /// A volume cannot be used.
    #[error("cannot use the volume {}", path.display())]
    Volume {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image is for a processor that no monitor here knows.
    #[error("the image is for {architecture}, which no monitor runs")]
    Architecture {
        /// Its architecture.
        architecture: String,
    },
    /// No monitor is to be had.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The monitor cannot make the machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Ports need a network.
    #[error("ports can be published with --net user only")]
    PortsWithoutNetwork,
    /// The kernel has nothing to start that the words could be meant for.
    #[error("the image boots without Kiln's init, which {flag} is for")]
    NoInit {
        /// The flag.
        flag: &'static str,
    },
    /// There is no command.
    #[error(transparent)]
    Command(#[from] ChooseError),
    /// The words are none for a guest.
    #[error("the guest cannot be told: {0}")]
    Words(#[from] ReadError),
    /// The initrd cannot be read or made.
    #[error("cannot make the initrd")]
    Initrd(#[from] CpioError),
    /// The kernel cannot be unpacked for the monitor.
    #[error("cannot unpack the kernel")]
    Kernel(#[from] KernelError),
    /// The monitor ended before the machine ran.
    #[error("{monitor} ended before the machine ran: {words}")]
    MonitorEnded {
        /// The monitor.
        monitor: String,
        /// Its own last words.
        words: String,
    },
    /// The monitor runs and does not answer.
    #[error("{monitor} does not answer")]
    MonitorSilent {
        /// The monitor.
        monitor: String,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody stopped the run before the machine ran.
    #[error("stopped before the machine ran")]
    Stopped,
    /// The host refused something that it grants everybody.
    #[error("cannot {step}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl RunError {
    /// Says which step the host refused.
    pub(crate) fn host(step: &'static str, source: io::Error) -> Self {
        Self::System { step, source }
    }

    /// Returns what to tell, with a next step where there is a good one.
    pub(crate) fn to_failure(&self) -> Failure {
        let code = match self {
            Self::Client(error) => return error.to_failure(),
            Self::Host(_)
            | Self::PortsWithoutNetwork
            | Self::NoInit { .. }
            | Self::Command(_)
            | Self::Words(_)
            | Self::NoOrder
            | Self::Machine(_)
            | Self::Volume { .. } => codes::request::INVALID_PARAMS,
            Self::Choice(_) | Self::Architecture { .. } => codes::instance::NO_MONITOR,
            Self::MonitorEnded { .. } | Self::MonitorSilent { .. } | Self::Stopped => {
                codes::instance::MONITOR_FAILED
            }
            Self::ImageFile { .. } => codes::file::UNREADABLE,
            Self::File(error) if error.is_no_space() => codes::storage::FULL,
            Self::File(_)
            | Self::NoHome
            | Self::Initrd(_)
            | Self::Kernel(_)
            | Self::System { .. } => codes::storage::FAILED,
        };
        let failure = Failure::from_error(code, self);
        match self {
            Self::Choice(ChoiceError::NoneInstalled { .. }) => failure.with_hint(
                "install one:",
                Some("sudo apt install qemu-system-x86".to_owned()),
            ),
            Self::Choice(ChoiceError::NoneBootable { .. }) => {
                failure.with_hint("name another by --monitor to try it all the same", None)
            }
            Self::NoInit { .. } => failure.with_hint(
                "pull the image with --boot entrypoint, or leave the flag out",
                None,
            ),
            Self::PortsWithoutNetwork | Self::Machine(_) | Self::Command(_) | Self::Words(_) => {
                failure.with_hint(
                    "the flags are explained by:",
                    Some("kiln run --help".to_owned()),
                )
            }
            Self::NoHome => failure.with_hint("name a directory by KILN_INSTANCES", None),
            _ => failure,
        }
    }
}
