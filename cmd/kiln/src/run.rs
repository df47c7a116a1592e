//! `kiln run`: turns words into an order and hands it to the runner.
//!
//! In the foreground the runner takes this process's place, so that terminal, signals and exit
//! code are its own. Starting machines is not here.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use kiln_api::instance::Instance;
use kiln_api::{Failure, codes};
use kiln_domain::ByteSize;
use kiln_files::{KeptError, read_kept_text};
use kiln_vmm::{Accelerator, Announcement, Forward, Monitor, NetworkChoice, RunOrder, Volume};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::CommandError;
use crate::output::{self, Format};
use crate::programs;
use crate::session::Session;
use crate::text::cell;

/// The runner's program.
pub(crate) const RUNNER: &str = "kiln-runner";

/// Exit code where the program never ran, as with container runtimes.
const EXIT_NEVER_RAN: u8 = 125;

/// Longest file of environment variables; what a guest can be given is shorter.
const MAX_ENV_FILE_BYTES: u64 = MIB;

const MIB: u64 = 1 << 20;

/// What to run, and how.
#[derive(Debug, Args)]
#[command(after_help = "\
The machine's own copy of the image takes what is written; the image never changes.
On a terminal everything typed goes to the machine; Ctrl-] q stops it. Elsewhere, and with
--detach, the program's standard input is empty: what is piped in does not reach it.
Exit codes: the program's own; 125 when it never ran or nobody heard how it ended, 126 when it
cannot be executed, 127 when it is not there, 128 and the signal's number when a signal ended
it; 2 when the words on the command line are wrong.
Files of a running machine are below $KILN_INSTANCES; without that below
/var/lib/kiln-instances for root, else $XDG_STATE_HOME/kiln/instances or
~/.local/state/kiln/instances.")]
pub(crate) struct Arguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Command to run, in place of the image's own
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Processors of the machine; by default what `kiln image limits` tells
    #[arg(long, value_name = "COUNT")]
    cpus: Option<u32>,
    /// Memory of the machine, such as 2G; by default what `kiln image limits` tells
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Environment variable; a name alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File with one environment variable per line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// User to run as, resolved inside the image
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Directory to run in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Program in place of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Mount the root filesystem read-only
    #[arg(long)]
    read_only: bool,
    /// Raw disk for the machine, as /dev/vdb and so on; :ro for reading only
    #[arg(short, long, value_name = "FILE[:ro]")]
    volume: Vec<String>,
    /// Port of the host that leads into the machine; on 127.0.0.1 unless an address is given
    #[arg(short, long, value_name = "[ADDRESS:]PORT:PORT")]
    publish: Vec<Forward>,
    /// Network: none, or user for outgoing connections without any rights, also to what listens
    /// on 127.0.0.1 of this host, at 10.0.2.2
    #[arg(long, value_name = "KIND", value_parser = network)]
    net: Option<NetworkChoice>,
    /// Name of the machine; derived from the image's when left out
    #[arg(long)]
    name: Option<String>,
    /// Forget the machine when it has ended
    #[arg(long)]
    rm: bool,
    /// Run in the background and print the machine's id
    #[arg(short, long)]
    detach: bool,
    /// qemu-microvm, qemu-q35, firecracker or cloud-hypervisor; the first that works when left out
    #[arg(long, value_name = "MONITOR")]
    monitor: Option<Monitor>,
    /// kvm, tcg or auto: KVM where it really runs guests, else emulation
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = accelerator)]
    accel: Acceleration,
}

/// What is to execute the machine.
#[derive(Clone, Copy, Debug)]
enum Acceleration {
    Auto,
    Certain(Accelerator),
}

fn accelerator(text: &str) -> Result<Acceleration, String> {
    if text == "auto" {
        return Ok(Acceleration::Auto);
    }
    let known = text.parse().map(Acceleration::Certain);
    known.map_err(|error: kiln_vmm::UnknownWord| format!("{error}, auto"))
}

