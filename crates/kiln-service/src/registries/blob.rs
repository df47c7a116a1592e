//! Blobs of a registry for a caller, who takes the descriptor at the second socket.
//!
//! The bytes come from the registry each time, for whoever asks, and stay in no cache: a blob that
//! is there may be another user's.

use std::sync::Arc;

use kiln_api::registry::{BlobParams, OpenedBlob};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::oci::Descriptor;
use kiln_domain::{Digest, Reference};
use kiln_registry::{FetchError, Presence};

use super::Registries;
use crate::failures::{fetch_failure, host_file_failure, source_failure};
use crate::fetch::Fetcher;
use crate::host_files::HostFiles;

/// What blobs are fetched with.
#[derive(Clone, Debug)]
pub struct BlobFiles {
    fetcher: Arc<Fetcher>,
    host_files: Arc<HostFiles>,
}

impl BlobFiles {
    /// Fetches with `fetcher` and leaves the descriptors with `host_files`.
    pub fn new(fetcher: Arc<Fetcher>, host_files: Arc<HostFiles>) -> Self {
        Self {
            fetcher,
            host_files,
        }
    }
}

impl Registries {
    /// Fetches a blob and leaves its descriptor at the second socket, for the caller alone.
    ///
    /// When the caller hangs up, fetching ends and nothing is kept.
    pub async fn blob(&self, actor: &Actor, params: BlobParams) -> Result<OpenedBlob, Failure> {
        let reference = self.read(&params.reference)?;
        let Some(digest) = reference.digest().copied() else {
            let message = format!("{reference} names no blob: a blob is named by its digest");
            let command = format!(
                "kiln registry blob {}/{}@sha256:…",
                reference.registry(),
                reference.repository()
            );
            return Err(Failure::new(codes::source::INVALID_REFERENCE, message)
                .with_hint("write it like:", Some(command)));
        };
        let remote = self.remote_for(
            &reference,
            params.credentials,
            params.mirror_credentials,
            params.tls_verify,
        )?;
        let size_bytes = if let Some(size_bytes) = params.size_bytes {
            size_bytes
        } else {
            let (registry, there) = remote.location(&reference);
            let asking = registry.blob_presence(&there, &digest);
            let found = asking.await.map_err(|error| source_failure(&error))?;
            told_size(found, &reference, digest)?
        };
        let wanted = Descriptor::new("", digest, size_bytes);
        let fetching = self
            .files
            .fetcher
            .withheld_blob(&remote, &reference, wanted);
        let blob = fetching.await.map_err(|error| fetch_failure(&error))?;
        let handle = self.files.host_files.lay_out(actor.uid, blob.file);
        Ok(OpenedBlob {
            digest: digest.to_string(),
            size_bytes: blob.size_bytes,
            handle: handle.map_err(|error| host_file_failure(&error))?,
        })
    }
}

/// Takes the length that a registry tells of a blob; without one nothing can be fetched.
fn told_size(found: Presence, reference: &Reference, digest: Digest) -> Result<u64, Failure> {
    let place = format!("{}/{}", reference.registry(), reference.repository());
    match found {
        Presence::OfBytes(size_bytes) => Ok(size_bytes),
        Presence::Absent => Err(source_failure(&FetchError::BlobNotFound { place, digest })),
        Presence::Untold => {
            let message = format!("{place} does not tell how long its blob {digest} is");
            Err(Failure::new(codes::registry::UNEXPECTED_ANSWER, message)
                .with_hint("say it as size_bytes: the manifest has it", None))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_absent_is_not_found() {
        let digest = Digest::of(b"x");
        let reference: Reference = "localhost:5000/app".parse().unwrap();
        let told = |found| told_size(found, &reference, digest).map_err(|failure| failure.code);

        assert_eq!(told(Presence::OfBytes(7)), Ok(7));
        assert_eq!(told(Presence::Absent), Err("source.not_found".to_owned()));
        let untold = Err("registry.unexpected_answer".to_owned());
        assert_eq!(told(Presence::Untold), untold);
    }
}
