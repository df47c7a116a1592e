//! `runner test`: the suites in their order, each with its time and its counts.
//!
//! A suite that fails does not stop the ones after it; a build that fails does stop the suites
//! that need it, and they count as skipped, since one failure has been told already.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use crate::cargo::{self, TestProgram};
use crate::tally::Tally;
use crate::{console, journey, pages};

/// Packages whose tests are suites of their own.
const STORIES: &str = "e2e";
const FLOORPLAN: &str = "floorplan";

/// A suite of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Every file looks as rustfmt would write it
    Format,
    /// No lint has anything to say
    Clippy,
    /// The documentation of all crates builds without a warning
    Rustdoc,
    /// Everything builds
    Build,
    /// Unit, property and integration tests of all crates
    Unit,
    /// Examples in the documentation
    Doctests,
    /// The shape of the code
    Floorplan,
    /// The pages in docs/ are current, and what they refer to exists
    Pages,
    /// The real image and the kernel that the suites below use can be made
    Fixtures,
    /// Stories through the socket, against real registries
    Stories,
    /// The demo: from a registry to a machine that runs
    Boot,
}

/// What became of a suite.
#[derive(Clone, Debug)]
struct Outcome {
    suite: Suite,
    took: Duration,
    tally: Tally,
}

/// What suites hand to later ones.
#[derive(Debug, Default)]
struct Workshop {
    /// The test programs; `Err` once the build has failed.
    built: Option<Result<Vec<TestProgram>, BuildFailed>>,
}

/// The build failed, and that has been told.
#[derive(Clone, Copy, Debug)]
struct BuildFailed;

/// Runs `chosen` suites, or all, prints their table and the closing line, and returns whether
/// nothing failed.
pub(crate) fn run(chosen: &[Suite]) -> bool {
    let suites: Vec<Suite> = Suite::value_variants()
        .iter()
        .copied()
        .filter(|suite| chosen.is_empty() || chosen.contains(suite))
        .collect();
    let mut workshop = Workshop::default();
    let outcomes: Vec<Outcome> = suites.iter().map(|suite| workshop.time(*suite)).collect();
    console::bytes(table(&outcomes).as_bytes());
    total(&outcomes).failed == 0
}

impl Suite {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Workshop {
    fn time(&mut self, suite: Suite) -> Outcome {
        console::heading(suite.name());
        let start = Instant::now();
        let tally = self.run(suite).unwrap_or_else(|error| {
            console::line(format_args!("{}: {error:#}", suite.name()));
            Tally::FAILED
        });
        Outcome {
            suite,
            took: start.elapsed(),
            tally,
        }
    }

    fn run(&mut self, suite: Suite) -> Result<Tally> {
        let cargo = |words: &[&str], environment: &[(&str, &str)]| {
            cargo::succeeds(words, environment).map(Tally::of_one)
        };
        match suite {
            Suite::Format => cargo(&["fmt", "--all", "--check"], &[]),
            Suite::Clippy => cargo(
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--",
                    "-D",
                    "warnings",
                ],
                &[],
            ),
            Suite::Rustdoc => cargo(
                &["doc", "--workspace", "--no-deps", "--locked"],
                &[("RUSTDOCFLAGS", "-D warnings")],
            ),
            Suite::Build => Ok(Tally::of_one(self.built().is_ok())),
            Suite::Unit => {
                self.programs(|program| ![STORIES, FLOORPLAN].contains(&program.package.as_str()))
            }
            Suite::Doctests => self.once_built(cargo::doctests),
            Suite::Floorplan => self.programs(|program| program.package == FLOORPLAN),
            Suite::Pages => self.once_built(pages::check),
            Suite::Fixtures => journey::check_fixtures(),
            Suite::Stories => self.programs(|program| program.package == STORIES),
            Suite::Boot => self.once_built(journey::check_boot),
        }
    }

    /// Builds everything, once.
    fn built(&mut self) -> Result<&[TestProgram], BuildFailed> {
        let built = self.built.get_or_insert_with(|| {
            cargo::build_all().map_err(|error| {
                console::line(format_args!("{error:#}"));
                BuildFailed
            })
        });
        built.as_deref().map_err(|failed| *failed)
    }

    fn once_built(&mut self, check: impl FnOnce() -> Result<Tally>) -> Result<Tally> {
        match self.built() {
            Ok(_) => check(),
            Err(BuildFailed) => Ok(not_run()),
        }
    }

    /// Runs the test programs that are `wanted`; one that cannot be run does not stop the others.
    fn programs(&mut self, wanted: impl Fn(&TestProgram) -> bool) -> Result<Tally> {
        let Ok(programs) = self.built() else {
            return Ok(not_run());
        };
        let mut tally = Tally::default();
        for program in programs.iter().filter(|program| wanted(program)) {
            tally += program.run().unwrap_or_else(|error| {
                console::line(format_args!("{error:#}"));
                Tally::FAILED
            });
        }
        if tally == Tally::default() {
            anyhow::bail!("there are no tests");
        }
        Ok(tally)
    }
}

fn not_run() -> Tally {
    console::line("not run, since the build failed");
    Tally::SKIPPED
}

fn total(outcomes: &[Outcome]) -> Tally {
    let mut sum = Tally::default();
    for outcome in outcomes {
        sum += outcome.tally;
    }
    sum
}

/// Writes the table of suites, and the closing line that others read: `N passed, N failed, …`.
fn table(outcomes: &[Outcome]) -> String {
    let sum = total(outcomes);
    let took = outcomes.iter().map(|outcome| outcome.took).sum();
    let mut text = String::from("\nsuite           time  passed  failed  skipped\n");
    let mut row = |name: &str, took: Duration, tally: Tally| {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{name:<10} {:>7.1} s {:>7} {:>7} {:>8}",
            took.as_secs_f64(),
            tally.passed,
            tally.failed,
            tally.skipped
        );
    };
    for outcome in outcomes {
        row(&outcome.suite.name(), outcome.took, outcome.tally);
    }
    row("all", took, sum);
    format!("{text}\n{sum}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ends_with_the_line_that_others_read() {
        let outcome = |suite, seconds, tally| Outcome {
            suite,
            took: Duration::from_secs(seconds),
            tally,
        };
        let outcomes = [
            outcome(Suite::Format, 1, Tally::PASSED),
            outcome(Suite::Unit, 61, Tally::FAILED),
            outcome(Suite::Boot, 0, Tally::SKIPPED),
        ];

        let text = table(&outcomes);

        let want = "
suite           time  passed  failed  skipped
format         1.0 s       1       0        0
unit          61.0 s       0       1        0
boot           0.0 s       0       0        1
all           62.0 s       1       1        1

1 passed, 1 failed, 1 skipped
";
        assert_eq!(text, want);
    }

    #[test]
    fn a_failed_build_is_told_once() -> Result<()> {
        let mut workshop = Workshop {
            built: Some(Err(BuildFailed)),
        };

        assert_eq!(workshop.run(Suite::Build)?, Tally::FAILED);
        assert_eq!(workshop.run(Suite::Unit)?, Tally::SKIPPED);
        assert_eq!(workshop.run(Suite::Boot)?, Tally::SKIPPED);
        Ok(())
    }
}
