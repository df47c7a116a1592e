//! Claims about kernel files, on built ones.

use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;

use super::*;
use crate::pump::MAX_UNPACKED_BYTES;
use crate::testing::{self, Elf, RELEASE};

const COMPRESSIONS: [Compression; 4] = [
    Compression::Gzip,
    Compression::Lz4,
    Compression::Xz,
    Compression::Zstd,
];

fn inspect_bytes(bytes: &[u8]) -> Result<KernelFacts, KernelError> {
    inspect(&testing::file(bytes), &AtomicBool::new(false))
}

fn extract_bytes(bytes: &[u8]) -> Result<Vec<u8>, KernelError> {
    let out = tempfile::tempfile().unwrap();
    let size = extract_elf(&testing::file(bytes), &out, &AtomicBool::new(false))?;
    assert_eq!(out.metadata().unwrap().len(), size);
    let mut content = vec![0; usize::try_from(size).unwrap()];
    out.read_exact_at(&mut content, 0).unwrap();
    Ok(content)
}

#[test]
fn a_boot_image_tells_what_is_inside() {
    for compression in COMPRESSIONS {
        let file = testing::packed_kernel(compression);

        let facts = inspect_bytes(&file).unwrap();

        let want = KernelFacts {
            format: KernelFormat::BzImage,
            architecture: Architecture::X86_64,
            compression: Some(compression),
            release: Some(RELEASE.to_owned()),
            has_pvh_note: true,
            sha256: Digest::of(&file),
            size_bytes: file.len() as u64,
        };
        assert_eq!(facts, want);
    }
}

#[test]
fn what_is_inside_a_boot_image_comes_out_as_it_went_in() {
    let elf = testing::elf(&Elf {
        padding_bytes: 9 << 20,
        ..Elf::default()
    });
    for compression in COMPRESSIONS {
        let file = testing::bz_image(&testing::packed_payload(compression, &elf));

        let content = extract_bytes(&file).unwrap();

        assert!(content == elf, "{compression}");
    }
}

#[test]
fn an_unpacked_payload_is_fine() {
    let elf = testing::elf(&Elf::default());
    let file = testing::bz_image(&elf);

    assert_eq!(inspect_bytes(&file).unwrap().compression, None);
    assert_eq!(extract_bytes(&file).unwrap(), elf);
}

