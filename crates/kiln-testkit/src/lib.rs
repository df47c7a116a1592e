//! Real registries, images, virtual machines and daemons for Kiln's tests, demo and benchmarks.
//!
//! Everything here starts programs that Debian packages, on loopback and below temporary
//! folders, and stops them when the value that owns them is dropped. Nothing here is part of the
//! daemon or the client, and nothing outside tests, demo and benchmarks may use it.
//!
//! - [`tools`]: which packaged programs exist, and how a test skips visibly without one.
//! - [`process`], [`wait`]: child processes that never outlive their owner; waiting with limits.
//! - [`fixtures`]: a folder of things that are slow to make, made once.
//! - [`registry`], [`token`], [`certificates`]: a real registry, open, with a password or tokens.
//! - [`faults`]: a registry that misbehaves as it is told.
//! - [`oci_registry`]: a registry of the newest specification, in memory.
//! - [`images`]: OCI images, small and odd or real and large.
//! - [`compare`]: what a tree consists of, and how two trees differ.
//! - [`http`]: one request over any stream.
//! - [`daemon`], [`measure`]: a built `kilnd` with a root of its own; what things cost.
//! - [`proxy`]: an HTTP proxy that remembers what went through it.
//! - [`peers`]: the programs Kiln is compared with, measured.
//! - [`debs`], [`initrd`], [`qemu`]: Debian's kernel, what an initrd for it is made of, and a machine
//!   that boots it.
//! - [`guest_programs`]: what runs inside guests, built as it is shipped.
//! - [`installed`]: Kiln's programs in one folder, as they are shipped.
//! - [`elf`]: the smallest file that is a kernel by its format.

pub mod certificates;
pub mod compare;
pub mod daemon;
pub mod debs;
pub mod elf;
pub mod faults;
pub mod fixtures;
pub mod guest_programs;
pub mod http;
pub mod images;
pub mod initrd;
pub mod installed;
pub mod measure;
pub mod oci_registry;
pub mod peers;
pub mod process;
pub mod proxy;
pub mod qemu;
pub mod registry;
pub mod token;
pub mod tools;
pub mod wait;
