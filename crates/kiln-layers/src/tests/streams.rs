//! Compressed streams, broken sources and targets, and being told to stop.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::write::GzEncoder;
use kiln_tree::DiffId;

use crate::testing::{Tar, open, open_with};
use crate::{Compression, Declared, DecodeError, Limits, Malformation, decode};

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A frame whose size is not told in front, so that its window is as large as asked for.
pub(super) fn zstd_with_window(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sample() -> Vec<u8> {
    Tar::new().file("a", b"hello").file("b", &[7; 10_000]).end()
}

fn skippable() -> Vec<u8> {
    vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]
}

#[test]
fn streams_of_several_parts_are_one_layer() {
    let sample = sample();
    let plain = open(&sample).unwrap();
    let (first, second) = sample.split_at(700);
    let streams = [
        gzip(&sample),
        [gzip(first), gzip(second)].concat(),
        [gzip(b""), gzip(&sample), gzip(b"")].concat(),
        zstd(&sample),
        [zstd(first), skippable(), zstd(second)].concat(),
        [skippable(), zstd(&sample)].concat(),
    ];
    for bytes in streams {
        let layer = open(&bytes).unwrap();
        assert_eq!(layer.entries(), plain.entries());
        assert_eq!(layer.decoded.diff_id, plain.decoded.diff_id);
        assert_eq!(layer.decoded.read_bytes, bytes.len() as u64);
        assert_eq!(layer.decoded.tar_bytes, sample.len() as u64);
    }
}

#[test]
fn broken_streams_are_refused_though_the_archive_is_whole() {
    let gzip = gzip(&sample());
    let zstd = zstd(&sample());
    let mut crc = gzip.clone();
    let at = crc.len() - 8;
    crc[at] ^= 1;
    let mut length = gzip.clone();
    *length.last_mut().unwrap() ^= 1;
    let mut checksum = zstd::Encoder::new(Vec::new(), 3).unwrap();
    checksum.include_checksum(true).unwrap();
    checksum.write_all(&sample()).unwrap();
    let mut checksum = checksum.finish().unwrap();
    *checksum.last_mut().unwrap() ^= 1;
    let cases = [
        ("crc", crc),
        ("length", length),
        ("no trailer", gzip[..gzip.len() - 8].to_vec()),
        ("cut trailer", gzip[..gzip.len() - 1].to_vec()),
        ("cut second member", [&gzip[..], &gzip[..5]].concat()),
        ("rubbish behind", [&gzip[..], b"rubbish"].concat()),
        ("header only", gzip[..10].to_vec()),
        ("zstd cut", zstd[..zstd.len() - 1].to_vec()),
        ("zstd rubbish behind", [&zstd[..], b"rubbish"].concat()),
        ("zstd checksum", checksum),
    ];
    for (name, bytes) in cases {
        let error = open(&bytes).err();
        let is_broken = matches!(error, Some(DecodeError::BrokenCompression { .. }));
        assert!(is_broken, "{name}: {error:?}");
    }
    for compression in [Compression::Gzip, Compression::Zstd] {
        let declared = Declared::As(compression);
        let error = open_with(b"", declared, None, &Limits::default()).err();
        let is_broken = matches!(error, Some(DecodeError::BrokenCompression { .. }));
        assert!(is_broken, "empty {compression}: {error:?}");
    }
}

