//! `kiln`: the thin client. It turns arguments into calls and prints the answers.
//!
//! What the words mean is decided by the daemon; how to reach it by `kiln-client`.

mod agent;
mod agent_purge;
mod alias;
mod arguments;
mod audit;
mod batch;
mod checkout;
mod colour;
mod copy;
mod credentials;
mod daemon;
mod demo;
mod doctor;
mod event;
mod export;
mod failure;
mod follow;
mod image;
mod image_open;
mod image_vmm;
mod import;
mod instance;
mod interruptible;
mod kernel;
mod kernel_choice;
mod lease;
mod logs;
mod metadata;
mod mistakes;
mod operation;
mod org;
mod outdated;
mod output;
mod pages;
mod passwd;
mod programs;
mod progress;
mod pull;
mod push;
mod reach;
mod reference;
mod register;
mod registry;
mod removal;
mod rpc;
mod run;
mod scan;
mod scratch;
mod secret;
mod session;
mod stop;
mod storage;
mod surroundings;
mod sync;
mod text;
mod time_span;
mod user;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::arguments::Cli;
use crate::failure::CommandError;
use crate::session::Session;
use crate::surroundings::Surroundings;

fn main() -> ExitCode {
    let surroundings = Surroundings::read();
    let words: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::read(&words, &surroundings) {
        Ok(cli) => cli,
        Err(error) => return mistakes::report(&error, &words, &surroundings),
    };
    let session = Session::new(cli.globals, surroundings);
    session.warn_of_relative_paths();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return session.report(&CommandError::from(error)),
    };
    let result = runtime.block_on(cli.command.run(&session));
    // Threads that still feed a pipe or wait for a terminal must not hold the exit up.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => session.report(&error),
    }
}
