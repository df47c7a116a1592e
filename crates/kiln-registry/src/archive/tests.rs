use std::io::Write;

use super::*;

/// Writes `bytes` into a file without a name and scans it.
fn scan(bytes: &[u8]) -> Result<Archive, FetchError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Archive::scan(Arc::new(file), Path::new("x.tar"))
}

fn entry(name: &str, kind: EntryType, link: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(body.len() as u64);
    if let Some(link) = link {
        header.set_link_name_literal(link).unwrap();
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, body: &[u8]) -> Vec<u8> {
    entry(name, EntryType::Regular, None, body)
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(name, EntryType::Symlink, Some(target), b"")
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let length = (1..1000)
            .find(|length: &usize| length.to_string().len() + rest.len() == *length)
            .unwrap();
        body.push_str(&length.to_string());
        body.push_str(&rest);
    }
    entry("pax", EntryType::XHeader, None, body.as_bytes())
}

fn read(archive: &Archive, name: &str) -> Option<String> {
    let bytes = archive.read(name, 1 << 20).unwrap()?;
    Some(String::from_utf8(bytes).unwrap())
}

#[test]
fn files_are_found_under_any_spelling_of_their_name() {
    let long = "d/".repeat(80) + "file";
    let bytes = [
        file("./index.json", b"one"),
        entry("dir/", EntryType::Directory, None, b""),
        file("dir/a", &[b'x'; 513]),
        pax(&[
            ("path", "renamed\nby pax"),
            ("comment", "a\n22 path=/etc/evil\n"),
        ]),
        file("short", b"two"),
        entry(
            "././@LongLink",
            EntryType::GNULongName,
            None,
            long.as_bytes(),
        ),
        file("cut", b"three"),
        pax(&[("size", "4")]),
        file("sized", b"four"),
        file("twice", b"old"),
        file("twice", b"new"),
        vec![0; 1024],
        b"trailing rubbish is never looked at".to_vec(),
    ]
    .concat();

    let archive = scan(&bytes).unwrap();

    let cases = [
        ("index.json", Some("one")),
        ("/./index.json", Some("one")),
        ("renamed\nby pax", Some("two")),
        (&long, Some("three")),
        ("sized", Some("four")),
        ("twice", Some("new")),
        ("short", None),
        ("dir", None),
        ("etc/evil", None),
        ("../index.json", None),
        ("", None),
    ];
    for (name, want) in cases {
        assert_eq!(read(&archive, name).as_deref(), want, "reading {name:?}");
    }
    assert_eq!(archive.find("dir/a").unwrap().remaining_bytes(), 513);
}

#[test]
fn links_are_followed_inside_the_archive_only() {
    let bytes = [
        file("a/layer.tar", b"layer"),
        link("b/layer.tar", "../a/layer.tar"),
        link("c/layer.tar", "../b/layer.tar"),
        entry("d", EntryType::Link, Some("a/layer.tar"), b""),
        link("out", "../../etc/passwd"),
        link("absolute", "/a/layer.tar"),
        link("loop", "loop"),
        link("dangling", "nothing"),
    ]
    .concat();

    let archive = scan(&bytes).unwrap();

    let cases = [
        ("b/layer.tar", Some("layer")),
        ("c/layer.tar", Some("layer")),
        ("d", Some("layer")),
        ("absolute", Some("layer")),
        ("out", None),
        ("loop", None),
        ("dangling", None),
    ];
    for (name, want) in cases {
        assert_eq!(read(&archive, name).as_deref(), want, "reading {name:?}");
    }
}

#[test]
fn damaged_archives_are_refused_by_rule() {
    let mut bad_sum = file("a", b"x");
    bad_sum[0] ^= 1;
    let mut huge = Header::new_gnu();
    huge.set_entry_type(EntryType::XHeader);
    huge.set_size(MAX_EXTENSION_BYTES + 1);
    huge.set_cksum();
    let mut absurd = Header::new_gnu();
    absurd.set_size(u64::MAX);
    absurd.set_cksum();
    let pax_of = |body: &[u8]| entry("pax", EntryType::XHeader, None, body);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (bad_sum, "the header's checksum is wrong"),
        (file("a", b"x")[..100].to_vec(), "a header is cut off"),
        (
            huge.as_bytes().to_vec(),
            "an extension header is larger than 1 MiB",
        ),
        (absurd.as_bytes().to_vec(), "the size is absurd"),
        (pax_of(b"5 a=b"), "a PAX record does not end where it says"),
        (
            pax_of(b"99 a=b\n"),
            "a PAX record does not end where it says",
        ),
        (pax_of(b"1 \n"), "a PAX record does not end where it says"),
        (pax_of(b"5 ab\n"), "a PAX record has no value"),
        (pax(&[("size", "-1")]), "the size is not a number"),
        (pax(&[("GNU.sparse.major", "1")]), "it has a sparse file"),
        (
            entry("s", EntryType::GNUSparse, None, b""),
            "it has a sparse file",
        ),
        (
            pax_of(&[b'x'; 600])[..600].to_vec(),
            "an extension header is cut off",
        ),
    ];
    for (bytes, want) in cases {
        match scan(&bytes).map(drop) {
            Err(FetchError::ArchiveMalformed { problem, .. }) => assert_eq!(problem, want),
            other => panic!("expected {want:?}, got {other:?}"),
        }
    }
}

#[test]
fn compressed_archives_are_refused_by_name() {
    for (head, want) in [
        (&[0x1f, 0x8b, 8, 0, 0, 0][..], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (b"BZh91", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
    ] {
        match scan(head).map(drop) {
            Err(FetchError::ArchiveCompressed { with, .. }) => assert_eq!(with, want),
            other => panic!("expected {want:?}, got {other:?}"),
        }
    }
}

#[test]
fn an_archive_that_ends_within_a_body_is_told_as_cut_short() {
    let bytes = file("a", &[b'x'; 2000]);

    let error = scan(&bytes[..1000]).unwrap_err();
    let whole_but_for_its_padding = scan(&bytes[..2512]);

    let text = format!("{error:?}");
    assert!(text.contains("it is cut short"), "{text}");
    whole_but_for_its_padding.unwrap();
}
