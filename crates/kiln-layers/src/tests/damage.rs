//! Cut, flipped and random bytes: a typed error or a sound result, never a panic.

use proptest::prelude::*;

use crate::testing::{Tar, entries, open};
use crate::{DecodeError, Malformation, Pack, PackError};

/// An archive with every kind of header in it.
fn sample() -> Tar {
    let sparse: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"9000"),
    ];
    let mut map = b"1\n5000\n4\n".to_vec();
    map.resize(512, 0);
    map.extend(b"data");
    Tar::new()
        .directory("d/")
        .file("d/f", &[7; 1000])
        .pax(&[("path", b"p"), ("SCHILY.xattr.user.a", b"\n")])
        .file("x", b"pax")
        .long_name(&[b'l'; 200])
        .long_link(&[b't'; 200])
        .link(b'2', "x", "y")
        .pax(sparse)
        .file("x", &map)
        .global(&[("uid", b"5")])
        .file("d/.wh.gone", b"")
        .link(b'1', "h", "d/f")
}

#[test]
fn an_archive_cut_anywhere_is_refused_or_ends_between_entries() {
    let whole = sample().end();
    let all = entries(&whole).unwrap();
    let mut between = 0;
    for len in (0..whole.len() - 1024).step_by(512) {
        match entries(&whole[..len]) {
            Ok(some) => {
                assert_eq!(some, all[..some.len()], "cut to {len}");
                between += 1;
            }
            Err(DecodeError::Malformed { reason, .. }) => assert!(
                matches!(
                    reason,
                    Malformation::TruncatedBody
                        | Malformation::TruncatedHeader
                        | Malformation::DanglingExtension
                ),
                "cut to {len}: {reason}"
            ),
            Err(other) => panic!("cut to {len}: {other}"),
        }
        // Inside a block nothing ends.
        for off in [1, 100, 511] {
            assert!(
                entries(&whole[..len + off]).is_err(),
                "cut to {len} + {off}"
            );
        }
    }
    // In front of each of the seven entries, and of the global header.
    assert_eq!(between, 8);
}

#[test]
fn every_flipped_bit_of_a_header_is_seen() {
    let whole = Tar::new().file("name", b"").end();
    for at in 0..512 {
        for bit in 0..8 {
            let mut bad = whole.clone();
            bad[at] ^= 1 << bit;
            // Bits of the checksum's own padding say nothing.
            if let Ok(shown) = entries(&bad) {
                assert!((148..156).contains(&at), "byte {at} bit {bit}: {shown:?}");
            }
        }
    }
}

#[test]
fn a_damaged_pack_is_not_believed() {
    let open_bytes = |bytes: &[u8]| {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        Pack::open(file)
    };
    let mut body = vec![0; 3 * 4096];
    body[0] = 1;
    let layer = open(&sample().file("zeros", &body).end()).unwrap();
    let length = usize::try_from(layer.decoded.pack_bytes).unwrap();
    let mut good = vec![0; length];
    std::os::unix::fs::FileExt::read_exact_at(layer.pack.file(), &mut good, 0).unwrap();
    let bodies = usize::try_from(layer.pack.index().pack_blocks() * 4096).unwrap();

    assert_eq!(open_bytes(&good).unwrap().sums(), layer.pack.sums());
    for at in bodies..length {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(open_bytes(&bad).is_err(), "byte {at}");
    }
    for len in (0..length).step_by(37).chain([length - 1]) {
        assert!(open_bytes(&good[..len]).is_err(), "cut to {len}");
    }
    let error = open_bytes(&[&good[..], b"x"].concat()).err();
    assert!(matches!(error, Some(PackError::NotAPack)), "{error:?}");

    let footer = length - 88;
    let mut newer = good.clone();
    newer[footer + 8] = 2;
    let error = open_bytes(&newer).err();
    assert!(
        matches!(error, Some(PackError::Format { found: 2 })),
        "{error:?}"
    );
    let error = open_bytes(b"").err();
    assert!(matches!(error, Some(PackError::NotAPack)), "{error:?}");
}

/// Puts a true checksum on every block that has the look of a header.
fn reseal(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// Whatever is accepted can be read back. Sizes may be anything by now, so no file is put
/// together.
fn read_back(bytes: &[u8]) {
    if let Ok(layer) = open(bytes) {
        layer.check_sums();
        assert_eq!(layer.pack.index().entries().count(), layer.decoded.entries);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_archives_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut archive = sample().end();
        for (at, value) in changes {
            let at = at.index(archive.len());
            archive[at] = value;
        }
        reseal(&mut archive);
        read_back(&archive);
    }

    #[test]
    fn changed_gzip_never_panics(
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut stream = super::streams::gzip(&sample().end());
        let at = at.index(stream.len());
        stream[at] = value;
        read_back(&stream);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        read_back(&bytes);
    }
}
