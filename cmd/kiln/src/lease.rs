//! `kiln image lease`, `kiln image renew_lease` and `kiln image release`.

use clap::Args;
use kiln_api::lease::{
    DEFAULT_TTL_SECONDS, Lease, Release, ReleaseParams, Renew, RenewParams, Take, TakeParams,
};

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::session::Session;
use crate::text::time;

/// Which image to keep.
#[derive(Debug, Args)]
pub(crate) struct TakeArguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    #[arg(value_name = "IMAGE")]
    image: String,
    /// What for, in a few words for people
    #[arg(long, value_name = "TEXT")]
    purpose: String,
    /// For how many seconds, at most a week
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TTL_SECONDS)]
    ttl: u64,
    /// One architecture of it; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
}

/// Which lease to renew.
#[derive(Debug, Args)]
pub(crate) struct RenewArguments {
    /// The lease's id
    #[arg(value_name = "LEASE")]
    lease: String,
    /// For how many seconds from now, at most a week
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TTL_SECONDS)]
    ttl: u64,
}

/// Which leases to end.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArguments {
    /// The lease's id
    #[arg(value_name = "LEASE", required = true)]
    leases: Vec<String>,
}

/// Keeps an image.
pub(crate) async fn take(arguments: TakeArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = TakeParams {
        image: arguments.image,
        architecture: arguments.architecture,
        ttl_seconds: Some(arguments.ttl),
        purpose: arguments.purpose,
    };
    let lease = session.call::<Take>(&client, &params).await?;
    let item = Item::new(lease.id.to_string(), Ok(lease))?;
    batch::report(session, &[item], kept)
}

/// Keeps it for longer.
pub(crate) async fn renew(
    arguments: RenewArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = RenewParams {
        lease_id: arguments.lease.clone(),
        ttl_seconds: Some(arguments.ttl),
    };
    let result = session.call::<Renew>(&client, &params).await;
    batch::report(session, &[Item::new(arguments.lease, result)?], kept)
}

/// Ends leases, one after the other.
pub(crate) async fn release(
    arguments: ReleaseArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for lease in arguments.leases {
        let params = ReleaseParams {
            lease_id: lease.clone(),
        };
        let result = session.call::<Release>(&client, &params).await;
        items.push(Item::new(lease, result)?);
    }
    batch::report(session, &items, |_, lease: &Lease| {
        format!("lease {} has ended", lease.id)
    })
}

fn kept(_: &str, lease: &Lease) -> String {
    let until = time(&lease.expires_at);
    format!(
        "lease {} keeps image {} until {until}",
        lease.id, lease.image_id
    )
}
