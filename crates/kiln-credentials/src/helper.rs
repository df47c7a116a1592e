//! Credential helpers: programs that keep passwords (docker-credential-helpers' protocol).
//!
//! ```text
//! docker-credential-<name> get     stdin: server      stdout: {"Username": …, "Secret": …}
//! docker-credential-<name> store   stdin: {"ServerURL": …, "Username": …, "Secret": …}
//! docker-credential-<name> erase   stdin: server
//! docker-credential-<name> list                       stdout: {server: user name, …}
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kiln_domain::{Credentials, Secret};
use serde::{Deserialize, Serialize};

/// Most bytes read of a helper's answer.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Most bytes read of a helper's list, whose lines have about a hundred.
const MAX_LIST_BYTES: u64 = 1 << 20;

/// The user name under which helpers keep identity tokens.
pub(crate) const IDENTITY_TOKEN: &str = "<token>";

/// How often a helper that has closed its output is looked at.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// What helpers say, word for word, when they have nothing (docker-credential-helpers,
/// `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Why a helper gave no answer. The answer itself is never quoted.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The name could be something else than a program's.
    #[error("{name:?} is not a helper's name")]
    Name {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// No such program is on the path.
    #[error("{program} is not on the path")]
    NotFound {
        /// The program.
        program: String,
    },
    /// The program cannot be run.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program took too long and was stopped.
    #[error("{program} did not answer in {} seconds", after.as_secs())]
    Timeout {
        /// The program.
        program: String,
        /// How long it was given.
        after: Duration,
    },
    /// The program failed.
    #[error("{program} failed: {message}")]
    Failed {
        /// The program.
        program: String,
        /// What it said, printable, at most 200 characters.
        message: String,
    },
    /// The program answered something else than credentials.
    #[error("{program} did not answer with credentials")]
    Answer {
        /// The program.
        program: String,
    },
    /// The program's list is no list of user names.
    #[error("{program} did not answer with a list of user names")]
    List {
        /// The program.
        program: String,
    },
}

/// How helpers are found and how long they may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Helpers<'a> {
    pub(crate) path: Option<&'a OsStr>,
    pub(crate) timeout: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What a helper is told to keep.
#[derive(Serialize)]
struct Kept<'a> {
    #[serde(rename = "ServerURL")]
    server: &'a str,
    #[serde(rename = "Username")]
    username: &'a str,
    #[serde(rename = "Secret")]
    secret: &'a str,
}

/// One word to a helper.
struct Call<'a> {
    action: &'static str,
    input: &'a str,
    limit_bytes: u64,
}

/// What became of it.
enum Said {
    /// It is done; this was the output.
    Done(Vec<u8>),
    /// The helper has nothing of the kind.
    Nothing,
}

impl Helpers<'_> {
    /// Asks `docker-credential-<name>` for the credentials of `server`; nothing when it has none.
    pub(crate) fn get(&self, name: &str, server: &str) -> Result<Option<Credentials>, HelperError> {
        let call = Call {
            action: "get",
            input: server,
            limit_bytes: MAX_ANSWER_BYTES,
        };
        let program = program_name(name)?;
        match self.call(&program, &call)? {
            Said::Nothing => Ok(None),
            Said::Done(output) => serde_json::from_slice(&output)
                .map(credentials)
                .map_err(|_| HelperError::Answer { program }),
        }
    }

    /// Has it keep the credentials of `server`.
    pub(crate) fn store(
        &self,
        name: &str,
        server: &str,
        credentials: &Credentials,
    ) -> Result<(), HelperError> {
        let (username, secret) = match credentials {
            Credentials::Password { username, secret } => (username.as_str(), secret),
            Credentials::IdentityToken(secret) => (IDENTITY_TOKEN, secret),
        };
        let program = program_name(name)?;
        let kept = Kept {
            server,
            username,
            secret: secret.expose(),
        };
        // Three texts are always JSON; a helper that got none would refuse it.
        let input = serde_json::to_string(&kept).unwrap_or_default();
        let call = Call {
            action: "store",
            input: &input,
            limit_bytes: MAX_ANSWER_BYTES,
        };
        match self.call(&program, &call)? {
            Said::Done(_) => Ok(()),
            Said::Nothing => Err(HelperError::Failed {
                program,
                message: NOT_FOUND.to_owned(),
            }),
        }
    }

    /// Has it forget the credentials of `server`, which it need not have.
    pub(crate) fn erase(&self, name: &str, server: &str) -> Result<(), HelperError> {
        let call = Call {
            action: "erase",
            input: server,
            limit_bytes: MAX_ANSWER_BYTES,
        };
        self.call(&program_name(name)?, &call).map(drop)
    }

    /// Asks it for the user names it has, by server.
    pub(crate) fn list(&self, name: &str) -> Result<BTreeMap<String, String>, HelperError> {
        let call = Call {
            action: "list",
            input: "",
            limit_bytes: MAX_LIST_BYTES,
        };
        let program = program_name(name)?;
        match self.call(&program, &call)? {
            Said::Nothing => Ok(BTreeMap::new()),
            Said::Done(output) => {
                serde_json::from_slice(&output).map_err(|_| HelperError::List { program })
            }
        }
    }

    fn call(&self, program: &str, call: &Call<'_>) -> Result<Said, HelperError> {
        let path = self.find(program).ok_or_else(|| HelperError::NotFound {
            program: program.to_owned(),
        })?;
        let (status, output) = self.run(program, &path, call)?;
        if status.success() {
            return Ok(Said::Done(output));
        }
        let said = String::from_utf8_lossy(&output);
        let said = said.trim();
        // Some helpers say it in other words, but all begin alike.
        if said.starts_with(NOT_FOUND) {
            return Ok(Said::Nothing);
        }
        let message = said.chars().take(200).collect::<String>();
        Err(HelperError::Failed {
            program: program.to_owned(),
            message: message.escape_debug().to_string(),
        })
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        std::env::split_paths(self.path?)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(program))
            .find(|path| {
                path.metadata()
                    .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
            })
    }

    /// Runs the helper to its end or to the end of its time.
    fn run(
        &self,
        program: &str,
        path: &PathBuf,
        call: &Call<'_>,
    ) -> Result<(ExitStatus, Vec<u8>), HelperError> {
        let failed = |source| HelperError::Run {
            program: program.to_owned(),
            source,
        };
        let timeout = || HelperError::Timeout {
            program: program.to_owned(),
            after: self.timeout,
        };
        let deadline = Instant::now() + self.timeout;
        let child = Command::new(path)
            .arg(call.action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut child = Running(child);
        let (stdin, stdout) = (child.0.stdin.take(), child.0.stdout.take());
        let (question, limit) = (call.input.to_owned(), call.limit_bytes);
        let (sender, answer) = mpsc::channel();
        // The thread ends with the pipe: at the latest when the child is killed.
        thread::spawn(move || sender.send(converse(stdin, stdout, &question, limit)));
        let output = answer
            .recv_timeout(self.timeout)
            .map_err(|_| timeout())?
            .map_err(failed)?;
        loop {
            if let Some(status) = child.0.try_wait().map_err(failed)? {
                return Ok((status, output));
            }
            if Instant::now() >= deadline {
                return Err(timeout());
            }
            thread::sleep(EXIT_POLL);
        }
    }
}

