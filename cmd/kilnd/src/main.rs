//! `kilnd`: turns OCI images into bootable microVM images and looks after them.
//!
//! This file reads arguments, wires, listens and waits for a signal. It has no behaviour of its
//! own.

mod arguments;
mod config;
mod network;
mod places;
mod reload;
mod run;
mod signals;
mod webhooks;
mod wire;

use std::process::ExitCode;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    run::run(&Arguments::read())
}
