//! The door for registries: notifications over HTTP that something was pushed.
//!
//! - [`listener`](Listener): connections, limits, the shared secret, answers.
//! - `envelopes`: what distribution, Harbor and CloudEvents say.
//!
//! Not here: which pushes matter and what follows from them. A notification names no host that is
//! asked: where images come from is configuration.

mod envelopes;
mod listener;

pub use envelopes::{EnvelopeError, Said, pushes};
pub use listener::{Listener, SharedSecret, WeakSecret};
