//! Claims about archives: what is written is read again, and what is damaged is refused.

use std::io::Write as _;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn written(entries: &[(&str, u32, CpioNode<'_>)]) -> Vec<u8> {
    let mut writer = CpioWriter::default();
    for (path, permissions, node) in entries {
        writer.add(path, *permissions, node.clone()).unwrap();
    }
    writer.to_bytes()
}

fn file(content: &[u8]) -> CpioNode<'_> {
    CpioNode::File(content.into())
}

fn names(entries: &[CpioEntry<'_>]) -> Vec<String> {
    let names = entries.iter().map(|entry| entry.path.display().to_string());
    names.collect()
}

fn initramfs(bytes: &[u8]) -> Result<Vec<String>, CpioError> {
    read_initramfs(bytes, CpioLimits::default()).map(|entries| names(&entries))
}

#[test]
fn an_entry_has_the_layout_the_kernel_documents() {
    let bytes = written(&[("init", 0o755, file(b"12345"))]);

    // 110 + "init\0" is 115, padded to 116; 5 bytes of content, padded to 124.
    assert_eq!(&bytes[..14], b"07070100000001");
    assert_eq!(&bytes[14..22], b"000081ed");
    assert_eq!(&bytes[22..38], b"0000000000000000");
    assert_eq!(&bytes[38..54], b"0000000100000000");
    assert_eq!(&bytes[54..62], b"00000005");
    assert_eq!(&bytes[94..102], b"00000005");
    assert_eq!(&bytes[110..124], b"init\0\x0012345\0\0\0");
    assert_eq!(bytes.len(), 124 + 124);
}

#[test]
fn the_order_of_adding_does_not_matter() {
    let mut one = CpioWriter::default();
    one.directory("b").unwrap();
    one.file("b/c", 0o644, &b"c"[..]).unwrap();
    one.file("a", 0o644, &b"a"[..]).unwrap();
    let mut other = CpioWriter::default();
    other.file("a", 0o644, &b"a"[..]).unwrap();
    other.directory("b").unwrap();
    other.file("b/c", 0o644, &b"c"[..]).unwrap();

    assert_eq!(one.to_bytes(), other.to_bytes());
    let bytes = one.to_bytes();
    let entries = read_cpio(&bytes, CpioLimits::default()).unwrap();
    assert_eq!(names(&entries), ["a", "b", "b/c"]);
    let inodes: Vec<u32> = entries.iter().map(|entry| entry.inode).collect();
    assert_eq!(inodes, [1, 2, 3]);
}

#[test]
fn paths_that_the_kernel_would_misread_are_refused() {
    let too_long = "n".repeat(4096);
    let cases = [
        ("", "it is empty"),
        ("/init", "it has an empty name, . or .. in it"),
        ("a/", "it has an empty name, . or .. in it"),
        ("./a", "it has an empty name, . or .. in it"),
        ("a/../b", "it has an empty name, . or .. in it"),
        ("a\0b", "it has a NUL in it"),
        ("TRAILER!!!", "that name ends an archive"),
        (&too_long, "it is longer than 4095 bytes"),
        ("there", "it is there already"),
        ("missing/a", "its parent is no directory of the archive"),
        ("there/a", "its parent is no directory of the archive"),
    ];
    for (path, want) in cases {
        let mut writer = CpioWriter::default();
        writer.file("there", 0o644, &b""[..]).unwrap();

        let error = writer.directory(path).unwrap_err();

        let CpioError::Refused { what, .. } = error else {
            panic!("{path:?}: {error}");
        };
        assert_eq!(what, want, "{path:?}");
    }
}

#[test]
fn links_must_lead_somewhere() {
    let long = vec![b't'; 4096];
    for target in [&b""[..], b"a\0b", &long] {
        let mut writer = CpioWriter::default();
        let added = writer.add("link", 0o777, CpioNode::Link(target.into()));
        assert!(matches!(added, Err(CpioError::Refused { .. })));
    }
}

#[test]
fn limits_are_kept_when_writing_and_when_reading() {
    let bytes = written(&[("a", 0o644, file(b"a")), ("b", 0o644, file(b"b"))]);
    let exact = CpioLimits {
        entries: 2,
        bytes: bytes.len() as u64,
    };
    let cases = [
        (exact, true),
        (
            CpioLimits {
                entries: 1,
                ..exact
            },
            false,
        ),
        (
            CpioLimits {
                bytes: exact.bytes - 1,
                ..exact
            },
            false,
        ),
    ];
    for (limits, fits) in cases {
        let mut writer = CpioWriter::new(limits);
        writer.file("a", 0o644, &b"a"[..]).unwrap();
        let second = writer.file("b", 0o644, &b"b"[..]);
        assert_eq!(second.is_ok(), fits, "writing, {limits:?}");
        assert_eq!(
            read_cpio(&bytes, limits).is_ok(),
            fits,
            "reading, {limits:?}"
        );
        let packed = zstd::bulk::compress(&bytes, 1).unwrap();
        let unpacked = read_initramfs(&packed, limits);
        assert_eq!(unpacked.is_ok(), fits, "unpacking, {limits:?}");
    }
}

#[test]
fn what_other_programs_write_is_read() {
    let mut bytes = written(&[
        ("x", 0o755, CpioNode::Directory),
        ("yyy", 0o644, file(b"y")),
    ]);
    // As `find . | cpio -o` names the top, and others what is below it.
    bytes[110] = b'.';
    bytes[112 + 110..112 + 113].copy_from_slice(b"./y");
    // The program of GNU fills up to blocks.
    bytes.extend([0; 512]);

    let entries = read_cpio(&bytes, CpioLimits::default()).unwrap();

    assert_eq!(names(&entries), ["", "y"]);
}

#[test]
fn archives_in_a_row_are_one_initrd() {
    let (a, b) = (
        written(&[("a", 0o644, file(b"a"))]),
        written(&[("b", 0o644, file(b"b"))]),
    );
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&a).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&a).unwrap();
    let packed = [
        ("plain", a.clone()),
        ("gzip", gzip.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
        ("zstd", zstd::bulk::compress(&a, 3).unwrap()),
    ];
    for (how, part) in packed {
        let whole = [padded(part), b.clone(), vec![0; 8], a.clone()].concat();
        assert_eq!(initramfs(&whole).unwrap(), ["a", "b", "a"], "{how}");
    }
}

#[test]
fn an_archive_where_the_kernel_does_not_look_is_an_error() {
    let b = written(&[("b", 0o644, file(b"b"))]);
    let mut checked = 0;
    for length in 1..40 {
        let content = vec![b'x'; length];
        let a = written(&[("a", 0o644, file(&content))]);
        let packed = zstd::bulk::compress(&a, 3).unwrap();
        let offset = packed.len();
        if offset.is_multiple_of(4) {
            continue;
        }
        checked += 1;

        let error = initramfs(&[packed.clone(), b.clone()].concat()).unwrap_err();

        let CpioError::Misaligned { offset: found } = error else {
            panic!("{error}");
        };
        assert_eq!(found, offset);
        assert_eq!(
            initramfs(&[padded(packed), b.clone()].concat()).unwrap(),
            ["a", "b"]
        );
    }
    assert!(checked > 0, "every length was a multiple of four");
}

#[test]
fn a_cut_archive_is_refused_wherever_it_is_cut() {
    let bytes = written(&[("a", 0o644, file(b"a")), ("d", 0o755, CpioNode::Directory)]);
    for length in 0..bytes.len() {
        let cut = read_cpio(&bytes[..length], CpioLimits::default());
        assert!(cut.is_err(), "cut at {length}");
    }
}

fn any_node() -> impl Strategy<Value = CpioNode<'static>> {
    let content = || vec(any::<u8>(), 0..40);
    let numbers = || (0_u32..4096, 0_u32..1 << 20);
    prop_oneof![
        Just(CpioNode::Directory),
        content().prop_map(|content| CpioNode::File(content.into())),
        vec(1_u8..=255, 1..40).prop_map(|target| CpioNode::Link(target.into())),
        numbers().prop_map(|(major, minor)| CpioNode::CharacterDevice { major, minor }),
        numbers().prop_map(|(major, minor)| CpioNode::BlockDevice { major, minor }),
    ]
}

