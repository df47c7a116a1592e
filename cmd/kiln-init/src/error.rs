//! Why the image's program cannot run: always one line, and an exit code that stands for it.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use kiln_boot::{EnvError, NEVER_RAN, NOT_EXECUTABLE, NOT_FOUND, Outcome, ReadError, UserError};

/// Why the guest cannot do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot use {path}")]
    Document {
        path: &'static str,
        source: ReadError,
    },
    #[error("no root device {device} after {seconds} s")]
    NoRootDevice { device: String, seconds: u32 },
    #[error("the image has no entrypoint and no command")]
    NothingToRun,
    #[error("{program:?} is not in the image: {searched}")]
    NotFound { program: String, searched: String },
    #[error("{program:?} cannot be executed")]
    NotExecutable { program: String, source: io::Error },
    #[error("{program:?} cannot be executed: its interpreter or loader is not in the image")]
    NoInterpreter { program: String },
    #[error("the working directory {path:?} is no directory")]
    WorkingDirectory { path: String },
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Environment(#[from] EnvError),
    #[error("cannot {step} {}", path.display())]
    Step {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl Failure {
    /// Returns what is reported for it.
    pub(crate) fn to_outcome(&self) -> Outcome {
        let exit = match self {
            Self::NotFound { .. } | Self::NoInterpreter { .. } => NOT_FOUND,
            Self::NotExecutable { .. } => NOT_EXECUTABLE,
            _ => NEVER_RAN,
        };
        let error = one_line(self);
        Outcome::Failed { error, exit }
    }
}

/// Returns an error and its causes in one line.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line.replace(['\n', '\r'], " ")
}

/// Gives an error of the system the step and the path it belongs to.
pub(crate) fn at<E: Into<io::Error>>(
    step: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> Failure {
    move |source| Failure::Step {
        step,
        path: path.as_ref().to_owned(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let source = io::Error::from_raw_os_error(2);
        let failure = at("mount", "/dev/vda\n")(source);

        let Outcome::Failed { error, exit } = failure.to_outcome() else {
            panic!("a failure is no end of a program");
        };

        let want = "cannot mount /dev/vda : No such file or directory (os error 2)";
        assert_eq!((error.as_str(), exit), (want, 125));
    }

    #[test]
    fn shells_know_the_exit_codes() {
        let program = || "x".to_owned();
        let cases = [
            (Failure::NothingToRun, 125),
            (Failure::NoInterpreter { program: program() }, 127),
            (
                Failure::NotFound {
                    program: program(),
                    searched: String::new(),
                },
                127,
            ),
            (
                Failure::NotExecutable {
                    program: program(),
                    source: io::Error::from_raw_os_error(13),
                },
                126,
            ),
        ];
        for (failure, want) in cases {
            assert_eq!(failure.to_outcome().exit_code(), want, "{failure}");
        }
    }
}
