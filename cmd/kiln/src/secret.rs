//! Asks for secrets: on a terminal without showing them, else from standard input.

use std::io::{self, BufRead as _, Read as _};

use kiln_api::{Failure, codes};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::CommandError;
use crate::output;
use crate::session::Session;
use crate::text::cell;

/// Longest secret that is read, in bytes; tokens of cloud registries have a few thousand.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Asks for the password of `username`; without a terminal it is the first line of the input.
pub(crate) fn ask(username: &str, session: &Session) -> Result<String, CommandError> {
    if !session.surroundings().stdin_is_terminal {
        return read_line();
    }
    output::note(&format!("password for {}: ", cell(username)));
    let silence = Silence::begin();
    let line = read_line();
    drop(silence);
    output::note("\n");
    line
}

/// Asks for a user name on a terminal.
pub(crate) fn ask_username() -> Result<String, CommandError> {
    output::note("user name: ");
    let mut line = String::new();
    limited_input().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Reads all of the input as one secret, but for the line end that closes it.
pub(crate) fn read_all() -> Result<String, CommandError> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(none_given("the password has more than 64 KiB"));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| none_given("the password is not UTF-8 text"))?;
    given(text)
}

fn read_line() -> Result<String, CommandError> {
    let mut line = String::new();
    limited_input().read_line(&mut line)?;
    given(line)
}

fn limited_input() -> io::Take<io::StdinLock<'static>> {
    io::stdin().lock().take(MAX_SECRET_BYTES)
}

fn given(mut text: String) -> Result<String, CommandError> {
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    if text.is_empty() {
        return Err(none_given("no password was given"));
    }
    Ok(text)
}

fn none_given(message: &str) -> CommandError {
    let mut failure = Failure::new(codes::request::INVALID_PARAMS, message);
    failure.hint = None;
    failure.into()
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
