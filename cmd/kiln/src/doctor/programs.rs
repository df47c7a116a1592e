//! The programs that come with this one: the runner, and the init that the daemon gives guests.

use std::path::{Path, PathBuf};

use kiln_api::daemon::Setting;
use kiln_kernel::{Architecture, read_init};

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

/// Looks for the init of guests where the daemon says it would, and as it would: a file that no pull
/// would take is none. Nothing when the daemon does not say.
pub(super) fn guest_init(config: &[Setting]) -> Option<Finding> {
    const CHECK: &str = "guest init";
    let setting = config.iter().find(|setting| setting.key == GUEST_INIT)?;
    let places: Vec<PathBuf> = serde_json::from_str(&setting.value).ok()?;
    let architecture = host()?;
    let mut passed_over = Vec::new();
    for path in &places {
        match read_init(path, architecture) {
            Ok(_) => return Some(Finding::new(CHECK, Level::Ok, path.display().to_string())),
            Err(why) => passed_over.push(format!("{}: {why}", path.display())),
        }
    }
    let message = format!(
        "kiln-init for {architecture} guests is in none of the places where the daemon looks ({}); a \
         pull needs it, but for --boot none",
        passed_over.join("; ")
    );
    let finding = Finding::new(CHECK, Level::Warn, message);
    // The nearest place is beside the daemon.
    Some(match places.first().and_then(|place| place.parent()) {
        Some(folder) => finding.with_command(install(folder)),
        None => finding,
    })
}

/// Returns what guests of this host run on.
fn host() -> Option<Architecture> {
    match std::env::consts::ARCH {
        "x86_64" => Some(Architecture::X86_64),
        "aarch64" => Some(Architecture::Aarch64),
        _ => None,
    }
}

fn install(folder: &Path) -> String {
    format!("make dist && sudo cp dist/kiln-init {}/", folder.display())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The headers of a program of this host, with one segment of a kind.
    fn program(kind: Option<u32>) -> Vec<u8> {
        let machine: u16 = match host() {
            Some(Architecture::Aarch64) => 183,
            _ => 62,
        };
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&kind.unwrap_or(1).to_le_bytes());
        bytes
    }

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
        let empty = guest_init(&config).unwrap();
        fs::write(&init, program(None)).unwrap();
        let found = guest_init(&config).unwrap();
        // PT_INTERP: it wants a loader.
        fs::write(&init, program(Some(3))).unwrap();
        let dynamic = guest_init(&config).unwrap();

        assert_eq!(missing.level, Level::Warn);
        let want = "make dist && sudo cp dist/kiln-init /nowhere/";
        assert_eq!(missing.command.as_deref(), Some(want));
        for (finding, why) in [
            (&missing, "there is none"),
            (&empty, "no 64-bit ELF program"),
            (&dynamic, "linked dynamically"),
        ] {
            assert_eq!(finding.level, Level::Warn);
            assert!(finding.message.contains(why), "{finding:?}");
        }
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
