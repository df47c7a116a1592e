//! One run, from the order to the exit code.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_api::failure::printable;
use kiln_api::instance::{self, FinishParams, InstanceParams, Port, RegisterParams, StartParams};
use kiln_api::{Failure, Method, codes};
use kiln_boot::{End as MachineEnd, Outcome};
use kiln_client::{Client, ClientError, Host};
use kiln_domain::InstanceId;
use kiln_vmm::{
    Accelerator, Announcement, Choice, Installed, Monitor, Network, ProbedKernel, RunOrder,
    Verdicts, Wish,
};
use uuid::Uuid;

use crate::EXIT_NEVER_RAN;
use crate::console_log::ConsoleLog;
use crate::control::{Halt, Keyboard, Shutdown};
use crate::error::RunError;
use crate::guest::{self, Guest};
use crate::image::OpenImage;
use crate::leash;
use crate::machine;
use crate::monitor::{self, ConsoleEnds, Running};
use crate::place::{self, CONSOLE_LOG, Place};
use crate::session::{Audience, End, Ends, Session};
use crate::surroundings::Surroundings;
use crate::terminal::RawTerminal;

/// Longest time that the daemon may take to hear how a machine ended. It finds out by itself, too.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// Longest time that a daemon may be away while it is restarted, and the pause between two calls.
const ABSENCE_LIMIT: Duration = FINISH_LIMIT;
const ABSENCE_PAUSE: Duration = Duration::from_millis(200);

/// Exit code of a program that was killed, and of one whose reader went away, as shells have it.
const EXIT_KILLED: u8 = 137;
const EXIT_TERMINATED: u8 = 143;
const EXIT_PIPE: u8 = 141;

/// The signal that cannot be refused, as a wait status has it.
const SIGNAL_KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// Who is told how a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A person, on standard error.
    ByPerson,
    /// `kiln run --detach`, by one line of JSON on standard output.
    ByProgram,
}

/// How a run ended.
#[derive(Debug)]
struct Ended {
    exit_code: u8,
    /// Whether the exit code is the program's own.
    is_heard: bool,
    reason: Option<String>,
}

/// What the end of a monitor looked like.
#[derive(Clone, Debug)]
struct Seen {
    status: ExitStatus,
    /// Why the machine ended, where the monitor says that.
    shutdown: Option<Shutdown>,
    /// The monitor's last words.
    words: String,
}

impl Told {
    /// Says why a run came to nothing.
    pub(crate) fn failed(self, failure: &Failure) {
        match self {
            Self::ByPerson => drop(io::stderr().write_all(described(failure).as_bytes())),
            Self::ByProgram => announce(&Announcement::Failed(failure)),
        }
    }

    /// Says that the machine runs. Whoever waited for that goes away, so nothing is written to
    /// the standard streams from then on.
    fn started(self, instance: &instance::Instance) {
        if self == Self::ByProgram {
            announce(&Announcement::Started(instance));
            let nowhere = std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/null");
            if let Ok(nowhere) = nowhere {
                // Each can fail only for want of the descriptor, which is there.
                let _ = rustix::stdio::dup2_stdin(&nowhere);
                let _ = rustix::stdio::dup2_stdout(&nowhere);
                let _ = rustix::stdio::dup2_stderr(&nowhere);
            }
        }
    }
}

fn announce(announcement: &Announcement<&instance::Instance, &Failure>) {
    // A value of strings and numbers always has a JSON form.
    let json = serde_json::to_string(announcement).unwrap_or_default();
    // Who has gone does not want to know.
    drop(writeln!(io::stdout(), "{json}"));
}

/// Runs an image and returns the exit code.
pub(crate) async fn run(order: RunOrder, surroundings: &Surroundings, told: Told) -> u8 {
    match try_run(order, surroundings, told).await {
        Ok(code) => code,
        Err(error) => {
            told.failed(&error.to_failure());
            EXIT_NEVER_RAN
        }
    }
}