#[test]
fn a_media_type_that_lies_is_named() {
    let streams = [
        (Compression::None, sample()),
        (Compression::Gzip, gzip(&sample())),
        (Compression::Zstd, zstd(&sample())),
    ];
    for (real, bytes) in &streams {
        for (said, _) in &streams {
            let opened = open_with(bytes, Declared::As(*said), None, &Limits::default());
            match opened.err() {
                None => assert_eq!(real, said),
                Some(DecodeError::CompressionMismatch { declared, found }) => {
                    assert_eq!((&declared, &found), (said, real));
                    assert_ne!(declared, found);
                }
                Some(other) => panic!("{other}"),
            }
        }
    }
    let xz = b"\xfd7zXZ\0\0\0";
    let bzip2 = b"BZh91AY&SY";
    for (bytes, want) in [(&xz[..], "xz"), (bzip2, "bzip2")] {
        match open(bytes).err() {
            Some(DecodeError::UnsupportedCompression { name }) => assert_eq!(name, want),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn another_layer_than_asked_for_is_refused() {
    let expected = DiffId::from_bytes([7; 32]);
    let found = open(&sample()).unwrap().decoded.diff_id;
    let limits = Limits::default();

    let error = open_with(&gzip(&sample()), Declared::Unknown, Some(expected), &limits).err();
    match error {
        Some(DecodeError::DiffIdMismatch {
            expected: wanted,
            found: got,
        }) => assert_eq!((wanted, got), (expected, found)),
        other => panic!("{other:?}"),
    }
    open_with(&gzip(&sample()), Declared::Unknown, Some(found), &limits).unwrap();
}

/// A source that gives its bytes a few at a time and may end in an error.
struct Dripping<'a> {
    bytes: &'a [u8],
    step: usize,
    error: Option<io::ErrorKind>,
}

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty()
            && let Some(kind) = self.error
        {
            return Err(io::Error::new(kind, "the line went dead"));
        }
        let count = self.step.min(buffer.len()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.bytes = later;
        Ok(count)
    }
}

fn decode_from(input: &mut (dyn Read + Send), output: &File) -> Result<DiffId, DecodeError> {
    let go = AtomicBool::new(false);
    let limits = Limits::default();
    let unknown = Declared::Unknown;
    decode(input, unknown, None, output, &limits, &|_| {}, &go).map(|decoded| decoded.diff_id)
}

#[test]
fn bytes_may_arrive_in_any_portions() {
    let want = open(&sample()).unwrap().decoded.diff_id;
    for stream in [sample(), gzip(&sample()), zstd(&sample())] {
        for step in [1, 2, 511, 513] {
            let mut input = Dripping {
                bytes: &stream,
                step,
                error: None,
            };
            let output = tempfile::tempfile().unwrap();
            assert_eq!(decode_from(&mut input, &output).unwrap(), want);
        }
    }
}

#[test]
fn a_source_that_fails_is_told_from_a_broken_stream() {
    for stream in [sample(), gzip(&sample()), zstd(&sample())] {
        for len in [0, 3, 100, stream.len() - 1, stream.len()] {
            let mut input = Dripping {
                bytes: &stream[..len],
                step: 4096,
                error: Some(io::ErrorKind::UnexpectedEof),
            };
            let output = tempfile::tempfile().unwrap();
            match decode_from(&mut input, &output).err() {
                Some(DecodeError::Input { source }) => {
                    assert_eq!(source.to_string(), "the line went dead");
                }
                other => panic!("{len}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_full_disk_is_told_with_its_cause() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();

    match decode_from(&mut &sample()[..], &full).err() {
        Some(DecodeError::Output { source, .. }) => {
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_first_is_what_is_reported() {
    // The archive is wrong at its start, the stream at its end, and the other way round.
    let mut early = Tar::new().file("..", b"").0;
    early.extend(sample());
    let mut stream = gzip(&early);
    stream.truncate(stream.len() - 4);
    for _ in 0..20 {
        let error = open(&stream).err();
        let is_first = matches!(
            error,
            Some(DecodeError::Malformed {
                reason: Malformation::ParentComponent,
                ..
            })
        );
        assert!(is_first, "{error:?}");
    }
}

#[test]
fn cancelling_stops_before_more_is_read() {
    let stream = Tar::new().file("big", &vec![1; 8 << 20]).end();
    let cancelled = AtomicBool::new(false);
    let seen = RefCell::new(Vec::new());
    let output = tempfile::tempfile().unwrap();
    let progress = |progress: crate::Progress| {
        seen.borrow_mut().push(progress.tar_bytes);
        cancelled.store(true, Ordering::Relaxed);
    };

    let error = decode(
        &mut &stream[..],
        Declared::Unknown,
        None,
        &output,
        &Limits::default(),
        &progress,
        &cancelled,
    )
    .err();

    assert!(matches!(error, Some(DecodeError::Cancelled)), "{error:?}");
    assert_eq!(seen.borrow().len(), 1);
}
