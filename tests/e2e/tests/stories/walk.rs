//! The walk over the table of codes: every one is provoked by a story, or says here why not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use kiln_api::codes;

/// Codes that no story provokes, with the reason.
const NOT_PROVOKED: &[(&str, &str)] = &[
    (
        "daemon.incompatible",
        "said by the client, which has tests of its own",
    ),
    (
        "daemon.stopping",
        "a window of milliseconds between a signal and the closed socket",
    ),
    (
        "daemon.internal",
        "a defect; provoked with panicking stand-ins in kiln-service's tests",
    ),
    (
        "request.too_slow",
        "takes as long as the limit; tested with a short one in kiln-rpc",
    ),
    (
        "file.already_exists",
        "said by the client; the story of the checkout sees its exit code",
    ),
    (
        "rootfs.uuid_fixed",
        "said by the client of filesystems that Kiln does not write; tested in kiln-ext4",
    ),
    (
        "instance.no_monitor",
        "said by the runner; the stories of runs see its words and its exit code",
    ),
    (
        "instance.monitor_failed",
        "said by the runner; the stories of runs see its words and its exit code",
    ),
    ("storage.failed", "needs a disk that fails; tested per tool"),
];

/// Reads every story but this one.
fn stories() -> Result<BTreeMap<String, String>> {
    let mut stories = BTreeMap::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                folders.push(path);
            } else if name != "walk.rs" {
                stories.insert(path.display().to_string(), fs::read_to_string(&path)?);
            }
        }
    }
    Ok(stories)
}

#[test]
fn every_code_is_provoked_or_says_why_not() -> Result<()> {
    let stories = stories()?;
    for code in codes::all() {
        let quoted = format!("\"{}\"", code.name);
        let told_by = stories.iter().find(|(_, text)| text.contains(&quoted));
        let excused = NOT_PROVOKED.iter().find(|(name, _)| *name == code.name);

        match (told_by, excused) {
            (Some((story, _)), Some(_)) => {
                panic!("{code} is provoked by {story}: take it off the list");
            }
            (None, None) => panic!("no story provokes {code}, and nothing says why"),
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn only_codes_that_exist_are_excused() {
    for (name, reason) in NOT_PROVOKED {
        assert!(codes::all().any(|code| code.name == *name), "{name}");
        assert!(reason.len() > 10, "{name}");
    }
}
