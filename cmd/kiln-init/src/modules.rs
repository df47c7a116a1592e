//! Loads kernel modules from the initrd, in the order that whoever composed it has found.

use std::fs::{self, File};
use std::io;

use kiln_boot::MODULES_FILE;
use rustix::io::Errno;

use crate::console;

/// Loads what the base of the initrd brings along.
pub(crate) fn load_base() {
    match fs::read_to_string(MODULES_FILE) {
        Ok(list) => load(list.lines()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => console::say(format_args!("cannot read {MODULES_FILE}: {error}")),
    }
}

/// Loads `paths` in order. One that cannot be loaded is told and passed over: whether it was
/// needed shows itself where something is missing.
pub(crate) fn load<'a>(paths: impl IntoIterator<Item = &'a str>) {
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