fn network(text: &str) -> Result<NetworkChoice, String> {
    match text {
        "none" => Ok(NetworkChoice::None),
        "user" => Ok(NetworkChoice::User),
        _ => Err("known are none, user".to_owned()),
    }
}

/// Runs. Returns in the background, and when it fails.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let detach = arguments.detach;
    let ran = match prepare(arguments, session) {
        Ok((runner, order)) if detach => in_background(&runner, &order, session).await,
        Ok((runner, order)) => Err(in_place(&runner, &order)),
        Err(error) => Err(error),
    };
    // Whatever kept the program from running has one exit code; others are the program's.
    ran.map_err(|error| match error {
        CommandError::Failed(mut failure) => {
            failure.exit_code = EXIT_NEVER_RAN;
            CommandError::Failed(failure)
        }
        other => other,
    })
}

fn prepare(arguments: Arguments, session: &Session) -> Result<(PathBuf, OwnedFd), CommandError> {
    let (host, _) = session.host()?;
    let order = order(arguments, session, host.to_string())?;
    let runner = find_runner(session)?;
    Ok((runner, in_memory(&order)?))
}

fn order(arguments: Arguments, session: &Session, host: String) -> Result<RunOrder, CommandError> {
    let mut env = Vec::new();
    let own = |name: &str| session.surroundings().variable(name);
    for file in &arguments.env_file {
        let read = read_kept_text(file, MAX_ENV_FILE_BYTES);
        let text = read.map_err(|source| unreadable(file, &source))?;
        for line in variables(&text) {
            env.extend(entry(line, own)?);
        }
    }
    for text in &arguments.env {
        env.extend(entry(text, own)?);
    }
    let volumes = arguments.volume.iter().map(|text| {
        let volume = Volume::parse(text);
        // The runner works where it was started, the monitor elsewhere.
        let path = std::path::absolute(&volume.path);
        path.map(|path| Volume { path, ..volume })
    });
    Ok(RunOrder {
        host,
        image: arguments.image,
        name: arguments.name,
        cpus: arguments.cpus,
        memory_mib: arguments.memory.map(|memory| memory.0.div_ceil(MIB)),
        command: arguments.command,
        entrypoint: arguments.entrypoint.map(|program| {
            let words = Some(program).filter(|program| !program.is_empty());
            words.into_iter().collect()
        }),
        env,
        user: arguments.user,
        workdir: arguments.workdir,
        read_only: arguments.read_only,
        volumes: volumes.collect::<Result<_, _>>()?,
        ports: arguments.publish,
        network: arguments.net,
        monitor: arguments.monitor,
        accelerator: match arguments.accel {
            Acceleration::Auto => None,
            Acceleration::Certain(accelerator) => Some(accelerator),
        },
        remove: arguments.rm,
        detach: arguments.detach,
    })
}

