//! Archives that are unusual and right.

use kiln_tree::Timestamp;

use crate::testing::{Shown, Tar, What, entries, open, put};

fn show(archive: &[u8]) -> Vec<Shown> {
    entries(archive).unwrap()
}

fn only(tar: Tar) -> Shown {
    let [shown] = show(&tar.end()).try_into().unwrap();
    shown
}

fn file(bytes: &[u8]) -> What {
    What::File(bytes.to_vec(), bytes.len().div_ceil(4096) as u64)
}

fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds,
    }
}

#[test]
fn every_type_has_its_entry() {
    let devices = |header: &mut _| {
        put(header, 329, b"0000010\0");
        put(header, 337, b"0000021\0");
    };
    let tar = Tar::new()
        .directory("./")
        .directory("./d/")
        .file("d/f", b"hello")
        .member(0, "old", b"x")
        .member(0, "olddir/", b"")
        .member(b'7', "contiguous", b"y")
        .link(b'2', "s", "../anywhere/..")
        .link(b'1', "h", "./d/f")
        .edited(b'3', "c", b"", devices)
        .edited(b'4', "b", b"", devices)
        .member(b'6', "p", b"")
        .member(b'V', "label", b"ignored");

    let got: Vec<_> = show(&tar.end())
        .into_iter()
        .map(|shown| (String::from_utf8(shown.path).unwrap(), shown.what))
        .collect();

    let want = [
        ("", What::Directory),
        ("d", What::Directory),
        ("d/f", file(b"hello")),
        ("old", file(b"x")),
        ("olddir", What::Directory),
        ("contiguous", file(b"y")),
        ("s", What::Symlink(b"../anywhere/..".to_vec())),
        ("h", What::Hardlink(b"d/f".to_vec())),
        ("c", What::CharDevice(8, 17)),
        ("b", What::BlockDevice(8, 17)),
        ("p", What::Fifo),
    ];
    assert_eq!(got, want.map(|(path, what)| (path.to_owned(), what)));
}

#[test]
fn whiteouts_become_markers_and_aufs_metadata_goes() {
    let tar = Tar::new()
        .file("a/.wh.b", b"")
        .file("a/.wh..wh..opq", b"with a body")
        .file(".wh..wh.plnk/1.2", b"x")
        .file("a/.wh..wh.aufs", b"")
        .file("after", b"z");

    let got: Vec<_> = show(&tar.end())
        .into_iter()
        .map(|shown| (shown.path, shown.what))
        .collect();

    assert_eq!(
        got,
        [
            (b"a/b".to_vec(), What::Whiteout),
            (b"a".to_vec(), What::Opaque),
            (b"after".to_vec(), file(b"z")),
        ]
    );
}

#[test]
fn names_come_from_pax_then_gnu_then_the_header() {
    let long = "n".repeat(200);
    let prefix = |header: &mut _| put(header, 345, b"some/prefix");
    let star = |header: &mut _| {
        put(header, 345, b"some/prefix");
        put(header, 476, b"14000000000\0");
        put(header, 508, b"tar\0");
    };
    let gnu = |header: &mut _| {
        put(header, 257, b"ustar  \0");
        put(header, 345, b"14000000000\0");
    };
    let cases: &[(Tar, &[u8])] = &[
        (Tar::new().edited(b'0', "n", b"", prefix), b"some/prefix/n"),
        (Tar::new().edited(b'0', "n", b"", star), b"some/prefix/n"),
        (Tar::new().edited(b'0', "n", b"", gnu), b"n"),
        (
            Tar::new().long_name(long.as_bytes()).file("n", b""),
            long.as_bytes(),
        ),
        (
            Tar::new().pax(&[("path", b"a\nb/\xff\xfe")]).file("n", b""),
            b"a\nb/\xff\xfe",
        ),
        (
            Tar::new()
                .pax(&[("path", b"x"), ("path", b"")])
                .file("n", b""),
            b"n",
        ),
        (Tar::new().file("/abs/./n", b""), b"abs/n"),
    ];
    for (tar, want) in cases {
        let got = only(tar.clone());
        assert_eq!(got.path, *want, "{}", got.path.escape_ascii());
    }
}

#[test]
fn link_targets_come_from_pax_then_gnu_then_the_header() {
    let long = "t/".repeat(100) + "t";
    let linked = |tar: Tar| only(tar).what;

    assert_eq!(
        linked(
            Tar::new()
                .long_link(long.as_bytes())
                .link(b'2', "s", "short")
        ),
        What::Symlink(long.clone().into_bytes())
    );
    assert_eq!(
        linked(
            Tar::new()
                .long_name(b"s")
                .long_link(long.as_bytes())
                .link(b'1', "x", "y")
        ),
        What::Hardlink(long.clone().into_bytes())
    );
    assert_eq!(
        linked(
            Tar::new()
                .pax(&[("linkpath", b"/\xff")])
                .link(b'2', "s", "short")
        ),
        What::Symlink(b"/\xff".to_vec())
    );
    // A hard link has no bytes, whatever its size says.
    let sized = |header: &mut _| {
        put(header, 124, b"00000001000\0");
        put(header, 157, b"/target");
    };
    let got = show(
        &Tar::new()
            .edited(b'1', "h", b"", sized)
            .file("f", b"x")
            .end(),
    );
    assert_eq!(got[0].what, What::Hardlink(b"target".to_vec()));
    assert_eq!(got[1].path, b"f");
}

