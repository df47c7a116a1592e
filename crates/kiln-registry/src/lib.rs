//! Image sources: registries, layouts and archives, seen as manifests and blobs.
//!
//! [`resolve`] turns an [`ImageSource`] and a platform into one image whose documents are
//! checked; [`ImageSource::blob`] then opens its layers. Everything a stranger sends is bounded
//! in size and time, and credentials go to nobody but the registry they are for.
//!
//! [`find_manifest`] does the first half for artifacts that are no images, and [`Download`] fetches
//! one file by its URL: this is the only room that speaks HTTP.
//!
//! Not here: storing blobs and checking their digests, decompressing layers, and finding the
//! caller's credentials.

mod archive;
mod artifact;
mod blob;
mod browse;
mod challenge;
mod client;
mod config;
mod docker_archive;
mod download;
mod error;
mod layout;
mod remote;
mod resolve;
mod retry;
pub mod routes;
mod scope;
mod source;
#[cfg(test)]
mod testing;
mod text;
mod token;
mod transport;
mod trust;

pub use artifact::{FoundManifest, find_manifest};
pub use blob::{BlobBody, BlobStream, FileRange};
pub use browse::Pong;
pub use client::{Fetched, Registry};
pub use config::{Config, MinimumRate};
pub use docker_archive::DockerArchive;
pub use download::Download;
pub use error::FetchError;
pub use layout::Layout;
pub use remote::{Identities, Remote, RemoteBlob};
pub use resolve::{ConfigFuture, Configs, Layer, Resolved, resolve, resolve_with};
pub use source::ImageSource;
pub use text::ServerText;
