use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::thread;

use kiln_domain::Secret;
use serde_json::Value;

use super::*;
use crate::{find, logins};

/// A user with nothing but a home.
struct User {
    directory: tempfile::TempDir,
    places: Places,
}

impl User {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let below = |name: &str| Some(directory.path().join(name));
        let places = Places {
            runtime_dir: below("run"),
            home: below("home"),
            path: Some(directory.path().join("bin").into_os_string()),
            ..Places::default()
        };
        Self { directory, places }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn with(self, name: &str, content: &str) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        self
    }

    /// Adds a helper that keeps what it is told in the file `vault`, one server per line.
    fn with_helper(self, name: &str) -> Self {
        let user = self.with("bin/.keep", "");
        let vault = user.path("vault");
        fs::write(&vault, "").unwrap();
        let script = format!(
            r#"vault='{}'
case "$1" in
store) input=$(cat)
  server=$(printf %s "$input" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/')
  grep -v "\"$server\"" "$vault" > "$vault.new"; mv "$vault.new" "$vault"
  printf '%s\n' "$input" >> "$vault" ;;
get) read server
  grep "\"$server\"" "$vault" || {{ echo 'credentials not found in native keychain'; exit 1; }} ;;
erase) read server
  grep -v "\"$server\"" "$vault" > "$vault.new"; mv "$vault.new" "$vault" ;;
