//! Process 1 of a guest: mounts the image, gives it names and a network, runs its entrypoint and
//! reports how that ended, or hands over to the image's own init.
//!
//! It lies in the initrd as `/init`, with `boot.json` beside it (`kiln-boot` has the format), and
//! is one static program. Everything before the image's program is in [`start`], everything
//! after it in [`supervise`] and [`finish`]. Not here: composing initrds and starting machines.
//!
//! ```text
//! initrd ─▶ documents ─▶ modules ─▶ root ─▶ network ─▶ switch ─▶ mounts, names, volumes
//!                                                        ├─▶ exec the image's init
//!                                                        └─▶ entrypoint ─▶ supervise ─▶ finish
//! ```

mod console;
mod device;
mod documents;
mod entrypoint;
mod error;
mod finish;
mod grow;
#[expect(
    unsafe_code,
    reason = "system calls without a safe function; see the module"
)]
mod kernel_calls;
mod modules;
mod mounts;
mod names;
mod network;
mod places;
mod power_button;
mod report;
mod root;
mod start;
mod supervise;
mod switch;
mod volumes;

use std::process::ExitCode;

fn main() -> ExitCode {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        console::say(format_args!(
            "this is process 1 of a virtual machine, and nothing else"
        ));
        return ExitCode::FAILURE;
    }
    start::run()
}
