use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use kiln_domain::oci::Descriptor;
use kiln_domain::oci::bootable::{BootableConfig, BootableLayers, BootableManifest, Part};
use kiln_domain::oci::{Document, StatedMediaTypes};

use super::*;
use crate::{Archive, ArchiveError, ImageFiles, PackError, pack, plan};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 200 * MIB;

/// Bytes that no two blocks share and that compress a little.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let word = (state >> 33) as u32 & 0x0fff_ffff;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// A file with data at both ends of its first cell, none in its second, zeros that are written in
/// its third, and data in its last, which is short.
fn image() -> ImageFiles {
    let rootfs = tempfile::tempfile().unwrap();
    rootfs.set_len(SIZE).unwrap();
    rootfs.write_all_at(&noise(1, 5000), 4096).unwrap();
    rootfs
        .write_all_at(&noise(2, 4096), 64 * MIB - 4096)
        .unwrap();
    rootfs.write_all_at(&vec![0; 1 << 20], 130 * MIB).unwrap();
    rootfs.write_all_at(&noise(3, 3 << 20), 196 * MIB).unwrap();
    let mut kernel = tempfile::tempfile().unwrap();
    kernel.write_all(&noise(4, 70_000)).unwrap();
    ImageFiles {
        rootfs,
        kernel,
        initrd: None,
        modules: None,
        sums: None,
    }
}

fn packed(files: &ImageFiles) -> Vec<(Descriptor, Vec<u8>)> {
    let pack_one = |part| {
        let mut blob = Vec::new();
        let running = AtomicBool::new(false);
        let descriptor = pack(part, files, &mut blob, &|_| {}, &running).unwrap();
        (descriptor, blob)
    };
    plan(files).unwrap().into_iter().map(pack_one).collect()
}

fn chunks(blobs: &[(Descriptor, Vec<u8>)]) -> Vec<Chunk> {
    let layers: Vec<_> = blobs.iter().map(|(layer, _)| layer.clone()).collect();
    let config = BootableConfig::new("amd64", SIZE);
    let written = BootableManifest::write(&config, &layers).unwrap();
    let stated = StatedMediaTypes::default();
    let Document::Manifest(manifest) =
        Document::parse_any(&written.manifest, stated, 4 << 20).unwrap()
    else {
        panic!("an index");
    };
    BootableLayers::of(&manifest, SIZE).unwrap().chunks
}

