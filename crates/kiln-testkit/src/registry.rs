//! The real `docker-registry` on a free loopback port: open, with a password, with tokens, and
//! each over HTTP or over HTTPS with an authority of its own.
//!
//! It lives in a temporary folder and is stopped when dropped. What it was asked is read from its
//! own access log.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificates::{self, Identity};
use crate::process::{self, Running};
use crate::token::{self, Rules, Strangers, TokenServer};
use crate::tools;
use crate::wait;

/// Name of the one account, where there is one.
pub const USER: &str = "kiln";

/// Name of an account that may only pull, where there are tokens; its password is the same.
pub const READER: &str = "reader";

/// Its password; the colon tells whether a client splits credentials at the first one only.
pub const PASSWORD: &str = "pass:word";

/// Longest time the registry may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Longest time one copy of an image may take.
const COPY_LIMIT: Duration = Duration::from_secs(600);

/// How long the access log must not have grown before it counts as complete. The registry writes
/// a line after it has answered, so a client may be ahead of it.
const LOG_QUIET: Duration = Duration::from_millis(60);

/// Who may do what in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody everything.
    Anonymous,
    /// [`USER`] everything, by password with each request; others nothing.
    Basic,
    /// [`USER`] everything and others nothing, by tokens.
    Bearer,
    /// [`USER`] everything and others pulling, by tokens.
    BearerWithPublicPull,
}

/// How clients reach a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP.
    Http,
    /// HTTPS with a certificate of an authority that nobody else knows.
    Https,
}

/// What else a registry is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// It asks for a certificate of its authority; see [`Registry::client`]. Over HTTPS only.
    pub wants_client_certificate: bool,
    /// It is a pull-through cache of the registry at this URL, and keeps what it fetched.
    pub upstream: Option<String>,
    /// Members that its configuration has besides.
    pub members: Value,
}

/// One line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Such as `GET`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Status of the answer.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
}

/// A running registry; dropping it stops it and removes what it stored.
#[derive(Debug)]
pub struct Registry {
    // In this order: the registry stops before its folder goes.
    running: Running,
    tokens: Option<TokenServer>,
    authority: Option<Identity>,
    client: Option<Identity>,
    access: Access,
    address: SocketAddr,
    folder: TempDir,
}

impl Registry {
    /// Starts an empty registry and waits until it listens.
    pub fn start(access: Access, transport: Transport) -> Result<Self> {
        Self::start_with(access, transport, &Extras::default())
    }

    /// Starts an empty registry that is more than that, and waits until it listens.
    pub fn start_with(access: Access, transport: Transport, extras: &Extras) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for the registry")?;
        let path = folder.path();
        let tokens = start_tokens(access, path)?;
        let mut configuration = json!({
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": false}},
            "storage": {
                "filesystem": {"rootdirectory": path.join("storage")},
                "delete": {"enabled": true},
            },
            "http": {"addr": "127.0.0.1:0", "secret": "kiln-tests"},
        });
        if access == Access::Basic {
            let file = password_file(path)?;
            configuration["auth"] = json!({"htpasswd": {"realm": "kiln-tests", "path": file}});
        }
        if let Some(tokens) = &tokens {
            configuration["auth"] = json!({"token": {
                "realm": tokens.realm(),
                "service": token::SERVICE,
                "issuer": token::ISSUER,
                "rootcertbundle": path.join("tokens.crt"),
            }});
        }
        if let Some(upstream) = &extras.upstream {
            configuration["proxy"] = json!({"remoteurl": upstream});
        }
        let mut authority = None;
        let mut client = None;
        if transport == Transport::Https {
            let signer = certificates::authority(path)?;
            let server = certificates::loopback_server(path, &signer)?;
            configuration["http"]["tls"] =
                json!({"certificate": server.certificate, "key": server.key});
            if extras.wants_client_certificate {
                configuration["http"]["tls"]["clientcas"] = json!([signer.certificate]);
                client = Some(certificates::client(path, &signer)?);
            }
            authority = Some(signer);
        }
        for (name, value) in extras.members.as_object().into_iter().flatten() {
            configuration[name] = value.clone();
        }
        // JSON is YAML, which is what the registry reads.
        let file = path.join("config.yml");
        fs::write(&file, configuration.to_string()).context("cannot configure the registry")?;

