//! File bodies: extents of every shape, holes, and bytes that must not be there.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_ext4::{CopyMethod, Profile, Size, Source, WriteError, verify};

use crate::compare::{assert_holds, assert_read_by_ext4_view};
use crate::fixture::{BLOCK, LayerBuilder, Stack, What, crc32c, create};
use crate::kinds::sample;
use crate::reader::Reader;
use crate::tools::{allocated_bytes, debugfs, e2fsck, written_bytes};

#[test]
fn a_file_cut_by_superblock_copies_keeps_its_order() {
    let stack = Stack::of(|layer| {
        layer
            .file("before", &[7; 5000])
            // Past groups 1, 3, 5, 7, 9 and the second flex group.
            .add("large", &What::Zeros(18 * 32_768))
            .file("after", &[8; 5000]);
    });

    let image = stack.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    assert_read_by_ext4_view(&image.path, &stack);
    let found = Reader::open(&image.path).walk();
    let large = &found[&b"large"[..]];
    assert!(
        large.extents.len() > 18 && large.tree_blocks == 1,
        "{large:?}"
    );
    assert!(
        allocated_bytes(&image.path) < 1 << 20,
        "zeros take no space"
    );
}

#[test]
fn sparse_files_of_any_number_of_extents_come_back() {
    // Extents, blocks of the tree outside the inode: one leaf holds 340, the inode 4.
    let cases = [(4, 0), (5, 1), (340, 1), (341, 2), (1360, 4), (1361, 6)];
    let pieces: Vec<(u64, u8)> = (0..1361)
        .map(|number| (number * 9000, (number % 255 + 1) as u8))
        .collect();
    let stack = Stack::of(|layer| {
        for (count, _) in cases {
            let what = What::Sparse(50 << 30, &pieces[..count]);
            layer.add(format!("sparse-{count}"), &what);
        }
    });

    let image = stack.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    let found = Reader::open(&image.path).walk();
    for (count, tree_blocks) in cases {
        let file = &found[format!("sparse-{count}").as_bytes()];
        assert_eq!(file.extents.len(), count);
        assert_eq!(file.tree_blocks, tree_blocks, "{count} extents");
    }
}

