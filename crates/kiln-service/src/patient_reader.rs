//! Reads a stream whose writer is a caller, and waits neither for a silent nor for a dripping one
//! for ever.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What is waited for. A thread of the daemon waits along.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Longest silence.
    silence: Duration,
    /// Bytes that must come in every `window` of waiting.
    bytes: u64,
    /// Only time spent waiting counts: what the reader does in between is not the writer's fault.
    window: Duration,
}

/// The writer is on this host, and reads files that are as a rule in memory.
const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(10),
    bytes: 1 << 20,
    window: Duration::from_secs(30),
};

/// A pipe's read end that fails when nothing comes for ten seconds, or less than 1 MiB in thirty.
#[derive(Debug)]
pub(crate) struct PatientReader {
    stream: File,
    patience: Patience,
    waited: Duration,
    arrived_bytes: u64,
}

impl PatientReader {
    /// Takes the read end of a pipe, or any file.
    pub(crate) fn new(stream: File) -> Self {
        Self {
            stream,
            patience: PATIENCE,
            waited: Duration::ZERO,
            arrived_bytes: 0,
        }
    }

    /// Waits until there is something to read, an end included.
    fn wait(&mut self) -> io::Result<()> {
        let Patience {
            silence,
            bytes,
            window,
        } = self.patience;
        let mut silent = Duration::ZERO;
        loop {
            let longest = silence
                .saturating_sub(silent)
                .min(window.saturating_sub(self.waited));
            let began = Instant::now();
            let mut waiting = [PollFd::new(&self.stream, PollFlags::IN)];
            let ready = poll(&mut waiting, Some(&timespec(longest)));
            let took = began.elapsed();
            silent += took;
            self.waited += took;
            let ready = ready? > 0;
            if self.waited >= window {
                if self.arrived_bytes < bytes {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                (self.waited, self.arrived_bytes) = (Duration::ZERO, 0);
            }
            if ready {
                return Ok(());
            }
            if silent >= silence {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Read for PatientReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        let read = self.stream.read(buffer)?;
        self.arrived_bytes += read as u64;
        Ok(read)
    }
}

fn timespec(wait: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write as _};
    use std::os::fd::OwnedFd;
    use std::thread;

    use super::*;

    /// Longer than any test runs.
    const LONG: Duration = Duration::from_secs(600);

    fn reader(patience: Patience) -> (PatientReader, PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        let reader = PatientReader {
            patience,
            ..PatientReader::new(File::from(OwnedFd::from(reader)))
        };
        (reader, writer)
    }

    fn read(mut reader: PatientReader) -> Result<String, io::ErrorKind> {
        let mut text = String::new();
        let read = reader.read_to_string(&mut text);
        read.map(|_| text).map_err(|error| error.kind())
    }

    #[test]
    fn what_is_written_is_read_and_the_end_is_an_end() {
        let (reader, mut writer) = reader(PATIENCE);
        writer.write_all(b"tar").unwrap();
        drop(writer);

        assert_eq!(read(reader), Ok("tar".to_owned()));
    }

    #[test]
    fn a_silent_writer_is_given_up() {
        let (reader, _writer) = reader(Patience {
            silence: Duration::from_millis(5),
            bytes: 0,
            window: LONG,
        });

        assert_eq!(read(reader), Err(io::ErrorKind::TimedOut));
    }

    /// It is never silent for long, and would go on until nobody reads any more.
    #[test]
    fn a_dripping_writer_is_given_up() {
        let (reader, mut writer) = reader(Patience {
            silence: LONG,
            bytes: 1 << 20,
            window: Duration::from_millis(50),
        });
        let dripping = thread::spawn(move || {
            while writer.write_all(b".").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });

        assert_eq!(read(reader), Err(io::ErrorKind::TimedOut));
        dripping.join().unwrap();
    }

    /// Whoever brought enough in one window begins the next with nothing.
    #[test]
    fn every_window_asks_for_its_bytes() {
        let patience = Patience {
            silence: LONG,
            bytes: 4,
            window: LONG,
        };
        for (arrived_bytes, want) in [(3, Err(io::ErrorKind::TimedOut)), (4, Ok(1))] {
            let (mut reader, mut writer) = reader(patience);
            writer.write_all(b".").unwrap();
            // As if all but nothing of the window had been waited.
            reader.waited = patience.window.saturating_sub(Duration::from_nanos(1));
            reader.arrived_bytes = arrived_bytes;

            let read = reader.read(&mut [0; 8]).map_err(|error| error.kind());

            assert_eq!(read, want, "after {arrived_bytes} bytes");
            if want.is_ok() {
                assert_eq!((reader.waited, reader.arrived_bytes), (Duration::ZERO, 1));
            }
        }
    }
}