fn unpack_into(rootfs: &File, blob: &[u8], chunk: &Chunk) -> Result<(), UnpackError> {
    unpack(
        &mut &blob[..],
        chunk,
        rootfs,
        &|_| {},
        &AtomicBool::new(false),
    )
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_root_filesystem_comes_back_with_its_holes() {
    let files = image();
    let blobs = packed(&files);
    let chunks = chunks(&blobs);
    let again = tempfile::tempfile().unwrap();
    again.set_len(SIZE).unwrap();

    // In any order: each chunk is read by itself.
    for (chunk, (_, blob)) in chunks.iter().zip(&blobs).rev() {
        unpack_into(&again, blob, chunk).unwrap();
    }

    let places: Vec<_> = chunks
        .iter()
        .map(|chunk| (chunk.offset_bytes, chunk.size_bytes))
        .collect();
    assert_eq!(places, [(4096, 64 * MIB - 4096), (196 * MIB, 3 * MIB)]);
    assert!(content(&again) == content(&files.rootfs));
    let allocated = again.metadata().unwrap().blocks() * 512;
    assert!(allocated < 4 * MIB, "{allocated} bytes are allocated");
}

#[test]
fn a_copy_without_holes_gives_the_same_blobs() {
    let files = image();
    let copy = tempfile::tempfile().unwrap();
    copy.write_all_at(&content(&files.rootfs), 0).unwrap();
    let full = ImageFiles {
        rootfs: copy,
        kernel: files.kernel.try_clone().unwrap(),
        initrd: None,
        modules: None,
        sums: None,
    };

    assert!(packed(&files) == packed(&full));
}

#[test]
fn a_change_is_in_one_chunk() {
    let files = image();
    let before = packed(&files);
    files.rootfs.write_all_at(b"changed", 197 * MIB).unwrap();

    let after = packed(&files);

    let changed: Vec<_> = before
        .iter()
        .zip(&after)
        .map(|(one, other)| one.0.digest != other.0.digest)
        .collect();
    assert_eq!(changed, [false, true, false]);
}

#[test]
fn what_a_chunk_is_not_is_refused() {
    let files = image();
    let blobs = packed(&files);
    let chunk = chunks(&blobs).remove(1);
    let blob = &blobs[1].1;
    let rootfs = tempfile::tempfile().unwrap();
    rootfs.set_len(SIZE).unwrap();
    let with = |blob: &[u8], change: &dyn Fn(&mut Chunk)| {
        let mut chunk = chunk.clone();
        change(&mut chunk);
        unpack_into(&rootfs, blob, &chunk).unwrap_err()
    };
    let same = |_: &mut Chunk| {};

    let mut damaged = blob.clone();
    damaged[blob.len() / 2] ^= 1;
    let error = with(&damaged, &same);
    assert!(matches!(error, UnpackError::Broken { .. }), "{error:?}");
    let error = with(&blob[..blob.len() - 5], &same);
    assert!(matches!(error, UnpackError::Broken { .. }), "{error:?}");
    let error = with(b"no zstd at all", &same);
    assert!(matches!(error, UnpackError::Broken { .. }), "{error:?}");
    let error = with(&[blob, &b"x"[..]].concat(), &same);
    assert!(matches!(error, UnpackError::TooLong { .. }), "{error:?}");
    // A second frame: some readers would take it for more of the same.
    let error = with(&[&blob[..], &blob[..]].concat(), &same);
    assert!(matches!(error, UnpackError::TooLong { .. }), "{error:?}");
    let error = with(blob, &|chunk| chunk.size_bytes -= 4096);
    assert!(matches!(error, UnpackError::TooLong { .. }), "{error:?}");
    let error = with(blob, &|chunk| chunk.size_bytes += 4096);
    let short = UnpackError::TooShort {
        expected_bytes: 3 * MIB + 4096,
        found_bytes: 3 * MIB,
    };
    assert_eq!(error.to_string(), short.to_string());
    let error = with(blob, &|chunk| chunk.digest = Digest::of(b"other"));
    assert!(
        matches!(error, UnpackError::DigestMismatch { .. }),
        "{error:?}"
    );
    let cancelled = unpack(
        &mut &blob[..],
        &chunk,
        &rootfs,
        &|_| {},
        &AtomicBool::new(true),
    );
    assert!(matches!(cancelled, Err(UnpackError::Cancelled)));
}

#[test]
fn what_was_unpacked_can_be_taken_back() {
    let files = image();
    let blobs = packed(&files);
    let chunks = chunks(&blobs);
    let again = tempfile::tempfile().unwrap();
    again.set_len(SIZE).unwrap();
    again.write_all_at(b"kept", 0).unwrap();
    again.write_all_at(&noise(9, 9000), 5 << 20).unwrap();

    clear(&again, &chunks[0]).unwrap();

    unpack_into(&again, &blobs[0].1, &chunks[0]).unwrap();
    unpack_into(&again, &blobs[1].1, &chunks[1]).unwrap();
    again.write_all_at(&[0; 4], 0).unwrap();
    assert!(content(&again) == content(&files.rootfs));
}

/// A few bytes may stand for any number: no more than announced are ever unpacked.
#[test]
fn a_bomb_is_cut_at_the_length_that_was_announced() {
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    for _ in 0..1024 {
        bomb.write_all(&vec![7; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    let descriptor = Descriptor::new("", Digest::of(&bomb), bomb.len() as u64);
    let chunk = Chunk {
        descriptor,
        offset_bytes: 0,
        size_bytes: 8192,
        digest: Digest::of(b""),
    };
    let rootfs = tempfile::tempfile().unwrap();

    let error = unpack_into(&rootfs, &bomb, &chunk).unwrap_err();

    assert!(matches!(error, UnpackError::TooLong { .. }), "{error:?}");
    assert_eq!(rootfs.metadata().unwrap().len(), 0);
}

#[test]
fn a_source_that_breaks_off_is_not_taken_for_broken_bytes() {
    struct Breaking;
    impl Read for Breaking {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let files = image();
    let blobs = packed(&files);
    let chunk = chunks(&blobs).remove(0);
    let half = &blobs[0].1[..blobs[0].1.len() / 2];

    let rootfs = tempfile::tempfile().unwrap();
    let mut input = half.chain(Breaking);
    let error = unpack(
        &mut input,
        &chunk,
        &rootfs,
        &|_| {},
        &AtomicBool::new(false),
    );

    match error.unwrap_err() {
        UnpackError::Input { source } => {
            assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_root_filesystem_that_ends_within_a_block_is_refused() {
    let files = image();
    files.rootfs.set_len(SIZE + 100).unwrap();

    let error = plan(&files).unwrap_err();

    assert!(matches!(error, PackError::PartialBlock { .. }), "{error:?}");
}

#[test]
fn an_archive_has_every_blob_once_and_is_always_the_same() {
    let files = image();
    let blobs = packed(&files);
    let config = BootableConfig::new("amd64", SIZE);
    let layers: Vec<_> = blobs.iter().map(|(layer, _)| layer.clone()).collect();
    let documents = BootableManifest::write(&config, &layers).unwrap();
    let write = || {
        let mut archive = Archive::new(Vec::new()).unwrap();
        for (layer, blob) in blobs.iter().chain(&blobs) {
            archive.blob(layer, &blob[..]).unwrap();
        }
        archive.finish(&documents).unwrap()
    };

    let bytes = write();

    assert!(bytes == write());
    let mut names = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        names.push(entry.unwrap().path().unwrap().display().to_string());
    }
    assert_eq!(names.len(), 3 + blobs.len() + 3);
    assert_eq!(names.first().unwrap(), "oci-layout");
    assert_eq!(names.last().unwrap(), "index.json");
    let mut short = Archive::new(Vec::new()).unwrap();
    let error = short.blob(&layers[0], &b"short"[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::Blob { .. }), "{error:?}");
}

#[test]
fn parts_that_are_not_there_are_no_parts() {
    let parts = plan(&image()).unwrap();

    assert_eq!(parts.last(), Some(&Part::Kernel));
    assert_eq!(parts.len(), 3);
}