        let (running, address) = serve(path, &file)?;
        Ok(Self {
            running,
            tokens,
            authority,
            client,
            access,
            address,
            folder,
        })
    }

    /// Returns where it listens: the first part of a reference, such as `127.0.0.1:5000`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the certificate of the authority clients must know, where it speaks HTTPS.
    pub fn authority(&self) -> Option<&Path> {
        let authority = self.authority.as_ref();
        authority.map(|authority| authority.certificate.as_path())
    }

    /// Returns a certificate that it takes, where it asks for one.
    pub fn client(&self) -> Option<&Identity> {
        self.client.as_ref()
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it; nobody answers any more.
    pub fn stop(&mut self) -> Result<()> {
        self.running.stop(START_LIMIT).map(drop)
    }

    /// Returns the server of its tokens, where it has one.
    pub fn tokens(&self) -> Option<&TokenServer> {
        self.tokens.as_ref()
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Returns its storage folder, for tests that damage what it serves.
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("storage/docker/registry/v2")
    }

    /// Writes the auth file that docker and podman would have for [`USER`], and returns its path.
    pub fn auth_file(&self) -> Result<PathBuf> {
        let path = self.folder.path().join("auth.json");
        let account = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let auths = json!({"auths": {self.host(): {"auth": account}}});
        fs::write(&path, auths.to_string()).context("cannot write the auth file")?;
        Ok(path)
    }

    /// Copies `source`, such as `oci:DIR:TAG`, to `repository_and_tag` with skopeo, and returns
    /// the full reference. An index is copied with all its images; digests stay as they are.
    pub fn push(&self, source: &str, repository_and_tag: &str) -> Result<String> {
        let reference = format!("{}/{repository_and_tag}", self.host());
        let mut command = process::command(tools::require(tools::SKOPEO)?);
        command.arg("--insecure-policy");
        // Its default is below /var/tmp, where nobody would clean up after a kill.
        command.arg("--tmpdir").arg(self.folder.path());
        command.args(["copy", "--quiet", "--all", "--preserve-digests"]);
        match self.authority() {
            Some(authority) => {
                let folder = self.folder.path().join("certs");
                fs::create_dir_all(&folder).context("cannot make a folder for certificates")?;
                fs::copy(authority, folder.join("ca.crt")).context("cannot copy a certificate")?;
                if let Some(client) = &self.client {
                    fs::copy(&client.certificate, folder.join("client.cert"))?;
                    fs::copy(&client.key, folder.join("client.key"))?;
                }
                command.arg("--dest-cert-dir").arg(folder);
            }
            None => drop(command.arg("--dest-tls-verify=false")),
        }
        if self.access != Access::Anonymous {
            command.arg("--dest-authfile").arg(self.auth_file()?);
        }
        command.arg(source).arg(format!("docker://{reference}"));
        process::run(command, COPY_LIMIT).with_context(|| self.log_tail())?;
        Ok(reference)
    }

    /// Returns what it was asked so far, oldest first.
    ///
    /// Waits until the log has come to rest, so call it when nobody is asking any more.
    pub fn asked(&self) -> Result<Vec<Asked>> {
        let path = self.folder.path().join("access.log");
        let mut text = process::log_so_far(&path);
        wait::until("end of the access log", Duration::from_secs(10), || {
            thread::sleep(LOG_QUIET);
            let before = text.len();
            text = process::log_so_far(&path);
            Ok((text.len() == before).then_some(()))
        })?;
        text.lines().map(parse_access).collect()
    }

    /// Returns the digests of the blobs that were fetched so far, in the order of the answers.
    pub fn fetched_blobs(&self) -> Result<Vec<String>> {
        let asked = self.asked()?;
        let fetched = asked
            .iter()
            .filter(|asked| asked.method == "GET" && matches!(asked.status, 200 | 206))
            .filter_map(|asked| asked.target.split_once("/blobs/"))
            .map(|(_, digest)| digest.to_owned());
        Ok(fetched.collect())
    }

    /// Returns the end of its log, for the message of a failed test.
    pub fn log_tail(&self) -> String {
        process::log_tail(&self.folder.path().join("registry.log"))
    }
}

