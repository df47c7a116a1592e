//! Reads what the guest is told: `boot.json`, and `instance.json` laid over it where there is one.

use std::fs::File;
use std::io::{self, Read as _};

use kiln_boot::{BOOT_FILE, Boot, INSTANCE_FILE, Instance, MAX_DOCUMENT_BYTES, ReadError};

use crate::error::{Failure, at};

/// Reads both documents.
pub(crate) fn read() -> Result<Boot, Failure> {
    let bytes = bytes_of(BOOT_FILE).map_err(at("read", BOOT_FILE))?;
    let boot = Boot::parse(&bytes).map_err(in_file(BOOT_FILE))?;
    match bytes_of(INSTANCE_FILE) {
        Ok(bytes) => Instance::parse(&bytes)
            .and_then(|instance| instance.lay_over(boot))
            .map_err(in_file(INSTANCE_FILE)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(boot),
        Err(error) => Err(at("read", INSTANCE_FILE)(error)),
    }
}

fn in_file(path: &'static str) -> impl FnOnce(ReadError) -> Failure {
    move |source| Failure::Document { path, source }
}

/// Reads one byte more than is accepted, so that too much is seen as such.
fn bytes_of(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_DOCUMENT_BYTES as u64 + 1;
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
