//! Pulling kernels: an operation that ends in the catalogue exactly as an import does.
//!
//! ```text
//! reference ─▶ artifact: its files ──────────────────────────┐
//!          └─▶ image: layers ─▶ merged tree ─▶ files in it ──┤
//! URL ─▶ file, digest checked ─▶ kernel or Debian package ───┴─▶ import ─▶ row, event, end
//! ```
//! A failure or a cancel leaves neither a row nor a directory.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_api::kernel::{Kernel, PullOutcome, PullParams};
use kiln_api::operation::{Operation, Stage};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{
    Digest, KernelName, OperationId, OperationKind, OperationState, Platform, Source,
};
use kiln_kernel::{Import, KernelFiles};
use kiln_store::kernels;

use super::in_tree::{self, TreeKernelError};
use super::{Ending, Kernels, kernel_row, refuse_word};
use crate::board::Running;
use crate::failures::{
    build_failure, catalogue_failure, fetch_failure, kernel_failure, name_failure, of_source,
    pool_failure, storage_code, store_failure,
};
use crate::fetch::{
    FetchRequest, FetchedKernel, Fetcher, KernelFetchError, MAX_FILE_BYTES, SourceFiles,
};
use crate::pulls::{
    Attendance, Launched, Makes, Opening, Records, cancelled, or_cancelled, unless_cancelled,
    while_wanted,
};
use crate::remotes::{NameError, Remotes, identities, tls_verify};

/// What a Debian package begins with: it is an ar archive.
const DEB_MAGIC: &[u8] = b"!<arch>\n";

/// What kernels are pulled with, and the names that are taken by pulls under way.
#[derive(Clone, Debug)]
pub struct KernelSources {
    records: Records,
    fetcher: Arc<Fetcher>,
    names: Arc<Mutex<HashSet<KernelName>>>,
}

impl KernelSources {
    /// Fetches with `fetcher`, and keeps operations in `records`.
    pub fn new(records: Records, fetcher: Arc<Fetcher>) -> Self {
        Self {
            records,
            fetcher,
            names: Arc::default(),
        }
    }

    /// Takes a name for one pull; nothing when another has it.
    fn take_name(&self, name: &KernelName) -> Option<TakenName> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.clone()).then(|| TakenName {
            names: self.names.clone(),
            name: name.clone(),
        })
    }
}

/// A name that one pull has; dropped, others may take it.
#[derive(Debug)]
struct TakenName {
    names: Arc<Mutex<HashSet<KernelName>>>,
    name: KernelName,
}

impl Drop for TakenName {
    fn drop(&mut self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.name);
    }
}

/// What is to be fetched.
#[derive(Debug)]
enum Wanted {
    Source(FetchRequest),
    Url { url: String, digest: Digest },
}

/// What the job takes along.
#[derive(Debug)]
struct Job {
    wanted: Wanted,
    name: TakenName,
    actor: Actor,
    /// Where it comes from, for people.
    subject: String,
}