#[test]
fn a_comment_that_looks_like_a_record_is_a_comment() {
    let tar = Tar::new()
        .pax(&[("comment", b"x\n22 linkpath=/etc/evil\n")])
        .link(b'2', "s", "harmless");

    assert_eq!(only(tar).what, What::Symlink(b"harmless".to_vec()));
}

#[test]
fn numbers_come_in_every_format() {
    let base256 = |header: &mut _| {
        put(header, 100, b"0104755\0");
        put(header, 108, b"\x80\0\0\0\xff\xff\xff\xff");
        put(header, 116, b"  12 \0\0\0");
        put(
            header,
            136,
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfb",
        );
    };
    let got = only(Tar::new().edited(b'0', "n", b"", base256));
    assert_eq!(
        (got.mode, got.ids, got.mtime),
        (0o4755, (u32::MAX, 10), at(-5, 0))
    );

    let records: &[(&str, &[u8])] = &[
        ("uid", b"2147483648"),
        ("gid", b"4294967295"),
        ("mtime", b"-1.25"),
        ("atime", b"12.5"),
    ];
    let got = only(Tar::new().pax(records).file("n", b""));
    assert_eq!(
        (got.ids, got.mtime),
        ((1 << 31, u32::MAX), at(-2, 750_000_000))
    );
}

#[test]
fn the_size_of_pax_goes_before_that_of_the_header() {
    let empty = |header: &mut _| put(header, 124, b"00000000000\0");
    let tar = Tar::new()
        .pax(&[("size", b"5")])
        .edited(b'0', "a", b"hello", empty)
        .file("b", b"x");

    let got = show(&tar.end());

    assert_eq!(got[0].what, file(b"hello"));
    assert_eq!(got[1].what, file(b"x"));
}

#[test]
fn global_headers_count_until_replaced() {
    let tar = Tar::new()
        .global(&[("uid", b"7"), ("mtime", b"1.5"), ("comment", b"c")])
        .file("a", b"")
        .pax(&[("uid", b"8")])
        .file("b", b"")
        .global(&[("uid", b""), ("gid", b"9")])
        .file("c", b"");

    let got: Vec<_> = show(&tar.end())
        .iter()
        .map(|shown| (shown.ids, shown.mtime))
        .collect();

    let time = at(1, 500_000_000);
    assert_eq!(got, [((7, 0), time), ((8, 0), time), ((0, 9), time)]);
}

#[test]
fn attributes_are_kept_to_the_byte() {
    let capability = b"\x01\0\0\x02\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.empty", b""),
        ("LIBARCHIVE.xattr.user.a%2fb", b"CgA"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/x"),
        ("SCHILY.xattr.trusted.other", b"kept"),
    ];
    let got = only(Tar::new().pax(records).file("n", b""));

    let want: &[(&[u8], &[u8])] = &[
        (b"security.capability", capability),
        (b"trusted.other", b"kept"),
        (b"user.a/b", b"\n\0"),
        (b"user.empty", b""),
    ];
    let want = want
        .iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()));
    assert_eq!(got.xattrs, want.collect());
}

/// A file with data in blocks 1 and 2, and at its very end, as ranges that start and end anywhere.
const RANGES: &[(u64, &[u8])] = &[(5000, b"abc"), (8191, b"de"), (20_000, b"end")];
const SPARSE_SIZE: u64 = 20_003;

fn sparse_file() -> What {
    let mut bytes = vec![0; 20_003];
    for (offset, data) in RANGES {
        let at = usize::try_from(*offset).unwrap();
        bytes[at..at + data.len()].copy_from_slice(data);
    }
    What::File(bytes, 3)
}

fn stored() -> Vec<u8> {
    RANGES.iter().flat_map(|(_, data)| data.to_vec()).collect()
}

#[test]
fn sparse_files_of_every_form_are_the_same() {
    let decimal = SPARSE_SIZE.to_string();
    let mut v00: Vec<(&str, Vec<u8>)> = vec![
        ("GNU.sparse.size", decimal.clone().into_bytes()),
        ("GNU.sparse.numblocks", b"4".to_vec()),
    ];
    let mut map = Vec::new();
    let mut lines = "4\n".to_owned();
    let ends: &[(u64, &[u8])] = &[(SPARSE_SIZE, b"")];
    for (offset, data) in RANGES.iter().chain(ends) {
        v00.push(("GNU.sparse.offset", offset.to_string().into_bytes()));
        v00.push(("GNU.sparse.numbytes", data.len().to_string().into_bytes()));
        map.extend([offset.to_string(), data.len().to_string()]);
        lines += &[offset.to_string(), data.len().to_string(), String::new()].join("\n");
    }
    let v00: Vec<_> = v00.iter().map(|(key, value)| (*key, &value[..])).collect();
    let map = map.join(",");
    let v01: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", decimal.as_bytes()),
        ("GNU.sparse.numblocks", b"4"),
        ("GNU.sparse.name", b"n"),
        ("GNU.sparse.map", map.as_bytes()),
    ];
    let v10: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"n"),
        ("GNU.sparse.realsize", decimal.as_bytes()),
    ];
    let mut with_map = lines.into_bytes();
    with_map.resize(512, 0);
    with_map.extend(stored());
    let condensed = "GNUSparseFile.0/n";
    for (form, tar) in [
        ("0.0", Tar::new().pax(&v00).file("n", &stored())),
        ("0.1", Tar::new().pax(v01).file(condensed, &stored())),
        ("1.0", Tar::new().pax(v10).file(condensed, &with_map)),
        ("old GNU", old_gnu()),
    ] {
        let got = show(&tar.file("after", b"x").end());

        assert_eq!(got[0].path, b"n", "{form}");
        assert_eq!(got[0].what, sparse_file(), "{form}");
        assert_eq!(got[1].what, file(b"x"), "{form}");
    }
}

