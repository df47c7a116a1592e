//! Virtual machine monitors: what each is told to run an image, and whether it really works here.
//!
//! ```text
//! RunOrder ─▶ Machine ─▶ qemu::words │ firecracker::configuration │ cloud_hypervisor::words
//! PATH ─▶ Installed ─▶ probe: a guest of 1 KiB ─▶ Choice: a monitor and an accelerator
//! ```
//!
//! What a monitor is told is worked out without looking at the host. Not here: starting a monitor
//! for longer than a probe, the environment, images, the guest's init.

mod choice;
pub mod cloud_hypervisor;
pub mod firecracker;
mod homes;
mod kernel_arguments;
mod machine;
mod monitor;
mod order;
mod probe;
pub mod qemu;
mod shell;
mod verdicts;

pub use choice::{Choice, ChoiceError, Installed, Wish, choose};
pub use homes::Homes;
pub use kernel_arguments::{Console, KernelWords, generic_kernel_arguments, kernel_arguments};
pub use machine::{Access, Disk, DiskSource, Machine, MachineError, Network};
pub use machine::{CPUS_MAX, MEMORY_MAX_MIB, MEMORY_MIN_MIB};
pub use monitor::{Accelerator, Architecture, Monitor, UnknownWord};
pub use order::{Announcement, Forward, ForwardError, NetworkChoice, RunOrder, Volume};
pub use probe::{Probe, ProbeError};
pub use shell::shell_line;
pub use verdicts::{KVM, ProbedKernel, Verdicts};
