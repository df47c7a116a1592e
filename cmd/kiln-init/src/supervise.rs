//! Lives beside the image's program until it ends: reaps what others leave, passes signals on,
//! stops it when the machine is to stop.
//!
//! ```text
//! SIGTERM, SIGINT (ctrl-alt-del), SIGPWR, power button ─▶ stop signal ─▶ grace ─▶ SIGKILL
//! SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGALRM ─▶ the same to the program
//! ```

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use kiln_boot::{Boot, Outcome, Stdin, StopSignal};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::system::RebootCommand;

use crate::console;
use crate::entrypoint::{self, Entrypoint};
use crate::error::{Failure, at};
use crate::kernel_calls::{self, Signals};
use crate::power_button::PowerButtons;

/// Length of what the kernel writes for one signal.
const SIGNAL_RECORD_BYTES: usize = 128;

/// What a signal to process 1 means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// A child ended.
    Reap,
    /// The machine is to stop.
    Stop,
    /// The program is meant.
    PassOn(StopSignal),
    /// Nothing.
    Ignore,
}

/// How far stopping the program has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    /// Nobody has asked for it.
    No,
    /// It was asked, and is killed then.
    Until(Instant),
    /// It was killed.
    Killed,
}

/// The running program and what was asked of it.
#[derive(Debug)]
struct Supervised {
    pid: Pid,
    stop_signal: StopSignal,
    grace: Duration,
    stopping: Stopping,
    ended: Option<WaitStatus>,
}

/// Starts the program and returns how it ended.
pub(crate) fn run(boot: &Boot, entrypoint: &Entrypoint) -> Result<Outcome, Failure> {
    let signals = Signals::block().map_err(at("take", "signals"))?;
    // From now on the keys send SIGINT to this process rather than reset the machine.
    if let Err(error) = rustix::system::reboot(RebootCommand::CadOff) {
        console::say(format_args!("ctrl-alt-del resets the machine: {error}"));
    }
    let kills_before = out_of_memory_kills();
    let pid = start(entrypoint, boot.stdin)?;
    let mut supervised = Supervised {
        pid,
        stop_signal: boot.stop_signal,
        grace: Duration::from_secs(u64::from(boot.stop_grace_seconds)),
        stopping: Stopping::No,
        ended: None,
    };
    let mut buttons = PowerButtons::open();
    let status = loop {
        if let Some(status) = supervised.ended {
            break status;
        }
        wait_for_events(&signals, &buttons, supervised.deadline())
            .map_err(at("wait for", "events"))?;
        while let Some(number) = next_signal(&signals).map_err(at("read", "signals"))? {
            supervised.hear(number);
        }
        if buttons.were_pressed() {
            supervised.ask_to_stop();
        }
        supervised.kill_when_due();
    };
    Ok(outcome(status, out_of_memory_kills() > kills_before))
}

/// Starts the program on the guest's terminal, which becomes its own.
fn start(entrypoint: &Entrypoint, stdin: Stdin) -> Result<Pid, Failure> {
    let terminal = console::terminal().map_err(at("open", "the console"))?;
    // Programs open /dev/stdout anew, which asks for the rights to the terminal itself.
    if let Err(error) = rustix::fs::fchown(&terminal, Some(entrypoint.credentials.uid), None) {
        console::say(format_args!(
            "cannot give the console to the program: {error}"
        ));
    }
    kernel_calls::spawn(
        &entrypoint.program,
        &entrypoint.credentials,
        terminal,
        stdin,
    )
    .map_err(|error| entrypoint::refusal(entrypoint, error))
}

impl Supervised {
    fn hear(&mut self, number: i32) {
        match meaning(number) {
            Meaning::Reap => self.reap(),
            Meaning::Stop => self.ask_to_stop(),
            Meaning::PassOn(signal) => self.send(signal),
            Meaning::Ignore => {}
        }
    }

