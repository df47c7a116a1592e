//! The numbered cases of the image service and its common errors: each has a story of its name.
//!
//! `case_6_3_…` is the case 6.3, `case_ce_1_…` the common error CE1, `scenario_2_…` the scenario 2.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// What has a story, in the order of the image service's description.
const CASES: &[&str] = &[
    "case_1_1",
    "case_1_2",
    "case_1_3",
    "case_1_4",
    "case_1_5",
    "case_2_1",
    "case_2_2",
    "case_3_1",
    "case_3_2",
    "case_3_3",
    "case_4_1",
    "case_4_2",
    "case_4_3",
    "case_4_4",
    "case_5_1",
    "case_5_2",
    "case_5_3",
    "case_5_4",
    "case_6_1",
    "case_6_2",
    "case_6_3",
    "case_6_4",
    "case_7_1",
    "case_7_2",
    "case_8_1",
    "case_8_2",
    "case_8_3",
    "case_8_4",
    "case_9_1",
    "case_9_2",
    "case_9_3",
    "case_10_1",
    "case_10_2",
    "case_10_3",
    "case_ce_1",
    "case_ce_2",
    "case_ce_3",
    "case_ce_4",
    "scenario_1",
    "scenario_2",
    "scenario_3",
    "scenario_4",
];

/// Lists the stories by what they are named after.
fn stories() -> Result<BTreeMap<String, Vec<String>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let mut is_test = false;
        for line in text.lines() {
            let name = line
                .strip_prefix("fn ")
                .and_then(|rest| rest.split('(').next());
            if let Some(name) = name.filter(|_| is_test)
                && let Some(case) = named_after(name)
            {
                found.entry(case).or_default().push(name.to_owned());
            }
            is_test = line == "#[test]";
        }
    }
    Ok(found)
}

/// Returns what a story is named after: its first three words, or two of a scenario.
fn named_after(story: &str) -> Option<String> {
    let words: Vec<&str> = story.split('_').collect();
    let count = match *words.first()? {
        "case" => 3,
        "scenario" => 2,
        _ => return None,
    };
    Some(words.get(..count)?.join("_"))
}

#[test]
fn every_numbered_case_has_a_story_of_its_name() -> Result<()> {
    let stories = stories()?;
    for case in CASES {
        let named = stories.get(*case);
        named.with_context(|| format!("no story is named after {case}"))?;
    }
    for (case, named) in &stories {
        let is_agents = case.starts_with("case_4_") || case == "case_ce_2";
        let is_scenario = case.starts_with("scenario_");
        let is_known = CASES.contains(&case.as_str()) || is_agents || is_scenario;
        assert!(is_known, "{named:?} is named after no case");
    }
    Ok(())
}