async fn try_run(order: RunOrder, surroundings: &Surroundings, told: Told) -> Result<u8, RunError> {
    let mut signals =
        Ends::listen().map_err(|source| RunError::host("listen to signals", source))?;
    let begun = tokio::select! {
        begun = OneRun::begin(order, surroundings) => begun,
        () = signals.next() => Err(RunError::Stopped),
    };
    let mut one = begun?;
    let ended = one.run(&mut signals, surroundings, told).await;
    let ended = ended.unwrap_or_else(|error| {
        let failure = error.to_failure();
        told.failed(&failure);
        Ended {
            exit_code: EXIT_NEVER_RAN,
            is_heard: true,
            reason: Some(failure.message),
        }
    });
    one.finish(&ended, &mut signals).await;
    Ok(ended.exit_code)
}

/// Finds the monitor off this thread: a probe takes up to eight seconds.
async fn choose(
    order: &RunOrder,
    image: &OpenImage,
    surroundings: &Surroundings,
) -> Result<Choice, RunError> {
    let installed = Installed::look(surroundings.path.as_deref(), image.architecture);
    let verdicts = Verdicts::kept_in(surroundings.homes.probes());
    let wish = Wish {
        monitor: order.monitor,
        accelerator: order.accelerator,
        architecture: image.architecture,
        bootable: image.bootable(),
    };
    let leash = leash::prefix().map_err(|source| RunError::host("find this program", source))?;
    let kernel = image.share()?.kernel;
    let sha256 = image.view.kernel.sha256.clone();
    let chosen = tokio::task::spawn_blocking(move || {
        let kernel = ProbedKernel {
            file: &kernel,
            sha256: &sha256,
        };
        kiln_vmm::choose(&installed, &wish, || {
            verdicts.kvm(installed.qemu(), &leash, &kernel)
        })
    });
    let chosen = chosen.await;
    let chosen =
        chosen.map_err(|error| RunError::host("look for a monitor", io::Error::other(error)))?;
    Ok(chosen?)
}

/// Says what speaks against a monitor that was asked for.
fn warn(order: &RunOrder, image: &OpenImage, choice: &Choice) {
    let (bootable, monitor) = (image.bootable(), choice.monitor);
    if order.monitor.is_none() || bootable.is_empty() || bootable.contains(&monitor) {
        return;
    }
    let text = format!("warning: the image's kernel lacks what it needs to boot under {monitor}");
    drop(writeln!(io::stderr(), "{text}"));
}

async fn register(
    client: &Client,
    order: &RunOrder,
    image: &OpenImage,
    place: &Place,
    id: InstanceId,
) -> Result<instance::Instance, RunError> {
    let text = |path: &Path| path.display().to_string();
    let params = RegisterParams {
        instance_id: id,
        name: order.name.clone(),
        // The one that is open, whatever the name means by now.
        image: image.view.id.to_string(),
        architecture: Some(image.view.architecture.clone()),
        directory: text(place.directory().path()),
        console_path: text(&place.path(CONSOLE_LOG)),
        cpus: image.cpus(order),
        memory_bytes: image.memory_mib(order).saturating_mul(1 << 20),
        ports: order
            .ports
            .iter()
            .map(|port| Port {
                host_address: port.host_address.to_string(),
                host_port: port.host_port,
                guest_port: port.guest_port,
            })
            .collect(),
    };
    Ok(client.call::<instance::Register>(&params).await?)
}

/// A registered run.
struct OneRun {
    order: RunOrder,
    host: Host,
    image: OpenImage,
    choice: Choice,
    network: Network,
    guest: Guest,
    place: Place,
    registered: instance::Instance,
}

