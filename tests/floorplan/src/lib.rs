//! The shape of the code, checked by tests: which room may use which, and what must not appear.
//!
//! There is nothing to call here; `cargo test -p floorplan` reads the manifests and sources.

#[cfg(test)]
mod floors;
#[cfg(test)]
mod rooms;