/// Why a call asks for no kernel that can be pulled.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("neither a reference nor a URL was named")]
    Nothing,
    #[error("a reference and a URL were both named")]
    Both,
    #[error("a digest of the file goes with a URL; a reference has its own, behind @")]
    DigestOfReference,
    #[error("the digest of what lies at the URL was not named")]
    NoDigest,
    #[error("the URL carries a user name or password, and none is used")]
    UserInUrl,
    #[error("the URL says that the digest is {in_url}, the call {in_call}")]
    DigestsDisagree { in_url: Digest, in_call: Digest },
    #[error("{text:?} is not a SHA-256 digest")]
    Digest { text: String },
    #[error(transparent)]
    Source(#[from] NameError),
    #[error("kernels are pulled from registries, not from {source_text}")]
    NotARegistry { source_text: String },
    #[error(transparent)]
    Platform(#[from] kiln_domain::PlatformError),
}

impl Kernels {
    /// Pulls a kernel; the work goes on when the caller hangs up.
    pub async fn pull(&self, actor: &Actor, params: PullParams) -> Result<PullOutcome, Failure> {
        refuse_word(&params.name)?;
        let name = params.name.clone();
        let detach = params.detach;
        let platform = Platform::linux(self.sources.records.architecture);
        let wanted = understand(params, platform, &self.sources.records.remotes)
            .map_err(|error| request_failure(&error))?;
        let subject = wanted.subject();
        self.refuse_taken(&name).await?;
        let taken = self.sources.take_name(&name).ok_or_else(|| {
            let message = format!("a kernel called {name} is being pulled");
            Failure::new(codes::kernel::ALREADY_EXISTS, message)
        })?;
        let opening = Opening {
            kind: OperationKind::KernelPull,
            actor: *actor,
            makes: Makes::Kernel(name.clone()),
            subject: subject.clone(),
            params: serde_json::json!({ "name": name, "source": subject }),
        };
        let job = Job {
            wanted,
            name: taken,
            actor: *actor,
            subject,
        };
        let desk = self.clone();
        let source = match &job.wanted {
            Wanted::Source(request) => Some(request.source.clone()),
            Wanted::Url { .. } => None,
        };
        let work = move |id, running| async move {
            let done = desk.run_pull(id, job, running).await;
            done.map_err(|failure| match &source {
                Some(source) => of_source(source, failure),
                None => failure,
            })
        };
        let attendance = Attendance::of(detach);
        let launched = self
            .sources
            .records
            .launch(opening, attendance, work)
            .await?;
        match launched {
            Launched::Started(started) => Ok(PullOutcome::Started(Box::new(started))),
            Launched::Ended(operation) => answer(operation),
        }
    }

    /// Refuses a name early, before anything is fetched. The import decides.
    async fn refuse_taken(&self, name: &KernelName) -> Result<(), Failure> {
        let asked = name.clone();
        let row = self.store.read(move |tx| kernels::get(tx, &asked)).await;
        if row.map_err(|error| store_failure(&error))?.is_none() {
            return Ok(());
        }
        let message = format!("a kernel called {name} exists already");
        Err(Failure::new(codes::kernel::ALREADY_EXISTS, message))
    }

    /// The job: resolve, fetch, take in, commit.
    async fn run_pull(
        self,
        id: OperationId,
        job: Job,
        running: Arc<Running>,
    ) -> Result<Kernel, Failure> {
        running.enter(Stage::Resolve);
        let import = match &job.wanted {
            Wanted::Source(request) => {
                // It holds a download and all its mirrors: too much to lie in every caller's frame.
                let fetcher = &self.sources.fetcher;
                let fetching = Box::pin(fetcher.kernel(request, &self.catalogue, &running));
                match or_cancelled(&running, fetching, kernel_fetch_failure).await? {
                    FetchedKernel::Files(files) => import_of(files)?,
                    FetchedKernel::Image(packs) => {
                        running.enter(Stage::Merge);
                        let (catalogue, work) = (self.catalogue.clone(), running.work().clone());
                        let take = move || in_tree::take(&packs, &catalogue, work.flag());
                        let taken = self.on_pool(&running, take).await?;
                        taken.map_err(|error| unless_cancelled(&running, tree_failure(&error)))?
                    }
                }
            }
            Wanted::Url { url, digest } => {
                running.enter(Stage::Fetch);
                let file = Box::pin(self.download(url, *digest, &running)).await?;
                import_of(vec![file])?
            }
        };
        self.take_in(id, job, import, &running).await
    }

    async fn download(
        &self,
        url: &str,
        digest: Digest,
        running: &Arc<Running>,
    ) -> Result<File, Failure> {
        let catalogue = self.catalogue.clone();
        let scratch = self.on_pool(running, move || catalogue.scratch()).await?;
        let scratch = scratch.map_err(|error| catalogue_failure(&error))?;
        let fetcher = &self.sources.fetcher;
        let fetching = fetcher.whole_url(url, digest, MAX_FILE_BYTES, scratch, running);
        Box::pin(or_cancelled(running, fetching, fetch_failure)).await
    }

    /// Takes what was fetched into the catalogue, and records it with the operation's end.
    async fn take_in(
        &self,
        id: OperationId,
        job: Job,
        import: Import,
        running: &Arc<Running>,
    ) -> Result<Kernel, Failure> {
        running.enter(Stage::Stage);
        let name = job.name.name.clone();
        let _turn = self.work.names.lock(name.clone()).await;
        let (catalogue, initrds) = (self.catalogue.clone(), self.initrds.clone());
        let (asked, work) = (name.clone(), running.work().clone());
        let entry = running.clone();
        let take = move || {
            let imported = catalogue
                .import(asked.as_str(), import, work.flag())
                .map_err(|error| catalogue_failure(&error))?;
            super::make_ready(&initrds, &imported);
            entry.enter(Stage::Publish);
            Ok::<_, Failure>(imported)
        };
        // Once it is in the catalogue, only the commit decides: it is removed when that fails.
        let imported = self.work.pool.run(take).await;
        let imported = imported.map_err(|error| pool_failure(&error))?;
        let imported = imported.map_err(|failure| unless_cancelled(running, failure))?;
        let row = kernel_row(&imported, &job.subject, job.actor.uid, self.clock.now());
        let row = row.ok_or_else(|| {
            Failure::new(codes::daemon::INTERNAL, format!("{name} is no kernel name"))
        })?;
        let ending = Ending {
            operation_id: id,
            running: running.clone(),
        };
        self.record_import(job.actor, row, Some(ending)).await
    }

    async fn on_pool<T: Send + 'static>(
        &self,
        running: &Arc<Running>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let done = self
            .work
            .pool
            .run(while_wanted(running.clone(), work))
            .await;
        done.map_err(|error| pool_failure(&error))?
    }
}