impl OneRun {
    /// Finds out all that can be refused, then makes a directory and registers. Who stops waiting
    /// for this leaves at most an empty directory, and a machine that ends with this process.
    async fn begin(order: RunOrder, surroundings: &Surroundings) -> Result<Self, RunError> {
        let host: Host = order.host.parse()?;
        let client = Client::connect(&host).await?;
        let image = OpenImage::open(&client, &order).await?;
        let base = place::base(surroundings)?;
        let choice = choose(&order, &image, surroundings).await?;
        warn(&order, &image, &choice);
        let network = machine::network(&order, choice.monitor)?;
        let guest = Guest::of(image.initrd.as_deref())?;
        let id = InstanceId::new(Uuid::new_v4());
        let place = Place::create(&base, id)?;
        let registered = register(&client, &order, &image, &place, id).await;
        let registered = registered.inspect_err(|_| {
            // A directory that stays behind is empty, and in the user's own place.
            drop(place.remove());
        })?;
        Ok(Self {
            order,
            host,
            image,
            choice,
            network,
            guest,
            place,
            registered,
        })
    }

    async fn run(
        &mut self,
        signals: &mut Ends,
        surroundings: &Surroundings,
        told: Told,
    ) -> Result<Ended, RunError> {
        let log = self.place.create_file(CONSOLE_LOG)?;
        let audience = audience(&self.order, surroundings);
        let instance = self.guest.instance(
            &self.order,
            self.image.view.config.as_ref(),
            guest::Told {
                name: self.registered.name.as_str(),
                has_network: self.network != Network::None,
                end: match self.choice.monitor {
                    // It cannot be switched off.
                    Monitor::Firecracker => MachineEnd::Reboot,
                    _ => MachineEnd::Poweroff,
                },
                is_typed: audience.types,
            },
        )?;
        let reports = self.guest.reports(instance.as_ref());
        let (mut running, mut control, ends) =
            self.start(instance.as_ref(), signals, surroundings).await?;
        self.ready(&mut running, &mut control, signals).await?;
        let params = StartParams {
            instance_id: self.registered.id,
            monitor: self.choice.monitor.to_string(),
            accelerator: self.choice.accelerator.to_string(),
        };
        let started = tokio::select! {
            started = self.call::<instance::Start>(&params) => started?,
            () = signals.next() => return Err(RunError::Stopped),
        };
        told.started(&started);

        let raw = audience.types.then(RawTerminal::enter).transpose();
        let raw = raw.map_err(|source| RunError::host("use the terminal", source))?;
        let session = Session {
            running: &mut running,
            control: &mut control,
            signals,
            log: ConsoleLog::new(log),
            audience,
            grace: Duration::from_secs(u64::from(self.guest.stop_grace_seconds())),
            keyboard: if reports {
                Keyboard::Stops
            } else {
                Keyboard::IsNotOurs
            },
        };
        let end = session.run(ends).await;
        drop(raw);
        let end = end.map_err(|source| RunError::host("read the console", source))?;
        let status = running
            .ended()
            .await
            .map_err(|source| RunError::host("wait for the monitor", source))?;
        let seen = Seen {
            status,
            shutdown: control.shutdown().await,
            words: running.words().await,
        };
        if end.halt == Some(Halt::Processor) {
            self.remember_halt(&seen.words, surroundings);
        }
        let ended = judged(&end, reports, &seen);
        if let Some(reason) = &ended.reason
            && told == Told::ByPerson
            && end.report.is_none()
            && !end.reader_is_gone
        {
            drop(writeln!(io::stderr(), "error: {}", printable(reason)));
        }
        Ok(ended)
    }

    /// Sees to it that the next run of this kernel is not executed by what has just given up on it.
    fn remember_halt(&self, words: &str, surroundings: &Surroundings) {
        if self.choice.accelerator != Accelerator::Kvm || !self.choice.monitor.is_qemu() {
            return;
        }
        let verdicts = Verdicts::kept_in(surroundings.homes.probes());
        let kernel = &self.image.view.kernel.sha256;
        verdicts.gave_up(&self.choice.program, kernel, first_line(words));
    }