#[test]
fn a_mapped_file_above_42_gib_comes_back() {
    let stack = Stack::of(|layer| {
        layer
            .add("large", &What::Zeros(50 << 18))
            .file("small", b"behind it");
    });

    let image = stack.build(Profile::RoV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    let stat = debugfs(&image.path, "stat /large");
    assert!(stat.contains("Size: 53687091200"), "{stat}");
}

#[test]
fn masked_bytes_are_nowhere_in_the_image() {
    let secret = b"-----BEGIN SECRET 0123456789-----";
    let mut body = vec![b'.'; 3 * BLOCK];
    body[BLOCK..BLOCK + secret.len()].copy_from_slice(secret);
    let mut lower = LayerBuilder::new();
    lower
        .file("kept", &[1; BLOCK])
        .file("deleted", &body)
        .file("replaced", &body)
        .file("gone/with/directory", &body)
        .file("kept-too", &[2; BLOCK]);
    let mut upper = LayerBuilder::new();
    upper
        .add("deleted", &What::Whiteout)
        .file("replaced", b"harmless")
        .add("gone", &What::Whiteout);
    let stack = Stack::new(vec![lower.finish(), upper.finish()]);

    let image = stack.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    let bytes = written_bytes(&image.path);
    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(contains(b"harmless"), "the search works");
    assert!(!contains(secret));
}

#[test]
fn sums_cover_what_was_written_and_nothing_else() {
    let stack = sample();

    let image = stack.build(Profile::RwV1, Size::Default);

    let written = &image.written;
    let plan = stack
        .plan(Profile::RwV1, Size::Default)
        .expect("it has a plan");
    // Bitmaps of seven unused groups, reserved inodes' blocks and zero runs are not written.
    let at_most = plan.disk_bytes_max();
    assert!(written.written_bytes <= at_most, "{at_most}");
    assert!(
        at_most - written.written_bytes < 30 * BLOCK as u64,
        "{at_most}"
    );
    assert_eq!(written.sums.blocks() * BLOCK as u64, written.written_bytes);
    let reader = Reader::open(&image.path);
    let mut covered = std::collections::BTreeSet::new();
    for (start, sums) in written.sums.runs() {
        for (block, sum) in (start..).zip(sums) {
            assert_eq!(crc32c(&reader.block(block)), *sum, "block {block}");
            covered.insert(block);
        }
    }
    for block in 0..written.size_bytes / BLOCK as u64 / 8 {
        if !covered.contains(&block) {
            assert!(reader.block(block) == [0; BLOCK], "block {block}");
        }
    }
    let file = std::fs::File::open(&image.path).expect("it is there");
    let differing = verify(&file, &written.sums, &AtomicBool::new(false));
    assert_eq!(differing.expect("it can be read"), []);
}

#[test]
fn the_disk_space_foretold_is_never_more_than_what_is_written_and_close_to_it() {
    let stack = sample();
    for size in [Size::Default, Size::Bytes(64 << 30)] {
        let image = stack.build(Profile::RwV1, size);

        let plan = stack.plan(Profile::RwV1, size).expect("it has a plan");
        let disk = plan.disk_bytes(&stack.sources());
        let written = image.written.written_bytes;

        let foretold = disk.bodies + disk.others;
        assert!(foretold <= written, "{size:?}: {disk:?}, {written}");
        // Two bitmaps of each group at most are written and not foretold.
        let groups = plan.size_bytes() / (BLOCK as u64 * 32_768);
        let missing = written - foretold;
        assert!(missing <= 2 * groups * BLOCK as u64, "{size:?}: {missing}");
    }
}

#[test]
fn two_builds_are_the_same_file() {
    let stack = sample();
    let again = sample();

    let one = stack.build(Profile::RwV1, Size::Default);
    let other = again.build(Profile::RwV1, Size::Default);

    assert_eq!(one.written, other.written);
    assert!(written_bytes(&one.path) == written_bytes(&other.path));
    assert_eq!(allocated_bytes(&one.path), allocated_bytes(&other.path));
}

#[test]
fn an_image_is_not_written_over_another() {
    let stack = sample();
    let plan = stack
        .plan(Profile::RwV1, Size::Default)
        .expect("it has a plan");
    let file = tempfile::tempfile().expect("a temporary file");
    file.set_len(1).expect("it can be extended");

    let running = AtomicBool::new(false);
    let error = plan.write(&stack.sources(), &file, &|_, _| {}, &running);

    assert!(
        matches!(error, Err(WriteError::OutputNotEmpty { found_bytes: 1 })),
        "{error:?}"
    );
    assert_eq!(file.metadata().expect("it is open").len(), 1);
}

#[test]
fn sources_that_do_not_fit_the_tree_are_refused() {
    let stack = sample();
    let plan = stack
        .plan(Profile::RwV1, Size::Default)
        .expect("it has a plan");
    let running = AtomicBool::new(false);
    let write = |sources: &[Source<'_>]| {
        let file = tempfile::tempfile().expect("a temporary file");
        plan.write(sources, &file, &|_, _| {}, &running)
    };
    let mut sources = stack.sources();

    let error = write(&sources[..1]);
    assert!(
        matches!(
            error,
            Err(WriteError::Sources {
                layers: 2,
                given: 1
            })
        ),
        "{error:?}"
    );

    let empty = tempfile::tempfile().expect("a temporary file");
    let full = sources[0];
    sources[0].sums = &full.sums[..3];
    let error = write(&sources);
    assert!(
        matches!(error, Err(WriteError::SourceTooShort { layer: 0, .. })),
        "{error:?}"
    );

    sources[0] = Source {
        file: &empty,
        ..full
    };
    let error = write(&sources);
    assert!(
        matches!(error, Err(WriteError::SourceTooShort { layer: 0, .. })),
        "{error:?}"
    );
}

#[test]
fn a_refusal_of_the_system_names_the_step() {
    let stack = sample();
    let plan = stack
        .plan(Profile::RwV1, Size::Default)
        .expect("it has a plan");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("image");
    drop(create(&path));
    let unwritable = std::fs::File::open(&path).expect("it is there");

    let error = plan
        .write(
            &stack.sources(),
            &unwritable,
            &|_, _| {},
            &AtomicBool::new(false),
        )
        .expect_err("it cannot be written");

    assert_eq!(error.to_string(), "cannot extend the image");
}

#[test]
fn a_pack_on_another_file_system_is_copied_through_memory() {
    let mut stack = sample();
    let Ok(mut elsewhere) = tempfile::tempfile_in("/dev/shm") else {
        writeln!(
            std::io::stderr(),
            "SKIPPED: there is no second file system at /dev/shm"
        )
        .expect("standard error is open");
        return;
    };
    std::io::copy(&mut stack.layers[0].pack, &mut elsewhere).expect("it can be copied");
    stack.layers[0].pack = elsewhere;

    let image = stack.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    assert_eq!(image.written.copy_method, Some(CopyMethod::ReadWrite));
    let copied_by_kernel = sample().build(Profile::RwV1, Size::Default);
    assert_eq!(image.written.sums, copied_by_kernel.written.sums);
}

#[test]
fn cancelling_stops_within_4_mib() {
    let bytes: Vec<u8> = (0..20 << 20).map(|n: u32| (n % 253) as u8).collect();
    let stack = Stack::of(|layer| {
        layer.file("large", &bytes);
    });
    let plan = stack
        .plan(Profile::RwV1, Size::Default)
        .expect("it has a plan");
    let file = tempfile::tempfile().expect("a temporary file");
    let cancelled = AtomicBool::new(false);
    let reported = std::cell::RefCell::new(Vec::new());
    let progress = |done, total| {
        reported.borrow_mut().push((done, total));
        cancelled.store(done > 6 << 20, Ordering::Relaxed);
    };

    let error = plan.write(&stack.sources(), &file, &progress, &cancelled);

    assert!(matches!(error, Err(WriteError::Cancelled)), "{error:?}");
    let last = reported.borrow().last().copied();
    assert_eq!(last.map(|(done, _)| done), Some(8 << 20));
}

#[test]
fn progress_only_grows_and_ends_at_the_total() {
    let stack = sample();
    let plan = stack
        .plan(Profile::RwV1, Size::Default)
        .expect("it has a plan");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = create(&directory.path().join("image"));
    let reported = std::cell::RefCell::new(Vec::new());

    let written = plan
        .write(
            &stack.sources(),
            &file,
            &|done, total| reported.borrow_mut().push((done, total)),
            &AtomicBool::new(false),
        )
        .expect("it can be written");

    let reported = reported.into_inner();
    let (last, total) = *reported.last().expect("something was reported");
    assert_eq!(last, total);
    assert!(reported.is_sorted());
    assert!(total >= plan.content_bytes());
    assert!(written.copy_method.is_some());
}
