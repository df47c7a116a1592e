//! Image sources: registries, layouts and archives, seen as manifests and blobs.
//!
//! [`resolve`] turns an [`ImageSource`] and a platform into one image whose documents are
//! checked; [`ImageSource::blob`] then opens its layers. Everything a stranger sends is bounded
//! in size and time, and credentials go to nobody but the registry they are for.
//!
//! The other way, [`Registry::push_blob`] and [`Registry::push_manifest`] send what is at hand.
//!
//! [`find_manifest`] does the first half for artifacts that are no images, and [`Download`] fetches
//! one file by its URL: this is the only room that speaks HTTP.
//!
//! Not here: storing blobs and checking their digests, decompressing layers, and finding the
//! caller's credentials.

mod archive;
mod artifact;
mod authorities;
mod blob;
mod browse;
mod challenge;
mod client;
mod config;
mod content;
mod delete;
mod docker_archive;
mod download;
mod error;
mod graph;
mod headers;
mod layout;
mod outgoing;
mod push;
mod referrers_tag;
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
mod upload;

pub use artifact::{FoundManifest, find_manifest};
pub use authorities::{check_authorities, check_client};
pub use blob::{BlobBody, BlobStream, FileRange};
pub use browse::{
    Answered, BrowseError, Cursor, CursorError, Deletes, Diagnosis, Page, Pong, RateLimit,
    RateLimits, Referrers, ReferrersKept, Turning,
};
pub use client::{Fetched, Registry};
pub use config::{Config, MinimumRate};
pub use content::Content;
pub use delete::Untagged;
pub use docker_archive::DockerArchive;
pub use download::Download;
pub use error::FetchError;
pub use graph::{Breadth, Graph, GraphDocument, absorb_referrers, read_graph};
pub use headers::Headers;
pub use layout::Layout;
pub use outgoing::{Outgoing, OutgoingDocument, OutgoingError};
pub use push::Presence;
pub use remote::{Identities, Remote, RemoteBlob};
pub use resolve::{ConfigFuture, Configs, Layer, Resolved, resolve, resolve_with};
pub use source::ImageSource;
pub use text::ServerText;
pub use upload::Pushed;
