//! Agents behind a real `sshd` on loopback, with host keys, users' keys and configuration of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_testkit::process::{self, Running};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::wait;
use serde_json::{Value, json};

use super::gate::Gate;
use super::{names, short, went};
use crate::browsing::printed;
use crate::source::{self, oci};
use crate::stage::{LIMIT, Stage, code, text};

const NEEDS: &[Need] = &[tools::SSHD, tools::SSH, tools::SSH_KEYGEN, Need::Root];

/// Where Debian's `sshd` wants an empty directory (sshd(8), FILES).
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// A running SSH server that lets one key forward, and do nothing else.
struct Server {
    running: Running,
    port: u16,
    folder: PathBuf,
}

impl Server {
    fn start(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        fs::create_dir_all(PRIVILEGE_SEPARATION)?;
        let own = |name: &str| folder.join(name);
        for name in ["host", "stranger", "identity", "other"] {
            make_key(&own(name))?;
        }
        // Nothing of Kiln's is called over there, and no shell: what a key may do beside is denied.
        let public = fs::read_to_string(own("identity.pub"))?;
        let line = format!("restrict,port-forwarding,command=\"/bin/false\" {public}");
        fs::write(own("authorized_keys"), line)?;
        // Nobody else takes the port in between: the kernel gives them out in turn.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nPidFile none\n\
             AuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n",
            own("host").display(),
            own("authorized_keys").display()
        );
        fs::write(own("config"), config)?;
        let log = File::create(own("log"))?;
        let mut command = process::command(tools::require(tools::SSHD)?);
        command.args(["-D", "-e", "-f"]).arg(own("config"));
        command.stdout(log.try_clone()?).stderr(log);
        let mut running = process::start(command, "sshd")?;
        let listening = wait::until("sshd that listens", LIMIT, || {
            if let Some(status) = running.poll()? {
                anyhow::bail!("sshd ended with {status}");
            }
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())
        });
        listening.with_context(|| process::log_tail(&own("log")))?;
        Ok(Self {
            running,
            port,
            folder: folder.to_owned(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file that knows this server by the public key of a name.
    fn known_as(&self, key: &str) -> Result<PathBuf> {
        let public = fs::read_to_string(self.path(&format!("{key}.pub")))?;
        let path = self.path(&format!("known-as-{key}"));
        fs::write(&path, format!("[127.0.0.1]:{} {public}", self.port))?;
        Ok(path)
    }

    fn address(&self, socket: &Path) -> String {
        format!("ssh://root@127.0.0.1:{}{}", self.port, socket.display())
    }
}

fn make_key(path: &Path) -> Result<()> {
    let mut command = process::command(tools::require(tools::SSH_KEYGEN)?);
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path);
    process::run(command, LIMIT).map(drop)
}

fn enter(main: &Stage, name: &str, address: &str, files: (&Path, &Path)) -> Result<Value> {
    let (identity, known_hosts) = files;
    let params = json!({
        "name": name, "address": address, "identity_path": identity,
        "known_hosts_path": known_hosts, "timeout_seconds": 20,
    });
    main.call("agent.add", &params)
}

/// Lists processes whose command line has a text.
fn processes(text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // One that has just ended is none.
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(text) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

#[test]
fn an_agent_behind_ssh_is_purged_and_its_host_key_is_checked() -> Result<()> {
    if tools::must_skip("an_agent_behind_ssh", NEEDS)? {
        return Ok(());
    }
    let (main, other) = (Stage::new()?, Stage::new()?);
    let mut server = Server::start(&main.path("sshd"))?;
    let layout = source::small(&other.path("layout"))?;
    other.pull(&oci(&layout, "1"), "app-old")?;
    let address = server.address(&other.daemon.socket());
    let (identity, known) = (server.path("identity"), server.known_as("host")?);
    let stranger = server.known_as("stranger")?;
    let nobody = server.path("known-to-nobody");
    fs::write(&nobody, "")?;

    enter(&main, "agent-1", &address, (&identity, &known))?;
    enter(&main, "unknown", &address, (&identity, &nobody))?;
    enter(&main, "changed", &address, (&identity, &stranger))?;
    enter(&main, "denied", &address, (&server.path("other"), &known))?;
    let missing = server.path("no-key");
    enter(&main, "keyless", &address, (&missing, &known))?;
    let nowhere = server.address(&other.path("nobody.sock"));
    enter(&main, "nowhere", &nowhere, (&identity, &known))?;

    let pong = main.call("agent.ping", &json!({"agent": "agent-1"}))?;
    assert_eq!(
        (&pong["uid"], &pong["role"]),
        (&json!(0), &json!("superadmin"))
    );
    for (agent, want, words) in [
        (
            "unknown",
            "agent.untrusted",
            "the key of its host is not known",
        ),
        ("changed", "agent.untrusted", "is not the one that is known"),
        (
            "denied",
            "agent.auth_failed",
            "Permission denied (publickey)",
        ),
        ("keyless", "agent.auth_failed", "not accessible"),
        ("nowhere", "agent.unreachable", "open failed"),
    ] {
        let refused = main.refused("agent.ping", &json!({"agent": agent}))?;
        assert_eq!(code(&refused), want, "{agent}: {refused}");
        assert!(refused.message.contains(words), "{agent}: {refused}");
    }
    let changed = main.refused("agent.ping", &json!({"agent": "changed"}))?;
    assert!(
        changed.data["hint"]["text"]
            .to_string()
            .contains("in between"),
        "{changed}"
    );
    let keyless = main.refused("agent.ping", &json!({"agent": "keyless"}))?;
    let hint = keyless.data["hint"]["text"].to_string();
    assert!(hint.contains("private key is there"), "{keyless}");
    // A refusal makes nothing known by the way.
    assert_eq!(fs::read_to_string(&nobody)?, "");

    let purged = main.call("image.purge", &short(&["app-old"], &["agent-1", "changed"]))?;
    assert_eq!(went(&purged)?["agent-1"], ["app-old"]);
    assert_eq!(purged["errors"][0]["error"]["code"], "agent.untrusted");
    assert_eq!(names(&other)?, Vec::<String>::new());
    assert!(printed(&main, &["agent", "show", "agent-1"])?.contains("online"));

    // Each connection ends with its work, and leaves nothing.
    let folder = main.root().join("agents");
    wait::until("the end of ssh", LIMIT, || {
        let is_quiet = processes(&folder.display().to_string())?.is_empty();
        Ok((is_quiet && main.entries("agents")?.is_empty()).then_some(()))
    })?;
    server.running.kill()?;
    let refused = main.refused("agent.ping", &json!({"agent": "agent-1"}))?;
    assert_eq!(code(&refused), "agent.unreachable", "{refused}");
    assert!(refused.message.contains("Connection refused"), "{refused}");
    Ok(())
}

#[test]
fn a_killed_daemon_leaves_no_ssh_behind_its_next_start() -> Result<()> {
    if tools::must_skip("a_killed_daemon_leaves_no_ssh", NEEDS)? {
        return Ok(());
    }
    let (mut main, other) = (Stage::new()?, Stage::new()?);
    let server = Server::start(&main.path("sshd"))?;
    let layout = source::small(&other.path("layout"))?;
    other.pull(&oci(&layout, "1"), "app-old")?;
    let socket = other.path("gate.sock");
    let gate = Gate::start(&socket, &other.daemon.socket(), ("image.purge_by_id", 1))?;
    let files = (server.path("identity"), server.known_as("host")?);
    enter(
        &main,
        "agent-1",
        &server.address(&socket),
        (&files.0, &files.1),
    )?;
    let mut call = short(&["app-old"], &["agent-1"]);
    call["detach"] = json!(true);
    let id = text(&main.call("image.purge", &call)?, "operation_id")?;
    gate.wait_until_held()?;
    let folder = main.root().join("agents").display().to_string();
    assert_eq!(processes(&folder)?.len(), 1);

    main.daemon.kill()?;
    main.daemon.start_again()?;

    wait::until("the end of ssh", LIMIT, || {
        Ok(processes(&folder)?.is_empty().then_some(()))
    })?;
    assert_eq!(main.entries("agents")?, Vec::<String>::new());
    let operation = main.call("operation.get", &json!({"operation_id": id}))?;
    assert_eq!(operation["state"], "interrupted");
    gate.open();
    let again = main.call("image.purge", &short(&["app-old"], &["agent-1"]))?;
    assert_eq!(again["errors"], json!([]));
    assert_eq!(names(&other)?, Vec::<String>::new());
    Ok(())
}
