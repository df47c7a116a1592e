//! The programs that come with this one: the runner, and the init that the daemon gives guests.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_api::daemon::Setting;

use super::{Finding, Level};
use crate::programs;
use crate::run::RUNNER;
use crate::surroundings::Surroundings;

/// The setting that says where the daemon looks for the init of guests.
const GUEST_INIT: &str = "guest.init";

/// Looks for the program that `kiln run` starts.
pub(super) fn runner(surroundings: &Surroundings) -> Finding {
    const CHECK: &str = "runner";
    match programs::find(RUNNER, surroundings) {
        Ok(Some(path)) => Finding::new(CHECK, Level::Ok, path.display().to_string()),
        Ok(None) => Finding::new(
            CHECK,
            Level::Warn,
            format!("{RUNNER} is neither beside this program nor on PATH; kiln run needs it"),
        ),
        Err(error) => Finding::new(CHECK, Level::Warn, format!("cannot look for it: {error}")),
    }
}

/// Looks for the init of guests where the daemon says it would; nothing when it does not say.
pub(super) fn guest_init(config: &[Setting]) -> Option<Finding> {
    const CHECK: &str = "guest init";
    let setting = config.iter().find(|setting| setting.key == GUEST_INIT)?;
    let places: Vec<PathBuf> = serde_json::from_str(&setting.value).ok()?;
    let is_there = |path: &&PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file());
    if let Some(path) = places.iter().find(is_there) {
        return Some(Finding::new(CHECK, Level::Ok, path.display().to_string()));
    }
    let message = format!(
        "kiln-init is in none of the places where the daemon looks ({}); a pull needs it, but for \
         --boot none",
        setting.value
    );
    let finding = Finding::new(CHECK, Level::Warn, message);
    // The nearest place is beside the daemon.
    Some(match places.first().and_then(|place| place.parent()) {
        Some(folder) => finding.with_command(install(folder)),
        None => finding,
    })
}

fn install(folder: &Path) -> String {
    format!("make dist && sudo cp dist/kiln-init {}/", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_is_looked_for_where_the_daemon_does() {
        let folder = tempfile::tempdir().unwrap();
        let init = folder.path().join("kiln-init");
        let setting = |value: String| Setting {
            key: GUEST_INIT.to_owned(),
            value,
            origin: "default".to_owned(),
        };
        let config = [setting(format!("[\"/nowhere/kiln-init\", {init:?}]"))];

        let missing = guest_init(&config).unwrap();
        fs::write(&init, "").unwrap();
        let found = guest_init(&config).unwrap();

        assert_eq!(missing.level, Level::Warn);
        let want = "make dist && sudo cp dist/kiln-init /nowhere/";
        assert_eq!(missing.command.as_deref(), Some(want));
        let want = Finding::new("guest init", Level::Ok, init.display().to_string());
        assert_eq!(found, want);
        assert_eq!(guest_init(&[]), None);
        assert_eq!(guest_init(&[setting("no list".to_owned())]), None);
    }

    #[test]
    fn a_missing_runner_is_doubtful() {
        let found = runner(&Surroundings::default());
        // Tests lie one folder below the programs.
        assert_eq!(found.level, Level::Warn, "{found:?}");
        assert!(
            found.message.starts_with("kiln-runner is neither"),
            "{found:?}"
        );
    }
}