impl Wanted {
    /// Says where it comes from, without secrets: the query of a URL may be a signature.
    fn subject(&self) -> String {
        match self {
            Self::Source(request) => request.source.to_string(),
            Self::Url { url, .. } => {
                let shown = url.split(['?', '#']).next().unwrap_or_default();
                kiln_api::failure::printable(shown)
            }
        }
    }
}

fn understand(
    params: PullParams,
    own: Platform,
    remotes: &Remotes,
) -> Result<Wanted, RequestError> {
    match (params.reference, params.url) {
        (None, None) => Err(RequestError::Nothing),
        (Some(_), Some(_)) => Err(RequestError::Both),
        (Some(_), None) if params.sha256.is_some() => Err(RequestError::DigestOfReference),
        (Some(reference), None) => {
            let source = remotes.source(&reference)?;
            if !matches!(source, Source::Registry(_)) {
                let source_text = source.to_string();
                return Err(RequestError::NotARegistry { source_text });
            }
            let others = params.mirror_credentials;
            Ok(Wanted::Source(FetchRequest {
                identities: identities(&source, params.credentials, others),
                tls: tls_verify(params.tls_verify),
                source,
                files: SourceFiles::None,
                platform: match &params.platform {
                    Some(text) => text.parse()?,
                    None => own,
                },
            }))
        }
        (None, Some(url)) => {
            // It would stand in the operation's record.
            let authority = url.split_once("://").map_or("", |(_, rest)| rest);
            let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
            if authority.contains('@') {
                return Err(RequestError::UserInUrl);
            }
            let in_call = params.sha256.as_deref().map(digest).transpose()?;
            let (url, fragment) = match url.split_once('#') {
                Some((url, fragment)) => (url.to_owned(), Some(fragment)),
                None => (url.clone(), None),
            };
            let in_url = fragment
                .and_then(|fragment| fragment.strip_prefix("sha256="))
                .map(digest)
                .transpose()?;
            let digest = match (in_url, in_call) {
                (Some(in_url), Some(in_call)) if in_url != in_call => {
                    return Err(RequestError::DigestsDisagree { in_url, in_call });
                }
                (Some(digest), _) | (None, Some(digest)) => digest,
                (None, None) => return Err(RequestError::NoDigest),
            };
            Ok(Wanted::Url { url, digest })
        }
    }
}

