//! Cargo, always for the whole workspace and in one profile, so that nothing is compiled twice.
//!
//! Which packages a command names decides which features their dependencies get, and other
//! features are another compilation. So everything is built by one command, and the test
//! programs it leaves are started from here, as `cargo test` would start them.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kiln_testkit::process;
use serde_json::Value;

use crate::console;
use crate::stream::{self, Echo};
use crate::tally::{Listener, Tally};

/// The programs of a release that run on the host; each is its package's name too.
pub(crate) const RELEASED: &[&str] = &["kiln", "kilnd", "kiln-runner"];

/// Longest time one cargo command may take, cold and on two shared cores.
const BUILD_LIMIT: Duration = Duration::from_secs(2400);

/// Longest time one test program may take.
const TEST_LIMIT: Duration = Duration::from_secs(900);

/// A program that cargo built of a package's tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// Name of the package, which is also that of its folder.
    pub(crate) package: String,
    /// Name of the library, program or test file.
    pub(crate) target: String,
    /// The package's folder, where its tests are started.
    folder: PathBuf,
    program: PathBuf,
}

/// Returns the workspace's top folder.
pub(crate) fn workspace() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    folder.unwrap_or(Path::new("/")).to_owned()
}

/// Runs cargo with `words` and returns whether it succeeded.
pub(crate) fn succeeds(words: &[&str], environment: &[(&str, &str)]) -> Result<bool> {
    let mut shown: Vec<String> = environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    shown.push("cargo".to_owned());
    shown.extend(words.iter().map(|word| (*word).to_owned()));
    console::typed(&shown);
    let command = command(words, environment);
    let status = stream::run(command, "cargo", BUILD_LIMIT, &mut |_| Echo::Show)?;
    Ok(status.success())
}

/// Builds everything there is, tests and all, and returns the test programs in a stable order.
pub(crate) fn build_all() -> Result<Vec<TestProgram>> {
    let words = ["build", "--workspace", "--all-targets", "--locked"];
    console::typed(&[&["cargo"], words.as_slice()].concat());
    let mut command = command(&words, &[]);
    command.arg("--message-format=json-render-diagnostics");
    let mut programs = Vec::new();
    let status = stream::run(command, "cargo", BUILD_LIMIT, &mut |line| {
        if !line.starts_with('{') {
            return Echo::Show;
        }
        programs.extend(parse_artifact(line));
        Echo::Hide
    })?;
    if !status.success() {
        bail!("the workspace does not build");
    }
    programs.sort_by(|a: &TestProgram, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
    Ok(programs)
}

/// Runs the examples in the documentation of every library.
pub(crate) fn doctests() -> Result<Tally> {
    let words = ["test", "--workspace", "--doc", "--locked"];
    console::typed(&[&["cargo"], words.as_slice()].concat());
    listen(command(&words, &[]), "cargo test", BUILD_LIMIT)
}

impl TestProgram {
    /// Runs all its tests.
    pub(crate) fn run(&self) -> Result<Tally> {
        let Self {
            package, target, ..
        } = self;
        console::line(format_args!("\n--- {package}: {target}"));
        let mut command = process::command(&self.program);
        command
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder);
        listen(command, &format!("{package}: {target}"), TEST_LIMIT)
    }
}

fn listen(command: Command, name: &str, limit: Duration) -> Result<Tally> {
    let mut listener = Listener::default();
    let status = stream::run(command, name, limit, &mut |line| {
        listener.hear(line);
        Echo::Show
    })?;
    Ok(listener.finish(status.success()))
}

fn command(words: &[&str], environment: &[(&str, &str)]) -> Command {
    // Cargo tells the programs it runs which cargo it is.
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = process::command(program);
    command.args(words).current_dir(workspace());
    command.envs(environment.iter().copied());
    command
}

/// Reads one of cargo's messages; only test programs are of interest.
fn parse_artifact(line: &str) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some(TestProgram {
        package: folder.file_name()?.to_string_lossy().into_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        folder: folder.to_owned(),
        program: PathBuf::from(message["executable"].as_str()?),
    })
}

/// Makes sure that the programs of a release are built.
pub(crate) fn build_release() -> Result<()> {
    let mut words = vec!["build", "--release", "--locked"];
    for name in RELEASED {
        words.extend(["-p", name]);
    }
    if !succeeds(&words, &[])? {
        bail!("{} do not build", RELEASED.join(", "));
    }
    Ok(())
}

/// Returns the folder that cargo builds releases in, as seen from a program built beside them.
pub(crate) fn release_folder() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find the running program")?;
    let target = program.ancestors().nth(2);
    Ok(target
        .context("the runner is in no target folder")?
        .join("release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_other_artifacts() {
        let test = r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/kiln-tree/Cargo.toml","target":{"name":"kiln_tree"},"profile":{"test":true},"executable":"/t/kiln_tree-1"}"#;
        let cases = [
            test.replace("true", "false"),
            test.replace("\"/t/kiln_tree-1\"", "null"),
            test.replace("compiler-artifact", "build-finished"),
            "{".to_owned(),
        ];

        let program = parse_artifact(test);

        let program = program.map(|program| (program.package, program.target, program.program));
        let want = ("kiln-tree", "kiln_tree", "/t/kiln_tree-1");
        assert_eq!(
            program,
            Some((want.0.to_owned(), want.1.to_owned(), want.2.into()))
        );
        for line in cases {
            assert_eq!(parse_artifact(&line), None, "{line}");
        }
    }
}
