//! Who to be at a registry, as the command line says it.
//!
//! The secret goes into the call and nowhere else.

use std::io::{self, BufRead as _};

use kiln_api::image::Credentials;
use kiln_api::{Failure, codes};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::CommandError;
use crate::output;
use crate::session::Session;

/// Longest secret that is read, in bytes; tokens of cloud registries have a few thousand.
const MAX_SECRET_BYTES: usize = 64 << 10;

/// Reads `USER:SECRET`; without a secret it is asked for, or read as one line from stdin.
pub(crate) fn parse(text: &str, session: &Session) -> Result<Credentials, CommandError> {
    let (username, secret) = match text.split_once(':') {
        Some((username, secret)) => (username, Some(secret.to_owned())),
        None => (text, None),
    };
    if username.is_empty() {
        return Err(refused("--creds needs a user name"));
    }
    let secret = match secret {
        Some(secret) => secret,
        None => ask(username, session.surroundings().stdin_is_terminal)?,
    };
    Ok(Credentials {
        username: username.to_owned(),
        secret,
    })
}

fn ask(username: &str, is_terminal: bool) -> Result<String, CommandError> {
    if !is_terminal {
        return read_line();
    }
    output::note(&format!("password for {}: ", crate::text::cell(username)));
    let silence = Silence::begin();
    let line = read_line();
    drop(silence);
    output::note("\n");
    line
}

fn read_line() -> Result<String, CommandError> {
    let mut line = String::new();
    let limit = u64::try_from(MAX_SECRET_BYTES).unwrap_or(u64::MAX);
    let mut input = io::Read::take(io::stdin().lock(), limit);
    input.read_line(&mut line)?;
    let secret = line.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        return Err(refused("no password was given"));
    }
    Ok(secret.to_owned())
}

fn refused(message: &str) -> CommandError {
    Failure::new(codes::request::INVALID_PARAMS, message)
        .with_hint(
            "give user and password, or the user alone to be asked:",
            Some("kiln pull REFERENCE --creds USER".to_owned()),
        )
        .into()
}

/// The terminal without its echo; dropped, it echoes again.
struct Silence {
    before: Option<Termios>,
}

impl Silence {
    fn begin() -> Self {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(mut silent) = before.clone() {
            silent.local_modes.remove(LocalModes::ECHO);
            silent.local_modes.insert(LocalModes::ECHONL);
            // A terminal that refuses shows the password, as it would without our asking.
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
        }
        Self { before }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nobody can be told; the shell sets its terminal anew in any case.
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
