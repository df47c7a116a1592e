//! Console blocks of pages: what is typed, what it prints, and whether that is as promised.
//!
//! Lines that begin with `$ ` are typed; the others are what they print. `…` stands for anything within
//! a line, and alone on a line for any lines, or none.

use anyhow::{Context as _, Result};

/// What stands for anything.
const ANYTHING: char = '…';

/// A command of a block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// As it is typed.
    pub(crate) command: String,
    /// The lines it prints.
    pub(crate) prints: Vec<String>,
}

/// Reads the console blocks of a page, each with its steps in their order.
pub(crate) fn blocks(page: &str) -> Result<Vec<Vec<Step>>> {
    let blocks = page.split("```console\n").skip(1);
    blocks
        .map(|block| {
            let (block, _) = block.split_once("```").context("a block without an end")?;
            steps(block)
        })
        .collect()
}

fn steps(block: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step {
                command: command.to_owned(),
                prints: Vec::new(),
            }),
            (None, Some(step)) => step.prints.push(line.to_owned()),
            (None, None) => anyhow::bail!("output before the first command: {line}"),
        }
    }
    Ok(steps)
}

/// Tells whether a line is as promised.
fn fits(line: &str, pattern: &str) -> bool {
    let Some((head, rest)) = pattern.split_once(ANYTHING) else {
        return line == pattern;
    };
    let Some(line) = line.strip_prefix(head) else {
        return false;
    };
    line.char_indices()
        .map(|(at, _)| at)
        .chain([line.len()])
        .any(|at| line.get(at..).is_some_and(|line| fits(line, rest)))
}

/// Tells whether lines are as promised.
pub(crate) fn all_fit(lines: &[&str], patterns: &[String]) -> bool {
    match patterns.split_first() {
        None => lines.is_empty(),
        Some((pattern, rest)) if pattern.chars().eq([ANYTHING]) => {
            (0..=lines.len()).any(|skipped| all_fit(lines.get(skipped..).unwrap_or(&[]), rest))
        }
        Some((pattern, rest)) => lines
            .split_first()
            .is_some_and(|(line, lines)| fits(line, pattern) && all_fit(lines, rest)),
    }
}

#[test]
fn an_ellipsis_stands_for_anything_and_nothing_else_does() {
    let fit = |lines: &[&str], patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        all_fit(lines, &patterns)
    };

    assert!(fit(&["id  1f", "end"], &["id  …", "end"]));
    assert!(fit(&["took 1.2 s, 5 MiB"], &["took … s, …"]));
    assert!(fit(&["a", "b", "c"], &["a", "…", "c"]));
    assert!(fit(&["a", "c"], &["a", "…", "c"]));
    assert!(!fit(&["id  1f", "end"], &["id  …"]));
    assert!(!fit(&["id  1f"], &["id  …", "end"]));
    assert!(!fit(&["took 1.2 h"], &["took … s"]));
    assert!(!fit(&["a.b"], &["a?b"]));
}
