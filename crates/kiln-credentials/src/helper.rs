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
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use kiln_domain::{Credentials, Secret};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

/// Most bytes read of a helper's answer.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Most bytes read of a helper's list, whose lines have about a hundred.
const MAX_LIST_BYTES: u64 = 1 << 20;

/// The user name under which helpers keep identity tokens.
pub(crate) const IDENTITY_TOKEN: &str = "<token>";

/// Most bytes kept of what a helper complains of; more is read and dropped, so that it can go on.
const MAX_COMPLAINT_BYTES: u64 = 4096;

/// Longest quotation of either, in characters.
const MAX_QUOTED: usize = 200;

/// How long the outputs of a helper that has ended are waited for. Who still has them open then is
/// a child that it left behind.
const DRAIN: Duration = Duration::from_secs(1);

/// How often a helper is looked at.
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
        /// What it said, printable, at most 200 characters; its exit status when it said nothing.
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
        let (status, output, complaint) = self.run(program, &path, call)?;
        if status.success() {
            return Ok(Said::Done(output));
        }
        let said = String::from_utf8_lossy(&output);
        let said = said.trim();
        // Some helpers say it in other words, but all begin alike.
        if said.starts_with(NOT_FOUND) {
            return Ok(Said::Nothing);
        }
        let complaint = String::from_utf8_lossy(&complaint);
        // Helpers complain on either stream. What looks like an answer may hold a password.
        let shown = [said, complaint.trim()].map(|said| if said.contains('{') { "" } else { said });
        let words = shown.map(quoted);
        let words: Vec<String> = words.into_iter().filter(|said| !said.is_empty()).collect();
        Err(HelperError::Failed {
            program: program.to_owned(),
            message: if words.is_empty() {
                status.to_string()
            } else {
                words.join("; ")
            },
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

    /// Runs the helper to its end or to the end of its time: its status, its answer, and what it
    /// complained of.
    fn run(
        &self,
        program: &str,
        path: &Path,
        call: &Call<'_>,
    ) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), HelperError> {
        let failed = |source| HelperError::Run {
            program: program.to_owned(),
            source,
        };
        let deadline = Instant::now() + self.timeout;
        let child = Command::new(path)
            .arg(call.action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it starts is of its group, and ends with it when it takes too long.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut child = Running { child, ended: None };
        if let Some(mut stdin) = child.child.stdin.take() {
            let question = call.input.to_owned();
            // A helper that fails early does not read its question. The thread ends with the pipe.
            thread::spawn(move || writeln!(stdin, "{question}"));
        }
        let output = child.child.stdout.take();
        let output = output.map(|pipe| Hearing::begin(pipe, call.limit_bytes, Beyond::Hang));
        let complaint = child.child.stderr.take();
        let complaint =
            complaint.map(|pipe| Hearing::begin(pipe, MAX_COMPLAINT_BYTES, Beyond::Drop));
        let status = loop {
            if let Some(status) = child.look().map_err(failed)? {
                break status;
            }
            if Instant::now() >= deadline {
                return Err(HelperError::Timeout {
                    program: program.to_owned(),
                    after: self.timeout,
                });
            }
            thread::sleep(EXIT_POLL);
        };
        let drained = Instant::now() + DRAIN;
        let heard = |hearing: Option<Hearing>| {
            hearing.map_or_else(Vec::new, |hearing| hearing.end(drained))
        };
        Ok((status, heard(output), heard(complaint)))
    }
}

/// A helper that is killed, with all that it started, and waited for when nobody wants its answer
/// any more.
struct Running {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Running {
    fn look(&mut self) -> io::Result<Option<ExitStatus>> {
        self.ended = self.child.try_wait()?;
        Ok(self.ended)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_some() {
            // What it left behind is to stay, such as an agent that remembers a passphrase.
            return;
        }
        // It has not been waited for, so its number is still its group's and nobody else's.
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What becomes of bytes beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beyond {
    /// They are not read.
    Hang,
    /// They are read and dropped.
    Drop,
}

/// One output of a helper, read by a thread of its own that ends with the pipe.
struct Hearing {
    heard: Arc<Mutex<Vec<u8>>>,
    ended: mpsc::Receiver<()>,
}

impl Hearing {
    fn begin(mut pipe: impl Read + Send + 'static, limit_bytes: u64, beyond: Beyond) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (ends, ended) = mpsc::channel();
        let kept = heard.clone();
        thread::spawn(move || {
            // Dropped at the end, which tells.
            let _ends: mpsc::Sender<()> = ends;
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut part) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let room = usize::try_from(limit_bytes).unwrap_or(usize::MAX) - kept.len();
                kept.extend(part.iter().take(count.min(room)));
                if count >= room && beyond == Beyond::Hang {
                    break;
                }
            }
        });
        Self { heard, ended }
    }

    /// Returns what was heard when the pipe ended, or has been until then.
    fn end(self, drained: Instant) -> Vec<u8> {
        let left = drained.saturating_duration_since(Instant::now());
        // Nothing is ever sent: it ends or it does not.
        let _ = self.ended.recv_timeout(left);
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the beginning of what was said. A control character that is repeated is shown once: a
/// helper that writes zeros must not fill a line with them.
fn quoted(said: &str) -> String {
    let mut before = None;
    let telling = said.chars().filter(|c| {
        let is_repeated = c.is_control() && before == Some(*c);
        before = Some(*c);
        !is_repeated
    });
    let said: String = telling.take(MAX_QUOTED).collect();
    said.escape_debug().to_string()
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
                "echo 'boom \u{1b}' >&2; exit 3",
                r"docker-credential-test failed: boom \u{1b}",
            ),
            ("exit 3", "docker-credential-test failed: exit status: 3"),
            (
                "head -c 2000 /dev/zero; echo no; exit 1",
                r"docker-credential-test failed: \0no",
            ),
            (
                r#"echo '{"Username":"ada","Secret":"s3cr3t"}'; echo 'no way' >&2; exit 1"#,
                "docker-credential-test failed: no way",
            ),
            (
                r#"echo '{"Username":"ada","Secret":"s3cr3t"}' | tee /dev/stderr; exit 1"#,
                "docker-credential-test failed: exit status: 1",
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
    fn what_a_helper_that_hangs_has_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("pid");
        let script = format!(
            "sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait",
            note.display()
        );

        // Longer each time, until the helper came as far as to start something.
        let limits = (0..).map(|power| Duration::from_millis(100 << power));
        let error = limits
            .map(|limit| ask(&script, limit).unwrap_err())
            .find(|_| note.exists())
            .unwrap();

        assert!(matches!(error, HelperError::Timeout { .. }), "{error}");
        let pid = fs::read_to_string(&note).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        // Killed, it may be there until it is waited for, as a zombie.
        let is_gone = || {
            fs::read_to_string(&stat).map_or(true, |stat| {
                stat.rsplit(')').next().unwrap().trim().starts_with('Z')
            })
        };
        let deadline = Instant::now() + LONG;
        while !is_gone() {
            assert!(Instant::now() < deadline, "process {pid} lives on");
            thread::sleep(EXIT_POLL);
        }
    }

    #[test]
    fn an_answer_counts_although_a_child_keeps_the_output_open() {
        let script = r#"sleep 20 & echo '{"Username":"ada","Secret":"s"}'"#;
        let begin = Instant::now();

        let found = ask(script, LONG).unwrap();

        assert!(found.is_some());
        assert!(begin.elapsed() < Duration::from_secs(15));
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