    /// Makes files, which may take long, and starts the monitor.
    async fn start(
        &mut self,
        instance: Option<&kiln_boot::Instance>,
        signals: &mut Ends,
        surroundings: &Surroundings,
    ) -> Result<(Running, crate::control::Control, ConsoleEnds), RunError> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let prepared = {
            let flag = Arc::clone(&cancelled);
            let (order, choice) = (self.order.clone(), self.choice.clone());
            let instance = instance.cloned();
            let (image, place) = (self.image.share()?, self.place.share()?);
            let mut work = tokio::task::spawn_blocking(move || {
                machine::prepare(&order, &image, instance.as_ref(), &choice, &place, &flag)
            });
            tokio::select! {
                done = &mut work => done,
                () = signals.next() => {
                    cancelled.store(true, Ordering::Relaxed);
                    drop(work.await);
                    return Err(RunError::Stopped);
                }
            }
        };
        let prepared = prepared
            .map_err(|error| RunError::host("make the machine", io::Error::other(error)))??;
        let (running, ends) = monitor::start(&self.choice, &prepared, &self.place, surroundings)
            .map_err(|source| RunError::host("start the monitor", source))?;
        // It has its own by now. Of the way to it no second end may stay here, or its end would
        // not be seen.
        drop(prepared.inherited);
        Ok((running, prepared.control, ends))
    }

    async fn ready(
        &self,
        running: &mut Running,
        control: &mut crate::control::Control,
        signals: &mut Ends,
    ) -> Result<(), RunError> {
        let monitor = self.choice.monitor.to_string();
        tokio::select! {
            ready = control.until_ready() => match ready {
                Ok(()) => Ok(()),
                Err(source) if source.kind() == io::ErrorKind::TimedOut => {
                    Err(RunError::MonitorSilent { monitor, source })
                }
                Err(_) => {
                    // It has closed the way: it has words to say why.
                    drop(running.ended().await);
                    Err(RunError::MonitorEnded { monitor, words: running.words().await })
                }
            },
            ended = running.over() => {
                drop(ended);
                Err(RunError::MonitorEnded { monitor, words: running.words().await })
            }
            () = signals.next() => Err(RunError::Stopped),
        }
    }

    /// Calls the daemon, and again while it is away: it may be on its way back. A call that was
    /// heard already does no harm.
    async fn call<M: Method>(&self, params: &M::Params) -> Result<M::Result, ClientError> {
        let deadline = Instant::now() + ABSENCE_LIMIT;
        loop {
            match call_once::<M>(&self.host, params).await {
                Err(error) if is_away(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(ABSENCE_PAUSE).await;
                }
                called => return called,
            }
        }
    }

    /// Tells the daemon, and puts the files away.
    async fn finish(&self, ended: &Ended, signals: &mut Ends) {
        let params = FinishParams {
            instance_id: self.registered.id,
            exit_code: Some(ended.exit_code).filter(|_| ended.is_heard),
            reason: ended.reason.clone(),
        };
        let telling = async {
            self.call::<instance::Finish>(&params).await?;
            if self.order.remove {
                let instance = self.registered.id.to_string();
                let params = InstanceParams { instance };
                self.call::<instance::Remove>(&params).await?;
            }
            Ok::<(), ClientError>(())
        };
        // A daemon that does not answer sees that this process has ended.
        tokio::select! {
            told = tokio::time::timeout(FINISH_LIMIT, telling) => drop(told),
            () = signals.next() => {}
        }
        let put_away = if self.order.remove {
            self.place.remove()
        } else {
            self.place.clear()
        };
        if let Err(error) = put_away {
            drop(writeln!(io::stderr(), "warning: {error}"));
        }
    }
}

async fn call_once<M: Method>(host: &Host, params: &M::Params) -> Result<M::Result, ClientError> {
    let client = Client::connect(host).await?;
    client.call::<M>(params).await
}

/// Tells whether there was no daemon to hear a call, or none to answer it.
fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Disconnected { .. } => true,
        ClientError::Failed(failure) => failure.code == codes::daemon::STOPPING.name,
        _ => false,
    }
}

fn audience(order: &RunOrder, surroundings: &Surroundings) -> Audience {
    let is_there = !order.detach;
    let sees = is_there && surroundings.stdout_is_terminal;
    Audience {
        types: sees && surroundings.stdin_is_terminal,
        sees,
        is_there,
    }
}

