//! What an index keeps, and which bytes and entries it refuses.

use super::*;
use crate::entry::{Body, Device, Kind, Segment, Timestamp, Xattr, Xattrs};

fn directory(path: &[u8]) -> Entry<'_> {
    Entry {
        path,
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Xattrs::NONE,
    }
}

fn with_kind<'a>(path: &'a [u8], kind: Kind<'a>) -> Entry<'a> {
    Entry {
        kind,
        ..directory(path)
    }
}

const XATTRS: &[Xattr<'_>] = &[
    Xattr {
        name: b"security.capability",
        value: b"\x01\0\n\x02",
    },
    Xattr {
        name: b"user.empty",
        value: b"",
    },
];

const SEGMENTS: &[Segment] = &[
    Segment {
        file_block: 1,
        pack_block: 2,
        blocks: 3,
    },
    Segment {
        file_block: 1 << 40,
        pack_block: 5,
        blocks: 1,
    },
];

fn samples() -> Vec<Entry<'static>> {
    let device = Device {
        major: 8,
        minor: 1 << 20,
    };
    vec![
        directory(b""),
        Entry {
            uid: u32::MAX,
            gid: 65_534,
            mode: 0o7777,
            mtime: Timestamp {
                seconds: -5,
                nanoseconds: 999_999_999,
            },
            xattrs: Xattrs::sorted(XATTRS),
            ..with_kind(b"a/\xff\n", Kind::Regular(Body::whole(4097, 0)))
        },
        with_kind(b"empty", Kind::Regular(Body::whole(0, 0))),
        with_kind(
            b"sparse",
            Kind::Regular(Body::sparse((1 << 52) + 8192, SEGMENTS)),
        ),
        with_kind(b"hole", Kind::Regular(Body::sparse(1 << 50, &[]))),
        with_kind(b"s", Kind::Symlink { target: b"../x" }),
        with_kind(
            b"h",
            Kind::Hardlink {
                target: b"a/\xff\n",
            },
        ),
        with_kind(b"c", Kind::CharDevice(device)),
        with_kind(b"b", Kind::BlockDevice(device)),
        with_kind(b"f", Kind::Fifo),
        with_kind(b"k", Kind::Socket),
        with_kind(b"w", Kind::Whiteout),
        with_kind(b"", Kind::Opaque),
    ]
}

fn build(entries: &[Entry<'_>]) -> Index {
    let mut builder = IndexBuilder::new();
    for entry in entries {
        builder.push(entry).unwrap();
    }
    builder.finish()
}

/// Puts a true checksum on changed bytes, so that only the deeper checks can refuse them.
fn reseal(bytes: &mut [u8]) {
    let whole = (bytes.len() as u64).to_le_bytes();
    bytes[16..24].copy_from_slice(&whole);
    let checksum = crc32c::crc32c(&bytes[CHECKED_FROM..]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn every_kind_of_entry_comes_back_as_it_was() {
    let samples = samples();
    let index = build(&samples);

    let decoded = Index::decode(index.as_bytes().to_vec()).unwrap();

    assert_eq!(decoded, index);
    assert_eq!(decoded.entries().collect::<Vec<_>>(), samples);
    assert_eq!(decoded.len(), samples.len());
    assert_eq!(decoded.pack_blocks(), 6);
}

#[test]
fn an_empty_layer_is_an_index() {
    let index = build(&[]);

    let decoded = Index::decode(index.as_bytes().to_vec()).unwrap();

    assert!(decoded.is_empty());
    assert_eq!(decoded.as_bytes().len(), HEADER_BYTES);
}

#[test]
fn an_ordinary_file_is_one_segment() {
    let body = Body::whole(4097, 7);

    assert_eq!(
        body.segments().collect::<Vec<_>>(),
        [Segment {
            file_block: 0,
            pack_block: 7,
            blocks: 2
        }]
    );
    assert_eq!(Body::whole(0, 7).segments().count(), 0);
}

#[test]
fn an_entry_costs_less_than_ninety_bytes() {
    let path = b"usr/share/doc/some-package/changelog.Debian.gz";
    let index = build(&[with_kind(path, Kind::Regular(Body::whole(1, 0)))]);

    assert!(index.as_bytes().len() - HEADER_BYTES < 90);
}

#[test]
fn every_flipped_byte_is_noticed() {
    let good = build(&samples()).as_bytes().to_vec();

    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert!(Index::decode(bad).is_err(), "byte {at}");
    }
    for len in 0..good.len() {
        assert!(Index::decode(good[..len].to_vec()).is_err(), "cut to {len}");
    }
}

#[test]
fn damage_under_a_true_checksum_never_panics() {
    let good = build(&samples()).as_bytes().to_vec();

    for at in HEADER_BYTES..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            reseal(&mut bad);
            if let Ok(index) = Index::decode(bad) {
                // Whatever was let through can be read as a whole.
                assert_eq!(index.entries().count(), index.len());
            }
        }
    }
    for len in HEADER_BYTES..good.len() {
        let mut bad = good[..len].to_vec();
        reseal(&mut bad);
        assert!(Index::decode(bad).is_err(), "cut to {len}");
    }
}

