//! A machine that runs: its console goes to the terminal and to the log, keys go to it, signals
//! stop it.
//!
//! ```text
//! first signal    the guest is asked, again every second ─▶ grace and 5 s ─▶ killed
//! second signal   killed
//! reader gone     killed: nobody wants what the program writes
//! machine halted  killed: nobody is there to mend what its monitor cannot go on with
//! ```

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use kiln_boot::Outcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, Permit};

use crate::console::{Console, LineEnds};
use crate::console_log::ConsoleLog;
use crate::control::{Control, Halt, Keyboard};
use crate::keys::Keys;
use crate::monitor::{ConsoleEnds, Running};
use crate::output;

/// Time beyond the guest's own grace: it still has to unmount its root and to switch off.
const SWITCHING_OFF: Duration = Duration::from_secs(5);

/// Pause between two times that a guest is asked to stop: it may have been too early before.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// After this long without another byte, what is held back is the program's. A person sees what is
/// typed; a program that reads ours is patient.
const TERMINAL_PATIENCE: Duration = Duration::from_millis(50);
const PIPE_PATIENCE: Duration = Duration::from_millis(500);

/// How long the last output of a machine that was killed may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bytes that are taken from a console at once.
const PIECE_BYTES: usize = 16 << 10;

/// Most bytes that wait until the guest reads them; nothing more is read from the keyboard then.
const TYPED_BYTES: usize = 64 << 10;

/// Signals that mean an end.
#[derive(Debug)]
pub(crate) struct Ends {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// Who is at the other end of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Audience {
    /// Keys are typed: standard input and output are terminals.
    pub(crate) types: bool,
    /// Standard output is a terminal.
    pub(crate) sees: bool,
    /// There is anybody at all.
    pub(crate) is_there: bool,
}

/// How a machine came to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// What the guest said about its program.
    pub(crate) report: Option<Outcome>,
    /// The machine was killed.
    pub(crate) was_killed: bool,
    /// Somebody asked it to stop.
    pub(crate) was_asked: bool,
    /// Whoever read the output went away.
    pub(crate) reader_is_gone: bool,
    /// The monitor could not go on with it.
    pub(crate) halt: Option<Halt>,
}

/// A machine that runs, with everything around it.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) running: &'a mut Running,
    pub(crate) control: &'a mut Control,
    pub(crate) signals: &'a mut Ends,
    pub(crate) log: ConsoleLog,
    pub(crate) audience: Audience,
    pub(crate) grace: Duration,
    pub(crate) keyboard: Keyboard,
}

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    Asked {
        killed_at: Instant,
        again_at: Instant,
    },
    Killed,
}

impl Ends {
    /// Waits for signals from now on, rather than die of them.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// What happened.
enum Event<'a> {
    Console(Permit<'a, output::Said>, io::Result<usize>),
    Typed(io::Result<usize>),
    Taken(io::Result<usize>),
    Signal,
    Time,
    ReaderIsGone,
    Heard(Option<Halt>),
    MonitorIsGone,
}

impl Session<'_> {
    /// Carries bytes until the console ends.
    pub(crate) async fn run(mut self, ends: ConsoleEnds) -> io::Result<End> {
        // A terminal is waited for as a pipe is.
        let mut from_guest = pipe::Receiver::from_file_unchecked(ready(ends.from_guest)?)?;
        let mut to_guest = pipe::Sender::from_file_unchecked(ready(ends.to_guest)?)?;
        let mut console = Console::new(if self.audience.sees {
            LineEnds::AsTheyCome
        } else {
            LineEnds::AsWritten
        });
        // Who reads slowly holds up the guest, and nothing else.
        let (sender, writer) = output::start(self.audience);
        let mut stdin = tokio::io::stdin();
        let mut keys = Keys::default();
        let mut waiting = Vec::new();
        let mut is_typed = self.audience.types;
        let mut listens = true;
        let mut stopping = Stopping::No;
        let mut end = End::default();
        let mut heard_at = Instant::now();
        let (mut piece, mut typing) = (vec![0; PIECE_BYTES], vec![0; 1024]);
        loop {
            let wake = self.wake(&console, stopping, heard_at);
            let event = tokio::select! {
                event = hear(&sender, &mut from_guest, &mut piece) => event,
                length = stdin.read(&mut typing), if is_typed && waiting.len() < TYPED_BYTES => {
                    Event::Typed(length)
                }
                length = to_guest.write(&waiting), if !waiting.is_empty() => Event::Taken(length),
                () = self.signals.next() => Event::Signal,
                () = until(wake) => Event::Time,
                halt = self.control.listen(), if listens => Event::Heard(halt),
                _ = self.running.over(), if stopping == Stopping::Killed => Event::MonitorIsGone,
            };
            let mut stops = 0;
            match event {
                // A terminal whose other end is closed is an error, not an end.
                Event::Console(_, Ok(0) | Err(_)) => break,
                Event::Console(permit, Ok(length)) => {
                    let bytes = piece.get(..length).unwrap_or_default();
                    heard_at = Instant::now();
                    self.log.add(bytes);
                    permit.send(console.hear(bytes));
                }
                Event::Typed(Ok(0) | Err(_)) => is_typed = false,
                Event::Typed(Ok(length)) => {
                    let piece = keys.type_in(typing.get(..length).unwrap_or_default());
                    waiting.extend(piece.bytes);
                    stops = piece.stops;
                }
                Event::Taken(Ok(length)) => drop(waiting.drain(..length.min(waiting.len()))),
                // A guest that is ending hears nothing any more.
                Event::Taken(Err(_)) => {
                    is_typed = false;
                    waiting.clear();
                }
                Event::Signal => stops = 1,
                Event::Time => {
                    if heard_at.elapsed() >= self.patience() && console.holds_back() {
                        // A reader that is slow gets it later, with what comes next.
                        if let Ok(permit) = sender.try_reserve() {
                            permit.send(console.let_go());
                        } else {
                            heard_at = Instant::now();
                        }
                    }
                }
                Event::ReaderIsGone => {
                    end.reader_is_gone = true;
                    self.running.kill();
                    break;
                }
                Event::Heard(None) => listens = false,
                Event::Heard(halt) => {
                    end.halt = halt;
                    self.running.kill();
                    stopping = Stopping::Killed;
                }
                Event::MonitorIsGone => {
                    self.drain(&sender, &mut from_guest, &mut console).await;
                    break;
                }
            }
            for _ in 0..stops {
                stopping = self.stop_more(stopping).await;
            }
            stopping = self.stop_when_due(stopping).await;
        }
        let last = console.finish();
        let was_killed = stopping == Stopping::Killed;
        let written = async move {
            // It fails where nobody reads any more, as the writer knows, too.
            drop(sender.send(last).await);
            drop(sender);
            writer.await
        };
        let limit = was_killed.then(|| Instant::now() + LAST_WORDS);
        tokio::select! {
            written = written => end.reader_is_gone |= written.is_ok_and(|written| written.is_err()),
            () = self.signals.next() => {}
            () = until(limit) => {}
        }
        end.report = console.report().cloned();
        end.was_killed = was_killed || end.reader_is_gone;
        end.was_asked = stopping != Stopping::No;
        Ok(end)
    }

