//! Golden boots: guests under QEMU whose programs say what they see.
//!
//! A boot costs seconds, so each looks at as much as goes together. Without QEMU, or without the
//! packages to make a guest from, they are skipped.

mod entrypoint;
mod guest;
mod image;
mod roots;
mod stopping;
