//! What a monitor writes to its standard error: a file that stays small, and the last of it.

use std::fs::File;
use std::io::Write as _;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes that are kept in the file: a monitor that complains without end, perhaps because its
/// guest makes it, must not fill the disk.
const LIMIT_BYTES: u64 = 1 << 20;

/// Most of a monitor's own words that are quoted, in bytes, from the end.
const QUOTED_BYTES: usize = 2000;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 4096;

/// A log that is written.
#[derive(Debug)]
pub(crate) struct MonitorLog {
    /// Nothing once nothing more is written.
    file: Option<File>,
    left: u64,
}

impl MonitorLog {
    /// Writes to an empty file.
    pub(crate) fn new(file: File) -> Self {
        Self {
            file: Some(file),
            left: LIMIT_BYTES,
        }
    }

    /// Reads to the end, since a monitor that nobody reads stops; returns the last words.
    pub(crate) async fn keep(mut self, mut from: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut piece = vec![0; PIECE_BYTES];
        let mut last = Vec::new();
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            let bytes = piece.get(..length).unwrap_or_default();
            self.add(bytes);
            last.extend_from_slice(bytes);
            drop(last.drain(..last.len().saturating_sub(QUOTED_BYTES)));
        }
        last
    }

    /// Adds a piece. A disk that is full ends the log, not the machine.
    fn add(&mut self, piece: &[u8]) {
        let Some(file) = &mut self.file else {
            return;
        };
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if length > self.left || file.write_all(piece).is_err() {
            self.file = None;
            return;
        }
        self.left -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn much_is_read_little_is_kept_and_the_last_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = MonitorLog::new(File::create(&path).unwrap());
        let said = [vec![b'a'; 3 << 20], b"no such cpu".to_vec()].concat();

        let last = log.keep(&said[..]).await;

        assert_eq!(last, said[said.len() - QUOTED_BYTES..]);
        let kept = std::fs::read(&path).unwrap();
        assert_eq!(kept, vec![b'a'; 1 << 20]);
    }
}