/// Reads a digest with or without the name of its algorithm.
fn digest(text: &str) -> Result<Digest, RequestError> {
    let text = text.to_ascii_lowercase();
    let hex = text.strip_prefix("sha256:").unwrap_or(&text);
    let parsed = format!("sha256:{hex}").parse();
    parsed.map_err(|_| RequestError::Digest {
        text: text.chars().take(80).collect(),
    })
}

/// Decides by its first bytes whether the first file is a kernel or a package of one; the second
/// is an initrd.
fn import_of(files: Vec<File>) -> Result<Import, Failure> {
    let mut files = files.into_iter();
    let file = files.next().ok_or_else(|| {
        let message = "a kernel was fetched without its file";
        Failure::new(codes::daemon::INTERNAL, message)
    })?;
    let initrd = files.next();
    let mut head = [0; DEB_MAGIC.len()];
    let is_package = match file.read_exact_at(&mut head, 0) {
        Ok(()) => head == DEB_MAGIC,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(Failure::from_error(storage_code(&error), &error)),
    };
    if is_package {
        let package = file;
        return Ok(Import::Deb { package, initrd });
    }
    Ok(Import::Files {
        files: KernelFiles {
            kernel: file,
            initrd,
            modules: None,
        },
        config: None,
    })
}

fn answer(operation: Operation) -> Result<PullOutcome, Failure> {
    match (operation.state, operation.kernel, operation.error) {
        (OperationState::Succeeded, Some(kernel), _) => Ok(PullOutcome::Kernel(kernel)),
        (OperationState::Cancelled, _, None) => Err(cancelled().with_operation(operation.id)),
        (_, _, Some(failure)) => Err(failure),
        (state, ..) => {
            let message = format!("operation {} is {state} and says no more", operation.id);
            Err(Failure::new(codes::daemon::INTERNAL, message).with_operation(operation.id))
        }
    }
}

fn request_failure(error: &RequestError) -> Failure {
    match error {
        RequestError::Nothing => Failure::from_error(codes::kernel::REQUIRED, error),
        RequestError::Both
        | RequestError::DigestOfReference
        | RequestError::DigestsDisagree { .. } => {
            Failure::from_error(codes::kernel::CHOICE_CONFLICT, error)
        }
        RequestError::NoDigest => Failure::from_error(codes::kernel::DIGEST_REQUIRED, error)
            .with_hint(
                "what a URL gives may change; say what it is to be:",
                Some("kiln kernel pull NAME URL#sha256=…".to_owned()),
            ),
        RequestError::Digest { .. } => Failure::from_error(codes::request::INVALID_PARAMS, error),
        RequestError::Source(error) => name_failure(error),
        RequestError::UserInUrl => Failure::from_error(codes::source::INVALID_REFERENCE, error),
        RequestError::NotARegistry { .. } => Failure::from_error(codes::source::UNSUPPORTED, error)
            .with_hint(
                "take the kernel's file out and import that",
                Some("kiln kernel import NAME --kernel FILE".to_owned()),
            ),
        RequestError::Platform(_) => Failure::from_error(codes::source::INVALID_PLATFORM, error),
    }
}

fn kernel_fetch_failure(error: &KernelFetchError) -> Failure {
    match error {
        KernelFetchError::Fetch(error) => fetch_failure(error),
        KernelFetchError::Scratch(error) => catalogue_failure(error),
        KernelFetchError::Layers(_) => Failure::from_error(codes::source::AMBIGUOUS, error),
        KernelFetchError::NoKernel { .. } => {
            Failure::from_error(codes::kernel::NOT_IN_SOURCE, error)
        }
        KernelFetchError::TooLarge { .. } => Failure::from_error(codes::file::TOO_LARGE, error),
    }
}

