//! Directories from one entry to a hundred thousand, `lost+found`, and link counts.

use kiln_ext4::{PlanError, Profile, Size};

use crate::compare::{assert_holds, assert_read_by_ext4_view};
use crate::fixture::{Attributes, Stack, What};
use crate::reader::Reader;
use crate::tools::{debugfs, e2fsck};

fn directory_of(count: usize) -> Stack {
    Stack::of(|layer| {
        layer.directory("d");
        for number in 0..count {
            layer.add(format!("d/entry-{number:x}"), &What::Fifo);
        }
    })
}

#[test]
fn directories_of_any_size_are_found_by_name() {
    for (count, indexed) in [(1, false), (3000, true)] {
        let stack = directory_of(count);
        for profile in [Profile::RwV1, Profile::RoV1] {
            let image = stack.build(profile, Size::Default);

            e2fsck(&image.path);
            assert_holds(&image.path, &stack);
            assert_read_by_ext4_view(&image.path, &stack);
            if indexed {
                let dump = debugfs(&image.path, "htree_dump /d");
                assert!(dump.contains("Hash Version: 1"), "{dump}");
                assert!(dump.contains("Indirect levels: 0"), "{dump}");
            }
        }
    }
}

#[test]
fn a_hundred_thousand_entries_need_a_second_level() {
    let stack = Stack::of(|layer| {
        layer.directory("d");
        for number in 0..100_000 {
            layer.add(
                format!("d/a-rather-long-name-for-entry-{number:x}"),
                &What::Fifo,
            );
        }
    });

    let image = stack.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    let dump = debugfs(&image.path, "htree_dump /d");
    assert!(dump.contains("Indirect levels: 1"), "{}", &dump[..1000]);
    // A name is found through the index, by a reader that uses it.
    let stat = debugfs(&image.path, "stat /d/a-rather-long-name-for-entry-1869f");
    assert!(stat.contains("Type: FIFO"), "{stat}");
}

#[test]
fn an_images_own_lost_and_found_is_the_lost_and_found() {
    let attributes = Attributes {
        mode: 0o711,
        uid: 5,
        ..Attributes::default()
    };
    let empty = Stack::of(|layer| {
        layer
            .add_with("lost+found", &What::Directory, &attributes)
            .file("zebra", b"z")
            .file("apple", b"a");
    });
    let filled = Stack::of(|layer| {
        layer
            .add_with("lost+found", &What::Directory, &attributes)
            .file("lost+found/#12", b"found");
    });
    let file = Stack::of(|layer| {
        layer.file("lost+found", b"not a directory").file("a", b"a");
    });
    for (stack, bytes) in [(empty, 16_384), (filled, 4096), (file, 15)] {
        let image = stack.build(Profile::RwV1, Size::Default);

        e2fsck(&image.path);
        assert_holds(&image.path, &stack);
        let found = Reader::open(&image.path).inode(11);
        assert_eq!(found.size_bytes, bytes);
    }
}

#[test]
fn an_empty_tree_is_an_image() {
    let stack = Stack::new(Vec::new());

    let image = stack.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    assert_eq!(image.written.copy_method, None);
}

#[test]
fn a_directory_stops_counting_links_above_65000() {
    // "." and ".." of the directory itself make 65,000 links, then 65,001.
    for (subdirectories, links) in [(64_998, 65_000), (64_999, 1)] {
        let stack = Stack::of(|layer| {
            for number in 0..subdirectories {
                layer.directory(format!("d/{number}"));
            }
        });

        let image = stack.build(Profile::RwV1, Size::Default);

        e2fsck(&image.path);
        let found = Reader::open(&image.path).inode(12);
        assert_eq!(found.links, links, "{subdirectories} directories");
    }
}

#[test]
fn a_file_has_65000_names_and_not_one_more() {
    let stack = |names: usize| {
        Stack::of(|layer| {
            layer.file("f", b"f");
            for number in 1..names {
                layer.add(format!("d/{number}"), &What::Hardlink(b"f"));
            }
        })
    };
    let most = stack(65_000);

    let image = most.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    let found = Reader::open(&image.path).walk();
    assert_eq!(found[&b"f"[..]].links, 65_000);
    let too_many = stack(65_001);
    let error = too_many
        .plan(Profile::RwV1, Size::Default)
        .expect_err("too many links");
    let PlanError::TooManyLinks { path, links } = error else {
        panic!("{error}");
    };
    assert_eq!((path.as_bytes(), links), (&b"d/1"[..], 65_001));
}
