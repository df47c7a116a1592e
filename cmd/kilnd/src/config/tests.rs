use std::fs;

use super::*;

fn load(text: &str, given: Given) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, text).unwrap();
    let given = Given {
        file: Some(file),
        ..given
    };
    Config::load(&given, Places::below(Path::new("/default")), 4)
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let text = "[daemon]\nstate_dir = \"/from/file\"\n[limits]\ndecode_threads = 3\n";

    let config = load(
        text,
        Given {
            root: Some("/root-dir".into()),
            ..Given::default()
        },
    )
    .unwrap();

    assert_eq!(config.state_dir.value, Path::new("/root-dir"));
    assert_eq!(config.state_dir.origin, "--root");
    assert_eq!(config.decode_threads.value, 3);
    assert!(config.decode_threads.origin.ends_with("config.toml"));
    assert_eq!(
        config.build_threads,
        Valued {
            value: 2,
            origin: "default".to_owned()
        }
    );
}

#[test]
fn a_pipe_is_no_configuration() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let given = Given {
        file: Some(pipe),
        ..Given::default()
    };

    let loaded = Config::load(&given, Places::below(folder.path()), 1);

    assert!(matches!(loaded, Err(ConfigError::Unreadable { .. })));
}

#[test]
fn a_credential_or_an_authority_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let with_key = |length: usize| {
        fs::write(folder.path().join(LOGIN_KEY), vec![b'k'; length]).unwrap();
        let credentials = Some(folder.path().to_owned());
        load(
            "",
            Given {
                credentials,
                ..Given::default()
            },
        )
    };
    let authority = folder.path().join("ca.pem");
    fs::write(&authority, "no certificate\n").unwrap();

    with_key(4096).unwrap();
    let long = with_key(4097).unwrap_err();
    let short = with_key(5).unwrap_err();
    let text = format!("[registries]\nca_files = [{authority:?}]\n");
    let refused = load(&text, Given::default()).unwrap_err();

    assert!(matches!(long, ConfigError::Unreadable { .. }), "{long}");
    assert!(matches!(short, ConfigError::Key { .. }), "{short}");
    assert!(
        matches!(refused, ConfigError::Authority { .. }),
        "{refused}"
    );
    let named = refused.to_string().contains("/ca.pem ");
    assert!(named, "{refused}");
}

#[test]
fn unknown_keys_and_bad_values_are_refused() {
    let cases = [
        "[daemon]\nstat_dir = \"/x\"\n",
        "[demon]\n",
        "[limits]\ndecode_threads = 0\n",
        "[limits]\nmax_operations = -1\n",
        "[limits]\ncostly_calls_burst = 0\n",
        "[limits]\ncostly_calls_per_minute = 1000001\n",
        "[database]\nsnapshot_interval_seconds = 0\n",
        "[database]\nsnapshot_events = 0\n",
        "[audit]\nretention_days = 0\n",
        "[daemon]\nsocket = \"relative.sock\"\n",
        "[guest]\ninit = \"kiln-init\"\n",
        "[registry.limits]\nattempts = 0\n",
        "[registry.limits]\nstall_timeout = 5\n",
        "[daemon]\nsocket_access = \"everybody\"\n",
        "not toml",
        "[registries]\nshort_names = \"maybe\"\n",
        "[registries]\ninsecur = []\n",
        "[registry]\ninsecur = []\n",
        "[registries]\nconf_files = [\"r.conf\"]\n",
        "registry = 7\n",
    ];
    for text in cases {
        assert!(load(text, Given::default()).is_err(), "{text}");
    }
}

#[test]
fn settings_of_registries_stand_in_a_table_of_either_name() {
    for table in ["registry", "registries"] {
        let text = format!("[{table}]\ninsecure = [\"a.lan\"]\nshort_names = \"strict\"\n");
        let config = load(&text, Given::default()).unwrap();
        assert_eq!(config.insecure_registries.value, ["a.lan"]);
        assert_eq!(config.short_names.value, ShortNames::Strict);
        assert!(!config.has_own_rules);
    }
    let rules = "[registries]\ninsecure = [\"a.lan\"]\n[[registry]]\nprefix = \"b.lan\"\n";
    let config = load(rules, Given::default()).unwrap();
    assert!(config.has_own_rules);
    assert_eq!(config.insecure_registries.value, ["a.lan"]);
}

#[test]
fn every_key_of_the_file_is_shown_with_its_origin() {
    let config = load("", Given::default()).unwrap();

    let shown = config.settings();

    assert_eq!(shown.len(), 35);
    assert!(shown.iter().all(|setting| setting.origin == "default"));
}

#[test]
fn a_named_file_must_exist() {
    let given = Given {
        file: Some("/nonexistent/kiln.toml".into()),
        ..Given::default()
    };

    let loaded = Config::load(&given, Places::below(Path::new("/d")), 1);

    assert!(matches!(loaded, Err(ConfigError::Unreadable { .. })));
}
