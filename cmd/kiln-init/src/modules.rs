//! Loads kernel modules from the initrd, in the order that whoever composed it has found.

use std::fs::File;
use std::io;

use rustix::io::Errno;

use crate::console;

/// Loads `paths` in order. One that cannot be loaded is told and passed over: whether it was
/// needed shows itself where something is missing.
pub(crate) fn load(paths: &[String]) {
    for path in paths {
        if let Err(error) = load_one(path) {
            console::say(format_args!("cannot load the module {path}: {error}"));
        }
    }
}

fn load_one(path: &str) -> io::Result<()> {
    let file = File::open(path)?;
    match rustix::system::finit_module(&file, c"", 0) {
        // It is built in, or was loaded before.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
