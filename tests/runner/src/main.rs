//! What the Makefile starts: dependencies, test suites, the demo, the benchmark.
//!
//! Nothing here is part of Kiln; it builds and drives Kiln as a user would. How registries,
//! images and machines are made stands in the testkit, what is tested in the tests.

mod bench;
mod cargo;
mod console;
mod dist;
mod journey;
mod packages;
mod pages;
mod stream;
mod suites;
mod tally;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kiln_testkit::guest_programs;

use bench::Keep;
use suites::Suite;

/// Installs, tests, shows and measures Kiln; `make help` lists the usual ways in
#[derive(Debug, Parser)]
#[command(name = "runner")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install the Debian packages that tests, demo and benchmark use
    Deps,
    /// Run test suites, all of them when none is named
    Test {
        /// Suites to run
        #[arg(value_enum)]
        suites: Vec<Suite>,
    },
    /// Build the programs that run inside guests, static files, and print their paths
    Init,
    /// Build what is shipped into dist/
    Dist,
    /// Install what is missing; pull a real image from a real registry, build it, boot it
    Demo,
    /// Install what is missing; measure Kiln on a large real image, beside other programs
    Bench {
        /// Replace the figures in docs/benchmarks.md
        #[arg(long)]
        write: bool,
    },
    /// Measure calls over a store of 100,000 images, idle and while a build runs
    BenchStore {
        /// Replace the times in docs/benchmarks.md
        #[arg(long)]
        write: bool,
    },
    /// Install what is missing; measure how long guests take, beside a plain boot
    BenchBoot {
        /// Replace the times in docs/benchmarks.md
        #[arg(long)]
        write: bool,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Deps => packages::install().map(|()| true),
        Task::Test { suites } => Ok(suites::run(&suites)),
        Task::Init => guest_programs::build().map(|programs| {
            console::line(programs.init.display());
            console::line(programs.hello.display());
            true
        }),
        Task::Dist => dist::make().map(|()| true),
        Task::Demo => packages::install()
            .and_then(|()| journey::demo())
            .map(|()| true),
        Task::Bench { write } => packages::install()
            .and_then(|()| bench::run(Keep::of(write)))
            .map(|()| true),
        Task::BenchStore { write } => bench::store(Keep::of(write)).map(|()| true),
        Task::BenchBoot { write } => packages::install()
            .and_then(|()| bench::boots(Keep::of(write)))
            .map(|()| true),
    };
    ended(done)
}

fn ended(done: Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            console::line(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