/// Returns the lines of an environment file that say something.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Makes an entry of an environment; a name that has no value here gives none.
fn entry(
    text: &str,
    own: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<Option<String>, CommandError> {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    if name.is_empty() {
        return Err(CommandError::new(
            codes::request::INVALID_PARAMS,
            format!("{text:?} is no environment variable: it has no name"),
        ));
    }
    if name != text {
        return Ok(Some(text.to_owned()));
    }
    let Some(value) = own(name) else {
        return Ok(None);
    };
    match value.to_str() {
        Some(value) => Ok(Some(format!("{name}={value}"))),
        None => Err(CommandError::new(
            codes::request::INVALID_PARAMS,
            format!("the environment variable {name} is not UTF-8 text"),
        )),
    }
}

fn unreadable(path: &Path, source: &KeptError) -> CommandError {
    let message = format!("cannot read {}: {source}", path.display());
    let code = match source {
        KeptError::NotRegular | KeptError::NotText => codes::file::WRONG_KIND,
        KeptError::TooLarge { .. } => codes::file::TOO_LARGE,
        _ if source.is_not_found() => codes::file::NOT_FOUND,
        KeptError::Io(_) => codes::file::UNREADABLE,
    };
    CommandError::new(code, message)
}

/// Looks for the runner.
pub(crate) fn find_runner(session: &Session) -> Result<PathBuf, CommandError> {
    programs::find(RUNNER, session.surroundings())?.ok_or_else(|| {
        CommandError::new(
            codes::instance::NO_MONITOR,
            format!("{RUNNER} is neither beside this program nor on PATH"),
        )
    })
}

/// Writes the order into memory that a program inherits: it may hold secrets, and a command line
/// is for everybody to read.
fn in_memory(order: &RunOrder) -> Result<OwnedFd, CommandError> {
    let memory = rustix::fs::memfd_create("kiln-order", MemfdFlags::empty());
    let memory = memory.map_err(std::io::Error::from)?;
    let mut file = fs::File::from(memory);
    file.write_all(&serde_json::to_vec(order)?)?;
    Ok(file.into())
}

fn command(runner: &Path, order: &OwnedFd) -> Command {
    let mut command = Command::new(runner);
    command.arg("--order").arg(order.as_raw_fd().to_string());
    command
}

/// Becomes the runner, or says why not.
fn in_place(runner: &Path, order: &OwnedFd) -> CommandError {
    let error = command(runner, order).exec();
    not_started(runner, &error)
}

/// Starts the runner, and waits until it says that the machine runs. A signal stops it: its answer
/// is waited for all the same, so that no machine begins that nobody has been told of.
async fn in_background(
    runner: &Path,
    order: &OwnedFd,
    session: &Session,
) -> Result<(), CommandError> {
    let mut command = command(runner, order);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut hang_ups = signal(SignalKind::hangup())?;
    let started = tokio::process::Command::from(command).spawn();
    let mut child = started.map_err(|error| not_started(runner, &error))?;
    let mut line = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        loop {
            tokio::select! {
                // What has come of a line is kept when a signal comes first.
                read = stdout.read_until(b'\n', &mut line) => {
                    read?;
                    break;
                }
                _ = interrupts.recv() => stop(&child),
                _ = terminations.recv() => stop(&child),
                _ = hang_ups.recv() => stop(&child),
            }
        }
    }
    match serde_json::from_slice::<Announcement<Instance, Failure>>(&line) {
        Ok(Announcement::Started(instance)) => tell(&instance, session),
        Ok(Announcement::Failed(failure)) => Err(failure.into()),
        Err(_) => Err(CommandError::new(
            codes::instance::MONITOR_FAILED,
            format!("{RUNNER} ended without a word"),
        )),
    }
}

/// Asks the runner to stop.
fn stop(child: &Child) {
    let process = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(process) = process.and_then(Pid::from_raw) {
        // It fails where the runner has just ended.
        let _ = kill_process(process, Signal::TERM);
    }
}

fn tell(instance: &Instance, session: &Session) -> Result<(), CommandError> {
    let output = session.output();
    match output.format {
        Format::Table if output.amount == output::Amount::Names => {
            output::write(&format!("{}\n", instance.id))
        }
        Format::Table => {
            let name = cell(instance.name.as_str());
            output::write(&format!("{}  {name}\n", instance.id))
        }
        Format::Json | Format::Yaml | Format::Ndjson => output.value(instance),
    }
}

