//! Claims about reading archives strictly.

use proptest::prelude::*;

use super::*;
use crate::testing::{self, Entry as Built};

/// Reads an archive into lines: kind, path, content or target.
fn list(bytes: &[u8]) -> Result<Vec<String>, ArchiveError> {
    let mut archive = Archive::new(bytes);
    let mut lines = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let path: PathBuf = entry.components.iter().collect();
        let what = match entry.kind {
            Kind::Regular { .. } => {
                let mut content = String::new();
                archive
                    .body()
                    .read_to_string(&mut content)
                    .map_err(cannot_read)?;
                format!("file {content}")
            }
            Kind::Directory => "directory".to_owned(),
            Kind::Link { target } => format!("link {}", target.display()),
            Kind::Other => "other".to_owned(),
        };
        lines.push(format!("{} {what}", path.display()));
    }
    Ok(lines)
}

/// Builds one header with a right checksum, and pads its body.
fn raw(name: &[u8], kind: u8, body: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[156] = kind;
    header.set_size(body.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

#[test]
fn archives_are_read_as_they_were_written() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let bytes = testing::tar(&[
        Built::Directory("kernel"),
        Built::File("kernel/a.ko", b"module"),
        Built::File("empty", b""),
        Built::Link("alias", "kernel/a.ko"),
        Built::File(&long, b"long"),
    ]);

    let want = [
        "kernel directory".to_owned(),
        "kernel/a.ko file module".to_owned(),
        "empty file ".to_owned(),
        "alias link kernel/a.ko".to_owned(),
        format!("{long} file long"),
    ];
    assert_eq!(list(&bytes).unwrap(), want);
}

#[test]
fn pax_names_replace_those_of_the_header() {
    let bytes = [
        raw(
            b"PaxHeaders/x",
            b'x',
            b"17 path=new name\n20 mtime=1700000000\n",
        ),
        raw(b"old", b'0', b"body"),
        vec![0; 1024],
    ]
    .concat();

    assert_eq!(list(&bytes).unwrap(), ["new name file body"]);
}

#[test]
fn an_archive_without_end_marker_may_be_half_of_one() {
    for bytes in [raw(b"a", b'0', b"body"), Vec::new()] {
        let error = list(&bytes).unwrap_err();

        assert!(matches!(error, ArchiveError::Malformed { .. }), "{error}");
    }
}

#[test]
fn malformed_archives_are_refused() {
    let good = || raw(b"a", b'0', b"body");
    let mut wrong_sum = good();
    wrong_sum[0] ^= 1;
    let mut signed_size = raw(b"a", b'0', b"");
    signed_size[124..136].copy_from_slice(b"+0000000000\0");
    let mut huge = Header::new_gnu();
    huge.set_size(1 << 32);
    huge.set_entry_type(EntryType::GNULongName);
    huge.set_cksum();
    let cases: &[(&str, Vec<u8>)] = &[
        ("wrong checksum", wrong_sum),
        ("signed size", signed_size),
        ("a huge extension", huge.as_bytes().to_vec()),
        ("cut header", good()[..100].to_vec()),
        ("cut body", good()[..514].to_vec()),
        ("cut padding", good()[..800].to_vec()),
        ("dangling extension", raw(b"x", b'x', b"17 path=new name\n")),
        (
            "two extensions",
            [
                raw(b"L", b'L', b"name\0"),
                raw(b"x", b'x', b"17 path=new name\n"),
                good(),
            ]
            .concat(),
        ),
        (
            "a record longer than its header",
            [raw(b"x", b'x', b"99 path=new name\n"), good()].concat(),
        ),
        (
            "a record without length",
            [raw(b"x", b'x', b"path=new name\n"), good()].concat(),
        ),
        (
            "a sparse file",
            [raw(b"x", b'x', b"22 GNU.sparse.major=1\n"), good()].concat(),
        ),
        ("an old sparse file", raw(b"a", b'S', b"")),
        ("a global header", raw(b"a", b'g', b"11 path=x\n")),
        (
            "an entry behind an empty block",
            [vec![0; 512], good()].concat(),
        ),
    ];
    for (what, bytes) in cases {
        let error = list(bytes).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Malformed { .. }),
            "{what}: {error}"
        );
    }
}

#[test]
fn names_that_could_lead_elsewhere_are_refused() {
    let long = vec![b'a'; 256];
    let cases: &[&[u8]] = &[b"/etc/passwd", b"../up", b"a/../../up", b"a//b", b"..", b""];
    for name in cases {
        let error = list(&raw(name, b'0', b"")).unwrap_err();
        assert!(matches!(error, ArchiveError::BadName { .. }), "{error}");
    }
    let long = [raw(b"L", b'L', &long), raw(b"a", b'0', b"")].concat();
    let nul = [raw(b"L", b'L', b"a\0b"), raw(b"a", b'0', b"")].concat();
    for bytes in [long, nul] {
        let error = list(&bytes).unwrap_err();
        assert!(matches!(error, ArchiveError::BadName { .. }), "{error}");
    }
}

#[test]
fn the_root_has_no_components() {
    assert_eq!(
        list(&[raw(b"./", b'5', b""), vec![0; 1024]].concat()).unwrap(),
        [" directory"]
    );
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        repair in any::<bool>(),
    ) {
        let mut bytes = [
            raw(b"x", b'x', b"17 path=new name\n"),
            raw(b"L", b'0', b"body"),
            raw(b"L", b'L', b"name\0"),
            raw(b"a", b'2', b""),
            vec![0; 1024],
        ]
        .concat();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if repair {
            for block in bytes.chunks_exact_mut(BLOCK_BYTES).step_by(2) {
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }

        let entries = list(&bytes).map_or(0, |lines| lines.len());

        prop_assert!(entries <= bytes.len() / BLOCK_BYTES);
    }
}
