use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_domain::Secret;

use super::*;

/// A home directory with the files of a case, all places set.
struct Home {
    directory: tempfile::TempDir,
    places: Places,
}

impl Home {
    fn new(files: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let below = |name: &str| Some(directory.path().join(name));
        let places = Places {
            auth_file: None,
            registry_auth_file: None,
            runtime_dir: below("run"),
            user_run_dir: below("run-of-the-user"),
            config_home: below("config"),
            docker_config: below("docker"),
            home: below("home"),
            path: Some(directory.path().join("bin").into_os_string()),
        };
        let home = Self { directory, places };
        for (name, content) in files {
            home.write(name, content);
        }
        home
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Adds a helper that knows one server under `user`.
    fn add_helper(&self, name: &str, server: &str, user: &str) {
        let script = format!(
            "read asked\nif [ \"$asked\" = '{server}' ]; then\n\
             echo '{{\"Username\":\"{user}\",\"Secret\":\"s\"}}'\nelse\n\
             echo 'credentials not found in native keychain'; exit 1\nfi\n"
        );
        let path = self.write("bin/.keep", "");
        let program = path.with_file_name(format!("docker-credential-{name}"));
        crate::testing::install(&program, &script);
    }

    fn find(&self, reference: &str) -> Result<Option<Credentials>, CredentialsError> {
        super::find(
            Target::Repository(&reference.parse().unwrap()),
            &self.places,
        )
    }

    /// Returns the user found, which tells in every test where the entry was.
    fn user(&self, reference: &str) -> Option<String> {
        match self.find(reference).unwrap()? {
            Credentials::Password { username, .. } => Some(username),
            Credentials::IdentityToken(token) => Some(format!("token {}", token.expose())),
        }
    }
}

/// An auth file whose entries are called `key` and belong to `user`.
fn auths(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(key, user)| format!(r#""{key}":{}"#, entry(user)))
        .collect();
    format!(r#"{{"auths":{{{}}}}}"#, entries.join(","))
}

fn entry(user: &str) -> String {
    format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(format!("{user}:p:w")))
}

#[test]
fn files_are_asked_in_order_until_one_answers() {
    let names = [
        "run/containers/auth.json",
        "config/containers/auth.json",
        "docker/config.json",
        "home/.dockercfg",
    ];
    for first in 0..=names.len() {
        let files: Vec<(&str, String)> = names
            .iter()
            .skip(first)
            .map(|name| {
                let content = match *name {
                    "home/.dockercfg" => format!(r#"{{"reg.io":{}}}"#, entry(name)),
                    _ => auths(&[("reg.io", name)]),
                };
                (*name, content)
            })
            .collect();

        let user = Home::new(&files).user("reg.io/app");

        assert_eq!(user.as_deref(), names.get(first).copied());
    }
}

#[test]
fn unset_directories_fall_back_to_the_home() {
    for name in [
        "home/.config/containers/auth.json",
        "home/.docker/config.json",
    ] {
        let mut home = Home::new(&[(name, auths(&[("reg.io", "ada")]))]);
        home.places.config_home = None;
        home.places.docker_config = Some(PathBuf::new());
        assert_eq!(home.user("reg.io/app").as_deref(), Some("ada"), "{name}");
    }
    let reference = "reg.io/app".parse().unwrap();
    let mut home = Home::new(&[("run-of-the-user/auth.json", auths(&[("reg.io", "root")]))]);
    assert_eq!(home.user("reg.io/app"), None);
    home.places.runtime_dir = None;
    assert_eq!(home.user("reg.io/app").as_deref(), Some("root"));
    let nowhere = super::find(Target::Repository(&reference), &Places::default());
    assert_eq!(nowhere.unwrap(), None);
}

#[test]
fn a_named_file_is_asked_alone() {
    let mut home = Home::new(&[
        ("docker/config.json", auths(&[("reg.io", "docker")])),
        ("mine.json", auths(&[("other.io", "mine")])),
        ("variable.json", auths(&[("reg.io", "variable")])),
    ]);
    let below = |home: &Home, name: &str| Some(home.directory.path().join(name));

    home.places.registry_auth_file = below(&home, "variable.json");
    assert_eq!(home.user("reg.io/app").as_deref(), Some("variable"));
    home.places.auth_file = below(&home, "mine.json");
    assert_eq!(home.user("reg.io/app"), None);
    assert_eq!(home.user("other.io/app").as_deref(), Some("mine"));
    home.places.auth_file = below(&home, "missing.json");
    assert!(matches!(
        home.find("reg.io/app"),
        Err(CredentialsError::AuthFileMissing { .. })
    ));
    home.places.auth_file = None;
    // A login may still make that one, but whoever goes on without it is told.
    home.places.registry_auth_file = below(&home, "missing.json");
    let missing = home.find("reg.io/app");
    assert!(matches!(
        missing,
        Err(CredentialsError::AuthFileMissing { .. })
    ));
}

#[test]
fn a_list_is_no_auth_file() {
    let home = Home::new(&[("docker/config.json", "\n []".to_owned())]);

    let Err(CredentialsError::Malformed { line, column, .. }) = home.find("reg.io/app") else {
        panic!("it was taken");
    };

    assert_eq!((line, column), (2, 2));
}

#[test]
fn the_longest_matching_name_wins() {
    let home = Home::new(&[(
        "docker/config.json",
        auths(&[
            ("reg.io", "host"),
            ("reg.io/team", "namespace"),
            ("reg.io/team/app", "repository"),
            ("https://index.docker.io/v1/", "hub"),
            ("docker.io/ada", "hub namespace"),
            ("https://old.io/v2/", "url"),
            ("localhost:5000", "port"),
        ]),
    )]);
    let cases = [
        ("reg.io/team/app:1", Some("repository")),
        ("reg.io/team/app/sub", Some("repository")),
        ("reg.io/team/other", Some("namespace")),
        ("reg.io/teams/app", Some("host")),
        ("reg.io/app", Some("host")),
        ("debian", Some("hub")),
        ("index.docker.io/library/debian", Some("hub")),
        ("ada/image", Some("hub namespace")),
        ("old.io/app", Some("url")),
        ("localhost:5000/app", Some("port")),
        ("localhost/app", None),
        ("localhost:5001/app", None),
        ("sub.reg.io/app", None),
        ("reg.io.evil.io/app", None),
    ];
    for (reference, want) in cases {
        assert_eq!(home.user(reference).as_deref(), want, "for {reference}");
    }
}

#[test]
fn entries_are_read_in_every_form_docker_wrote() {
    let cases = [
        (r#"{"auth":"YWRhOmEgcGFzczp3b3Jk"}"#, "ada", "a pass:word"),
        (r#"{"auth":"YWRhOnB3AAAA"}"#, "ada", "pw"),
        (r#"{"auth":"YWRhOnB3"}"#, "ada", "pw"),
        (r#"{"auth":"YWRhOnB3MQ"}"#, "ada", "pw1"),
        (r#"{"username":"ada","password":"plain"}"#, "ada", "plain"),
    ];
    for (entry, user, password) in cases {
        let content = format!(r#"{{"auths":{{"reg.io":{entry}}}}}"#);
        let home = Home::new(&[("docker/config.json", content)]);
        let want = Credentials::Password {
            username: user.to_owned(),
            secret: Secret::new(password.to_owned()),
        };
        assert_eq!(home.find("reg.io/app").unwrap(), Some(want), "{entry}");
    }
    let identity = r#"{"auths":{"reg.io":{"auth":"YWRhOg==","identitytoken":"idt"}}}"#;
    let home = Home::new(&[("docker/config.json", identity.to_owned())]);
    assert_eq!(home.user("reg.io/app").as_deref(), Some("token idt"));
}

#[test]
fn a_hosts_helper_comes_before_entries_and_the_common_helper_after() {
    let content = format!(
        r#"{{"auths":{{"a.io":{},"b.io":{},"c.io":{{}}}},
            "credHelpers":{{"a.io":"special","https://index.docker.io/v1/":"hub"}},
            "credsStore":"common"}}"#,
        entry("entry a"),
        entry("entry b")
    );
    let home = Home::new(&[("docker/config.json", content)]);
    home.add_helper("special", "a.io", "special a");
    home.add_helper("common", "c.io", "common c");
    home.add_helper("hub", "https://index.docker.io/v1/", "hub");

    let cases = [
        ("a.io/app", Some("special a")),
        ("b.io/app", Some("entry b")),
        ("c.io/app", Some("common c")),
        ("d.io/app", None),
        ("debian", Some("hub")),
    ];
    for (reference, want) in cases {
        assert_eq!(home.user(reference).as_deref(), want, "for {reference}");
    }
}

#[test]
fn a_broken_place_matters_only_when_no_other_answers() {
    let broken = [
        ("{", "Malformed"),
        (r#"{"auths":{"reg.io":{"auth":"hunter2!"}}}"#, "Entry"),
        (r#"{"auths":{"reg.io":{"auth":"aHVudGVyMg=="}}}"#, "Entry"),
        (r#"{"auths":{"reg.io":"hunter2"}}"#, "Malformed"),
        (r#"{"credsStore":"absent-hunter3"}"#, "Helper"),
    ];
    for (content, want) in broken {
        let home = Home::new(&[("run/containers/auth.json", content.to_owned())]);
        let error = home.find("reg.io/app").unwrap_err();
        let (debug, text) = (format!("{error:?}"), error.to_string());
        assert!(debug.starts_with(want), "{content} gave {debug}");
        assert!(
            !debug.contains("hunter2") && !text.contains("hunter2"),
            "{debug}"
        );

        home.write("docker/config.json", &auths(&[("reg.io", "docker")]));
        assert_eq!(home.user("reg.io/app").as_deref(), Some("docker"));
    }
}

#[test]
fn what_is_no_file_or_too_large_is_an_error() {
    let home = Home::new(&[("docker/config.json/x", String::new())]);
    assert!(matches!(
        home.find("reg.io/app"),
        Err(CredentialsError::Unreadable { .. })
    ));

    let home = Home::new(&[("docker/config.json", " ".repeat((1 << 20) + 1))]);
    assert!(matches!(
        home.find("reg.io/app"),
        Err(CredentialsError::TooLarge { .. })
    ));
}
