//! The program of the demo's image: says where it runs and as whom, and ends with success.
//!
//! It is one static program, the only file of its image that runs. What it cannot find out it
//! calls unknown: nothing here fails but for a console that takes nothing.

mod accounts;
mod facts;

use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let text = facts::greeting();
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
