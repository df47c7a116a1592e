//! What a guest is told at boot, and the rules by which an image's config becomes a running
//! program.
//!
//! `boot.json` describes an image, `instance.json` what one instance wants otherwise; both lie in
//! the initrd, below [`FOLDER`]. Whoever composes an initrd writes them, the guest's init reads
//! them. Not here: files, archives, system calls; this crate turns values into values.
//!
//! ```text
//! image config ─▶ Mode, argv, env … ─▶ boot.json ─┐
//! caller's words ────────────────▶ instance.json ─┴▶ Boot ─▶ the guest's init ─▶ Outcome
//! ```

mod argv;
mod boot;
mod environment;
mod instance;
mod mode;
mod names;
mod network;
mod outcome;
mod read;
mod signal;
mod user;

pub use argv::{CommandWords, compose_argv};
pub use boot::{BOOT_FORMAT, Boot, End, Mode, Root, RootMount, Stdin};
pub use environment::{DEFAULT_PATH, DEFAULT_TERM, EnvError, Environment};
pub use instance::{INSTANCE_FORMAT, Instance};
pub use mode::{BOOT_LABEL, BootChoice, ChooseError, Chosen, Container, choose_mode};
pub use names::{Host, Resolv};
pub use network::{Cidr, Network, ParseCidrError, StaticAddress};
pub use outcome::{NEVER_RAN, NOT_EXECUTABLE, NOT_FOUND, Outcome, REPORT_PREFIX};
pub use read::{MAX_DOCUMENT_BYTES, ReadError};
pub use signal::{ParseSignalError, StopSignal};
pub use user::{Accounts, Identity, UserError};

/// The folder of the initrd in which the documents lie.
pub const FOLDER: &str = "/kiln";

/// The document of the image.
pub const BOOT_FILE: &str = "/kiln/boot.json";

/// The document of one instance; it may be missing.
pub const INSTANCE_FILE: &str = "/kiln/instance.json";

/// The kernel modules that the base of the initrd brings along: one absolute path a line, in load
/// order. It may be missing.
pub const MODULES_FILE: &str = "/kiln/modules.order";

/// The vsock port on the host to which the end of the program is reported, unless another is
/// given.
pub const DEFAULT_REPORT_PORT: u32 = 1024;