    /// Gives what a killed machine has left to who reads it; who does not holds up nothing more.
    async fn drain(
        &mut self,
        sender: &mpsc::Sender<output::Said>,
        from_guest: &mut pipe::Receiver,
        console: &mut Console,
    ) {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(permit) = sender.try_reserve() {
            let Ok(length @ 1..) = from_guest.read(&mut piece).await else {
                return;
            };
            let bytes = piece.get(..length).unwrap_or_default();
            self.log.add(bytes);
            permit.send(console.hear(bytes));
            // One thread: the writer has its turn now.
            tokio::task::yield_now().await;
        }
    }

    fn patience(&self) -> Duration {
        if self.audience.sees {
            TERMINAL_PATIENCE
        } else {
            PIPE_PATIENCE
        }
    }

    fn wake(&self, console: &Console, stopping: Stopping, heard_at: Instant) -> Option<Instant> {
        let held = console.holds_back().then(|| heard_at + self.patience());
        let due = match stopping {
            Stopping::Asked {
                killed_at,
                again_at,
            } => Some(killed_at.min(again_at)),
            Stopping::No | Stopping::Killed => None,
        };
        held.into_iter().chain(due).min()
    }

    /// Goes one step further towards the end: first the guest is asked, then the machine killed.
    async fn stop_more(&mut self, stopping: Stopping) -> Stopping {
        match stopping {
            Stopping::No => {
                self.ask().await;
                let now = Instant::now();
                Stopping::Asked {
                    killed_at: now + self.grace + SWITCHING_OFF,
                    again_at: now + ASK_AGAIN,
                }
            }
            Stopping::Asked { .. } | Stopping::Killed => {
                self.running.kill();
                Stopping::Killed
            }
        }
    }

    async fn stop_when_due(&mut self, stopping: Stopping) -> Stopping {
        let Stopping::Asked {
            killed_at,
            again_at,
        } = stopping
        else {
            return stopping;
        };
        let now = Instant::now();
        if now >= killed_at {
            self.running.kill();
            return Stopping::Killed;
        }
        if now < again_at {
            return stopping;
        }
        self.ask().await;
        Stopping::Asked {
            killed_at,
            again_at: now + ASK_AGAIN,
        }
    }

    async fn ask(&mut self) {
        // A monitor that cannot be asked is killed when the time is up.
        drop(self.control.ask_to_stop(self.keyboard).await);
    }
}

/// Waits until there is room for more output, then for more of the console.
async fn hear<'a>(
    sender: &'a mpsc::Sender<output::Said>,
    from_guest: &mut pipe::Receiver,
    piece: &mut [u8],
) -> Event<'a> {
    match sender.reserve().await {
        Ok(permit) => Event::Console(permit, from_guest.read(piece).await),
        Err(_) => Event::ReaderIsGone,
    }
}

/// Prepares a file for waiting.
fn ready(file: File) -> io::Result<File> {
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(file)
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
