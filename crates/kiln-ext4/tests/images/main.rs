//! Whole images, judged by e2fsck, debugfs, a second reader, the kernel where it may mount, and
//! byte by byte against the tree they were made of.
//!
//! Needs e2fsprogs. Tests that mount need root and a loop device; they say so when they cannot.

#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "all of this is test code, and its numbers are small"
)]

mod compare;
mod fixture;
mod reader;
mod tools;

mod attributes;
mod changed;
mod directories;
mod files;
mod golden;
mod identity;
mod kinds;
mod mounted;
mod property;
mod sizes;
