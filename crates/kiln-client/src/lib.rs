//! Typed client for kilnd's socket: what other programs on the host import.
//!
//! ```no_run
//! # async fn example() -> Result<(), kiln_client::ClientError> {
//! use kiln_api::image;
//! use kiln_client::{Client, Host};
//!
//! let client = Client::connect(&Host::at("/run/kiln/kiln.sock")).await?;
//! let page = client.call::<image::List>(&image::ListParams::default()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Host files that a call names are opened here, with the caller's rights, and travel as
//! descriptors ([`HostFiles`]); files of images come the same way ([`Client::open_image`]).
//! [`NewLayout`] writes a small image to pull. Not here: the environment, terminals, printing.

mod answer;
mod client;
mod error;
mod exchange;
mod files;
mod host;
mod images;
mod layout;
mod new_layout;
mod passing;
mod tar_stream;
mod watch;

pub use client::{Client, REQUEST_LIMIT_BYTES, RESPONSE_LIMIT_BYTES};
pub use error::ClientError;
pub use exchange::{Exchange, Tap, masked};
pub use files::{FileError, HostFiles, PassedSource};
pub use host::{Host, HostError, HostOrigin, Surroundings};
pub use images::OpenedImage;
pub use layout::LayoutError;
pub use new_layout::{NewFile, NewLayout, NewLayoutError};
pub use tar_stream::{Directory, DirectoryError};
pub use watch::Watch;
