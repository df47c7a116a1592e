//! `kiln stop`: asks the processes that run machines to end, as the caller.
//!
//! The daemon signals nothing. A process is opened as a descriptor before it is looked at, and
//! only one that began when the registered one did is signalled, through that descriptor: a number
//! that was given to another process meanwhile hits nobody.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use clap::Args;
use kiln_api::instance::Instance;
use kiln_api::{Failure, codes};
use kiln_client::Client;
use kiln_domain::{InstanceState, ProcessStart};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::instance::{get, state};
use crate::output;
use crate::session::Session;
use crate::text::cell;
use crate::time_span::TimeSpan;

/// How long the process may take beyond the machine's grace: to kill the machine, to tidy up and
/// to say so.
const TIDY_UP: Duration = Duration::from_secs(20);

/// How long a machine may take to switch off once its program has ended.
const SWITCHING_OFF: Duration = Duration::from_secs(5);

/// How long the daemon may take to notice that a process is gone.
const NOTICE: Duration = Duration::from_secs(10);

/// How often the daemon is asked.
const PAUSE: Duration = Duration::from_millis(100);

/// Which machines to stop.
#[derive(Debug, Args)]
#[command(after_help = "\
A machine that has not ended 5 s after its time is killed. What it runs has its own time too, set
when it was started: 10 s for a program, 90 s for an image's own init. The shorter one counts.
A machine that is asked twice, also by another `kiln stop`, is killed at once.")]
pub(crate) struct Arguments {
    /// Names, ids, or beginnings of ids
    #[arg(value_name = "NAME", required = true)]
    instances: Vec<String>,
    /// How long a machine may take to end by itself, as far as it may by its own rules
    #[arg(long, value_name = "TIME", default_value = "10s")]
    time: TimeSpan,
}

/// A machine that was asked to end.
struct Asked {
    instance: Instance,
    /// The process that runs it; `None` when it is gone.
    process: Option<OwnedFd>,
    /// When to ask a second time, which tells the process to kill its machine.
    second: Instant,
    /// When to lose patience.
    patience: Instant,
}

/// Stops machines: all are asked, then each is waited for.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut asked = Vec::new();
    for word in arguments.instances {
        let one = ask(session, &client, &word, arguments.time.0).await;
        asked.push((word, one));
    }
    let mut items = Vec::new();
    for (word, one) in asked {
        let result = match one {
            Ok(one) => see_through(session, &client, one).await,
            Err(error) => Err(error),
        };
        items.push(Item::new(word, result)?);
    }
    batch::report(session, &items, |_, instance| {
        format!(
            "machine {} is {}",
            cell(instance.name.as_str()),
            state(instance)
        )
    })
}

async fn ask(
    session: &Session,
    client: &Client,
    word: &str,
    grace: Duration,
) -> Result<Asked, CommandError> {
    let instance = get(session, client, word).await?;
    let process = match instance.state {
        InstanceState::Ended => None,
        InstanceState::Starting | InstanceState::Running => process_of(&instance)?,
    };
    let patience = match &process {
        Some(process) => {
            send(&instance, process, Signal::TERM)?;
            grace + TIDY_UP
        }
        None => NOTICE,
    };
    let now = Instant::now();
    Ok(Asked {
        instance,
        process,
        second: now + patience.min(grace + SWITCHING_OFF),
        patience: now + patience,
    })
}

