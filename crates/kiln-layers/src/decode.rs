//! Decodes one layer into one pack, on three threads that share one ring of buffers.
//!
//! ```text
//! caller's thread: read, inflate ──┬─> hash for the diff id
//!                                  └─> read the tar, write bodies, collect the index
//! ```
//!
//! How the archive is read and how the pack is laid out are not here.

use std::fs::File;
use std::io::Read;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use kiln_tree::{DiffId, ShownPath};
use sha2::{Digest as _, Sha256};

use crate::compression::Declared;
use crate::error::{Cap, DecodeError};
use crate::inflate::{Inflater, Meter};
use crate::layer;
use crate::limits::Limits;
use crate::ring::{Message, Pool, RingReader};

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken from the input.
    pub read_bytes: u64,
    /// Bytes of the uncompressed archive.
    pub tar_bytes: u64,
}

/// What a decoded layer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// SHA-256 of the uncompressed archive, all of it.
    pub diff_id: DiffId,
    /// Entries in the index, whiteouts included.
    pub entries: usize,
    /// Bytes taken from the input, to its end.
    pub read_bytes: u64,
    /// Bytes of the uncompressed archive.
    pub tar_bytes: u64,
    /// Length of the pack.
    pub pack_bytes: u64,
}

/// Decodes the layer that `input` gives into `output`, an empty file open for reading and
/// writing.
///
/// `input` is read to its end, and what follows the archive's end marker is inflated and hashed
/// too. With `expected`, a layer of another diff id is refused. `progress` is called from the
/// caller's thread about every 256 KiB of archive. `cancelled` is looked at as often; a read of
/// `input` that waits is not interrupted.
///
/// Nothing is synced or named, and after an error the file holds rubbish: both are the caller's.
/// What is wrong first in the archive is what is reported, however the threads run.
pub fn decode(
    input: &mut (dyn Read + Send),
    compression: Declared,
    expected: Option<DiffId>,
    output: &File,
    limits: &Limits,
    progress: &dyn Fn(Progress),
    cancelled: &AtomicBool,
) -> Result<Decoded, DecodeError> {
    let meter = Meter::default();
    let mut inflater = Inflater::open(input, compression, limits, &meter)?;
    let (hash_sender, hash_receiver) = channel();
    let (parse_sender, parse_receiver) = channel();
    let (streamed, digest, parsed) = thread::scope(|scope| {
        let hash_thread = scope.spawn(|| hash(hash_receiver));
        let parse_thread =
            scope.spawn(|| layer::read(RingReader::new(parse_receiver), output, limits));
        let readers = [hash_sender, parse_sender];
        let mut source = Source {
            inflater: &mut inflater,
            meter: &meter,
            limits,
            progress,
            cancelled,
        };
        let streamed = source.run(readers);
        let digest = hash_thread
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic));
        let parsed = parse_thread
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic));
        (streamed, digest, parsed)
    });
    let parsed = match (parsed, streamed) {
        // The parser ran out of bytes because inflating failed.
        (Ok(_) | Err(DecodeError::Input { .. }), Err(error)) | (Err(error), _) => {
            return Err(error);
        }
        (Ok(parsed), Ok(())) => parsed,
    };
    let found = DiffId::from_bytes(digest);
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(DecodeError::DiffIdMismatch { expected, found });
    }
    let entries = parsed.index.len();
    let pack_bytes = parsed.pack.finish(&parsed.index, found)?;
    Ok(Decoded {
        diff_id: found,
        entries,
        read_bytes: meter.read_bytes(),
        tar_bytes: parsed.tar_bytes,
        pack_bytes,
    })
}

/// The caller's thread: inflates into the ring.
struct Source<'s, 'i> {
    inflater: &'s mut Inflater<'i>,
    meter: &'s Meter,
    limits: &'s Limits,
    progress: &'s dyn Fn(Progress),
    cancelled: &'s AtomicBool,
}

impl Source<'_, '_> {
    /// Runs to the end of the input, or until a reader has gone away; that one says why.
    fn run(&mut self, readers: [Sender<Message>; 2]) -> Result<(), DecodeError> {
        let pool = Pool::new();
        let mut tar_bytes = 0;
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(DecodeError::Cancelled);
            }
            let mut buffer = pool.take();
            let filled = buffer.fill(|room| self.inflater.fill(room));
            tar_bytes += buffer.as_bytes().len() as u64;
            self.judge(tar_bytes)?;
            (self.progress)(Progress {
                read_bytes: self.meter.read_bytes(),
                tar_bytes,
            });
            let is_last = buffer.is_last();
            let buffer = Arc::new(buffer);
            for reader in &readers {
                if reader.send(Message::Bytes(Arc::clone(&buffer))).is_err() {
                    return Ok(());
                }
            }
            filled?;
            if is_last {
                break;
            }
        }
        for reader in readers {
            // A reader that has gone away says itself why.
            drop(reader.send(Message::End));
        }
        Ok(())
    }

    fn judge(&self, tar_bytes: u64) -> Result<(), DecodeError> {
        let crossed = |cap, limit| {
            Err(DecodeError::Limit {
                cap,
                limit,
                path: ShownPath::new(b""),
                at: tar_bytes,
            })
        };
        if tar_bytes > self.limits.layer_bytes {
            return crossed(Cap::LayerBytes, self.limits.layer_bytes);
        }
        let fair = self.meter.read_bytes().saturating_mul(self.limits.ratio);
        if tar_bytes > self.limits.ratio_from_bytes && tar_bytes > fair {
            return crossed(Cap::Ratio, self.limits.ratio);
        }
        Ok(())
    }
}

/// The hashing thread: SHA-256 of all that is sent.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the receiver must go with the thread, or the sender would wait for nobody"
)]
fn hash(messages: Receiver<Message>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    while let Ok(Message::Bytes(buffer)) = messages.recv() {
        hasher.update(buffer.as_bytes());
    }
    hasher.finalize().into()
}