/// A helper that is killed and waited for when nobody wants its answer any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then both calls have nothing to do.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn converse(
    stdin: Option<impl Write>,
    stdout: Option<impl Read>,
    question: &str,
    limit_bytes: u64,
) -> io::Result<Vec<u8>> {
    if let Some(mut stdin) = stdin {
        match writeln!(stdin, "{question}") {
            // A helper that fails early does not read its question.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(stdout) = stdout {
        stdout.take(limit_bytes).read_to_end(&mut output)?;
    }
    Ok(output)
}

fn program_name(name: &str) -> Result<String, HelperError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(is_good) {
        return Err(HelperError::Name {
            name: name.chars().take(80).collect(),
        });
    }
    Ok(format!("docker-credential-{name}"))
}

/// Reads an answer; an empty one means that there is nothing.
fn credentials(answer: Answer) -> Option<Credentials> {
    let secret = Secret::new(answer.secret);
    match answer.username.as_str() {
        _ if secret.expose().is_empty() => None,
        IDENTITY_TOKEN => Some(Credentials::IdentityToken(secret)),
        _ => Some(Credentials::Password {
            username: answer.username,
            secret,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Asks a helper that is a shell script.
    fn ask(script: &str, timeout: Duration) -> Result<Option<Credentials>, HelperError> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("docker-credential-test");
        crate::testing::install(&program, script);
        let helpers = Helpers {
            path: Some(directory.path().as_os_str()),
            timeout,
        };
        helpers.get("test", "reg.io")
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_helper_is_asked_for_the_server_and_believed() {
        let script = r#"read server; printf '{"ServerURL":"%s","Username":"%s","Secret":"%s"}' "$server" "$1" "$server""#;

        let found = ask(script, LONG).unwrap();

        assert_eq!(
            found,
            Some(Credentials::Password {
                username: "get".to_owned(),
                secret: Secret::new("reg.io".to_owned()),
            })
        );
    }

    #[test]
    fn a_token_is_told_from_a_password_and_nothing_from_both() {
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert_eq!(
            ask(token, LONG).unwrap(),
            Some(Credentials::IdentityToken(Secret::new("t".to_owned())))
        );
        let empty = r#"echo '{"Username":"","Secret":""}'"#;
        assert_eq!(ask(empty, LONG).unwrap(), None);
        let absent = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(ask(absent, LONG).unwrap(), None);
    }

    #[test]
    fn failures_are_told_apart_and_answers_not_quoted() {
        let cases = [
            (
                "echo 'the keychain is \u{1b}locked'; exit 1",
                r"docker-credential-test failed: the keychain is \u{1b}locked",
            ),
            (
                r#"echo '{"Username":"ada","Secret":17}'"#,
                "docker-credential-test did not answer with credentials",
            ),
            (
                "head -c 200000 /dev/zero",
                "docker-credential-test did not answer with credentials",
            ),
        ];
        for (script, want) in cases {
            // A helper whose output is no longer read may be killed by the closed pipe.
            let text = ask(script, LONG).unwrap_err().to_string();
            let is_killed = script.starts_with("head") && text.contains("failed");
            assert!(text == want || is_killed, "{script} gave {text}");
        }
    }

    #[test]
    fn a_helper_that_hangs_is_stopped() {
        let error = ask("exec sleep 600", Duration::from_millis(50)).unwrap_err();

        assert!(matches!(error, HelperError::Timeout { .. }), "{error}");
    }

    #[test]
    fn only_programs_on_the_path_are_run() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("docker-credential-plain"), "").unwrap();
        let helpers = Helpers {
            path: Some(directory.path().as_os_str()),
            timeout: LONG,
        };

        for (name, want) in [
            ("missing", "docker-credential-missing is not on the path"),
            ("plain", "docker-credential-plain is not on the path"),
            ("../x", r#""../x" is not a helper's name"#),
            ("", r#""" is not a helper's name"#),
        ] {
            let error = helpers.get(name, "reg.io").unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }
}
