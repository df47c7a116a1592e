//! Reads a stream whose writer is a caller, and does not wait for a silent one for ever.

use std::fs::File;
use std::io::{self, Read};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a writer may be silent. A thread of the daemon waits with it.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// A pipe's read end that fails when nothing comes for ten seconds.
#[derive(Debug)]
pub(crate) struct PatientReader {
    stream: File,
}

impl PatientReader {
    /// Takes the read end of a pipe, or any file.
    pub(crate) fn new(stream: File) -> Self {
        Self { stream }
    }
}

impl Read for PatientReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waiting = [PollFd::new(&self.stream, PollFlags::IN)];
        match poll(&mut waiting, Some(&PATIENCE)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => self.stream.read(buffer),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_end_is_an_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"tar").unwrap();
        drop(writer);

        let mut text = String::new();
        let stream = File::from(std::os::fd::OwnedFd::from(reader));
        PatientReader::new(stream)
            .read_to_string(&mut text)
            .unwrap();

        assert_eq!(text, "tar");
    }
}
