//! The order of a boot, from the first instruction of process 1 to the image's program.

use std::path::Path;
use std::process::ExitCode;

use kiln_boot::{Boot, End, Mode, Outcome, RootMount};

use crate::console;
use crate::documents;
use crate::entrypoint;
use crate::error::Failure;
use crate::finish::{self, Leftovers};
use crate::grow;
use crate::kernel_calls;
use crate::modules;
use crate::mounts;
use crate::names;
use crate::network;
use crate::places;
use crate::report::Reporter;
use crate::root;
use crate::supervise;
use crate::switch;
use crate::volumes;

/// Boots the guest. Returns only when the machine could not be ended.
pub(crate) fn run() -> ExitCode {
    let read = mounts::early().and_then(|()| {
        console::attach();
        documents::read()
    });
    let mut leftovers = Leftovers::default();
    let (outcome, end, port) = match read {
        Ok(boot) => {
            let outcome =
                run_image(&boot, &mut leftovers).unwrap_or_else(|failure| failure.to_outcome());
            (outcome, boot.end, boot.report_port)
        }
        Err(failure) => (failure.to_outcome(), End::Poweroff, None),
    };
    if let Outcome::Failed { error, .. } = &outcome {
        console::say(format_args!("{error}"));
    }
    finish::machine(&outcome, end, Reporter::new(port), leftovers);
    ExitCode::FAILURE
}

/// Runs what the image has. An init of the image's own takes this process over, and never
/// returns from here.
fn run_image(boot: &Boot, leftovers: &mut Leftovers) -> Result<Outcome, Failure> {
    modules::load_base();
    modules::load(boot.modules.iter().map(String::as_str));
    let mut mounted = root::mount(boot)?;
    leftovers.upper = mounted.upper.take();
    let learnt = network::set_up(&boot.network);
    if boot.root.mount != RootMount::Ro {
        let top = Path::new(mounted.path);
        let missing = places::missing(top, places::mount_points(boot));
        leftovers.made.all_in(top, &missing);
    }
    switch::enter(mounted.path)?;
    mounts::in_root(boot);
    leftovers.names = names::place(boot, &learnt, &mut leftovers.made);
    volumes::place(boot, &mut leftovers.made);
    grow::root(boot);
    match &boot.mode {
        Mode::Entrypoint => {
            let entrypoint = entrypoint::resolve(boot, &mut leftovers.made)?;
            supervise::run(boot, &entrypoint)
        }
        Mode::Init { path } => {
            let init = entrypoint::resolve_init(boot, path)?;
            let error = kernel_calls::execute(&init.program);
            Err(entrypoint::refusal(&init, error))
        }
    }
}