#[test]
fn plain_kernels_of_both_architectures_are_recognised() {
    let arm = Elf {
        machine: 183,
        note_kind: 1,
        ..Elf::default()
    };
    let image = testing::arm64_image();
    let cases = [
        (
            testing::elf(&Elf::default()),
            (KernelFormat::Elf, Architecture::X86_64, None, true),
        ),
        (
            testing::elf(&arm),
            (KernelFormat::Elf, Architecture::Aarch64, None, false),
        ),
        (
            image.clone(),
            (KernelFormat::Arm64Image, Architecture::Aarch64, None, false),
        ),
        (
            testing::pack(Compression::Gzip, &image),
            (
                KernelFormat::Arm64Image,
                Architecture::Aarch64,
                Some(Compression::Gzip),
                false,
            ),
        ),
    ];
    for (bytes, want) in cases {
        let facts = inspect_bytes(&bytes).unwrap();
        assert_eq!(
            (
                facts.format,
                facts.architecture,
                facts.compression,
                facts.has_pvh_note
            ),
            want
        );
        assert_eq!(facts.release.as_deref(), Some(RELEASE));
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let zboot = [b"MZ\0\0zimg".to_vec(), vec![0; 2000]].concat();
    let cases: &[(Vec<u8>, &str)] = &[
        (testing::bz_image(b"BZh91AY&SY"), "bzip2 compression"),
        (
            testing::bz_image(b"\x5d\0\0\0\x01......"),
            "lzma compression",
        ),
        (testing::bz_image(b"\x89LZO\0\r\n\x1a\n"), "lzo compression"),
        (zboot, "an EFI zboot wrapper"),
    ];
    for (bytes, want) in cases {
        match inspect_bytes(bytes).unwrap_err() {
            KernelError::Unsupported { what } => assert_eq!(what, *want),
            other => panic!("{want}: {other}"),
        }
    }
}

#[test]
fn what_is_no_kernel_is_refused() {
    let gzip = testing::pack(Compression::Gzip, b"just some text");
    let cases: &[(&str, &[u8])] = &[
        ("nothing", b""),
        ("text", b"#!/bin/sh\n"),
        ("packed text", &gzip),
    ];
    for (what, bytes) in cases {
        let error = inspect_bytes(bytes).unwrap_err();
        assert!(matches!(error, KernelError::NotAKernel), "{what}: {error}");
    }
    let text_inside = testing::bz_image(&testing::packed_payload(Compression::Xz, b"text"));
    let error = inspect_bytes(&text_inside).unwrap_err();
    assert!(matches!(error, KernelError::Malformed { .. }), "{error}");
}

#[test]
fn damaged_payloads_are_refused() {
    for compression in COMPRESSIONS {
        let elf = testing::elf(&Elf::default());
        let payload = testing::packed_payload(compression, &elf);

        let cut = testing::bz_image(&payload[..payload.len() / 2]);
        let error = inspect_bytes(&cut).unwrap_err();
        assert!(
            matches!(error, KernelError::Corrupt { .. }),
            "{compression}: {error}"
        );

        let mut file = testing::bz_image(&payload);
        let huge = (u32::MAX - 5).to_le_bytes();
        file[0x24c..0x250].copy_from_slice(&huge);
        let error = inspect_bytes(&file).unwrap_err();
        assert!(matches!(error, KernelError::Malformed { .. }), "{error}");
    }
}

#[test]
fn an_xz_payload_cannot_ask_for_much_memory() {
    let mut options = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
    options.dict_size(512 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32)
            .unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    std::io::Write::write_all(&mut encoder, &testing::elf(&Elf::default())).unwrap();

    let error = inspect_bytes(&testing::bz_image(&encoder.finish().unwrap())).unwrap_err();

    assert!(matches!(error, KernelError::Corrupt { .. }), "{error}");
}

#[test]
fn a_payload_cannot_grow_without_end() {
    // 1 GiB and a bit of zeros, about 1 MiB packed.
    let head = testing::elf(&Elf::default());
    let zeros = std::io::Read::take(std::io::repeat(0), MAX_UNPACKED_BYTES);
    let content = std::io::Read::chain(&head[..], zeros);
    let bomb = zstd::stream::encode_all(content, 1).unwrap();

    let error = inspect_bytes(&testing::bz_image(&bomb)).unwrap_err();

    assert!(matches!(error, KernelError::TooLarge { .. }), "{error}");
}

#[test]
fn only_a_boot_image_has_something_inside() {
    let error = extract_bytes(&testing::elf(&Elf::default())).unwrap_err();

    assert!(matches!(error, KernelError::NothingInside), "{error}");
}

#[test]
fn devices_and_long_files_are_refused() {
    let go_on = AtomicBool::new(false);
    let long = tempfile::tempfile().unwrap();
    long.set_len(crate::source::MAX_KERNEL_BYTES + 1).unwrap();

    let device = inspect(&File::open("/dev/zero").unwrap(), &go_on).unwrap_err();
    let long = inspect(&long, &go_on).unwrap_err();

    assert!(matches!(device, KernelError::NotRegular), "{device}");
    assert!(matches!(long, KernelError::TooLarge { .. }), "{long}");
}

#[test]
fn a_cancelled_inspection_stops() {
    let file = testing::file(&testing::packed_kernel(Compression::Lz4));

    let error = inspect(&file, &AtomicBool::new(true)).unwrap_err();

    assert!(matches!(error, KernelError::Cancelled), "{error}");
    assert!(!error.is_about_content());
}

fn any_kernel() -> impl Strategy<Value = Vec<u8>> {
    let small = || {
        testing::elf(&Elf {
            padding_bytes: 100,
            ..Elf::default()
        })
    };
    prop_oneof![
        Just(small()),
        Just(testing::arm64_image()),
        proptest::sample::select(COMPRESSIONS.to_vec()).prop_map(move |compression| {
            testing::bz_image(&testing::packed_payload(compression, &small()))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_damage_makes_it_panic(
        mut bytes in any_kernel(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);

        let whole = bytes.len() as u64;
        if let Ok(facts) = inspect_bytes(&bytes) {
            prop_assert_eq!(facts.size_bytes, whole);
        }
    }

    #[test]
    fn damaged_headers_do_not_make_it_panic(
        mut bytes in any_kernel(),
        changes in proptest::collection::vec((0_usize..0x250, any::<u8>()), 1..8),
    ) {
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }

        let found = inspect_bytes(&bytes).map(|facts| facts.size_bytes);

        prop_assert!(found.is_err() || found.is_ok_and(|size| size == bytes.len() as u64));
    }
}
