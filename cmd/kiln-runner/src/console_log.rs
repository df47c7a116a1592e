//! The file that a guest's console is written to, byte for byte, up to a limit.

use std::fs::File;
use std::io::Write as _;

/// Most bytes of a console that are kept: a guest that talks without end must not fill the disk.
const LIMIT_BYTES: u64 = 64 << 20;

/// What stands in the place of the rest.
const FULL: &[u8] = b"\r\nkiln-runner: the log is full; what follows is not kept\r\n";

/// A log that is written.
#[derive(Debug)]
pub(crate) struct ConsoleLog {
    /// Nothing once nothing more is written.
    file: Option<File>,
    left: u64,
}

impl ConsoleLog {
    /// Writes to an empty file.
    pub(crate) fn new(file: File) -> Self {
        Self::with_limit(file, LIMIT_BYTES)
    }

    fn with_limit(file: File, limit: u64) -> Self {
        Self {
            file: Some(file),
            left: limit,
        }
    }

    /// Adds a piece. A disk that is full ends the log, not the machine.
    pub(crate) fn add(&mut self, piece: &[u8]) {
        let Some(file) = &mut self.file else {
            return;
        };
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let taken = length.min(self.left);
        let taken_bytes = usize::try_from(taken).unwrap_or(usize::MAX);
        let kept = piece.get(..taken_bytes).unwrap_or(piece);
        self.left -= taken;
        let mut written = file.write_all(kept);
        if taken < length {
            written = written.and_then(|()| file.write_all(FULL));
        }
        if written.is_err() || taken < length {
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_ends_at_its_limit_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = ConsoleLog::with_limit(File::create(&path).unwrap(), 5);
        for piece in ["abc", "de", "fgh", "ij"] {
            log.add(piece.as_bytes());
        }

        let kept = std::fs::read(path).unwrap();

        assert_eq!(kept, [b"abcde", FULL].concat());
    }
}