list) sed 's/.*"ServerURL":\("[^"]*"\),"Username":\("[^"]*"\).*/\1:\2,/; 1s/^/{{/; $s/,$/}}/' "$vault" ;;
esac"#,
            vault.display()
        );
        crate::testing::install(
            &user.path(&format!("bin/docker-credential-{name}")),
            &script,
        );
        user
    }

    fn login(&self, scope: &str, secret: &str) -> Result<Kept, KeepError> {
        keep(&scope.parse().unwrap(), &ada(secret), &self.places)
    }

    fn secret(&self, scope: &str) -> Option<String> {
        let scope: LoginScope = scope.parse().unwrap();
        match find(Target::Scope(&scope), &self.places).unwrap()? {
            Credentials::Password { secret, .. } => Some(secret.expose().to_owned()),
            Credentials::IdentityToken(token) => Some(format!("token {}", token.expose())),
        }
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn ada(secret: &str) -> Credentials {
    Credentials::Password {
        username: "ada".to_owned(),
        secret: Secret::new(secret.to_owned()),
    }
}

#[test]
fn whoever_has_no_file_gets_the_one_that_all_tools_read() {
    let user = User::new();

    let kept = user.login("reg.io", "s").unwrap();

    assert_eq!(kept.origin.file, user.path("home/.docker/config.json"));
    assert!(kept.is_plain() && kept.hidden_by.is_none(), "{kept:?}");
    let mode = |name| fs::metadata(user.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("home/.docker/config.json"), 0o600);
    assert_eq!(mode("home/.docker"), 0o700);
    assert_eq!(
        fs::read_to_string(&kept.origin.file).unwrap(),
        "{\n\t\"auths\": {\n\t\t\"reg.io\": {\n\t\t\t\"auth\": \"YWRhOnM=\"\n\t\t}\n\t}\n}\n"
    );
    assert_eq!(user.secret("reg.io/any/thing").as_deref(), Some("s"));
    let nowhere = keep(&"reg.io".parse().unwrap(), &ada("s"), &Places::default());
    assert!(matches!(nowhere, Err(KeepError::NoPlace)), "{nowhere:?}");
}

#[test]
fn the_file_that_is_read_first_takes_the_login() {
    let cases: &[(&[&str], &str)] = &[
        (
            &["run/containers/auth.json", "home/.docker/config.json"],
            "run/containers/auth.json",
        ),
        (
            &[
                "home/.config/containers/auth.json",
                "home/.docker/config.json",
            ],
            "home/.config/containers/auth.json",
        ),
        (&["home/.docker/config.json"], "home/.docker/config.json"),
        // Docker's oldest form is read, but nobody's tools write it any more.
        (&["home/.dockercfg"], "home/.docker/config.json"),
    ];
    for (existing, want) in cases {
        let user = existing
            .iter()
            .fold(User::new(), |user, name| user.with(name, "{}"));

        let kept = user.login("reg.io", "s").unwrap();

        assert_eq!(kept.origin.file, user.path(want), "with {existing:?}");
        assert_eq!(user.secret("reg.io").as_deref(), Some("s"));
    }
}

#[test]
fn a_named_file_is_made_and_no_other_is_touched() {
    let mut user = User::new().with("home/.docker/config.json", "{}");
    user.places.registry_auth_file = Some(user.path("variable.json"));
    user.login("reg.io", "variable").unwrap();
    user.places.auth_file = Some(user.path("new/mine.json"));
    user.login("reg.io", "mine").unwrap();

    assert_eq!(user.secret("reg.io").as_deref(), Some("mine"));
    user.places.auth_file = None;
    assert_eq!(user.secret("reg.io").as_deref(), Some("variable"));
    assert_eq!(
        fs::read(user.path("home/.docker/config.json")).unwrap(),
        b"{}"
    );
    let mut scripted = User::new().with("empty", "");
    scripted.places.auth_file = Some(scripted.path("empty"));
    scripted.login("reg.io", "s").unwrap();
    assert_eq!(scripted.secret("reg.io").as_deref(), Some("s"));
}

#[test]
fn what_is_not_the_login_stays_byte_for_byte() {
    let before = "{\n\t\"big\": 12345678901234567890123,\n\t\"auths\": {\n\t\t\"z.io\": \
         {\"auth\":\"eDp5\", \"n\": 1.50e3, \"t\": \"\\u00e9\\/\"}\n\t},\n\t\"plugins\": { \"x\" : 0.10 }\n}\n";
    let user = User::new().with("home/.docker/config.json", before);

    user.login("reg.io", "s").unwrap();
    let reg = "reg.io".parse().unwrap();
    forget(Chosen::One(&reg), &user.places).unwrap();

    let after = fs::read_to_string(user.path("home/.docker/config.json")).unwrap();
    assert_eq!(after, before);
}

#[test]
fn all_else_in_the_file_stays_in_its_order() {
    let before = "{\n\t\"zeta\": [1, {\"a\": null}],\n\t\"auths\": {\n\t\t\"z.io\": {\n\t\t\t\"auth\": \"eDp5\"\n\t\t},\n\t\t\
         \"https://reg.io/v2/\": {\n\t\t\t\"email\": \"a@b\",\n\t\t\t\"username\": \"old\",\n\t\t\t\"password\": \"old\"\n\t\t},\n\t\t\
         \"a.io\": {}\n\t},\n\t\"HttpHeaders\": {\n\t\t\"X\": \"1\"\n\t},\n\t\"alpha\": 2.50\n}";
    let user = User::new().with("home/.docker/config.json", before);

    let kept = user.login("reg.io", "s").unwrap();
    user.login("reg.io/team", "t").unwrap();

    assert_eq!(kept.origin.key, "https://reg.io/v2/");
    let after = user.json("home/.docker/config.json");
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&after), ["zeta", "auths", "HttpHeaders", "alpha"]);
    assert_eq!(
        keys(&after["auths"]),
        ["z.io", "https://reg.io/v2/", "a.io", "reg.io/team"]
    );
    assert_eq!(
        after["auths"]["https://reg.io/v2/"],
        serde_json::json!({"email": "a@b", "auth": "YWRhOnM="})
    );
    let before: Value = serde_json::from_str(before).unwrap();
    for member in ["zeta", "HttpHeaders", "alpha"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    assert_eq!(user.secret("reg.io/other").as_deref(), Some("s"));
    assert_eq!(user.secret("reg.io/team/app").as_deref(), Some("t"));
}

#[test]
fn the_docker_hub_has_the_name_that_the_files_tool_looks_for() {
    for (name, want) in [
        ("home/.docker/config.json", "https://index.docker.io/v1/"),
        ("run/containers/auth.json", "docker.io"),
    ] {
        let user = User::new().with(name, "{}");

        let kept = user.login("docker.io", "s").unwrap();

        assert_eq!(kept.origin.key, want);
        assert_eq!(
            user.secret("docker.io/library/debian").as_deref(),
            Some("s")
        );
    }
}

