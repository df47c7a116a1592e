//! Archives that are wrong, ambiguous or too much.

use crate::testing::{Tar, open, open_with, pax_body, put};
use crate::{Cap, Declared, DecodeError, Limits, Malformation};

fn reason(archive: &[u8]) -> Option<Malformation> {
    match open(archive).err() {
        Some(DecodeError::Malformed { reason, .. }) => Some(reason),
        Some(other) => panic!("{other}"),
        None => None,
    }
}

fn check(cases: &[(&str, Tar, Malformation)]) {
    for (name, tar, want) in cases {
        let archive = tar.clone().file("after", b"x").end();
        assert_eq!(reason(&archive), Some(*want), "{name}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    use Malformation as M;
    let field = |at: usize, bytes: &'static [u8]| {
        Tar::new().edited(b'0', "n", b"", move |header| put(header, at, bytes))
    };
    let mut checksum = Tar::new().file("n", b"");
    checksum.0[0] ^= 1;
    check(&[
        ("checksum", checksum, M::Checksum),
        ("mode", field(100, b"9"), M::Number { field: "mode" }),
        (
            "size +",
            field(124, b"+0000000005\0"),
            M::Number { field: "size" },
        ),
        (
            "size -1",
            field(124, &[0xff; 12]),
            M::Number { field: "size" },
        ),
        (
            "size 2^95",
            field(124, b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            M::Number { field: "size" },
        ),
        (
            "mtime",
            field(136, b"yesterday\0"),
            M::Number { field: "mtime" },
        ),
        ("uid -1", field(108, &[0xff; 8]), M::Id),
        ("uid 2^32", field(108, b"\x80\0\0\x01\0\0\0\0"), M::Id),
        (
            "uid of PAX",
            Tar::new().pax(&[("uid", b"4294967296")]).file("n", b""),
            M::Id,
        ),
        (
            "gid of PAX",
            Tar::new().pax(&[("gid", b"-1")]).file("n", b""),
            M::PaxRecord,
        ),
        (
            "size of PAX",
            Tar::new()
                .pax(&[("size", b"9223372036854775808")])
                .file("n", b""),
            M::Number { field: "size" },
        ),
        (
            "a lone zero block",
            Tar::new().block_of(&[0; 512]),
            M::LoneZeroBlock,
        ),
        (
            "a directory with bytes",
            Tar::new().member(b'5', "d", b"x"),
            M::UnexpectedBody,
        ),
        (
            "a link with bytes",
            Tar::new().edited(b'2', "s", b"x", |header| put(header, 157, b"t")),
            M::UnexpectedBody,
        ),
        (
            "a file named as a directory",
            Tar::new().file("d/", b""),
            M::TrailingSlash,
        ),
    ]);
}

#[test]
fn names_that_lead_out_or_nowhere_are_refused() {
    use Malformation as M;
    check(&[
        ("..", Tar::new().file("..", b""), M::ParentComponent),
        (
            "a/../../b",
            Tar::new().file("a/../../b", b""),
            M::ParentComponent,
        ),
        ("empty", Tar::new().file("", b""), M::EmptyName),
        (
            "NUL in PAX",
            Tar::new().pax(&[("path", b"a\0b")]).file("n", b""),
            M::NulInName,
        ),
        (
            "link to ..",
            Tar::new().link(b'1', "h", "../x"),
            M::ParentComponent,
        ),
        (
            "link to nothing",
            Tar::new().link(b'1', "h", ""),
            M::EmptyTarget,
        ),
        (
            "symlink to nothing",
            Tar::new().link(b'2', "s", ""),
            M::EmptyTarget,
        ),
        (".wh.", Tar::new().file("a/.wh.", b""), M::Whiteout),
        (".wh..", Tar::new().file(".wh..", b""), M::Whiteout),
        (".wh...", Tar::new().file(".wh...", b""), M::Whiteout),
        (".wh.a/b", Tar::new().file(".wh.a/b", b""), M::Whiteout),
    ]);
}

#[test]
fn extension_headers_that_could_be_read_in_two_ways_are_refused() {
    use Malformation as M;
    let record = |bytes: &[u8]| Tar::new().member(b'x', "x", bytes).file("n", b"");
    check(&[
        ("cut record", record(b"9 path=a"), M::PaxRecord),
        ("NULs behind", record(b"9 path=a\n\0\0"), M::PaxRecord),
        ("zero length", record(b"0 path=a\n"), M::PaxRecord),
        (
            "PAX then GNU",
            Tar::new()
                .pax(&[("path", b"a")])
                .long_name(b"b")
                .file("n", b""),
            M::MixedExtensions,
        ),
        (
            "GNU then PAX",
            Tar::new()
                .long_link(b"b")
                .pax(&[("path", b"a")])
                .file("n", b""),
            M::MixedExtensions,
        ),
        (
            "two of PAX",
            Tar::new()
                .pax(&[("path", b"a")])
                .pax(&[("uid", b"1")])
                .file("n", b""),
            M::MixedExtensions,
        ),
        (
            "two long names",
            Tar::new().long_name(b"a").long_name(b"b").file("n", b""),
            M::MixedExtensions,
        ),
        (
            "global in between",
            Tar::new()
                .long_name(b"a")
                .global(&[("uid", b"1")])
                .file("n", b""),
            M::MixedExtensions,
        ),
        (
            "before a label",
            Tar::new().long_name(b"a").member(b'V', "v", b""),
            M::DanglingExtension,
        ),
        (
            "global path",
            Tar::new().global(&[("path", b"a")]),
            M::GlobalRecord,
        ),
        (
            "global size",
            Tar::new().global(&[("size", b"0")]),
            M::GlobalRecord,
        ),
        (
            "empty long name",
            Tar::new().member(b'L', "x", b""),
            M::LongName,
        ),
        (
            "long name of NULs",
            Tar::new().member(b'L', "x", b"\0\0"),
            M::LongName,
        ),
        (
            "more behind the NUL",
            Tar::new().member(b'L', "x", b"a\0b\0"),
            M::LongName,
        ),
        (
            "attribute without name",
            Tar::new().pax(&[("SCHILY.xattr.", b"a")]).file("n", b""),
            M::Xattr,
        ),
        (
            "attribute not base64",
            Tar::new()
                .pax(&[("LIBARCHIVE.xattr.user.a", b"@")])
                .file("n", b""),
            M::Xattr,
        ),
    ]);
    for tar in [
        Tar::new().pax(&[("path", b"a")]),
        Tar::new().long_name(b"a"),
        Tar::new().long_link(b"a"),
    ] {
        assert_eq!(reason(&tar.clone().0), Some(M::DanglingExtension));
        assert_eq!(reason(&tar.end()), Some(M::DanglingExtension));
    }
}

#[test]
fn sparse_maps_that_do_not_fit_are_refused() {
    let v01 = |size: &'static str, map: &'static str| {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ];
        Tar::new().pax(records).file("n", b"abcd")
    };
    let v10 = |map: &[u8]| {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"10"),
        ];
        Tar::new().pax(records).file("n", map)
    };
    let major = Tar::new().pax(&[("GNU.sparse.major", b"2")]).file("n", b"");
    let on_link = Tar::new()
        .pax(&[("GNU.sparse.size", b"1")])
        .link(b'2', "s", "t");
    let cases = [
        ("overlap", v01("10", "0,3,2,1")),
        ("out of range", v01("3", "0,4")),
        ("too few bytes", v01("10", "0,3")),
        ("too many bytes", v01("10", "0,5")),
        (
            "no size",
            Tar::new()
                .pax(&[("GNU.sparse.map", b"0,4")])
                .file("n", b"abcd"),
        ),
        ("no digits", v10(b"x\n")),
        ("a line without end", v10(&[b'1'; 600])),
        ("map without bytes", v10(b"1\n0\n4\n")),
        ("map cut", v10(b"2\n0\n4\n")),
        ("unknown form", major),
        ("not a file", on_link),
        ("not GNU", Tar::new().member(b'S', "n", b"")),
    ];
    for (name, tar) in cases {
        assert_eq!(reason(&tar.end()), Some(Malformation::SparseMap), "{name}");
    }
}