fn start_tokens(access: Access, folder: &Path) -> Result<Option<TokenServer>> {
    let strangers = match access {
        Access::Anonymous | Access::Basic => return Ok(None),
        Access::Bearer => Strangers::MayNothing,
        Access::BearerWithPublicPull => Strangers::MayPull,
    };
    let rules = Rules {
        user: USER.to_owned(),
        password: PASSWORD.to_owned(),
        strangers,
        reader: READER.to_owned(),
    };
    TokenServer::start(certificates::token_signer(folder)?, rules).map(Some)
}

fn password_file(folder: &Path) -> Result<PathBuf> {
    let mut command = process::command(tools::require(tools::HTPASSWD)?);
    command.args(["-n", "-b", "-B", "-C", "4", USER, PASSWORD]);
    let output = process::run(command, START_LIMIT)?;
    let path = folder.join("htpasswd");
    fs::write(&path, output.stdout).context("cannot write the password file")?;
    Ok(path)
}

fn serve(folder: &Path, configuration: &Path) -> Result<(Running, SocketAddr)> {
    let log = folder.join("registry.log");
    let mut command = process::command(tools::require(tools::DOCKER_REGISTRY)?);
    command.arg("serve").arg(configuration);
    command.stdout(File::create(folder.join("access.log"))?);
    command.stderr(File::create(&log)?);
    let mut running = process::start(command, "docker-registry")?;
    let address = wait::until("listening registry", START_LIMIT, || {
        if let Some(status) = running.poll()? {
            anyhow::bail!("the registry ended with {status}");
        }
        Ok(listening_on(&process::log_so_far(&log)))
    });
    let address = address.with_context(|| process::log_tail(&log))?;
    TcpStream::connect(address).with_context(|| format!("cannot reach {address}"))?;
    Ok((running, address))
}

/// Finds the address in the registry's log: it chooses its port itself, so no two can meet.
fn listening_on(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    let end = rest.find([',', '"'])?;
    rest.get(..end)?.parse().ok()
}

/// Parses a line of the Apache combined format:
/// `host - user [time] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`.
fn parse_access(line: &str) -> Result<Asked> {
    let mut quoted = line.split('"');
    let request = quoted.nth(1).unwrap_or_default();
    let answer = quoted.next().unwrap_or_default();
    let mut request = request.split(' ');
    let mut answer = answer.split_whitespace();
    let mut parse = || {
        Some(Asked {
            method: request.next()?.to_owned(),
            target: request.next()?.to_owned(),
            status: answer.next()?.parse().ok()?,
            // A dash stands for none.
            bytes: answer.next()?.parse().unwrap_or(0),
        })
    };
    parse().with_context(|| format!("no access log line: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_log() {
        let cases = [
            (r#"msg="listening on 127.0.0.1:37759" go"#, Some(37_759)),
            (r#"msg="listening on 127.0.0.1:4433, tls" go"#, Some(4_433)),
            (r#"msg="listening on 127.0.0"#, None),
            ("", None),
        ];
        for (log, want) in cases {
            assert_eq!(
                listening_on(log).map(|address| address.port()),
                want,
                "{log}"
            );
        }
    }

    #[test]
    fn lines_of_the_access_log_come_apart() -> Result<()> {
        let line = r#"127.0.0.1 - - [20/Nov/2026:19:22:37 +0000] "GET /v2/a/blobs/sha256:0f HTTP/1.1" 206 77 "" "x/1""#;

        let asked = parse_access(line)?;

        assert_eq!(asked.target, "/v2/a/blobs/sha256:0f");
        assert_eq!(
            (asked.method.as_str(), asked.status, asked.bytes),
            ("GET", 206, 77)
        );
        Ok(())
    }
}
