//! A layer that cannot be decoded, and what is still read of it.

use std::time::Duration;

use kiln_cache::PartialName;
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

/// What came of fetching garbage.
struct Fetched {
    error: FetchError,
    /// How much of it was read.
    read_bytes: u64,
    /// How much of it is left for the next time.
    left_bytes: u64,
}

/// What an earlier download left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Earlier {
    Nothing,
    /// Something, which the disk cannot read back.
    Unreadable,
}

/// Fetches garbage of which the cache keeps what came.
async fn fetch_garbage(cancelled_at_bytes: u64, disk: Arc<Disk>) -> Fetched {
    fetch_garbage_after(Earlier::Nothing, cancelled_at_bytes, disk).await
}

async fn fetch_garbage_after(
    earlier: Earlier,
    cancelled_at_bytes: u64,
    disk: Arc<Disk>,
) -> Fetched {
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
    let partial = folder
        .path()
        .join(format!("ingest/{}.partial", digest.to_hex()));
    if earlier == Earlier::Unreadable {
        std::fs::write(&partial, vec![b'x'; 1 << 20]).unwrap();
    }
    let ingest = cache.resume(&digest, SIZE_BYTES).unwrap();
    if earlier == Earlier::Unreadable {
        let file = File::options().write(true).open(&partial).unwrap();
        file.set_len(100).unwrap();
    }
    let decoding = Decoding {
        cache: cache.clone(),
        digest,
        diff_id: digest,
        declared: Declared::As(Compression::None),
        limits: Limits::default(),
        index: 0,
        running: running.clone(),
        disk,
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
    Fetched {
        error,
        read_bytes: garbage.read_bytes,
        left_bytes: cache.partial_bytes(&PartialName::of_blob(&digest)),
    }
}

#[tokio::test]
async fn the_rest_of_a_blob_that_cannot_be_decoded_is_read_for_its_digest() {
    let fetched = fetch_garbage(u64::MAX, Arc::default()).await;

    assert_eq!(fetched.read_bytes, SIZE_BYTES);
    let error = fetched.error;
    assert!(is_digest_mismatch(&error), "{error:?}");
    assert_eq!(fetched.left_bytes, 0, "wrong bytes are kept");
}

#[tokio::test]
async fn a_cancelled_operation_does_not_read_the_rest_of_a_blob_that_cannot_be_decoded() {
    let fetched = fetch_garbage(CANCELLED_AT_BYTES, Arc::default()).await;
    let (error, read_bytes) = (fetched.error, fetched.read_bytes);

    // The decoder had given up already, so it is the rest that was not read.
    let FetchError::Decode { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(!matches!(source, DecodeError::Cancelled), "{source:?}");
    let most = CANCELLED_AT_BYTES + 2 * REST_BUFFER_BYTES as u64;
    assert!(read_bytes <= most, "{read_bytes} bytes were read");
}

#[tokio::test]
async fn what_came_of_a_cancelled_layer_is_kept_unless_the_disk_is_full() {
    for is_full in [false, true] {
        let disk = Disk {
            is_full: AtomicBool::new(is_full),
        };

        let fetched = fetch_garbage(CANCELLED_AT_BYTES, Arc::new(disk)).await;

        let is_kept = fetched.left_bytes >= CANCELLED_AT_BYTES / 2;
        assert_eq!(is_kept, !is_full, "{} bytes", fetched.left_bytes);
        assert_eq!(fetched.left_bytes == 0, is_full);
    }
}

/// The pull goes on with all of it then.
#[tokio::test]
async fn what_was_left_and_cannot_be_read_is_thrown_away() {
    let fetched = fetch_garbage_after(Earlier::Unreadable, u64::MAX, Arc::default()).await;

    let error = fetched.error;
    assert!(matches!(error, FetchError::Left { .. }), "{error:?}");
    assert!(is_about_what_was_left(&error));
    assert_eq!(fetched.left_bytes, 0);
    assert_eq!(fetched.read_bytes, 0);
}