#[test]
fn links_stay_links_even_those_that_lead_nowhere_yet() {
    let user = User::new().with("dotfiles/docker.json", "{\"a\": 1}");
    let link = user.path("home/.docker/config.json");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink("../../dotfiles/docker.json", &link).unwrap();
    let dangling = user.path("dangling.json");
    symlink("dotfiles/later/auth.json", &dangling).unwrap();

    user.login("reg.io", "s").unwrap();
    let mut named = user.places.clone();
    named.auth_file = Some(dangling.clone());
    keep(&"reg.io".parse().unwrap(), &ada("d"), &named).unwrap();

    for link in [&link, &dangling] {
        assert!(fs::symlink_metadata(link).unwrap().is_symlink(), "{link:?}");
    }
    assert_eq!(user.json("dotfiles/docker.json")["a"], 1);
    assert_eq!(user.secret("reg.io").as_deref(), Some("s"));
    assert!(user.path("dotfiles/later/auth.json").is_file());
    symlink("loop", user.path("loop")).unwrap();
    named.auth_file = Some(user.path("loop"));
    let error = keep(&"reg.io".parse().unwrap(), &ada("d"), &named).unwrap_err();
    assert!(error.to_string().contains("loop"), "{error}");
}

#[test]
fn logins_at_once_lose_nothing() {
    let user = User::new();

    thread::scope(|scope| {
        for number in 0..16 {
            let user = &user;
            scope.spawn(move || user.login(&format!("reg{number}.io"), "s").unwrap());
        }
    });

    let found = logins(&user.places).unwrap();
    assert_eq!(found.items.len(), 16, "{found:?}");
    let left = fs::read_dir(user.path("home/.docker")).unwrap().count();
    assert_eq!(left, 1, "something was left beside the file");
}

#[test]
fn a_file_that_cannot_be_read_is_left_as_it_is() {
    for content in [
        "{",
        "[]",
        r#"{"auths": []}"#,
        r#"{"auths":{"reg.io":"hunter2"}}"#,
    ] {
        let user = User::new().with("run/containers/auth.json", content);

        let error = user.login("reg.io", "s").unwrap_err();

        assert!(
            matches!(error, KeepError::Read(_)),
            "{content} gave {error}"
        );
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2"), "{text}");
        let after = fs::read_to_string(user.path("run/containers/auth.json")).unwrap();
        assert_eq!(after, content);
    }
}

