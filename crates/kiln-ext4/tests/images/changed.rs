//! What e2fsprogs makes of an image: grown, shrunk, renamed, repaired.

use std::os::unix::fs::FileExt;

use kiln_ext4::{Profile, Size};

use crate::compare::assert_holds;
use crate::fixture::BLOCK;
use crate::kinds::sample;
use crate::tools::{e2fsck, run, run_ok, text};

#[test]
fn an_image_can_be_grown_and_shrunk() {
    let stack = sample();
    for (bytes, grown) in [(64 << 20, "1G"), (1 << 30, "40G")] {
        let image = stack.build(Profile::RwV1, Size::Bytes(bytes));
        let path = text(&image.path);

        run_ok("resize2fs", &[path, grown]);
        e2fsck(&image.path);
        assert_holds(&image.path, &stack);

        run_ok("resize2fs", &["-M", path]);
        e2fsck(&image.path);
        assert_holds(&image.path, &stack);
    }
}

#[test]
fn a_new_uuid_is_a_change_of_superblocks_only() {
    let stack = sample();
    let image = stack.build(Profile::RwV1, Size::Bytes(400 << 20));
    let path = text(&image.path);
    let before = std::fs::read(&image.path).expect("the image can be read");

    run_ok(
        "tune2fs",
        &["-U", "9d1f3c4e-7a52-4b8e-9f00-2b5d6c7e8f90", path],
    );

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    let after = std::fs::read(&image.path).expect("the image can be read");
    let changed: Vec<usize> = before
        .chunks(BLOCK)
        .zip(after.chunks(BLOCK))
        .enumerate()
        .filter(|(_, (before, after))| before != after)
        .map(|(block, _)| block)
        .collect();
    assert_eq!(changed, [0, 32_768, 3 * 32_768]);
}

#[test]
fn a_lost_superblock_is_restored_from_a_backup() {
    let stack = sample();
    let image = stack.build(Profile::RwV1, Size::Default);
    let file = std::fs::File::options()
        .write(true)
        .open(&image.path)
        .expect("the image can be opened");
    file.write_all_at(&[0; 8192], 0).expect("it can be written");

    let repaired = run("e2fsck", &["-fy", text(&image.path)]);

    // 1: errors were found and corrected.
    assert_eq!(repaired.status.code(), Some(1), "{repaired:?}");
    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
}
