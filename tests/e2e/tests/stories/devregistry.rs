//! A development registry in one command.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use kiln_testkit::daemon::built;
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::wait;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::descriptors::as_nobody;
use crate::source::{self, oci};
use crate::stage::{KERNEL, LIMIT, Stage, folder};

const NEEDS: &[Need] = &[tools::DOCKER_REGISTRY, tools::SKOPEO, tools::CURL];

/// How often a port that was free a moment ago is chosen anew.
const TRIES: usize = 5;

/// A developer; the registry goes with them.
struct Developer {
    folder: TempDir,
    path: Option<PathBuf>,
}

impl Developer {
    fn new() -> Result<Self> {
        let folder = folder()?;
        fs::create_dir(folder.path().join("bin"))?;
        symlink(built("kiln")?, folder.path().join("bin/kiln"))?;
        Ok(Self { folder, path: None })
    }

    /// Gives them these programs and no others.
    fn with_programs(mut self, programs: &[(&str, &str)]) -> Result<Self> {
        let only = self.folder.path().join("only");
        fs::create_dir(&only)?;
        for (name, script) in programs {
            let program = only.join(name);
            fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        }
        self.path = Some(only);
        Ok(self)
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("registry")
    }

    fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        let all = std::env::var_os("PATH").unwrap_or_default();
        let all = [self.folder.path().join("bin")]
            .into_iter()
            .chain(std::env::split_paths(&all));
        let path = match &self.path {
            Some(only) => only.clone().into_os_string(),
            None => std::env::join_paths(all).context("PATH")?,
        };
        let mut command = Command::new(program.as_ref());
        command
            .env("PATH", path)
            .env("KILN_DEV_REGISTRY", self.state())
            // Variables for clients, which the registry would take for its own.
            .env("REGISTRY_URL", "http://localhost:5000")
            .env("REGISTRY_INSECURE", "true")
            .stdin(Stdio::null());
        Ok(command)
    }

    fn dev(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.command(built("kiln")?)?;
        command.args(["--debug", "registry", "dev"]).args(words);
        command.output().context("cannot run kiln")
    }

    /// Starts it on a free port, and returns the port.
    fn up(&self) -> Result<u16> {
        for _ in 0..TRIES {
            let port = free_port()?;
            let output = self.dev(&["up", "--port", &port.to_string()])?;
            match output.status.code() {
                Some(0) => return Ok(port),
                // Somebody else was faster.
                Some(5) => {}
                _ => bail!("{output:?}"),
            }
        }
        bail!("no port stayed free")
    }

    fn status(&self) -> Result<Value> {
        let output = self.dev(&["status", "--json"])?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
    }

    /// Runs a line of the documentation.
    fn type_line(&self, line: &str, host: &str) -> Result<String> {
        let mut command = self.command("/bin/sh")?;
        command.args(["-c", line]).env("KILN_HOST", host);
        let output = command.output()?;
        ensure!(output.status.success(), "{line}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Developer {
    fn drop(&mut self) {
        // Nobody can be told; a registry that is left listens on loopback and on nothing else.
        drop(self.dev(&["wipe", "--yes"]));
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Fails unless a command was refused with a code, which `--debug` shows.
fn assert_refused(output: &Output, exit: i32, code: &str) {
    assert_eq!(output.status.code(), Some(exit), "{output:?}");
    assert!(
        said(output).contains(&format!("code: {code}\n")),
        "{output:?}"
    );
}

#[test]
fn the_documentation_works_as_it_is_written() -> Result<()> {
    if tools::must_skip("the_documentation_works_as_it_is_written", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    stage.call("kernel.set_default", &json!({"name": KERNEL}))?;
    let host = format!("unix://{}", stage.daemon.socket().display());
    // Docker's old manifests know gzip alone.
    let mut layout = Layout::create(stage.path("layout"))?;
    let layer = layout.add_layer(&[Entry::file("bin", "sh")], Compression::Gzip)?;
    let image = layout.add_image(&[layer], &Platform::linux("amd64"))?;
    layout.tag("1", &image)?;
    let developer = Developer::new()?;
    let port = free_port()?;
    let page = fs::read_to_string(root().join("docs/registries.md"))?;
    let (_, section) = page
        .split_once("## A registry to develop against")
        .context("no section")?;
    let block = section.split("```").nth(1).context("no block")?;
    let block = block
        .replace("localhost:5000", &format!("localhost:{port}"))
        .replace("docker://alpine:latest", &oci(&layout, "1"))
        .replace("dev up", &format!("dev up --port {port}"));

    let mut lines = block.lines().skip(1).peekable();
    let mut typed = 0;
    while let Some(line) = lines.next() {
        let command = line.strip_prefix("$ ").context("no command")?;
        let printed = developer.type_line(command, &host)?;
        typed += 1;
        let mut printed = printed.lines();
        while let Some(want) = lines.next_if(|line| !line.starts_with("$ ")) {
            if want == "…" {
                printed = "".lines();
                continue;
            }
            assert_eq!(printed.next(), Some(want), "{command}");
        }
        assert_eq!(printed.next(), None, "{command}");
    }

    assert_eq!(typed, 10);
    assert!(!developer.state().exists(), "something is left");
    Ok(())
}

#[test]
fn it_outlives_the_client_and_keeps_what_it_has_until_it_is_wiped() -> Result<()> {
    if tools::must_skip("it_outlives_the_client", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let developer = Developer::new()?;

    let port = developer.up()?;
    let first = developer.status()?;
    let again = developer.dev(&["up", "--json"])?;
    let elsewhere = developer.dev(&["up", "--port", "1"])?;

    let pid = first["pid"].as_u64().context("no pid")?;
    assert_eq!(
        (&first["health"], &first["port"]),
        (&json!("ok"), &json!(port))
    );
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind = stat.rsplit_once(')').context("stat")?.1;
    let session = behind.split_ascii_whitespace().nth(3);
    assert_eq!(
        session,
        Some(pid.to_string().as_str()),
        "not its own session"
    );
    let again: Value = serde_json::from_slice(&again.stdout)?;
    assert_eq!(again["pid"], json!(pid), "up twice is up once");
    assert_refused(&elsewhere, 5, "registry.port_busy");

    let target = format!("docker://localhost:{port}/some/small:1");
    let copy = format!(
        "skopeo copy --quiet --dest-tls-verify=false {} {target}",
        oci(&layout, "1")
    );
    developer.type_line(&copy, "")?;
    assert!(developer.status()?["data_bytes"].as_u64() > Some(0));
    let digest = format!("skopeo inspect --format '{{{{.Digest}}}}' --tls-verify=false {target}");
    let digest = developer.type_line(&digest, "")?;
    let kill = format!("kill -9 {pid}");
    developer.type_line(&kill, "")?;
    wait::until("end of the registry", LIMIT, || {
        Ok((developer.status()?["health"] == "down").then_some(()))
    })?;
    let words = ["up", "--port", &port.to_string(), "--json"];
    let after: Value = serde_json::from_slice(&developer.dev(&words)?.stdout)?;
    assert_ne!(after["pid"], json!(pid));
    let manifest = format!(
        "http://localhost:{port}/v2/some/small/manifests/{}",
        digest.trim()
    );
    let delete = format!("curl -s -o /dev/null -w '%{{http_code}}' -X DELETE {manifest}");
    assert_eq!(developer.type_line(&delete, "")?, "202", "deleting is on");
    let logs = developer.dev(&["logs"])?;
    assert!(
        String::from_utf8_lossy(&logs.stdout).contains("DELETE"),
        "{logs:?}"
    );
    let down = developer.dev(&["down"])?;
    assert_eq!(down.status.code(), Some(0), "{down:?}");
    assert_eq!(developer.status()?["health"], "down");
    assert!(developer.state().join("data").exists());
    assert_eq!(developer.dev(&["down"])?.status.code(), Some(0), "twice");
    assert_eq!(developer.dev(&["wipe"])?.status.code(), Some(2), "it asks");
    developer.dev(&["wipe", "--yes"])?;
    assert!(!developer.state().exists());
    Ok(())
}

#[test]
fn a_number_that_was_given_to_another_process_is_nobodys() -> Result<()> {
    if tools::must_skip("a_number_that_was_given_to_another_process", NEEDS)? {
        return Ok(());
    }
    let developer = Developer::new()?;
    developer.up()?;
    let note = developer.state().join("running.json");
    let text = fs::read(&note)?;
    let mut record: Value = serde_json::from_slice(&text)?;
    // This process would be ended.
    record["started"]["server"]["pid"] = json!(std::process::id());
    fs::write(&note, record.to_string())?;

    let status = developer.status()?;
    let down = developer.dev(&["down"])?;

    assert_eq!(status["health"], "down");
    assert_eq!(down.status.code(), Some(0), "{down:?}");
    fs::write(&note, text)?;
    assert_eq!(developer.status()?["health"], "ok");
    Ok(())
}

#[test]
fn a_taken_port_and_a_missing_program_are_explained() -> Result<()> {
    if tools::must_skip("a_taken_port_and_a_missing_program", NEEDS)? {
        return Ok(());
    }
    let developer = Developer::new()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let nobody = Developer::new()?.with_programs(&[("registry", "echo 'npm registry 1.0'")])?;

    let busy = developer.dev(&["up", "--port", &port.to_string()])?;
    let missing = nobody.dev(&["up", "--port", &free_port()?.to_string()])?;

    assert_refused(&busy, 5, "registry.port_busy");
    let own = format!("(pid {})", std::process::id());
    assert!(said(&busy).contains(&own), "{busy:?}");
    assert!(
        said(&busy).contains("kiln registry dev up --port "),
        "{busy:?}"
    );
    assert_refused(&missing, 3, "registry.no_server");
    assert!(
        said(&missing).contains("apt install docker-registry"),
        "{missing:?}"
    );
    Ok(())
}

#[test]
fn a_broken_note_is_told_and_got_over() -> Result<()> {
    if tools::must_skip("a_broken_note_is_told", NEEDS)? {
        return Ok(());
    }
    let developer = Developer::new()?;
    let note = developer.state().join("running.json");
    for (break_off, ends) in [(&["down"][..], "down"), (&["wipe", "--yes"], "wipe")] {
        let port = developer.up()?;
        fs::write(&note, "{garbage")?;

        let status = developer.dev(&["status"])?;
        let up = developer.dev(&["up"])?;
        let ended = developer.dev(break_off)?;

        for refused in [&status, &up] {
            assert_refused(refused, 2, "file.wrong_kind");
            assert!(said(refused).contains("registry dev down"), "{refused:?}");
            assert!(said(refused).contains("`wipe`"), "{refused:?}");
        }
        assert_eq!(ended.status.code(), Some(0), "{ends}: {ended:?}");
        assert!(!note.exists(), "{ends}");
        // What was not noted is stopped as well.
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context(ends)?;
    }
    assert!(!developer.state().exists());
    Ok(())
}

#[test]
fn what_this_user_may_not_do_is_said_with_the_path_or_the_port() -> Result<()> {
    let developer = Developer::new()?;
    fs::create_dir(developer.state())?;
    fs::set_permissions(developer.state(), fs::Permissions::from_mode(0o700))?;
    fs::set_permissions(developer.folder.path(), fs::Permissions::from_mode(0o777))?;
    let own = developer.folder.path().join("own");
    let own = own.to_str().context("not text")?;
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;

    let absent = developer.dev(&["up", "--dir", "/proc/nothing/here"])?;
    let (status, up, low) = as_nobody(|| {
        Ok((
            developer.dev(&["status"])?,
            developer.dev(&["up"])?,
            developer.dev(&["up", "--port", "1", "--dir", own])?,
        ))
    })?;

    assert_refused(&absent, 3, "file.not_found");
    assert!(said(&absent).contains("/proc/nothing/here"), "{absent:?}");
    let state = developer.state().display().to_string();
    for refused in [&status, &up] {
        assert_refused(refused, 4, "file.unreadable");
        assert!(said(refused).contains(&state), "{refused:?}");
    }
    // A host may open all ports to everybody.
    if first.trim() != "0" {
        assert_refused(&low, 4, "registry.port_denied");
        assert!(said(&low).contains("ip_unprivileged_port_start"), "{low:?}");
    }
    Ok(())
}

#[test]
fn the_doctor_looks_where_the_registry_is() -> Result<()> {
    if tools::must_skip("the_doctor_looks_where_the_registry_is", NEEDS)? {
        return Ok(());
    }
    let mut developer = Developer::new()?;
    let port = developer.up()?;
    // Nothing on PATH but the registry.
    let registry = tools::require(tools::DOCKER_REGISTRY)?;
    let only = developer.folder.path().join("only");
    fs::create_dir(&only)?;
    symlink(registry, only.join("docker-registry"))?;
    developer.path = Some(only);

    let mut command = developer.command(built("kiln")?)?;
    command
        .env_remove("REGISTRY_URL")
        .env("HOME", developer.folder.path())
        .args(["registry", "doctor", "--json"]);
    let output = command.output()?;

    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let of = |check: &str| findings.iter().find(|finding| finding["check"] == check);
    let engine = of("engine").context("no engine")?;
    assert_eq!(engine["level"], "ok", "{engine}");
    let told = of("port").context("no port")?;
    let message = told["message"].as_str().context("no message")?;
    assert!(message.contains(&port.to_string()), "{told}");
    assert_eq!(told["level"], "ok", "{told}");
    Ok(())
}

#[test]
fn a_directory_that_is_somebodys_is_neither_taken_nor_wiped() -> Result<()> {
    let developer =
        Developer::new()?.with_programs(&[("docker", "echo 'no such thing' >&2; exit 1")])?;
    let theirs = developer.state();
    fs::create_dir_all(theirs.join("data"))?;
    for file in ["config.yml", "registry.log", "data/years-of-work"] {
        fs::write(theirs.join(file), "theirs")?;
    }

    let up = developer.dev(&["up", "--port", &free_port()?.to_string()])?;
    let wipe = developer.dev(&["wipe", "--yes"])?;

    for refused in [&up, &wipe] {
        assert_refused(refused, 2, "file.wrong_kind");
        let named = said(refused).contains(&theirs.display().to_string());
        assert!(named, "{refused:?}");
    }
    for file in ["config.yml", "registry.log", "data/years-of-work"] {
        assert_eq!(fs::read_to_string(theirs.join(file))?, "theirs");
    }
    assert_eq!(fs::read_dir(&theirs)?.count(), 3, "something was added");

    // What is put beside a registry's own files outlives it, and the directory can be used again.
    let mine = developer.folder.path().join("mine");
    let directory = mine.to_str().context("not text")?;
    let port = free_port()?.to_string();
    developer.dev(&["up", "--port", &port, "--dir", directory])?;
    fs::write(mine.join("notes"), "mine")?;
    let wipe = developer.dev(&["wipe", "--yes", "--dir", directory])?;
    let again = developer.dev(&["up", "--port", &port, "--dir", directory])?;
    assert_eq!(wipe.status.code(), Some(0), "{wipe:?}");
    assert_eq!(fs::read_to_string(mine.join("notes"))?, "mine");
    assert!(!said(&again).contains("file.wrong_kind"), "{again:?}");
    Ok(())
}

#[test]
fn a_start_that_is_given_up_can_be_stopped() -> Result<()> {
    // It says what it is, and never listens.
    let script = r#"case "$1" in
--version) echo 'registry github.com/docker/distribution 2.8' ;;
*) exec /bin/sleep 1000 ;;
esac"#;
    let developer = Developer::new()?.with_programs(&[("registry", script)])?;
    let mut up = developer.command(built("kiln")?)?;
    let port = free_port()?.to_string();
    up.args(["registry", "dev", "up", "--port", &port]);
    let mut up = up.spawn()?;
    let note = developer.state().join("running.json");
    wait::until("note of the registry", LIMIT, || {
        Ok(note.exists().then_some(()))
    })?;
    up.kill()?;
    up.wait()?;
    let status = developer.status()?;
    let down = developer.dev(&["down"])?;

    let pid = status["pid"].as_u64().context("no pid")?;
    assert_eq!(status["health"], "silent");
    assert_eq!(down.status.code(), Some(0), "{down:?}");
    wait::until("end of the registry", LIMIT, || {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Ok(command.is_empty().then_some(()))
    })?;
    Ok(())
}

/// An engine that writes down what it is told, beside itself, and keeps the labels of what it has.
const ENGINE: &str = r#"here=${0%/*}
echo "$@" >> "$here/told"
for last; do :; done
case "$1 $2" in
"container inspect" | "volume inspect")
    [ -e "$here/$1.$last" ] || { echo "Error: no such $1 $last" >&2; exit 1; }
    case "$4" in *State.Running*) echo true ;; *) read -r label < "$here/$1.$last"; echo "$label" ;; esac ;;