/// Two ranges in the header, two in a block behind it.
fn old_gnu() -> Tar {
    let range = |offset: u64, length: usize| format!("{offset:011o}\0{length:011o}\0");
    let mut extension = Vec::new();
    extension.extend(range(RANGES[2].0, RANGES[2].1.len()).bytes());
    extension.extend(range(SPARSE_SIZE, 0).bytes());
    let in_header = |header: &mut _| {
        put(header, 257, b"ustar  \0");
        put(header, 124, format!("{:011o}\0", stored().len()).as_bytes());
        for (at, (offset, data)) in [386, 410].into_iter().zip(RANGES) {
            put(header, at, range(*offset, data.len()).as_bytes());
        }
        put(header, 482, b"\x01");
        put(header, 483, format!("{SPARSE_SIZE:011o}\0").as_bytes());
    };
    Tar::new()
        .edited(b'S', "n", b"", in_header)
        .block_of(&extension)
        .block_of(&stored())
}

#[test]
fn zeros_of_a_file_are_holes_of_the_pack_only() {
    let mut body = vec![0; 5 * 4096 + 10];
    body[0] = 1;
    body[3 * 4096] = 1;
    let layer = open(&Tar::new().file("a", b"x").file("z", &body).end()).unwrap();

    assert_eq!(layer.pack.zero_runs(), [2..4, 5..7]);
    assert_eq!(layer.pack.index().pack_blocks(), 7);
    assert_eq!(layer.entries()[1].what, file(&body));
}

#[test]
fn bodies_larger_than_every_buffer_arrive_whole() {
    let body: Vec<u8> = (0..10_000_003_u32)
        .map(|number| u8::try_from(number.wrapping_mul(2_654_435_761) >> 24).unwrap())
        .collect();
    let tar = Tar::new()
        .file("a", b"1")
        .file("big", &body)
        .file("b", b"2");

    let got = show(&tar.end());

    assert_eq!(got[1].what, file(&body));
    assert_eq!(got[2].what, file(b"2"));
}

#[test]
fn the_end_may_be_missing_and_anything_may_follow_it() {
    let plain = Tar::new().file("a", b"x");
    let whole = plain.clone().end();
    let with_tail = [&whole[..], &[7; 9000]].concat();
    let mut one_block = plain.clone().0;
    one_block.resize(one_block.len() + 512, 0);
    let mut diff_ids = std::collections::BTreeSet::new();
    for bytes in [plain.0, whole, with_tail, one_block] {
        let layer = open(&bytes).unwrap();
        assert_eq!(layer.entries().len(), 1);
        assert_eq!(layer.decoded.tar_bytes, bytes.len() as u64);
        diff_ids.insert(layer.decoded.diff_id);
    }
    // What follows the end is hashed too.
    assert_eq!(diff_ids.len(), 4);
    assert!(show(&[]).is_empty());
    assert!(show(&Tar::new().end()).is_empty());
}

#[test]
fn a_list_that_is_left_out_gives_the_group_no_more_than_it_had() {
    let named: &[u8] = b"user::rw-,user:bob:rw-,group::---,mask::rw-,other::---";
    let masked: &[u8] = b"user::rw-,user:bob:rw-,group::rwx,mask::r--,other::---";
    let numeric: &[u8] = b"user::rw-,user:7:rw-,group::---,mask::rw-,other::---";
    let raw = ("SCHILY.xattr.system.posix_acl_access", &b"\x02\0\0\0"[..]);
    let list = |text| ("SCHILY.acl.access", text);
    let cases = [
        (vec![list(named)], 0o4600, 0),
        (vec![list(masked)], 0o4640, 0),
        (vec![list(numeric)], 0o4660, 1),
        // The attribute itself counts, whatever the text says.
        (vec![list(named), raw], 0o4660, 1),
    ];
    for (records, mode, attributes) in cases {
        let got = only(
            Tar::new()
                .pax(&records)
                .edited(b'0', "f", b"", |header| put(header, 100, b"0004660\0")),
        );

        assert_eq!(got.mode, mode, "{records:?}");
        assert_eq!(got.xattrs.len(), attributes, "{records:?}");
    }
}
