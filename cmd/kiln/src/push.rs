//! `kiln push`: an image to a registry.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kiln_api::image::push::{Push, PushForm, PushParams};
use kiln_api::image::{Get, GetParams};
use kiln_api::transfer::{Transfer, TransferOutcome};
use kiln_api::{Failure, codes};
use kiln_client::Client;
use kiln_domain::Source;

use crate::credentials::CredentialsArguments;
use crate::failure::CommandError;
use crate::follow;
use crate::output;
use crate::reach::{Reach, ReachArguments, TlsArguments};
use crate::session::Session;
use crate::text::{cell, size};

/// What to push, and where to.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    image: String,
    /// Where to, with the registry, such as registry.example/team/app:1
    #[arg(value_name = "REFERENCE")]
    into: String,
    /// As what to send it
    #[arg(long = "as", value_enum, value_name = "FORM", default_value_t = Form::Oci)]
    form: Form,
    /// One architecture of the image; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
    /// Further tag in the same repository; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The whole index that the image was chosen from, all platforms
    #[arg(long)]
    all: bool,
    /// What refers to it at its source too: signatures, SBOMs
    #[arg(long)]
    referrers: bool,
    #[command(flatten)]
    reach: ReachArguments,
    /// User name and password for the image's source, should something have to be fetched again
    #[arg(long, value_name = "USER[:PASSWORD]")]
    src_creds: Option<String>,
    /// What --tls-verify says, for the image's source
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    src_tls_verify: Option<bool>,
    /// Return the operation at once and let the daemon go on
    #[arg(long)]
    detach: bool,
}

/// As what an image is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The OCI image it was made from, byte for byte
    Oci,
    /// The built image, with its kernel; another Kiln that pulls it builds nothing
    Bootable,
    /// A disk for KubeVirt: qcow2 in an OCI image, kernel and initial ramdisk beside it
    Containerdisk,
}

impl From<Form> for PushForm {
    fn from(form: Form) -> Self {
        match form {
            Form::Oci => Self::Oci,
            Form::Bootable => Self::Bootable,
            Form::Containerdisk => Self::Containerdisk,
        }
    }
}

/// Pushes.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    if let Ok(
        place @ (Source::OciLayout { .. }
        | Source::OciArchive { .. }
        | Source::DockerArchive { .. }
        | Source::Directory { .. }),
    ) = arguments.into.parse()
    {
        return Err(not_a_registry(&arguments.image, &place));
    }
    let caller = arguments.reach.caller(session)?;
    let (into, reach) = caller.for_writing(&arguments.into).await?;
    let client = session.connect().await?;
    let from = source(&arguments, &client, session).await?;
    let params = PushParams {
        image: arguments.image,
        architecture: arguments.architecture,
        into: into.to_string(),
        tags: arguments.tags,
        form: arguments.form.into(),
        all_platforms: arguments.all,
        referrers: arguments.referrers,
        from_credentials: from.credentials,
        from_mirror_credentials: from.mirror_credentials,
        from_tls_verify: from.tls_verify,
        into_credentials: reach.credentials,
        into_tls_verify: reach.tls_verify,
        detach: true,
    };
    let outcome = session.call::<Push>(&client, &params).await?;
    finish(session, &client, outcome, arguments.detach).await
}

/// Refuses a place of this host, where images of this host are written otherwise.
fn not_a_registry(image: &str, place: &Source) -> CommandError {
    let text = format!("{place} is a place on this host, and kiln push sends to registries");
    Failure::new(codes::source::INVALID_REFERENCE, text)
        .with_hint(
            "put the built image into a file (what it was made from is copied by kiln copy):",
            Some(format!("kiln export {image} FILE")),
        )
        .into()
}