fn tree_failure(error: &TreeKernelError) -> Failure {
    match error {
        TreeKernelError::Merge(merge) => build_failure(&merge.clone().into()),
        TreeKernelError::NoKernel | TreeKernelError::Several { .. } => {
            Failure::from_error(codes::kernel::NOT_IN_SOURCE, error)
        }
        TreeKernelError::TooLarge => Failure::from_error(codes::file::TOO_LARGE, error),
        TreeKernelError::Kernel(error) => kernel_failure(error),
        TreeKernelError::Catalogue(error) => catalogue_failure(error),
        TreeKernelError::Io { source, .. } => Failure::from_error(storage_code(source), error),
        TreeKernelError::Cancelled => cancelled(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "aec070645fe53ee3b3763059376134f058cc337247c978add178b6ccdfb0019f";

    fn params(reference: Option<&str>, url: Option<&str>, sha256: Option<&str>) -> PullParams {
        PullParams {
            name: "k".parse().unwrap(),
            reference: reference.map(str::to_owned),
            url: url.map(str::to_owned),
            sha256: sha256.map(str::to_owned),
            platform: None,
            credentials: None,
            mirror_credentials: Vec::new(),
            tls_verify: None,
            detach: false,
        }
    }

    fn check(reference: Option<&str>, url: Option<&str>, sha256: Option<&str>) -> String {
        let own: Platform = "linux/amd64".parse().unwrap();
        let remotes = Remotes::new(kiln_registry::routes::Network::default());
        match understand(params(reference, url, sha256), own, &remotes) {
            Ok(Wanted::Url { url, digest }) => format!("{url} {}", &digest.to_hex()[..4]),
            Ok(Wanted::Source(request)) => format!("{} {}", request.source, request.platform),
            Err(error) => request_failure(&error).code,
        }
    }

    #[test]
    fn a_url_has_its_digest_in_one_place_or_the_other() {
        let url = "https://kernels.example/vmlinux";
        let marked = format!("{url}#sha256={HEX}");
        let named = format!("sha256:{HEX}");
        let other = "0".repeat(64);

        let want = format!("{url} aec0");
        assert_eq!(check(None, Some(&marked), None), want);
        assert_eq!(check(None, Some(url), Some(HEX)), want);
        assert_eq!(check(None, Some(&marked), Some(&named)), want);
        let conflict = "kernel.choice_conflict";
        assert_eq!(check(None, Some(&marked), Some(&other)), conflict);
        assert_eq!(check(None, Some(url), None), "kernel.digest_required");
        let with_user = "https://ann:secret@kernels.example/vmlinux";
        let refused = check(None, Some(with_user), Some(HEX));
        assert_eq!(refused, "source.invalid_reference");
        let invalid = "request.invalid_params";
        assert_eq!(check(None, Some(url), Some("12")), invalid);
    }

    #[test]
    fn a_package_is_told_from_a_kernel_by_its_first_bytes() {
        let file = |content: &[u8]| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(content, 0).unwrap();
            file
        };
        let is_package = |content: &[u8]| {
            let import = import_of(vec![file(content), file(b"initrd")]).unwrap();
            match import {
                Import::Deb { initrd, .. } => (true, initrd.is_some()),
                Import::Files { files, .. } => (false, files.initrd.is_some()),
            }
        };

        assert_eq!(is_package(b"!<arch>\ndebian-binary"), (true, true));
        assert_eq!(is_package(b"\x7fELF\x02\x01\x01\0"), (false, true));
        assert_eq!(is_package(b"short"), (false, true));
        import_of(Vec::new()).unwrap_err();
    }

    #[test]
    fn exactly_one_source_is_named_and_it_is_a_registry() {
        let debian = Some("debian:12");

        let want = "docker.io/library/debian:12 linux/amd64";
        assert_eq!(check(debian, None, None), want);
        assert_eq!(check(None, None, None), "kernel.required");
        let both = check(debian, Some("https://x/"), None);
        assert_eq!(both, "kernel.choice_conflict");
        assert_eq!(check(debian, None, Some(HEX)), "kernel.choice_conflict");
        assert_eq!(check(Some("oci:/x"), None, None), "source.unsupported");
        assert_eq!(check(Some("UPPER"), None, None), "source.invalid_reference");
    }
}