#[test]
fn a_newer_format_is_named() {
    let mut bytes = build(&[]).as_bytes().to_vec();
    bytes[8] = 2;

    assert_eq!(Index::decode(bytes), Err(IndexError::Format { found: 2 }));
    assert_eq!(Index::decode(Vec::new()), Err(IndexError::NotAnIndex));
}

#[test]
fn entries_that_break_a_rule_are_refused_without_a_trace() {
    let whole = |size, block| Kind::Regular(Body::whole(size, block));
    let overlapping: &[Segment] = &[SEGMENTS[0], SEGMENTS[0]];
    let outside: &[Segment] = &[SEGMENTS[1]];
    let unsorted: &[Xattr<'_>] = &[XATTRS[1], XATTRS[0]];
    let twice: &[Xattr<'_>] = &[XATTRS[0], XATTRS[0]];
    let long_value = vec![0; 65_536];
    let long: &[Xattr<'_>] = &[Xattr {
        name: b"user.x",
        value: &long_value,
    }];
    let cases: &[(Entry<'_>, Defect)] = &[
        (directory(b"/a"), Defect::Path),
        (directory(b"a/../b"), Defect::Path),
        (
            with_kind(b"h", Kind::Hardlink { target: b"../x" }),
            Defect::Path,
        ),
        (with_kind(b"", Kind::Whiteout), Defect::Path),
        (
            with_kind(b"s", Kind::Symlink { target: b"" }),
            Defect::Target,
        ),
        (
            with_kind(b"s", Kind::Symlink { target: b"a\0" }),
            Defect::Target,
        ),
        (
            Entry {
                mode: 0o10000,
                ..directory(b"a")
            },
            Defect::Mode,
        ),
        (
            Entry {
                mtime: Timestamp {
                    seconds: 0,
                    nanoseconds: 1_000_000_000,
                },
                ..directory(b"a")
            },
            Defect::Time,
        ),
        // The first body took blocks 0 and 1.
        (with_kind(b"a", whole(1, 1)), Defect::Segments),
        (
            with_kind(b"a", whole(1, u64::from(u32::MAX))),
            Defect::Segments,
        ),
        (with_kind(b"a", whole(u64::MAX, 2)), Defect::Segments),
        (
            with_kind(b"a", Kind::Regular(Body::sparse(1 << 20, overlapping))),
            Defect::Segments,
        ),
        (
            with_kind(b"a", Kind::Regular(Body::sparse(1 << 52, outside))),
            Defect::Segments,
        ),
        (
            Entry {
                xattrs: Xattrs::sorted(unsorted),
                ..directory(b"a")
            },
            Defect::Xattrs,
        ),
        (
            Entry {
                xattrs: Xattrs::sorted(twice),
                ..directory(b"a")
            },
            Defect::Xattrs,
        ),
        (
            Entry {
                xattrs: Xattrs::sorted(long),
                ..directory(b"a")
            },
            Defect::Xattrs,
        ),
    ];
    for (entry, defect) in cases {
        let mut builder = IndexBuilder::new();
        builder.push(&with_kind(b"first", whole(8192, 0))).unwrap();

        let refused = builder.push(entry);

        assert_eq!(
            refused,
            Err(IndexError::Entry {
                number: 1,
                defect: *defect
            }),
            "{entry:?}"
        );
        assert_eq!(
            builder.finish(),
            build(&[with_kind(b"first", whole(8192, 0))])
        );
    }
}