/// Says how a run ended by what was heard and seen of it.
fn judged(end: &End, reports: bool, seen: &Seen) -> Ended {
    let heard = |exit_code, reason| Ended {
        exit_code,
        is_heard: true,
        reason,
    };
    match &end.report {
        Some(Outcome::Failed { error, exit }) => return heard(*exit, Some(error.clone())),
        Some(outcome @ Outcome::Signalled { signal, oom }) => {
            let memory = if *oom { ", out of memory" } else { "" };
            let reason = format!("{signal} ended the program{memory}");
            return heard(outcome.exit_code(), Some(reason));
        }
        Some(outcome) => return heard(outcome.exit_code(), None),
        None => {}
    }
    let unheard = |exit_code, reason: &str| Ended {
        exit_code,
        is_heard: false,
        reason: Some(reason.to_owned()),
    };
    if end.reader_is_gone {
        return unheard(EXIT_PIPE, "nobody read the output any more");
    }
    match end.halt {
        // Nobody can tell how far the program came, most likely nowhere.
        Some(Halt::Processor) => {
            let words = first_line(&seen.words);
            let reason = format!(
                "the machine was ended: what executes it gave up ({words}); --accel tcg emulates it"
            );
            return unheard(EXIT_NEVER_RAN, &reason);
        }
        Some(Halt::NoSpace) => {
            let reason = "the machine was ended: the disk that takes its writes is full";
            return unheard(EXIT_KILLED, reason);
        }
        Some(Halt::Disk) => {
            let reason = "the machine was ended: a file that is its disk cannot be read or written";
            return unheard(EXIT_KILLED, reason);
        }
        None => {}
    }
    if end.was_killed {
        return unheard(EXIT_KILLED, "the machine was killed");
    }
    match seen.status.signal() {
        // Nobody here did it: the system for want of memory, or a person.
        Some(SIGNAL_KILL) => {
            return unheard(EXIT_KILLED, "the machine was killed (signal 9)");
        }
        Some(number) => {
            let reason = format!("signal {number} ended the monitor: {}", seen.words);
            return unheard(EXIT_NEVER_RAN, &reason);
        }
        None => {}
    }
    if !seen.status.success() {
        let words = &seen.words;
        return unheard(EXIT_NEVER_RAN, &format!("the monitor failed: {words}"));
    }
    match (seen.shutdown, reports) {
        (Some(Shutdown::Reset), _) => unheard(
            EXIT_NEVER_RAN,
            "the machine was reset: its kernel panicked or it rebooted itself; \
             kiln run does not start it again",
        ),
        (Some(Shutdown::FromOutside), _) => unheard(EXIT_KILLED, "the machine was killed"),
        // An init of the image's own does not say how it ended.
        (_, false) if end.was_asked => unheard(EXIT_TERMINATED, "the machine was stopped"),
        (_, false) => heard(0, None),
        (Some(Shutdown::SwitchedOff), true) => unheard(
            EXIT_NEVER_RAN,
            "the machine was switched off before its program's end was told",
        ),
        (None, true) => unheard(
            EXIT_NEVER_RAN,
            "the machine ended and did not say how its program did",
        ),
    }
}

fn first_line(words: &str) -> &str {
    words.lines().next().unwrap_or_default()
}

/// Writes a failure as `kiln` does.
fn described(failure: &Failure) -> String {
    let mut text = format!("error: {}\n", printable(&failure.message));
    // Writing to a String cannot fail.
    for cause in &failure.cause {
        let _ = writeln!(text, "  cause: {}", printable(cause));
    }
    if let Some(hint) = &failure.hint {
        let _ = match &hint.command {
            Some(command) => writeln!(text, "  hint: {}  {}", hint.text, printable(command)),
            None => writeln!(text, "  hint: {}", hint.text),
        };
    }
    text
}

#[cfg(test)]
mod tests;