#[test]
fn a_helper_of_the_host_keeps_it_and_docker_finds_its_mark() {
    let user = User::new()
        .with_helper("test")
        .with("run/containers/auth.json", r#"{"auths":{}}"#)
        .with(
            "home/.docker/config.json",
            r#"{"auths":{"reg.io":{"auth":"b2xkOm9sZA=="}},"credHelpers":{"reg.io":"test"}}"#,
        );

    let kept = user.login("reg.io", "s3cret").unwrap();

    assert_eq!(kept.origin.helper.as_deref(), Some("test"));
    assert!(!kept.is_plain() && kept.hidden_by.is_none(), "{kept:?}");
    assert_eq!(user.secret("reg.io").as_deref(), Some("s3cret"));
    let file = user.json("home/.docker/config.json");
    assert_eq!(file["auths"]["reg.io"], serde_json::json!({}));
    let refused = user.login("reg.io/team", "s").unwrap_err();
    assert!(matches!(refused, KeepError::Namespace { .. }), "{refused}");
    let listed = logins(&user.places).unwrap();
    assert_eq!(listed.items.len(), 1, "{listed:?}");
    assert_eq!(listed.items[0].username.as_deref(), Some("ada"));

    let scope = "reg.io".parse().unwrap();
    let forgotten = forget(Chosen::One(&scope), &user.places).unwrap();
    assert_eq!(forgotten.origins, [kept.origin]);
    assert!(forgotten.problems.is_empty(), "{forgotten:?}");
    assert_eq!(user.secret("reg.io"), None);
    assert_eq!(fs::read(user.path("vault")).unwrap(), b"");
}

#[test]
fn the_helper_of_all_hosts_keeps_hosts_and_the_file_namespaces() {
    let user = User::new()
        .with_helper("all")
        .with("home/.docker/config.json", r#"{"credsStore":"all"}"#);

    let hub = user.login("docker.io", "h").unwrap();
    let team = user.login("reg.io/team", "t").unwrap();

    assert_eq!(hub.origin.helper.as_deref(), Some("all"));
    assert!(team.is_plain());
    assert_eq!(
        user.secret("docker.io/library/debian").as_deref(),
        Some("h")
    );
    assert_eq!(user.secret("reg.io/team").as_deref(), Some("t"));
    let file = user.json("home/.docker/config.json");
    assert_eq!(
        file["auths"]["https://index.docker.io/v1/"],
        serde_json::json!({})
    );
    let names = |user: &User| -> Vec<String> {
        let found = logins(&user.places).unwrap().items;
        found.into_iter().map(|login| login.name).collect()
    };
    assert_eq!(names(&user), ["reg.io/team", "docker.io"]);

    let forgotten = forget(Chosen::All, &user.places).unwrap();
    assert_eq!(forgotten.origins.len(), 2, "{forgotten:?}");
    assert_eq!(names(&user), Vec::<String>::new());
    assert_eq!(
        user.json("home/.docker/config.json"),
        serde_json::json!({"credsStore": "all", "auths": {}})
    );
}

#[test]
fn a_helper_that_fails_keeps_nothing_and_says_so() {
    let user = User::new()
        .with("bin/.keep", "")
        .with("home/.docker/config.json", r#"{"credsStore":"locked"}"#);
    let script = "cat > /dev/null; echo 'the keychain is locked'; exit 1";
    crate::testing::install(&user.path("bin/docker-credential-locked"), script);

    let error = user.login("reg.io", "hunter2").unwrap_err();

    let KeepError::Helper { source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(
        source.to_string(),
        "docker-credential-locked failed: the keychain is locked"
    );
    assert_eq!(
        user.json("home/.docker/config.json"),
        serde_json::json!({"credsStore": "locked"})
    );
}

#[test]
fn a_login_that_another_hides_says_so() {
    let user = User::new()
        .with_helper("test")
        .with(
            "run/containers/auth.json",
            r#"{"auths":{"reg.io":{"auth":"eDp5"}}}"#,
        )
        .with(
            "home/.docker/config.json",
            r#"{"credHelpers":{"reg.io":"test"}}"#,
        );

    let kept = user.login("reg.io", "s").unwrap();

    let hidden_by = kept.hidden_by.unwrap();
    assert_eq!(hidden_by.file, user.path("run/containers/auth.json"));
    assert_eq!(user.secret("reg.io").as_deref(), Some("y"));
}

#[test]
fn logging_out_goes_through_all_files_and_takes_one_name_only() {
    let user = User::new()
        .with(
            "run/containers/auth.json",
            r#"{"auths":{"reg.io":{"auth":"eDp5"},"reg.io/team":{"auth":"eDp5"}},"x":1}"#,
        )
        .with(
            "home/.docker/config.json",
            r#"{"auths":{"https://reg.io":{"auth":"eDp5"}}}"#,
        )
        .with(
            "home/.dockercfg",
            r#"{"reg.io":{"auth":"eDp5"},"a.io":{"auth":"eDp5"}}"#,
        );
    let scope = "reg.io".parse().unwrap();

    let forgotten = forget(Chosen::One(&scope), &user.places).unwrap();
    let again = forget(Chosen::One(&scope), &user.places).unwrap();

    assert_eq!(forgotten.origins.len(), 3, "{forgotten:?}");
    assert!(
        again.origins.is_empty() && again.problems.is_empty(),
        "{again:?}"
    );
    assert_eq!(user.secret("reg.io"), None);
    assert_eq!(user.secret("reg.io/team").as_deref(), Some("y"));
    assert_eq!(user.json("run/containers/auth.json")["x"], 1);
    assert_eq!(
        user.json("home/.dockercfg"),
        serde_json::json!({"a.io": {"auth": "eDp5"}})
    );
    assert!(
        !user.path("home/.config").exists(),
        "a logout made something"
    );
}

#[test]
fn a_broken_file_does_not_keep_the_others_from_being_gone_through() {
    let user = User::new().with("run/containers/auth.json", "{").with(
        "home/.docker/config.json",
        r#"{"auths":{"reg.io":{"auth":"eDp5"}}}"#,
    );
    let scope = "reg.io".parse().unwrap();

    let forgotten = forget(Chosen::One(&scope), &user.places).unwrap();

    assert_eq!(forgotten.origins.len(), 1, "{forgotten:?}");
    assert_eq!(forgotten.problems.len(), 1, "{forgotten:?}");
}

#[test]
fn identity_tokens_are_kept_as_docker_keeps_them() {
    let user = User::new();
    let token = Credentials::IdentityToken(Secret::new("t0ken".to_owned()));

    keep(&"reg.io".parse().unwrap(), &token, &user.places).unwrap();

    assert_eq!(user.secret("reg.io").as_deref(), Some("token t0ken"));
    assert_eq!(
        user.json("home/.docker/config.json")["auths"]["reg.io"],
        serde_json::json!({"auth": "PHRva2VuPjo=", "identitytoken": "t0ken"})
    );
    user.login("reg.io", "s").unwrap();
    assert_eq!(user.secret("reg.io").as_deref(), Some("s"));
}
