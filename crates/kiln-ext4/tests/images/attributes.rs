//! Extended attributes: sharing of blocks, and what is refused.

use kiln_ext4::{PlanError, Profile, Size};

use crate::compare::assert_holds;
use crate::fixture::{Attributes, Stack, What};
use crate::reader::Reader;
use crate::tools::{debugfs, e2fsck};

fn with(name: &[u8], value: &[u8]) -> Attributes {
    Attributes {
        xattrs: vec![(name.to_vec(), value.to_vec())],
        ..Attributes::default()
    }
}

/// A list for the owner, user 1000, the group, the mask and everybody else.
pub(crate) fn acl() -> Vec<u8> {
    let mut list = vec![2, 0, 0, 0];
    let none = u32::MAX;
    for (tag, permissions, id) in [
        (1, 7, none),
        (2, 6, 1000),
        (4, 5, none),
        (16, 7, none),
        (32, 0, none),
    ] {
        list.extend(u16::to_le_bytes(tag));
        list.extend(u16::to_le_bytes(permissions));
        list.extend(u32::to_le_bytes(id));
    }
    list
}

#[test]
fn equal_attributes_share_a_block_up_to_1024_times() {
    let attributes = with(b"user.large", &[9; 200]);
    let stack = Stack::of(|layer| {
        for number in 0..1030 {
            layer.add_with(format!("f{number:04}"), &What::Fifo, &attributes);
        }
        layer.add_with("other", &What::Fifo, &with(b"user.large", &[8; 200]));
    });

    let image = stack.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    let mut users = std::collections::BTreeMap::new();
    for found in Reader::open(&image.path).walk().values() {
        *users.entry(found.attribute_block).or_insert(0) += 1;
    }
    users.remove(&0);
    let users: Vec<i32> = users.into_values().collect();
    assert_eq!(users, [1024, 6, 1]);
}

#[test]
fn lists_and_capabilities_are_what_debugfs_reads() {
    let mut attributes = with(b"system.posix_acl_access", &acl());
    attributes.xattrs.push((
        b"security.capability".to_vec(),
        vec![1, 0, 0, 2, 10, 0, 0, 0],
    ));
    attributes
        .xattrs
        .push((b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
    let stack = Stack::of(|layer| {
        layer.add_with("f", &What::File(b"f"), &attributes);
    });

    let image = stack.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    let list = debugfs(&image.path, "ea_list /f");
    for name in [
        "system.posix_acl_access (28)",
        "security.capability (8)",
        "trusted.overlay.opaque (1)",
    ] {
        assert!(list.contains(name), "{list}");
    }
}

#[test]
fn attributes_of_strange_name_spaces_are_left_out_and_counted() {
    let stack = Stack::of(|layer| {
        layer
            .add_with("f", &What::File(b"f"), &with(b"com.apple.provenance", b"x"))
            .add_with("g", &What::File(b"g"), &with(b"system.data", b""));
    });

    let plan = stack
        .plan(Profile::RwV1, Size::Default)
        .expect("it has a plan");

    assert_eq!(plan.unsupported_xattrs(), 2);
}

#[test]
fn what_ext4_cannot_hold_is_refused_by_name() {
    let refusal = |what: &What<'_>, attributes: &Attributes| {
        let stack = Stack::of(|layer| {
            layer.add_with("dir/it", what, attributes);
        });
        let error = stack
            .plan(Profile::RwV1, Size::Default)
            .map(|plan| plan.size_bytes());
        error.expect_err("it is refused").to_string()
    };
    let plain = Attributes::default();
    let many = Attributes {
        xattrs: (0..3)
            .map(|number| (format!("user.{number}").into_bytes(), vec![1; 2000]))
            .collect(),
        ..Attributes::default()
    };
    let cases = [
        (
            refusal(&What::File(b"x"), &many),
            "the extended attributes of \"dir/it\" are too large for ext4, beginning with \"user.2\"",
        ),
        (
            refusal(
                &What::File(b"x"),
                &with(b"system.posix_acl_default", b"junk"),
            ),
            "attribute \"system.posix_acl_default\" of \"dir/it\" is not a valid access control list",
        ),
        (
            refusal(&What::BlockDevice(4096, 1), &plain),
            "device \"dir/it\" has the number 4096:1, which Linux cannot represent",
        ),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
    let stack = Stack::of(|layer| {
        layer.add("f", &What::Sparse(1 << 44, &[]));
    });
    let error = stack
        .plan(Profile::RwV1, Size::Default)
        .expect_err("too long");
    assert!(matches!(error, PlanError::FileTooLarge { .. }), "{error}");
}
