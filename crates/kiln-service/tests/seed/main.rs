//! The desk that pulls, against the tests it was ported from and what it promises beyond them.
//!
//! Store, artifacts and catalogue are the real ones in a temporary folder. Only the two seams are
//! replaced: the step that fetches, and here and there the one that builds. What the daemon adds
//! around the desk is tested in `tests/e2e`.

mod agents;
mod booting;
mod endings;
mod house;
mod lifecycle;
mod ported;
mod recovery;
mod refusals;
mod stand_ins;