#[test]
fn types_that_no_image_holds_are_named() {
    for typeflag in [b'8', b'9', b'D', b'M', b'N', b'X', b'A', b'z', 0x80] {
        let archive = Tar::new().file("a", b"").member(typeflag, "n", b"").end();
        match open(&archive).err() {
            Some(DecodeError::UnsupportedEntry {
                path,
                at,
                typeflag: found,
            }) => assert_eq!((path.as_bytes(), at, found), (&b"n"[..], 512, typeflag)),
            other => panic!("{other:?}"),
        }
    }
}

fn small_limits() -> Limits {
    Limits {
        layer_bytes: 1 << 20,
        ratio: 100,
        ratio_from_bytes: 1 << 18,
        entries: 3,
        index_bytes: 1 << 20,
        extension_bytes: 2000,
        xattr_bytes: 100,
        xattrs: 2,
        sparse_ranges: 2,
        zstd_window_log: 20,
    }
}

#[test]
fn every_limit_is_named_with_its_value() {
    let small = small_limits();
    let xattrs = |records: &[(&str, &[u8])]| Tar::new().pax(records).file("n", b"").end();
    let name = "SCHILY.xattr.user.".to_owned() + &"x".repeat(251);
    let long_map = b"0,1,2,1,4,1";
    let map: &[(&str, &[u8])] = &[("GNU.sparse.size", b"9"), ("GNU.sparse.map", long_map)];
    let many = (0..4).fold(Tar::new(), |tar, _| tar.file("n", b""));
    let globals = |size: usize, count: u8| {
        (0..count).fold(Tar::new(), |tar, number| {
            let name = format!("SCHILY.xattr.user.{number}");
            tar.global(&[(&name, &vec![b'x'; size])])
        })
    };
    let gzip = |bytes: &[u8]| super::streams::gzip(bytes);
    let noise: Vec<u8> = (0..2_u32 << 20)
        .map(|number| u8::try_from(number.wrapping_mul(2_654_435_761) >> 24).unwrap())
        .collect();
    let cases: Vec<(Vec<u8>, Cap, u64)> = vec![
        (Tar::new().file("n", &noise).end(), Cap::LayerBytes, 1 << 20),
        (
            gzip(&Tar::new().file("n", &[0; 1 << 19]).end()),
            Cap::Ratio,
            100,
        ),
        (many.end(), Cap::Entries, 3),
        (
            Tar::new().pax(&[("comment", &[b'x'; 2000])]).end(),
            Cap::ExtensionBytes,
            2000,
        ),
        (
            Tar::new().long_name(&[b'x'; 2000]).end(),
            Cap::ExtensionBytes,
            2000,
        ),
        (globals(40, 3).end(), Cap::Xattrs, 2),
        (globals(80, 2).end(), Cap::XattrBytes, 100),
        (
            Tar::new()
                .file(&"x".repeat(100), b"")
                .long_name(&[b'x'; 256])
                .file("n", b"")
                .end(),
            Cap::ComponentBytes,
            255,
        ),
        (
            xattrs(&[("SCHILY.xattr.user.a", &[0; 95])]),
            Cap::XattrBytes,
            100,
        ),
        (
            xattrs(&[
                ("SCHILY.xattr.a", b""),
                ("SCHILY.xattr.b", b""),
                ("SCHILY.xattr.c", b""),
            ]),
            Cap::Xattrs,
            2,
        ),
        (xattrs(&[(&name, b"")]), Cap::XattrNameBytes, 255),
        (
            Tar::new().pax(map).file("n", b"abc").end(),
            Cap::SparseRanges,
            2,
        ),
        (
            super::streams::zstd_with_window(&noise, 22),
            Cap::ZstdWindowLog,
            20,
        ),
    ];
    for (bytes, want, value) in cases {
        match open_with(&bytes, Declared::Unknown, None, &small).err() {
            Some(DecodeError::Limit { cap, limit, .. }) => {
                assert_eq!((cap, limit), (want, value));
            }
            other => panic!("{want:?}: {other:?}"),
        }
    }
    let default = |bytes: &[u8]| match open(bytes).err() {
        Some(DecodeError::Limit { cap, limit, .. }) => (cap, limit),
        other => panic!("{other:?}"),
    };
    let deep = "ab/".repeat(1400);
    let path = Tar::new().pax(&[("path", deep.as_bytes())]).file("n", b"");
    assert_eq!(default(&path.end()), (Cap::PathBytes, 4096));
    let target = Tar::new()
        .pax(&[("linkpath", &[b'x'; 4096])])
        .link(b'2', "s", "t");
    assert_eq!(default(&target.end()), (Cap::SymlinkBytes, 4095));
}

