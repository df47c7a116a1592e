//! Images of awkward sizes: one group, a group's exact end, short last groups, very large.

use kiln_ext4::{PlanError, Profile, Size, size_limits};

use crate::compare::{assert_backups_match, assert_holds, assert_read_by_ext4_view};
use crate::fixture::{Image, Stack, What};
use crate::identity::assert_only_superblocks_change;
use crate::kinds::sample;
use crate::tools::{allocated_bytes, backups, e2fsck, e2fsck_backups};

const MIB: u64 = 1 << 20;
const GROUP: u64 = 128 * MIB;

fn check(stack: &Stack, profile: Profile, size: Size) -> Image {
    let image = stack.build(profile, size);
    e2fsck(&image.path);
    assert_backups_match(&image.path);
    assert_holds(&image.path, stack);
    assert_read_by_ext4_view(&image.path, stack);
    let length = std::fs::metadata(&image.path).expect("it is there").len();
    assert_eq!(length, image.written.size_bytes);
    image
}

#[test]
fn sizes_at_the_edges_of_groups_work() {
    // Bytes asked, bytes of the image: whole blocks, and no last group of little but overhead.
    let cases = [
        (6 * MIB, 6 * MIB),
        (16 * MIB + 4095, 16 * MIB),
        (GROUP - 4096, GROUP - 4096),
        (GROUP, GROUP),
        (GROUP + 4096, GROUP),
        (GROUP + 40 * MIB, GROUP + 40 * MIB),
        (5 * GROUP + 3 * MIB, 5 * GROUP + 3 * MIB),
        (17 * GROUP, 17 * GROUP),
    ];
    let stack = sample();
    for (asked, want) in cases {
        for profile in [Profile::RwV1, Profile::RoV1] {
            let image = check(&stack, profile, Size::Bytes(asked));
            assert_eq!(image.written.size_bytes, want, "{asked} bytes, {profile:?}");
        }
    }
}

#[test]
fn virtual_size_costs_nothing() {
    let stack = sample();

    let image = check(&stack, Profile::RwV1, Size::Bytes(40 << 30));

    let allocated = allocated_bytes(&image.path);
    assert!(allocated < 2 * MIB, "{allocated} bytes");
    assert!(
        allocated >= image.written.written_bytes,
        "{allocated} bytes"
    );
    assert_eq!(backups(&image.path).len(), 11);
}

#[test]
fn an_image_without_an_unused_group_is_clean_from_every_backup() {
    // 26,000 inodes and 310 MiB fill three groups.
    let stack = Stack::of(|layer| {
        for number in 0..26_000 {
            layer.add(format!("d{}/f{number}", number % 7), &What::Fifo);
        }
        layer.add("zeros", &What::Zeros(310 * 256));
    });

    let image = check(&stack, Profile::RwV1, Size::Bytes(3 * GROUP));

    assert_eq!(backups(&image.path).len(), 1);
    e2fsck_backups(&image.path);
    assert_only_superblocks_change(&image.path);
    e2fsck_backups(&image.path);
}

#[test]
fn a_size_that_is_too_small_is_refused_with_one_that_works() {
    let stack = Stack::of(|layer| {
        layer.add("zeros", &What::Zeros(200 * 256));
    });
    for asked_bytes in [0, 4096, 100 * MIB, 200 * MIB, GROUP + 76 * MIB] {
        let error = stack
            .plan(Profile::RwV1, Size::Bytes(asked_bytes))
            .expect_err("it is too small");

        let PlanError::TooSmall {
            asked_bytes: asked,
            minimum_bytes,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(asked, asked_bytes);
        assert!(
            minimum_bytes > asked_bytes && minimum_bytes < 250 * MIB,
            "{minimum_bytes}"
        );
        check(&stack, Profile::RwV1, Size::Bytes(minimum_bytes));
    }
    let error = stack
        .plan(Profile::RwV1, Size::Bytes(u64::MAX))
        .expect_err("too large");
    assert!(matches!(error, PlanError::TooLarge { .. }), "{error}");
}

#[test]
fn the_least_size_holds_nothing_and_no_smaller_one_does() {
    let nothing = Stack::of(|_| {});
    for profile in [Profile::RwV1, Profile::RoV1] {
        let least = *size_limits(profile).start();

        let image = check(&nothing, profile, Size::Bytes(least));
        let smaller = nothing.plan(profile, Size::Bytes(least - 4096));

        assert_eq!(image.written.size_bytes, least, "{profile:?}");
        assert!(smaller.is_err(), "{profile:?}");
    }
}

#[test]
fn the_default_size_leaves_a_quarter() {
    let stack = Stack::of(|layer| {
        layer.add("zeros", &What::Zeros(2 << 18));
    });

    let image = check(&stack, Profile::RwV1, Size::Default);

    // 2 GiB of content, 64 MiB of journal, about 32 MiB of inode tables; and a quarter.
    let mib = image.written.size_bytes / MIB;
    assert!((2640..2720).contains(&mib), "{mib} MiB");
    assert_eq!(image.written.size_bytes % MIB, 0);
}

#[test]
fn more_inodes_than_a_gibibyte_can_number_make_the_image_larger() {
    // 1 GiB has 8 groups of at most 32,768 inodes.
    let stack = Stack::of(|layer| {
        for number in 0..263_000 {
            layer.add(format!("d{}/{number}", number % 1000), &What::Socket);
        }
    });

    let plan = stack
        .plan(Profile::RwV1, Size::Default)
        .expect("it has a plan");
    let image = Image::write(&plan, &stack.sources());

    assert!(plan.size_bytes() > 1 << 30, "{}", plan.size_bytes());
    assert_eq!(plan.entries(), 263_000 + 1000 + 2);
    e2fsck(&image.path);
}