"volume create") echo "${4#*=}" > "$here/volume.$last" ;;
"volume rm") /bin/rm "$here/volume.$last" ;;
"rm --force") /bin/rm "$here/container.$last" ;;
"run --detach") echo "${6#*=}" > "$here/container.$4" ;;
"logs --tail") echo 'listening on' >&2 ;;
esac"#;

/// Returns what the engine of a developer has: containers and volumes, sorted.
fn things(developer: &Developer) -> Result<Vec<String>> {
    let mut things = Vec::new();
    for entry in fs::read_dir(developer.folder.path().join("only"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.contains('.') {
            things.push(name);
        }
    }
    things.sort_unstable();
    Ok(things)
}

#[test]
fn containers_of_two_directories_leave_each_other_alone() -> Result<()> {
    let developer = Developer::new()?.with_programs(&[("podman", ENGINE)])?;
    let other = developer.folder.path().join("other");
    let other = other.to_str().context("not text")?;

    developer.up()?;
    let first = things(&developer)?;
    let up = developer.dev(&["up", "--port", &free_port()?.to_string(), "--dir", other])?;
    let both = things(&developer)?;
    for words in [["down", "--dir", other], ["down", "--dir", other]] {
        assert_eq!(developer.dev(&words)?.status.code(), Some(0));
    }
    let stopped = things(&developer)?;
    let wipe = developer.dev(&["wipe", "--yes", "--dir", other])?;

    assert_eq!((up.status.code(), wipe.status.code()), (Some(0), Some(0)));
    assert_eq!((first.len(), both.len(), stopped.len()), (2, 4, 3));
    assert_eq!(things(&developer)?, first, "of the other, nothing is left");

    // What is called like ours and bears another label is not ours.
    let only = developer.folder.path().join("only");
    for thing in &first {
        fs::write(only.join(thing), "somebody\n")?;
    }
    let up = developer.dev(&["up", "--port", &free_port()?.to_string()])?;
    let wipe = developer.dev(&["wipe", "--yes"])?;
    assert_refused(&up, 8, "registry.engine_failed");
    assert_refused(&wipe, 8, "registry.engine_failed");
    assert_eq!(things(&developer)?, first);
    Ok(())
}

#[test]
fn without_a_program_an_engine_gets_what_the_compose_file_says() -> Result<()> {
    let developer = Developer::new()?.with_programs(&[("podman", ENGINE)])?;

    let port = developer.up()?;
    let status = developer.status()?;
    let logs = developer.dev(&["logs", "-n", "7"])?;
    let down = developer.dev(&["down"])?;
    let told = fs::read_to_string(developer.folder.path().join("only/told"))?;
    developer.dev(&["wipe", "--yes"])?;

    let name = status["container"].as_str().context("no name")?;
    assert!(name.starts_with("kiln-dev-registry-"), "{name}");
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "listening on\n");
    assert_eq!(down.status.code(), Some(0), "{down:?}");
    let run = told
        .lines()
        .find(|line| line.starts_with("run "))
        .context("no run")?;
    let compose = fs::read_to_string(root().join("docker-compose.yml"))?;
    for part in [
        format!("--publish 127.0.0.1:{port}:5000"),
        format!("--volume {name}:/var/lib/registry"),
        "--env REGISTRY_STORAGE_DELETE_ENABLED=true".to_owned(),
        "--env REGISTRY_HTTP_ADDR=0.0.0.0:5000".to_owned(),
        "--restart unless-stopped".to_owned(),
        "registry:2".to_owned(),
    ] {
        assert!(run.contains(&part), "no {part} in {run}");
    }
    for part in [
        "    image: registry:2\n",
        "    container_name: local-registry\n",
        "      - \"127.0.0.1:5000:5000\"\n",
        "      - registry_data:/var/lib/registry\n",
        "      REGISTRY_STORAGE_DELETE_ENABLED: \"true\"\n",
        "      REGISTRY_HTTP_ADDR: \"0.0.0.0:5000\"\n",
        "    restart: unless-stopped\n",
        "  registry_data:\n    driver: local\n",
    ] {
        assert!(compose.contains(part), "no {part:?} in the compose file");
    }
    let makefile = fs::read_to_string(root().join("Makefile"))?;
    for part in [
        "registry-up:\n\t$(COMPOSE) up --detach\n",
        "registry-down:\n\t$(COMPOSE) down\n",
        "registry-clean:\n\t$(COMPOSE) down --volumes\n",
    ] {
        assert!(makefile.contains(part), "no {part:?} in the Makefile");
    }
    Ok(())
}

#[test]
fn an_engine_that_refuses_is_explained() -> Result<()> {
    let denied =
        "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1";
    let asleep =
        "echo 'Cannot connect to the Docker daemon. Is the docker daemon running?' >&2; exit 1";
    let port = free_port()?.to_string();
    let up = |script: &str| {
        let developer = Developer::new()?.with_programs(&[("docker", script)])?;
        developer.dev(&["up", "--port", &port])
    };

    let denied = up(denied)?;
    let asleep = up(asleep)?;

    assert_refused(&denied, 4, "registry.engine_denied");
    assert!(
        said(&denied).contains("sudo usermod -aG docker"),
        "{denied:?}"
    );
    assert_refused(&asleep, 8, "registry.engine_failed");
    assert!(
        said(&asleep).contains("systemctl start docker"),
        "{asleep:?}"
    );
    Ok(())
}