/// A header may announce any length; nothing is set aside for it before the bytes come.
#[test]
fn announced_lengths_cost_nothing() {
    let announce = |size: &'static [u8]| move |header: &mut [u8; 512]| put(header, 124, size);
    let huge = b"77777777777\0";
    for typeflag in *b"xgLK" {
        let archive = Tar::new().edited(typeflag, "n", b"", announce(huge)).end();
        match open(&archive).err() {
            Some(DecodeError::Limit { cap, limit, .. }) => {
                assert_eq!((cap, limit), (Cap::ExtensionBytes, 1 << 20));
            }
            other => panic!("{other:?}"),
        }
    }
    let archive = Tar::new().edited(b'0', "n", b"", announce(huge)).end();
    assert_eq!(reason(&archive), Some(Malformation::TruncatedBody));
    let count = pax_body(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"1"),
    ]);
    let archive = Tar::new()
        .member(b'x', "x", &count)
        .file("n", b"1000000\n")
        .end();
    assert_eq!(reason(&archive), Some(Malformation::SparseMap));
}

#[test]
fn access_control_lists_that_the_kernel_would_refuse_are_refused() {
    use Malformation as M;
    check(&[
        (
            "an access control list that is none",
            Tar::new()
                .pax(&[("SCHILY.acl.access", b"user::rw-,owner@::rw-")])
                .file("n", b""),
            M::Acl,
        ),
        (
            "a default list of a file",
            Tar::new()
                .pax(&[("SCHILY.acl.default", b"user::rw-,group::r--,other::---")])
                .file("n", b""),
            M::DefaultAcl,
        ),
        (
            "a default list of a file, as an attribute",
            Tar::new()
                .pax(&[("SCHILY.xattr.system.posix_acl_default", b"\x02\0\0\0")])
                .file("n", b""),
            M::DefaultAcl,
        ),
    ]);
}