fn not_started(runner: &Path, error: &std::io::Error) -> CommandError {
    let message = format!("cannot start {}: {error}", runner.display());
    CommandError::new(codes::instance::NO_MONITOR, message)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Cli, Command};
    use crate::surroundings::Surroundings;

    fn ordered(words: &[&str]) -> RunOrder {
        let all = ["kiln", "run"].iter().chain(words);
        let cli = Cli::try_parse_from(all).unwrap();
        let session = Session::new(cli.globals, Surroundings::default());
        let Command::Run(arguments) = cli.command else {
            panic!("it is another command");
        };
        order(*arguments, &session, "unix:///s".to_owned()).unwrap()
    }

    #[test]
    fn words_become_an_order() {
        let order = ordered(&[
            "web",
            "--cpus",
            "2",
            "--memory",
            "1G",
            "-e",
            "A=1",
            "--user",
            "app",
            "--workdir",
            "/srv",
            "--entrypoint",
            "sh",
            "--read-only",
            "-v",
            "/d:ro",
            "-p",
            "8080:80",
            "--net",
            "user",
            "--name",
            "one",
            "--rm",
            "--detach",
            "--monitor",
            "qemu-q35",
            "--accel",
            "tcg",
            "--",
            "-c",
            "exit 3",
        ]);

        let want = RunOrder {
            host: "unix:///s".to_owned(),
            image: "web".to_owned(),
            name: Some("one".to_owned()),
            cpus: Some(2),
            memory_mib: Some(1024),
            command: vec!["-c".to_owned(), "exit 3".to_owned()],
            entrypoint: Some(vec!["sh".to_owned()]),
            env: vec!["A=1".to_owned()],
            user: Some("app".to_owned()),
            workdir: Some("/srv".to_owned()),
            read_only: true,
            volumes: vec![Volume {
                path: PathBuf::from("/d"),
                read_only: true,
            }],
            ports: vec!["8080:80".parse().unwrap()],
            network: Some(NetworkChoice::User),
            monitor: Some(Monitor::QemuQ35),
            accelerator: Some(Accelerator::Tcg),
            remove: true,
            detach: true,
        };
        assert_eq!(order, want);
    }

    #[test]
    fn what_is_not_said_is_left_to_the_image_and_the_runner() {
        let order = ordered(&["web"]);

        assert_eq!((order.cpus, order.memory_mib), (None, None));
        assert_eq!(order.command, Vec::<String>::new());
        assert_eq!(order.entrypoint, None);
        assert_eq!(order.network, None);
        assert_eq!((order.monitor, order.accelerator), (None, None));
        assert_eq!(
            ordered(&["web", "--entrypoint", ""]).entrypoint,
            Some(Vec::new())
        );
        let memory = ordered(&["web", "--memory", "1000001"]).memory_mib;
        assert_eq!(memory, Some(1));
    }

    #[test]
    fn a_variable_without_a_value_takes_the_callers() {
        let own = |name: &str| match name {
            "HOME" => Some(OsString::from("/root")),
            "BYTES" => Some(OsString::from_vec(vec![0xff])),
            _ => None,
        };
        let cases = [
            ("A=1", Ok(Some("A=1"))),
            ("A=", Ok(Some("A="))),
            ("A=b=c", Ok(Some("A=b=c"))),
            ("HOME", Ok(Some("HOME=/root"))),
            ("NOBODY", Ok(None)),
            ("=x", Err(2)),
            ("BYTES", Err(2)),
        ];
        for (text, want) in cases {
            let got = entry(text, own).map_err(|error| error.exit_code());
            assert_eq!(got, want.map(|entry| entry.map(str::to_owned)), "{text:?}");
        }
    }

    #[test]
    fn a_file_of_variables_may_have_comments() {
        let text = "# first\nA=1\n\n  B=# no comment\nHOME\n";
        let lines: Vec<&str> = variables(text).collect();
        assert_eq!(lines, ["A=1", "B=# no comment", "HOME"]);
    }

    #[test]
    fn nobody_can_read_the_order_but_who_inherits_it() {
        let order = ordered(&["web", "-e", "TOKEN=hunter2"]);

        let memory = in_memory(&order).unwrap();

        let flags = rustix::io::fcntl_getfd(&memory).unwrap();
        assert_eq!(flags, rustix::io::FdFlags::empty());
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let read: RunOrder = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(read, order);
        let command = command(Path::new("/r"), &memory);
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(words.len(), 2, "{words:?}");
    }
}