    /// Takes the status of every child that has ended: the program's, and those of orphans.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                self.ended = Some(status);
            }
        }
    }

    /// Asks once; who asks again does not shorten the grace.
    fn ask_to_stop(&mut self) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Until(Instant::now() + self.grace);
            self.send(self.stop_signal);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.stopping {
            Stopping::Until(deadline) => Some(deadline),
            Stopping::No | Stopping::Killed => None,
        }
    }

    fn kill_when_due(&mut self) {
        let is_due = self
            .deadline()
            .is_some_and(|deadline| Instant::now() >= deadline);
        if is_due && self.ended.is_none() {
            let seconds = self.grace.as_secs();
            console::say(format_args!(
                "the program did not stop within {seconds} s and is killed"
            ));
            self.send(StopSignal::KILL);
            // There is nothing stronger to send; its end is what comes next.
            self.stopping = Stopping::Killed;
        }
    }

    fn send(&self, signal: StopSignal) {
        // It may have ended by itself just now.
        drop(kernel_calls::kill(self.pid.as_raw_nonzero().get(), signal));
    }
}

fn meaning(number: i32) -> Meaning {
    match number {
        libc::SIGCHLD => Meaning::Reap,
        libc::SIGTERM | libc::SIGINT | libc::SIGPWR => Meaning::Stop,
        libc::SIGHUP
        | libc::SIGQUIT
        | libc::SIGUSR1
        | libc::SIGUSR2
        | libc::SIGWINCH
        | libc::SIGCONT
        | libc::SIGALRM => StopSignal::from_number(number).map_or(Meaning::Ignore, Meaning::PassOn),
        _ => Meaning::Ignore,
    }
}

fn wait_for_events(
    signals: &Signals,
    buttons: &PowerButtons,
    deadline: Option<Instant>,
) -> io::Result<()> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    let devices = buttons.devices().iter();
    let mut descriptors: Vec<PollFd<'_>> = [signals.descriptor()]
        .into_iter()
        .chain(devices)
        .map(|descriptor| PollFd::new(descriptor, PollFlags::IN))
        .collect();
    match rustix::event::poll(&mut descriptors, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn next_signal(signals: &Signals) -> io::Result<Option<i32>> {
    let mut record = [0; SIGNAL_RECORD_BYTES];
    match rustix::io::read(signals.descriptor(), &mut record) {
        Ok(_) => {
            let [a, b, c, d, ..] = record;
            Ok(i32::try_from(u32::from_ne_bytes([a, b, c, d])).ok())
        }
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns how many processes the kernel has killed for want of memory.
fn out_of_memory_kills() -> u64 {
    let counters = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    counter(&counters, "oom_kill").unwrap_or(0)
}

fn counter(counters: &str, name: &str) -> Option<u64> {
    counters.lines().find_map(|line| {
        let (known, value) = line.split_once(' ')?;
        (known == name).then(|| value.parse().ok())?
    })
}

fn outcome(status: WaitStatus, memory_ran_out: bool) -> Outcome {
    let signal = status
        .terminating_signal()
        .and_then(StopSignal::from_number);
    match signal {
        Some(signal) => Outcome::Signalled {
            signal,
            oom: memory_ran_out && signal == StopSignal::KILL,
        },
        None => Outcome::Exited {
            exit: status
                .exit_status()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(u8::MAX),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_to_process_1_have_a_meaning() {
        let pass_on = |number| Meaning::PassOn(StopSignal::from_number(number).unwrap());
        let cases = [
            (17, Meaning::Reap),
            (15, Meaning::Stop),
            (2, Meaning::Stop),
            (30, Meaning::Stop),
            (1, pass_on(1)),
            (3, pass_on(3)),
            (10, pass_on(10)),
            (12, pass_on(12)),
            (28, pass_on(28)),
            (13, Meaning::Ignore),
            (21, Meaning::Ignore),
            (40, Meaning::Ignore),
        ];
        for (number, want) in cases {
            assert_eq!(meaning(number), want, "{number}");
        }
    }

    #[test]
    fn the_kernels_counter_is_found_by_its_whole_name() {
        let counters = "oom_kill_disable 5\noom_kill 3\nnr_free 7\n";
        assert_eq!(counter(counters, "oom_kill"), Some(3));
        assert_eq!(counter(counters, "oom"), None);
    }
}
