//! Logging in: once, here or with another tool, and both know it.

mod mishaps;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::registry::{Access, Extras, PASSWORD, Registry, Transport, USER};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::{process, wait};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::descriptors::{self, as_nobody, open_stage};
use crate::source::{self, oci};
use crate::stage::{LIMIT, Stage, folder, pull};

const NEEDS: &[Need] = &[
    tools::DOCKER_REGISTRY,
    tools::SKOPEO,
    tools::OPENSSL,
    tools::HTPASSWD,
];

/// Somebody with a home of their own, and the tools that keep logins there.
pub(crate) struct Person {
    folder: TempDir,
    host: String,
}

impl Person {
    pub(crate) fn at(stage: &Stage) -> Result<Self> {
        let folder = folder()?;
        fs::create_dir(folder.path().join("bin"))?;
        Ok(Self {
            folder,
            host: format!("unix://{}", stage.daemon.socket().display()),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives a command this person's surroundings.
    fn own(&self, mut command: Command) -> Result<Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path);
        let folders = [self.path("bin")].into_iter().chain(folders);
        command
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("PATH", std::env::join_paths(folders).context("PATH")?)
            .env("KILN_HOST", &self.host)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("DOCKER_CONFIG")
            .env_remove("REGISTRY_AUTH_FILE");
        Ok(command)
    }

    /// Runs `kiln` with `words` and `input`.
    pub(crate) fn kiln(&self, words: &[&str], input: &str) -> Result<Output> {
        let mut command = self.own(Command::new(built("kiln")?))?;
        command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run kiln")?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        // One that is refused at once does not read it.
        drop(stdin.write_all(input.as_bytes()));
        drop(stdin);
        child.wait_with_output().context("cannot wait for kiln")
    }

    /// Runs skopeo, which must succeed.
    fn skopeo(&self, words: &[&str]) -> Result<String> {
        let mut command = self.own(process::command(tools::require(tools::SKOPEO)?))?;
        command.args(words);
        Ok(process::run(command, LIMIT)?.text())
    }

    /// Logs in to `scope` and returns what `kiln` says.
    pub(crate) fn login(&self, scope: &str, password: &str) -> Result<Output> {
        let words = ["login", scope, "-u", USER, "--password-stdin", "--json"];
        self.kiln(&words, password)
    }

    /// Fails unless no file of this person's holds `secret`.
    fn assert_nowhere(&self, secret: &str) -> Result<()> {
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
                    assert!(!text.contains(secret), "{} has it", path.display());
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn told(output: &Output) -> Result<Value> {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

/// Says what a registry makes of this person.
fn verdict(person: &Person, scope: &str) -> Result<(Option<i32>, Value)> {
    let output = person.kiln(&["registry", "whoami", scope, "--json"], "")?;
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok((output.status.code(), rows[0].clone()))
}

fn with_small(stage: &Stage, access: Access) -> Result<(Registry, String)> {
    let layout = source::small(&stage.path("layout"))?;
    let registry = Registry::start(access, Transport::Http)?;
    let reference = registry.push(&oci(&layout, "1"), "some/small:1")?;
    Ok((registry, reference))
}

#[test]
fn one_login_serves_kiln_and_skopeo_until_the_logout() -> Result<()> {
    if tools::must_skip("one_login_serves_kiln_and_skopeo", NEEDS)? {
        return Ok(());
    }
    for access in [Access::Basic, Access::Bearer] {
        let stage = Stage::new()?;
        let (registry, reference) = with_small(&stage, access)?;
        let person = Person::at(&stage)?;
        let host = registry.host();

        let wrong = person.login(&host, "wr0ng-pass-w0rd")?;
        assert_eq!(wrong.status.code(), Some(4), "{wrong:?}");
        assert!(!person.path("home").exists(), "something was kept");
        let right = person.login(&host, &format!("{PASSWORD}\n"))?;

        let told = told(&right)?;
        let file = person.path("home/.docker/config.json");
        assert_eq!(told["file"], json!(file));
        assert_eq!(
            (&told["checked"], &told["username"]),
            (&json!(true), &json!(USER))
        );
        assert!(stderr(&right).contains("unencrypted in"), "{right:?}");
        assert!(!format!("{right:?}").contains(PASSWORD), "{right:?}");
        assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
        let (code, row) = verdict(&person, &format!("{host}/some/small"))?;
        assert_eq!(
            (code, &row["verdict"]),
            (Some(0), &json!("accepted")),
            "{row}"
        );
        // The other tool has never logged in.
        let source = format!("docker://{reference}");
        let target = format!("docker://{host}/some/copy:1");
        let no_tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        person.skopeo(&["copy", "--quiet", no_tls[0], no_tls[1], &source, &target])?;
        let words = [
            "pull", &reference, "--kernel", "tiny", "--name", "web", "-q",
        ];
        let pulled = person.kiln(&words, "")?;
        assert_eq!(pulled.status.code(), Some(0), "{pulled:?}");
        if let Some(tokens) = registry.tokens() {
            let asked = tokens.requests();
            let of_login = |status| {
                asked.iter().any(|request| {
                    let is_user = request.user.as_deref() == Some(USER);
                    is_user && request.scopes.is_empty() && request.status == status
                })
            };
            assert!(of_login(401) && of_login(200), "{asked:?}");
        }

        let out = person.kiln(&["logout", &host, "--json"], "")?;
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        let (code, _) = verdict(&person, &host)?;
        assert_eq!(code, Some(4));
        let refused = stage.refused("image.pull", &pull(&reference, "other"))?;
        let hint = refused.data["hint"]["command"].as_str();
        assert_eq!(
            hint,
            Some(format!("kiln login {host}").as_str()),
            "{refused}"
        );
        let again = person.kiln(&["logout", &host], "")?;
        assert_eq!(again.status.code(), Some(0), "{again:?}");
        assert!(stderr(&again).contains("no login"), "{again:?}");
    }
    Ok(())
}

#[test]
fn logins_of_skopeo_are_found_and_forgotten() -> Result<()> {
    if tools::must_skip("logins_of_skopeo_are_found_and_forgotten", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (registry, reference) = with_small(&stage, Access::Basic)?;
    let person = Person::at(&stage)?;
    let host = registry.host();
    let no_tls = "--tls-verify=false";
    fs::create_dir(person.path("run"))?;
    person.skopeo(&["login", no_tls, "-u", USER, "-p", PASSWORD, &host])?;

    let (code, row) = verdict(&person, &host)?;
    let pulled = person.kiln(&["pull", &reference, "--kernel", "tiny", "-q"], "")?;
    let listed = told(&person.kiln(&["registry", "ls", "--json"], "")?)?;
    let everywhere = told(&person.kiln(&["registry", "whoami", "--json"], "")?)?;
    let out = person.kiln(&["logout", "--all"], "")?;

    assert_eq!(
        (code, &row["verdict"]),
        (Some(0), &json!("accepted")),
        "{row}"
    );
    assert_eq!(row["file"], json!(person.path("run/containers/auth.json")));
    assert_eq!(pulled.status.code(), Some(0), "{pulled:?}");
    assert_eq!(listed[0]["registry"], json!(host));
    assert_eq!(everywhere[0]["verdict"], "accepted", "{everywhere}");
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let target = format!("docker://{reference}");
    let inspected = person.skopeo(&["inspect", no_tls, &target]);
    assert!(inspected.is_err(), "skopeo is still logged in");
    Ok(())
}

#[test]
fn a_helper_has_the_password_and_no_file_does() -> Result<()> {
    if tools::must_skip("a_helper_has_the_password", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (registry, reference) = with_small(&stage, Access::Basic)?;
    let person = Person::at(&stage)?;
    let host = registry.host();
    let vault = folder()?;
    let script = format!(
        "#!/bin/sh\ncd '{}' || exit 1\ncase \"$1\" in\nstore) cat > kept ;;\n\
         get) cat kept 2>/dev/null || {{ echo 'credentials not found in native keychain'; exit 1; }} ;;\n\
         erase) rm -f kept ;;\nlist) echo '{{}}' ;;\nesac\n",
        vault.path().display()
    );
    let helper = person.path("bin/docker-credential-mine");
    fs::write(&helper, script)?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    let config = person.path("home/.docker/config.json");
    fs::create_dir_all(person.path("home/.docker"))?;
    fs::write(&config, r#"{"credsStore":"mine","detachKeys":"ctrl-q"}"#)?;

    let told = told(&person.login(&host, PASSWORD)?)?;
    let pulled = person.kiln(&["pull", &reference, "--kernel", "tiny", "-q"], "")?;
    person.assert_nowhere(PASSWORD)?;
    let kept: Value = serde_json::from_slice(&fs::read(vault.path().join("kept"))?)?;
    person.kiln(&["logout", &host], "")?;

    assert_eq!(told["helper"], "mine");
    assert_eq!(pulled.status.code(), Some(0), "{pulled:?}");
    assert_eq!(
        kept,
        json!({"ServerURL": host, "Username": USER, "Secret": PASSWORD})
    );
    assert!(
        !vault.path().join("kept").exists(),
        "the helper still has it"
    );
    let config: Value = serde_json::from_slice(&fs::read(&config)?)?;
    assert_eq!(config["detachKeys"], "ctrl-q");
    Ok(())
}

#[test]
fn a_namespace_has_a_login_of_its_own() -> Result<()> {
    if tools::must_skip("a_namespace_has_a_login_of_its_own", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (registry, reference) = with_small(&stage, Access::Basic)?;
    let person = Person::at(&stage)?;
    let host = registry.host();

    told(&person.login(&format!("{host}/some"), PASSWORD)?)?;
    let pulled = person.kiln(&["pull", &reference, "--kernel", "tiny", "-q"], "")?;

    assert_eq!(pulled.status.code(), Some(0), "{pulled:?}");
    assert_eq!(verdict(&person, &format!("{host}/some/small"))?.0, Some(0));
    assert_eq!(verdict(&person, &format!("{host}/other"))?.0, Some(4));
    assert_eq!(verdict(&person, &host)?.0, Some(4));
    Ok(())
}

#[test]
fn an_open_registry_says_nothing_about_a_password() -> Result<()> {
    if tools::must_skip("an_open_registry_says_nothing", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let person = Person::at(&stage)?;
    let host = registry.host();

    let checked = person.login(&host, "anything")?;
    let words = [
        "login",
        &host,
        "-u",
        "<token>",
        "--password-stdin",
        "--no-check",
        "--json",
    ];
    let unchecked = person.kiln(&words, "t0ken")?;

    assert_eq!(told(&checked)?["checked"], false);
    assert!(
        stderr(&checked).contains("open to everybody"),
        "{checked:?}"
    );
    assert_eq!(told(&unchecked)?["username"], "<token>");
    let file = fs::read(person.path("home/.docker/config.json"))?;
    let file: Value = serde_json::from_slice(&file)?;
    assert_eq!(file["auths"][&host]["identitytoken"], "t0ken");
    Ok(())
}

#[test]
fn passwords_on_the_command_line_and_without_a_terminal_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    let person = Person::at(&stage)?;

    for words in [
        &["login", "reg.io", "-u", "ada", "--password", "hunter2"][..],
        &["login", "reg.io", "-u", "ada", "-phunter2"],
        &["login", "reg.io", "-u", "ada"],
        &["login", "reg.io", "--password-stdin"],
        &["login", "reg.io", "-u", "a:b", "--password-stdin"],
        &["login", "reg.io/Team", "-u", "ada", "--password-stdin"],
        &["logout"],
    ] {
        let output = person.kiln(words, "")?;
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert!(!stderr(&output).contains("hunter2"), "{output:?}");
    }
    let nobody = Person {
        host: format!("unix://{}", person.path("nobody.sock").display()),
        ..person
    };
    let unasked = nobody.login("reg.io", "hunter2")?;
    assert_eq!(unasked.status.code(), Some(7), "{unasked:?}");
    assert!(stderr(&unasked).contains("kiln login reg.io --no-check"));
    assert!(!nobody.path("home").exists());
    Ok(())
}

#[test]
fn a_terminal_is_asked_and_does_not_show_the_password() -> Result<()> {
    if tools::must_skip("a_terminal_is_asked", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = Registry::start(Access::Basic, Transport::Http)?;
    let person = Person::at(&stage)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let own = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&own)?;
    rustix::pty::unlockpt(&own)?;
    let name = rustix::pty::ptsname(&own, Vec::new())?;
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(name.to_str()?)?;
    let said = person.path("said");
    let mut command = person.own(process::command(built("kiln")?))?;
    command
        .args(["login", &registry.host()])
        .stdin(terminal.try_clone()?)
        .stdout(Stdio::null())
        .stderr(File::create(&said)?);
    let mut running = process::start(command, "kiln login")?;
    let mut keyboard = File::from(own);
    let mut answer = |question: &str, text: &str| {
        wait::until(question, LIMIT, || {
            let text = fs::read_to_string(&said)?;
            Ok(text.contains(question).then_some(()))
        })?;
        writeln!(keyboard, "{text}").context("cannot type")
    };

    answer("user name: ", USER)?;
    answer("password for kiln: ", "")?;
    let nothing = running.wait(LIMIT)?;
    assert_eq!(nothing.code(), Some(2), "an empty password");

    let mut command = person.own(process::command(built("kiln")?))?;
    command
        .args(["login", &registry.host(), "-u", USER])
        .stdin(terminal.try_clone()?)
        .stdout(Stdio::null())
        .stderr(File::create(&said)?);
    let mut running = process::start(command, "kiln login")?;
    let is_silent = || -> Result<bool> {
        let modes = tcgetattr(&terminal)?.local_modes;
        Ok(!modes.contains(LocalModes::ECHO))
    };
    wait::until("silence", LIMIT, || Ok(is_silent()?.then_some(())))?;
    writeln!(keyboard, "{PASSWORD}")?;
    let status = running.wait(LIMIT)?;

    assert_eq!(status.code(), Some(0), "{}", fs::read_to_string(&said)?);
    assert!(!is_silent()?, "the terminal is left silent");
    assert_eq!(verdict(&person, &registry.host())?.0, Some(0));
    Ok(())
}

#[test]
fn what_is_shown_and_logged_holds_no_password() -> Result<()> {
    if tools::must_skip("what_is_shown_and_logged", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = Registry::start(Access::Basic, Transport::Http)?;
    let person = Person::at(&stage)?;
    let host = registry.host();
    let words = ["--debug", "login", &host, "-u", USER, "--password-stdin"];

    let output = person.kiln(&words, PASSWORD)?;

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stderr(&output).contains("registry.ping"), "{output:?}");
    assert!(!format!("{output:?}").contains(PASSWORD), "{output:?}");
    let log = fs::read_to_string(stage.daemon.log())?;
    assert!(!log.contains(PASSWORD), "{log}");
    Ok(())
}

#[test]
fn the_daemons_own_logins_are_checked_sealed_and_never_told() -> Result<()> {
    if tools::must_skip("the_daemons_own_logins", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = Registry::start(Access::Bearer, Transport::Http)?;
    let person = Person::at(&stage)?;
    let host = registry.host();
    let team = format!("{host}/team");
    let words = [
        "login",
        "--system",
        &team,
        "-u",
        USER,
        "--password-stdin",
        "--json",
    ];
    let key = stage.root().join("logins.key");

    let wrong = person.kiln(&words, "wr0ng-pass-w0rd")?;
    assert!(!key.exists(), "a key without anything to keep");
    let right = person.kiln(&words, PASSWORD)?;
    let listed = person.kiln(&["registry", "logins", "--json"], "")?;

    assert_eq!(wrong.status.code(), Some(4), "{wrong:?}");
    assert_eq!(told(&right)?["checked"], true);
    let listed = told(&listed)?;
    assert_eq!(listed[0]["registry"], json!(team));
    assert_eq!(listed[0]["username"], USER);
    assert_eq!(fs::metadata(&key)?.permissions().mode() & 0o777, 0o600);
    assert!(!person.path("home").exists(), "the client kept something");
    let events = stage
        .call("event.list", &json!({"limit": 1000}))?
        .to_string();
    assert!(events.contains("login.kept"), "{events}");
    let log = fs::read_to_string(stage.daemon.log())?;
    for text in [listed.to_string(), events, log, format!("{right:?}")] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    for name in ["kiln.db", "kiln.db-wal", "logins.key"] {
        let bytes = fs::read(stage.root().join(name)).unwrap_or_default();
        let mut windows = bytes.windows(PASSWORD.len());
        assert!(
            !windows.any(|window| window == PASSWORD.as_bytes()),
            "{name}"
        );
    }

    let out = |scope: &str| person.kiln(&["logout", "--system", scope], "");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let params = json!({
        "registry": team, "credentials": {"username": USER, "secret": PASSWORD}, "unchecked": true,
    });
    let exposed = stage.refused("registry.login", &params)?;
    assert_eq!(
        exposed.name(),
        Some("registry.login_unreadable"),
        "{exposed}"
    );
    // A new key would open none of what is kept.
    fs::remove_file(&key)?;
    let gone = stage.refused("registry.login", &params)?;
    assert_eq!(gone.name(), Some("registry.login_unreadable"), "{gone}");
    assert!(!key.exists(), "a new key was made");
    assert_eq!(out(&team)?.status.code(), Some(0));
    assert_eq!(out(&team)?.status.code(), Some(3));
    let gone = stage.refused("registry.logout", &json!({"registry": team}))?;
    assert_eq!(gone.name(), Some("registry.not_logged_in"), "{gone}");
    Ok(())
}

#[test]
fn only_superadmins_look_after_the_daemons_logins() -> Result<()> {
    if tools::must_skip("only_superadmins_look_after", descriptors::NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let login = json!({"registry": "reg.io", "credentials": {"username": "a", "secret": "b"}});

    for (method, params) in [
        ("registry.logins", json!({})),
        ("registry.login", login),
        ("registry.logout", json!({"registry": "reg.io"})),
    ] {
        let refused = as_nobody(|| stage.refused(method, &params))?;
        assert_eq!(
            refused.name(),
            Some("request.denied"),
            "{method}: {refused}"
        );
    }
    Ok(())
}

#[test]
fn logins_that_could_not_be_looked_at_are_no_empty_list() -> Result<()> {
    let stage = Stage::new()?;
    let person = Person::at(&stage)?;
    let file = person.path("home/.docker/config.json");
    fs::create_dir_all(person.path("home/.docker"))?;
    let helper = person.path("bin/docker-credential-fail");
    fs::write(&helper, "#!/bin/sh\necho 'boom \u{1b}' >&2\nexit 3\n")?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    let entry = json!({"reg.io": {"auth": "YTpi"}});
    let with_helper = json!({"auths": entry, "credHelpers": {"b.io": "fail"}});

    for verb in ["ls", "whoami"] {
        let words = ["registry", verb, "--json"];
        let words = if verb == "whoami" {
            [&words[..], &["--no-check"]].concat()
        } else {
            words.to_vec()
        };
        fs::write(&file, "{\"auths\": {")?;
        let broken = person.kiln(&words, "")?;
        fs::write(&file, with_helper.to_string())?;
        let partly = person.kiln(&words, "")?;

        assert_eq!(broken.status.code(), Some(2), "{broken:?}");
        assert_eq!(partly.status.code(), Some(9), "{partly:?}");
        let rows: Value = serde_json::from_slice(&partly.stdout)?;
        assert_eq!(rows[0]["registry"], "reg.io", "{rows}");
        let quoted = "docker-credential-fail failed: boom \\u{1b}";
        assert!(stderr(&partly).contains(quoted), "{partly:?}");
    }
    Ok(())
}

#[test]
fn a_pipe_in_place_of_an_auth_file_holds_nobody_up() -> Result<()> {
    let stage = Stage::new()?;
    let person = Person::at(&stage)?;
    fs::create_dir_all(person.path("home/.docker"))?;
    let file = person.path("home/.docker/config.json");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &file,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )?;

    let listed = person.kiln(&["registry", "ls"], "")?;
    let left = person.kiln(&["logout", "reg.io"], "")?;

    for refused in [&listed, &left] {
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let text = stderr(refused);
        assert!(text.contains("not a regular file"), "{text}");
    }
    Ok(())
}

#[test]
fn a_relative_home_is_passed_over_and_an_empty_variable_is_none() -> Result<()> {
    let stage = Stage::new()?;
    let person = Person::at(&stage)?;
    let nowhere = folder()?;
    let mut command = person.own(Command::new(built("kiln")?))?;
    command
        .current_dir(nowhere.path())
        .args(["registry", "ls", "--json"])
        .env("HOME", "relative")
        .env("XDG_RUNTIME_DIR", "")
        .env("KILN_FORMAT", "")
        .env("KILN_PROGRESS", "");
    fs::create_dir_all(nowhere.path().join("relative/.docker"))?;
    let entry = json!({"auths": {"reg.io": {"auth": "YTpi"}}});
    let file = nowhere.path().join("relative/.docker/config.json");
    fs::write(file, entry.to_string())?;

    let output = command.output()?;

    assert!(!told(&output)?.to_string().contains("relative/"));
    let warning = "HOME is not an absolute path and is passed over";
    assert!(stderr(&output).contains(warning), "{output:?}");
    let mut status = person.own(Command::new(built("kiln")?))?;
    status
        .args(["registry", "dev", "status", "--json"])
        .env("KILN_DEV_REGISTRY", "");
    assert_eq!(status.output()?.status.code(), Some(0));
    Ok(())
}

/// What `kiln registry doctor` says, by check.
fn doctor(person: &Person, words: &[&str]) -> Result<(Option<i32>, BTreeMap<String, Value>)> {
    let words = [&["registry", "doctor", "--json"], words].concat();
    let output = person.kiln(&words, "")?;
    let findings: Vec<Value> =
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let by_check = |finding: Value| Some((finding["check"].as_str()?.to_owned(), finding));
    let findings = findings.into_iter().filter_map(by_check).collect();
    Ok((output.status.code(), findings))
}

#[test]
fn the_doctor_says_where_it_breaks_off() -> Result<()> {
    if tools::must_skip("the_doctor_says_where_it_breaks_off", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let person = Person::at(&stage)?;
    let registry = Registry::start(Access::Basic, Transport::Http)?;
    let host = registry.host();
    let level = |found: &BTreeMap<String, Value>, check: &str| found[check]["level"].clone();

    let (code, stranger) = doctor(&person, &[&host])?;
    assert_eq!(code, Some(1), "{stranger:?}");
    assert_eq!(level(&stranger, "connection"), "ok");
    assert_eq!(level(&stranger, "login"), "fail");
    assert_eq!(
        stranger["login"]["command"],
        json!(format!("kiln login {host}"))
    );

    told(&person.login(&host, PASSWORD)?)?;
    let (code, known) = doctor(&person, &[&host])?;
    assert_eq!(code, Some(0), "{known:?}");
    for (check, want) in [
        ("auth files", "ok"),
        ("port", "ok"),
        ("name", "ok"),
        ("connection", "ok"),
        ("proxy", "ok"),
        ("answer", "warn"),
        ("protocol", "ok"),
        ("login", "ok"),
        ("clock", "ok"),
        ("deletion", "ok"),
    ] {
        assert_eq!(level(&known, check), want, "{check}: {known:?}");
    }

    let read_only = json!({"storage": {
        "inmemory": {}, "delete": {"enabled": false},
    }});
    let extras = Extras {
        members: read_only,
        ..Extras::default()
    };
    let read_only = Registry::start_with(Access::Anonymous, Transport::Http, &extras)?;
    let (_, found) = doctor(&person, &[&read_only.host()])?;
    assert_eq!(level(&found, "deletion"), "warn", "{found:?}");

    let secure = Registry::start(Access::Anonymous, Transport::Https)?;
    let (code, found) = doctor(&person, &[&secure.host()])?;
    assert_eq!(code, Some(1));
    assert_eq!(level(&found, "answer"), "fail", "{found:?}");
    assert!(
        found["answer"]["message"].to_string().contains("trusted"),
        "{found:?}"
    );

    let nobody = read_only.host();
    drop(read_only);
    let (code, found) = doctor(&person, &[&nobody])?;
    assert_eq!(code, Some(1));
    assert_eq!(level(&found, "port"), "fail", "{found:?}");
    assert_eq!(level(&found, "connection"), "fail", "{found:?}");

    let (_, here) = doctor(&person, &[])?;
    assert_eq!(level(&here, "program"), "ok", "{here:?}");
    assert!(
        here.contains_key("engine") && here.contains_key("port"),
        "{here:?}"
    );
    Ok(())
}
