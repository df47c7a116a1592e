//! A layer that cannot be decoded, and what is still read of it.

use std::time::Duration;

use kiln_domain::OperationId;

use super::*;
use crate::board::Board;
use crate::space::InFlight;

/// After how many bytes the operation is cancelled: far more than a decoder reads ahead.
const CANCELLED_AT_BYTES: u64 = 16 << 20;

/// Where the blob ends.
const SIZE_BYTES: u64 = 64 << 20;

/// A blob whose first block is no tar header, in a source that never waits.
struct Garbage {
    read_bytes: u64,
    running: Arc<Running>,
    cancelled_at_bytes: u64,
}

impl Read for Garbage {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read_bytes >= self.cancelled_at_bytes {
            self.running.cancel();
        }
        let left = SIZE_BYTES - self.read_bytes;
        let count = buffer.len().min(usize::try_from(left).unwrap());
        buffer[..count].fill(b'x');
        self.read_bytes += count as u64;
        Ok(count)
    }
}

/// Fetches garbage and returns what came of it, and how much of it was read.
async fn fetch_garbage(cancelled_at_bytes: u64) -> (FetchError, u64) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let board = Arc::new(Board::new(1));
    let mut entry = None;
    let admission = board.admit().unwrap();
    board.start(
        OperationId::new(uuid::Uuid::new_v4()),
        admission,
        |running| {
            entry = Some(running.clone());
            async move { running.cancelled().await }
        },
    );
    let running = entry.unwrap();
    let digest = Digest::from_bytes([7; 32]);
    let ingest = cache.ingest(&digest, SIZE_BYTES).unwrap();
    let decoding = Decoding {
        cache,
        digest,
        diff_id: digest,
        declared: Declared::As(Compression::None),
        limits: Limits::default(),
        index: 0,
        running: running.clone(),
        disk: Arc::default(),
        _at_work: running.at_work(),
        _flight: InFlight::default().begin(digest),
    };
    let mut garbage = Garbage {
        read_bytes: 0,
        running,
        cancelled_at_bytes,
    };
    let error = decoding.keep_and_decode(&mut garbage, ingest).unwrap_err();
    board.stop(Duration::ZERO).await;
    (error, garbage.read_bytes)
}

#[tokio::test]
async fn the_rest_of_a_blob_that_cannot_be_decoded_is_read_for_its_digest() {
    let (error, read_bytes) = fetch_garbage(u64::MAX).await;

    assert_eq!(read_bytes, SIZE_BYTES);
    let is_about_digest = matches!(error, FetchError::Blob(IngestError::DigestMismatch { .. }));
    assert!(is_about_digest, "{error:?}");
}

#[tokio::test]
async fn a_cancelled_operation_does_not_read_the_rest_of_a_blob_that_cannot_be_decoded() {
    let (error, read_bytes) = fetch_garbage(CANCELLED_AT_BYTES).await;

    // The decoder had given up already, so it is the rest that was not read.
    let FetchError::Decode { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(!matches!(source, DecodeError::Cancelled), "{source:?}");
    let most = CANCELLED_AT_BYTES + 2 * REST_BUFFER_BYTES as u64;
    assert!(read_bytes <= most, "{read_bytes} bytes were read");
}