/// Finds out how to reach where the image came from: the daemon knows where that is.
async fn source(
    arguments: &Arguments,
    client: &Client,
    session: &Session,
) -> Result<Reach, CommandError> {
    let params = GetParams {
        image: arguments.image.clone(),
        architecture: arguments.architecture.clone(),
    };
    let image = session.call::<Get>(client, &params).await?;
    let credentials = CredentialsArguments::of(
        arguments.src_creds.clone(),
        arguments.reach.authfile().map(PathBuf::from),
    );
    let flags = ReachArguments::of(credentials, TlsArguments::of(arguments.src_tls_verify));
    let caller = flags.caller(session)?;
    match image.source.reference.parse() {
        Ok(Source::Registry(reference)) => {
            let (_, reach) = caller.for_fetching(&reference.to_string(), client).await?;
            Ok(reach)
        }
        _ => Ok(Reach::nowhere(None)),
    }
}

/// Follows what a call with `detach` started, unless the caller wants to leave it alone.
pub(crate) async fn finish(
    session: &Session,
    client: &Client,
    outcome: TransferOutcome,
    detach: bool,
) -> Result<(), CommandError> {
    let started = match outcome {
        TransferOutcome::Transfer(transfer) => return print(session, &transfer),
        TransferOutcome::Started(started) => started,
    };
    let id = started.operation_id;
    if detach {
        let name = id.to_string();
        return session.output().one(&*started, &name, |_| {
            format!("started operation {id}; wait for it:  kiln op wait {id}\n")
        });
    }
    let ended = follow::to_the_end(session, client, id, follow::Interrupt::Cancels).await?;
    let Some(transfer) = ended.operation.transfer else {
        let message = format!("operation {id} succeeded and says not what came of it");
        return Err(CommandError::new(codes::daemon::INTERNAL, message));
    };
    print(session, &transfer)
}

fn print(session: &Session, transfer: &Transfer) -> Result<(), CommandError> {
    session.output().one(transfer, &transfer.reference, summary)
}

fn summary(transfer: &Transfer) -> String {
    let head = format!("{}\n", cell(&transfer.reference));
    let mut lines = Vec::new();
    if !transfer.tags.is_empty() {
        lines.push(("  tags", cell(&transfer.tags.join(", "))));
    }
    if transfer.is_up_to_date {
        lines.push(("  sent", "nothing, it was there".to_owned()));
        return head + &output::pairs(&lines);
    }
    lines.push(("  sent", amounts(transfer)));
    if transfer.referrers > 0 {
        lines.push(("  referrers", transfer.referrers.to_string()));
    }
    head + &output::pairs(&lines)
}

/// Says what became of the blobs: `12.0 MiB in 2 blobs, 1 mounted, 3 were there`.
fn amounts(transfer: &Transfer) -> String {
    let blobs = |count: u64| if count == 1 { "blob" } else { "blobs" };
    let sent = match transfer.sent.blobs {
        0 => "no blob".to_owned(),
        count => format!("{} in {count} {}", size(transfer.sent.bytes), blobs(count)),
    };
    let others = [
        (transfer.mounted.blobs, "mounted"),
        (transfer.present.blobs, "there already"),
    ];
    let others = others
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"));
    std::iter::once(sent)
        .chain(others)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use kiln_api::transfer::Amount;

    use super::*;

    fn transfer() -> Transfer {
        Transfer {
            reference: "r.example/app@sha256:00".to_owned(),
            digest: "sha256:00".to_owned(),
            tags: vec!["r.example/app:1".to_owned()],
            documents: 1,
            referrers: 0,
            is_up_to_date: false,
            sent: Amount {
                blobs: 2,
                bytes: 3 << 20,
            },
            mounted: Amount::default(),
            present: Amount { blobs: 1, bytes: 7 },
        }
    }

    #[test]
    fn a_push_is_told_in_three_lines() {
        assert_eq!(
            summary(&transfer()),
            "r.example/app@sha256:00\n  tags  r.example/app:1\n  sent  3.0 MiB in 2 blobs, 1 there already\n"
        );

        let idle = Transfer {
            is_up_to_date: true,
            ..transfer()
        };
        assert!(summary(&idle).ends_with("  sent  nothing, it was there\n"));
    }
}
