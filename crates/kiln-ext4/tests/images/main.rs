//! Whole images, judged by e2fsck, debugfs, a second reader, the kernel where it may mount, and
//! byte by byte against the tree they were made of.
//!
//! Needs e2fsprogs. Tests that mount need root and a loop device; they say so when they cannot.

mod compare;
mod fixture;
mod reader;
mod tools;

mod kinds;
