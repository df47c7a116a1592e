//! The demo's image on its way into the daemon, and out of it again.
//!
//! Names of images are one host's, and those of others are hidden: a name is tried, not looked up.
//! What goes again is found by what the daemon said that it made, never by a name.

use std::path::Path;
use std::time::Duration;

use kiln_api::image::{BootChoice, Forget, ForgetParams, Image, Outcome, Pull, PullParams};
use kiln_api::operation::{Cancel, CancelParams, Get, OperationParams};
use kiln_api::{Code, Failure, codes};
use kiln_client::Client;
use kiln_domain::{ImageId, ImageName, KernelName, OperationId, Platform, Source};

use super::ends::{Ends, interrupted};
use super::{NAME, has_code, image, typed};
use crate::failure::CommandError;
use crate::session::Session;
use crate::{follow, output};

/// How many names are tried before one that is taken is an error.
const NAMES: u32 = 100;

/// Longest time to wait for the daemon's word about work that it may have begun.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How far a pull came; what is to be undone follows from that.
#[derive(Debug)]
pub(super) enum Pulled {
    /// Nothing was begun.
    Nothing,
    /// The daemon works on it, or has ended.
    Begun(OperationId),
    /// It made this.
    Made { id: ImageId, name: ImageName },
}

/// Whether the daemon goes when the demo does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Demo,
    Others,
}

/// What to pull, and where.
pub(super) struct Pulling<'a> {
    pub(super) session: &'a Session,
    pub(super) client: &'a Client,
    pub(super) owner: Owner,
    pub(super) layout: &'a Path,
    pub(super) kernel: &'a KernelName,
}

/// Pulls under the first name that is free, and returns that; `pulled` tells at any time how far
/// that is.
pub(super) async fn pull(
    pulling: &Pulling<'_>,
    pulled: &mut Pulled,
    ends: &mut Ends,
) -> Result<ImageName, CommandError> {
    let &Pulling {
        session,
        client,
        owner,
        layout,
        kernel,
    } = pulling;
    let reference = format!("oci:{}", layout.display());
    let source = reference.parse::<Source>().map_err(|error| {
        let failure = Failure::from_error(codes::source::INVALID_REFERENCE, &error);
        CommandError::from(failure)
    })?;
    for name in names() {
        let name = name?;
        let call = begin(session, client, &source, &name, kernel);
        let outcome = match answered(call, owner, pulled, ends).await {
            Err(error) if is_taken(&error) => continue,
            outcome => outcome?,
        };
        let (name_word, kernel_word) = (name.as_str(), kernel.as_str());
        typed(&[
            "pull",
            &reference,
            "--name",
            name_word,
            "--kernel",
            kernel_word,
        ]);
        let made = match outcome {
            Outcome::Image(made) => *made,
            Outcome::Started(started) => {
                let id = started.operation_id;
                *pulled = Pulled::Begun(id);
                let end = follow::to_the_end(session, client, id, follow::Interrupt::Leaves);
                let ended = ends.or(end).await?;
                made_by(ended.operation.result, id)?
            }
        };
        *pulled = Pulled::Made {
            id: made.id,
            name: name.clone(),
        };
        output::note(&format!("{name} is ready: {}\n", made.rootfs.path));
        return Ok(name);
    }
    let message = format!("the names of {NAMES} demos are taken");
    Err(Failure::new(codes::image::ALREADY_EXISTS, message)
        .with_hint("forget one:", Some(format!("kiln forget {NAME}")))
        .into())
}

fn names() -> impl Iterator<Item = Result<ImageName, CommandError>> {
    (1..=NAMES).map(|number| {
        let text = match number {
            1 => NAME.to_owned(),
            number => format!("{NAME}-{number}"),
        };
        text.parse()
            .map_err(|error| Failure::from_error(codes::image::NAME_INVALID, &error).into())
    })
}

fn is_taken(error: &CommandError) -> bool {
    const TAKEN: [Code; 2] = [codes::image::ALREADY_EXISTS, codes::image::NAME_RESERVED];
    TAKEN.into_iter().any(|code| has_code(error, code))
}

async fn begin(
    session: &Session,
    client: &Client,
    source: &Source,
    name: &ImageName,
    kernel: &KernelName,
) -> Result<Outcome, CommandError> {
    let platform = Platform::linux(image::ARCHITECTURE);
    let passed = client.files().source(source, platform).await?;
    let params = PullParams {
        reference: passed.reference,
        name: Some(name.clone()),
        kernel_ref: Some(kernel.clone()),
        prefer_shipped_kernel: false,
        kernel_path: None,
        initrd_path: None,
        modules_dir: None,
        boot: BootChoice::Auto,
        size_bytes: None,
        platform: None,
        credentials: None,
        mirror_credentials: Vec::new(),
        org: None,
        tls_verify: None,
        source_files: passed.files,
        detach: true,
    };
    session.call::<Pull>(client, &params).await
}

/// Waits for the answer to a call that begins work. Who is interrupted meanwhile still needs it, for
/// only the answer tells what to undo; a daemon of the demo's own is undone as a whole.
async fn answered(
    call: impl Future<Output = Result<Outcome, CommandError>>,
    owner: Owner,
    pulled: &mut Pulled,
    ends: &mut Ends,
) -> Result<Outcome, CommandError> {
    tokio::pin!(call);
    tokio::select! {
        biased;
        () = ends.next() => {}
        outcome = &mut call => return outcome,
    }
    if owner == Owner::Others {
        let answer = async { Ok(tokio::time::timeout(ANSWER_LIMIT, call).await) };
        match ends.or(answer).await? {
            Ok(Ok(Outcome::Started(started))) => *pulled = Pulled::Begun(started.operation_id),
            Ok(Ok(Outcome::Image(made))) => {
                *pulled = Pulled::Made {
                    id: made.id,
                    name: made.name,
                };
            }
            // It began nothing, or nobody knows.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Err(interrupted())
}

fn made_by(result: Option<Box<Image>>, id: OperationId) -> Result<Image, CommandError> {
    let made = result.ok_or_else(|| {
        let message = format!("operation {id} succeeded without an image");
        CommandError::new(codes::daemon::INTERNAL, message)
    })?;
    Ok(*made)
}

/// Undoes it: what is under way is stopped, and what was made is forgotten.
pub(super) async fn undo(
    session: &Session,
    client: &Client,
    pulled: &Pulled,
) -> Result<(), CommandError> {
    let made = match pulled {
        Pulled::Nothing => None,
        Pulled::Begun(id) => stopped(session, client, *id).await?,
        Pulled::Made { id, .. } => Some(*id),
    };
    let Some(id) = made else {
        return Ok(());
    };
    let params = ForgetParams {
        architecture: None,
        image: id.to_string(),
        dry_run: false,
        force: true,
    };
    match session.call::<Forget>(client, &params).await {
        Err(error) if !has_code(&error, codes::image::NOT_FOUND) => Err(error),
        _ => Ok(()),
    }
}

/// Stops an operation, and returns what it made all the same.
async fn stopped(
    session: &Session,
    client: &Client,
    id: OperationId,
) -> Result<Option<ImageId>, CommandError> {
    let params = CancelParams {
        operation_id: id,
        unless_watched: false,
    };
    let ended = match session.call::<Cancel>(client, &params).await {
        Err(error) if has_code(&error, codes::operation::ALREADY_FINISHED) => {
            let params = OperationParams { operation_id: id };
            session.call::<Get>(client, &params).await?
        }
        ended => ended?,
    };
    Ok(ended.result.map(|image| image.id))
}