/// Waits until the daemon says that a machine has ended; asks a second time, then kills its process,
/// when it takes too long.
async fn see_through(
    session: &Session,
    client: &Client,
    asked: Asked,
) -> Result<Instance, CommandError> {
    let instance = &asked.instance;
    if let Some(ended) = ended_by(session, client, instance, asked.second).await? {
        return Ok(ended);
    }
    if let Some(process) = &asked.process {
        send(instance, process, Signal::TERM)?;
    }
    if let Some(ended) = ended_by(session, client, instance, asked.patience).await? {
        return Ok(ended);
    }
    let name = cell(instance.name.as_str());
    let Some(process) = asked.process else {
        let message = format!(
            "process {} is not the one that runs the machine {name}, or cannot be seen from here; \
             nothing was signalled",
            instance.pid
        );
        return Err(CommandError::new(codes::instance::NO_PROCESS, message));
    };
    output::note(&format!(
        "machine {name} did not end in time; its process is killed\n"
    ));
    send(instance, &process, Signal::KILL)?;
    let end = ended_by(session, client, instance, Instant::now() + NOTICE).await?;
    end.ok_or_else(|| {
        let message = format!("the machine {name} did not end");
        CommandError::new(codes::instance::RUNNING, message)
    })
}

async fn ended_by(
    session: &Session,
    client: &Client,
    instance: &Instance,
    latest: Instant,
) -> Result<Option<Instance>, CommandError> {
    let id = instance.id.to_string();
    loop {
        let now = match get(session, client, &id).await {
            Ok(now) => now,
            // Only what has ended is removed, and some are at once.
            Err(CommandError::Failed(failure)) if failure.is(codes::instance::NOT_FOUND) => {
                Instance {
                    state: InstanceState::Ended,
                    ..instance.clone()
                }
            }
            Err(error) => return Err(error),
        };
        if now.state == InstanceState::Ended {
            return Ok(Some(now));
        }
        if Instant::now() >= latest {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Opens the process that registered a machine; `None` when the number is no process's any more,
/// or another's.
fn process_of(instance: &Instance) -> Result<Option<OwnedFd>, CommandError> {
    let pid = i32::try_from(instance.pid).ok().filter(|pid| *pid > 0);
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return Ok(None);
    };
    // First the descriptor, then the look: a process that began when the registered one did is
    // that one, and had its number all the while.
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(error) => return Err(std::io::Error::from(error).into()),
    };
    let stat = fs::read(format!("/proc/{}/stat", instance.pid)).unwrap_or_default();
    let started = ProcessStart::from_stat(&String::from_utf8_lossy(&stat));
    let is_same = started == Ok(ProcessStart::new(instance.pid_started));
    Ok(is_same.then_some(process))
}

fn send(instance: &Instance, process: &OwnedFd, signal: Signal) -> Result<(), CommandError> {
    match pidfd_send_signal(process, signal) {
        // It ended by itself meanwhile.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => {
            let message = format!(
                "the process of the machine {}, which belongs to user {}, cannot be signalled",
                cell(instance.name.as_str()),
                instance.owner_uid
            );
            let mut failure = Failure::new(codes::request::DENIED, message);
            failure.cause.push(error.to_string());
            Err(failure.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::instance::tests::ended;

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null()).spawn().unwrap()
    }

    fn machine_of(child: &Child) -> Instance {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        Instance {
            state: InstanceState::Running,
            pid: child.id(),
            pid_started: ProcessStart::from_stat(&stat).unwrap().ticks(),
            ..ended()
        }
    }

    #[test]
    fn only_the_registered_process_is_opened_and_signalled() {
        let mut child = sleeper();
        let machine = machine_of(&child);
        let other = Instance {
            pid_started: machine.pid_started + 1,
            ..machine.clone()
        };

        assert!(process_of(&other).unwrap().is_none());
        let process = process_of(&machine).unwrap().unwrap();
        send(&machine, &process, Signal::TERM).unwrap();

        assert_eq!(child.wait().unwrap().signal(), Some(15));
        assert!(process_of(&machine).unwrap().is_none());
        send(&machine, &process, Signal::TERM).unwrap();
    }

    #[test]
    fn no_number_is_no_process() {
        for pid in [0, u32::MAX] {
            let machine = Instance { pid, ..ended() };
            assert!(process_of(&machine).unwrap().is_none(), "{pid}");
        }
    }
}
