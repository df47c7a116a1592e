//! The pages suite: generated pages are current, links lead somewhere, `make` targets exist.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kiln_testkit::{daemon, process};

use crate::cargo;
use crate::console;
use crate::tally::Tally;

/// Longest time the daemon may take to write its pages.
const LIMIT: Duration = Duration::from_secs(60);

/// A page of the project: its path below the top folder, and its text.
#[derive(Debug)]
struct Page {
    path: PathBuf,
    text: String,
}

/// Checks all pages; `kilnd` must be built.
pub(crate) fn check() -> Result<Tally> {
    let top = cargo::workspace();
    let pages = collect(&top)?;
    let makefile = fs::read_to_string(top.join("Makefile")).context("cannot read the Makefile")?;
    let targets = targets(&makefile);
    let mut tally = Tally::default();
    for (claim, faults) in [
        ("generated pages are current", outdated(&top)?),
        ("links lead to files", broken_links(&top, &pages)),
        ("make targets exist", unknown_targets(&targets, &pages)),
    ] {
        let word = if faults.is_empty() { "ok" } else { "FAILED" };
        console::line(format_args!("page check: {claim} ... {word}"));
        for fault in &faults {
            console::line(format_args!("  {fault}"));
        }
        tally += Tally::of_one(faults.is_empty());
    }
    Ok(tally)
}

fn outdated(top: &Path) -> Result<Vec<String>> {
    let folder = tempfile::tempdir().context("cannot make a folder for pages")?;
    let mut command = process::command(daemon::built("kilnd")?);
    command.arg("--write-docs").arg(folder.path());
    process::run(command, LIMIT)?;
    let mut faults = Vec::new();
    for entry in fs::read_dir(folder.path()).context("cannot list the pages")? {
        let entry = entry.context("cannot list the pages")?;
        let current = fs::read(entry.path()).context("cannot read a generated page")?;
        let kept = top.join("docs").join(entry.file_name());
        if fs::read(&kept).ok() != Some(current) {
            let name = entry.file_name();
            faults.push(format!(
                "docs/{} differs; run make doc",
                name.to_string_lossy()
            ));
        }
    }
    Ok(faults)
}

fn broken_links(top: &Path, pages: &[Page]) -> Vec<String> {
    let mut faults = Vec::new();
    for page in pages {
        let folder = page.path.parent().unwrap_or(Path::new(""));
        for target in links(&page.text) {
            let (file, _) = target.split_once('#').unwrap_or((target, ""));
            if !file.is_empty() && !top.join(folder).join(file).exists() {
                faults.push(format!("{}: {target} is nowhere", page.path.display()));
            }
        }
    }
    faults
}

fn unknown_targets(targets: &[&str], pages: &[Page]) -> Vec<String> {
    let mut faults = Vec::new();
    for page in pages {
        for target in mentioned_targets(&page.text) {
            if !targets.contains(&target) {
                faults.push(format!(
                    "{}: there is no make {target}",
                    page.path.display()
                ));
            }
        }
    }
    faults
}

/// Returns the targets of relative links, `](target)`, outside code.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        // What stands between backticks is code: the odd parts of the line.
        for (number, part) in line.split('`').enumerate() {
            // A link whose text is code ends in the next even part: `](` opens it.
            if number % 2 == 0 {
                found.extend(part.split("](").skip(1).filter_map(|rest| {
                    let (target, _) = rest.split_once(')')?;
                    Some(target.trim())
                }));
            }
        }
    }
    found.retain(|target| !target.contains("://") && !target.starts_with("mailto:"));
    found
}

/// Returns the targets that `make` is told to make, in code spans and on command lines.
fn mentioned_targets(text: &str) -> Vec<&str> {
    let spans = text.split("`make ").skip(1);
    let lines = text.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("$ ")
            .unwrap_or(line)
            .strip_prefix("make ")
    });
    let commands = lines.filter(|rest| rest.split(' ').count() == 1);
    spans
        .chain(commands)
        .map(|rest| {
            let is_name = |letter: char| letter.is_ascii_lowercase() || letter == '-';
            let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
            rest.get(..end).unwrap_or_default()
        })
        .filter(|target| !target.is_empty())
        .collect()
}

/// Returns the targets of a Makefile.
fn targets(makefile: &str) -> Vec<&str> {
    makefile
        .lines()
        .filter(|line| line.starts_with(|letter: char| letter.is_ascii_lowercase()))
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .collect()
}

/// Reads every Markdown page below `top`, what is built or hidden left out.
fn collect(top: &Path) -> Result<Vec<Page>> {
    let mut pages = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = top.join(&folder);
        for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let entry = entry.with_context(|| path.display().to_string())?;
            let name = entry.file_name();
            let is_left_out =
                name.to_string_lossy().starts_with('.') || name == "target" || name == "dist";
            let path = folder.join(&name);
            if entry.path().is_dir() && !is_left_out {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(entry.path())
                    .with_context(|| entry.path().display().to_string())?;
                pages.push(Page { path, text });
            }
        }
    }
    pages.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code() {
        let text =
            "[a](b.md) and [`c`](d/e.md#f) [g](https://h) `[x](y)`\n```\n[i](j)\n```\n[k](#l)";

        assert_eq!(links(text), ["b.md", "d/e.md#f", "#l"]);
    }

    #[test]
    fn targets_are_found_in_spans_and_on_command_lines() {
        let text =
            "Run `make test-unit`, then:\n\n    $ make demo\n\nmake sure that it works\n`make`";

        assert_eq!(mentioned_targets(text), ["test-unit", "demo"]);
        assert_eq!(
            targets(".PHONY: x\nA = b\ntest-unit: deps\n\tmake: no\ndemo:\n"),
            ["test-unit", "demo"]
        );
    }

    #[test]
    fn faults_name_the_page() -> Result<()> {
        let top = tempfile::tempdir()?;
        fs::create_dir(top.path().join("docs"))?;
        fs::write(top.path().join("a.md"), "[b](docs/b.md) [c](c.md)")?;
        fs::write(top.path().join("docs/b.md"), "[a](../a.md) `make nothing`")?;
        let pages = collect(top.path())?;

        assert_eq!(broken_links(top.path(), &pages), ["a.md: c.md is nowhere"]);
        assert_eq!(
            unknown_targets(&["test"], &pages),
            ["docs/b.md: there is no make nothing"]
        );
        Ok(())
    }
}