/// Entries at the top, and files below one directory.
fn any_entries() -> impl Strategy<Value = Vec<(String, u32, CpioNode<'static>)>> {
    let top = btree_map("[a-zé._-]{1,9}x", (0_u32..0o10000, any_node()), 0..6);
    let below = btree_map("[a-z]{1,9}", vec(any::<u8>(), 0..9), 0..4);
    (top, below).prop_map(|(top, below)| {
        let mut entries = vec![("0dir".to_owned(), 0o755, CpioNode::Directory)];
        for (path, (permissions, node)) in top {
            entries.push((path, permissions, node));
        }
        for (name, content) in below {
            let node = CpioNode::File(content.into());
            entries.push((format!("0dir/{name}"), 0o600, node));
        }
        entries
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(mut entries in any_entries()) {
        let mut writer = CpioWriter::default();
        for (path, permissions, node) in &entries {
            writer.add(path, *permissions, node.clone()).unwrap();
        }

        let bytes = writer.to_bytes();
        let read = read_cpio(&bytes, CpioLimits::default()).unwrap();

        entries.sort_by(|one, other| one.0.cmp(&other.0));
        let read: Vec<_> = read
            .into_iter()
            .map(|entry| (entry.path.display().to_string(), entry.permissions, entry.node))
            .collect();
        prop_assert_eq!(read, entries);
        prop_assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn no_damage_makes_it_panic(
        entries in any_entries(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        packed in any::<bool>(),
    ) {
        let mut writer = CpioWriter::default();
        for (path, permissions, node) in &entries {
            writer.add(path, *permissions, node.clone()).unwrap();
        }
        let mut bytes = writer.to_bytes();
        if packed {
            bytes = zstd::bulk::compress(&bytes, 1).unwrap();
        }
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }

        // Whatever is still understood keeps the rules of paths.
        for entry in read_initramfs(&bytes, CpioLimits::default()).unwrap_or_default() {
            prop_assert!(entry.path.is_relative());
        }
    }
}
