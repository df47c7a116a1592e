//! A registry that misbehaves as it is told: one fault, one image, and a log of what it was asked.
//!
//! It speaks the distribution specification over HTTP on loopback, wants a token for everything and a
//! password for the token, and gives its fault at one place (the token, the manifest, the config, the
//! first layer; of an upload its opening, its parts, its end), once, twice or for ever. [`catalogue`]
//! names the faults of reading, [`sending`] those of sending; what a client is to make of each is for
//! the test that drives it.
//!
//! Beside it runs a stranger on another loopback address, to whom it may send clients, and who
//! must never be told a secret.
//!
//! ```text
//! fault ──▶ FaultRegistry ── registry 127.0.0.1 ──redirects──▶ stranger 127.0.0.2
//!                │                  │                               │
//!              image            asked()                      stranger_asked()
//! ```

pub mod catalogue;
mod fault;
mod image;
mod misbehave;
mod oddities;
pub mod sending;
mod server;
mod uploads;

pub use self::catalogue::find;
pub use self::fault::{Fault, Fields, How, Place, Ranges, Target, Times};
pub use self::image::OddImage;
pub use self::server::{Asked, FaultRegistry};
pub use self::uploads::Kept;

/// The one account.
pub const USER: &str = "fault-user";

/// Its password, unlike anything else that is ever written.
pub const PASSWORD: &str = "fault-pass-7f3a:w0rd";

/// How every token begins.
pub const TOKEN_PREFIX: &str = "fault-token-51c9";
