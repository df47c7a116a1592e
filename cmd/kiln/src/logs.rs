//! `kiln logs`: what a machine wrote to its console.
//!
//! The daemon tells where that is; the file is opened here, with the caller's own rights, and only
//! where it belongs to the machine's owner. On its way to a terminal it is escaped, for a guest writes what it likes; elsewhere bytes stay bytes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use clap::Args;
use kiln_api::failure::printable;
use kiln_api::instance::Instance;
use kiln_api::{Code, Failure, codes};
use kiln_client::Client;
use kiln_domain::InstanceState;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::CommandError;
use crate::instance::get;
use crate::output;
use crate::session::Session;
use crate::text::cell;

/// How often a console is looked at for more.
const PAUSE: Duration = Duration::from_millis(250);

/// How much is read at a time, in bytes: a screenful of a guest's boot, some dozen times over.
const PIECE: usize = 64 << 10;

/// Longest line that a terminal waits for, in bytes; what is longer comes in parts.
const LINE_MAX: usize = 64 << 10;

/// Whose console.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Name, id, or the beginning of an id
    #[arg(value_name = "NAME")]
    instance: String,
    /// Go on until the machine has ended
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<u64>,
}

/// Prints a console.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let instance = get(session, &client, &arguments.instance).await?;
    let mut console = Console::open(&instance)?;
    if let Some(lines) = arguments.tail {
        console.leave_out_all_but(lines)?;
    }
    let mut screen = Screen::new(session.surroundings().stdout_is_terminal);
    loop {
        // Asked before reading, so that nothing written before the end is missed.
        let is_over = !arguments.follow || has_ended(session, &client, &instance).await?;
        console.read_on(|piece| output::write_bytes(&screen.show(piece)))?;
        if is_over {
            return output::write_bytes(&screen.rest());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn has_ended(
    session: &Session,
    client: &Client,
    instance: &Instance,
) -> Result<bool, CommandError> {
    match get(session, client, &instance.id.to_string()).await {
        Ok(now) => Ok(now.state == InstanceState::Ended),
        // Removed, so it had ended.
        Err(CommandError::Failed(failure)) if failure.is(codes::instance::NOT_FOUND) => Ok(true),
        Err(error) => Err(error),
    }
}

/// A console's file, and how far it was read.
struct Console {
    file: File,
    position: u64,
}

impl Console {
    /// Opens what its owner could read too, and nothing else: whoever registered the machine chose
    /// the path, and who reads may be root. Nothing is opened before it is looked at, for opening
    /// alone sets some devices off and waits at others.
    fn open(instance: &Instance) -> Result<Self, CommandError> {
        let path = instance.console_path.as_str();
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let found = rustix::fs::open(path, flags, Mode::empty());
        let found = found.map_err(|errno| not_opened(instance, errno))?;
        let stat = rustix::fs::fstat(&found).map_err(io::Error::from)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(unreadable(instance, codes::file::WRONG_KIND, None));
        }
        if stat.st_uid != instance.owner_uid {
            let cause = format!("the file belongs to user {}", stat.st_uid);
            return Err(unreadable(instance, codes::file::UNREADABLE, Some(cause)));
        }
        // The very file that was looked at: its path may lead elsewhere by now.
        let again = format!("/proc/self/fd/{}", found.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::open(again, flags, Mode::empty());
        let file = File::from(opened.map_err(|errno| not_opened(instance, errno))?);
        Ok(Self { file, position: 0 })
    }

    /// Moves to where the last `lines` lines begin.
    fn leave_out_all_but(&mut self, lines: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        self.position = start_of_last(&self.file, length, lines)?;
        Ok(())
    }

    /// Reads what is there, and hands it on piece by piece.
    fn read_on(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        // A console that became shorter begins anew.
        if self.file.metadata()?.len() < self.position {
            self.position = 0;
        }
        self.file.seek(SeekFrom::Start(self.position))?;
        let mut piece = vec![0; PIECE];
        loop {
            let count = self.file.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            self.position += count as u64;
            take(piece.get(..count).unwrap_or_default())?;
        }
    }
}

fn not_opened(instance: &Instance, errno: Errno) -> CommandError {
    let code = match errno {
        Errno::NOENT | Errno::NOTDIR => codes::file::NOT_FOUND,
        _ => codes::file::UNREADABLE,
    };
    let cause = io::Error::from(errno).to_string();
    unreadable(instance, code, Some(cause))
}

fn unreadable(instance: &Instance, code: Code, cause: Option<String>) -> CommandError {
    let message = format!(
        "cannot read the console of the machine {}, which belongs to user {}: {}",
        cell(instance.name.as_str()),
        instance.owner_uid,
        cell(&instance.console_path)
    );
    let mut failure = Failure::new(code, message);
    failure.cause.extend(cause);
    failure.into()
}

/// Returns where the last `lines` lines of a file of this length begin.
fn start_of_last(file: &File, length: u64, lines: u64) -> io::Result<u64> {
    if lines == 0 {
        return Ok(length);
    }
    let mut piece = vec![0; PIECE];
    // What closes the last line begins no further one.
    let mut end = length.saturating_sub(1);
    let mut missing = lines;
    while end > 0 {
        let start = end.saturating_sub(PIECE as u64);
        let count = usize::try_from(end - start).unwrap_or(PIECE);
        let bytes = piece.get_mut(..count).unwrap_or_default();
        file.read_exact_at(bytes, start)?;
        for (at, byte) in bytes.iter().enumerate().rev() {
            if *byte == b'\n' {
                missing -= 1;
                if missing == 0 {
                    return Ok(start + at as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// Makes of a console's bytes what may be written.
struct Screen {
    is_terminal: bool,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
}

impl Screen {
    fn new(is_terminal: bool) -> Self {
        Self {
            is_terminal,
            line: Vec::new(),
        }
    }

    fn show(&mut self, piece: &[u8]) -> Vec<u8> {
        if !self.is_terminal {
            return piece.to_owned();
        }
        self.line.extend_from_slice(piece);
        let whole = match self.line.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if self.line.len() > LINE_MAX => self.line.len(),
            None => 0,
        };
        harmless(&self.line.drain(..whole).collect::<Vec<_>>())
    }

    /// Returns what is left when nothing more comes.
    fn rest(&mut self) -> Vec<u8> {
        harmless(&std::mem::take(&mut self.line))
    }
}

fn harmless(bytes: &[u8]) -> Vec<u8> {
    // A serial console ends its lines as a printer does.
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    printable(&text).into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use super::*;
    use crate::instance::tests::ended;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn the_last_lines_are_found_from_behind() {
        let long = "x".repeat(PIECE + 3);
        let two_long = format!("a\n{long}\n{long}\n");
        let cases: &[(&str, u64, &str)] = &[
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n\n", 1, "\n"),
            ("a\nb\n", 9, "a\nb\n"),
            ("a\nb\n", 0, ""),
            ("", 3, ""),
            ("a", 1, "a"),
            ("\n", 1, "\n"),
            (&two_long, 1, &format!("{long}\n")),
            (&two_long, 2, &format!("{long}\n{long}\n")),
        ];
        for (text, lines, want) in cases {
            let file = file_of(text.as_bytes());
            let length = text.len() as u64;

            let start = start_of_last(&file, length, *lines).unwrap();

            let start = usize::try_from(start).unwrap();
            assert_eq!(&text[start..], *want, "{lines} of {text:.20?}");
        }
    }

    #[test]
    fn a_console_is_read_on_from_where_it_was_left_and_anew_when_it_is_cut() {
        let mut file = file_of(b"one\n");
        let mut console = Console {
            file: file.try_clone().unwrap(),
            position: 0,
        };
        let more = |console: &mut Console| {
            let mut found = Vec::new();
            let read = console.read_on(|piece| {
                found.extend_from_slice(piece);
                Ok(())
            });
            read.unwrap();
            String::from_utf8(found).unwrap()
        };

        assert_eq!(more(&mut console), "one\n");
        file.write_all(b"two\n").unwrap();
        assert_eq!(more(&mut console), "two\n");
        assert_eq!(more(&mut console), "");
        file.set_len(0).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(b"new\n").unwrap();
        assert_eq!(more(&mut console), "new\n");
    }

    #[test]
    fn a_terminal_gets_whole_lines_without_commands_and_a_pipe_gets_bytes() {
        let mut terminal = Screen::new(true);
        let mut pipe = Screen::new(false);
        let bytes = b"boot\r\nset \x1b[2J \xc3";

        assert_eq!(pipe.show(bytes), bytes);
        assert_eq!(terminal.show(bytes), b"boot\n");
        assert_eq!(
            terminal.show(b"\xa4\nlogin: "),
            "set \\u{1b}[2J ä\n".as_bytes()
        );
        assert_eq!(terminal.rest(), b"login: ");
        assert_eq!(terminal.rest(), b"");
        let long = vec![b'x'; LINE_MAX + 1];
        assert_eq!(terminal.show(&long), long);
    }

    fn machine_at(path: &Path) -> Instance {
        Instance {
            owner_uid: rustix::process::geteuid().as_raw(),
            console_path: path.display().to_string(),
            ..ended()
        }
    }

    fn refusal(machine: &Instance) -> Failure {
        match Console::open(machine) {
            Err(CommandError::Failed(failure)) => *failure,
            Err(error) => panic!("{error:?}"),
            Ok(_) => panic!("it is opened: {}", machine.console_path),
        }
    }

    #[test]
    fn what_is_no_console_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console.log");
        std::fs::write(&console, "hello\n").unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&console, &link).unwrap();
        let cases = [
            (folder.path().join("nothing"), "file.not_found"),
            (console.join("nothing"), "file.not_found"),
            (folder.path().to_owned(), "file.wrong_kind"),
            (fifo, "file.wrong_kind"),
            (link, "file.wrong_kind"),
            ("/dev/zero".into(), "file.wrong_kind"),
        ];
        for (path, want) in cases {
            let failure = refusal(&machine_at(&path));
            assert_eq!(failure.code, want, "{path:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_the_owners_is_refused_whoever_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        std::fs::write(&path, "hello\n").unwrap();
        let own = machine_at(&path);
        let others = Instance {
            owner_uid: own.owner_uid + 1,
            ..own.clone()
        };

        let mut text = String::new();
        let mut console = Console::open(&own).unwrap();
        console.file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");

        let failure = refusal(&others);
        assert_eq!(failure.code, "file.unreadable");
        let want = format!("the file belongs to user {}", own.owner_uid);
        assert_eq!(failure.cause, [want]);
    }
}
