//! The kernel that the demo boots with: one that is there, or one imported for its time.

use std::path::Path;

use kiln_api::kernel::{GetDefault, List, ListParams};
use kiln_api::{Failure, codes};
use kiln_client::Client;
use kiln_domain::KernelName;
use uuid::Uuid;

use super::NAME;
use super::pull::Owner;
use crate::failure::CommandError;
use crate::kernel::{ImportArguments, take_in};
use crate::session::Session;

/// How to get a kernel without installing it.
const DOWNLOAD: &str = "apt-get download $(apt-cache depends linux-image-cloud-amd64 | \
                        sed -n 's/.*Depends: //p') && kiln demo --deb linux-image-*.deb";

/// Returns a name for a kernel that comes for the demo and goes with it.
///
/// In a daemon that others use it is nobody else's: whatever has that name when the demo ends is the
/// demo's.
pub(super) fn own_name(owner: Owner) -> Result<KernelName, CommandError> {
    let text = match owner {
        Owner::Demo => NAME.to_owned(),
        Owner::Others => format!("{NAME}-{:08x}", Uuid::new_v4().as_fields().0),
    };
    text.parse()
        .map_err(|error| Failure::from_error(codes::kernel::NAME_INVALID, &error).into())
}

/// Returns the default kernel, else the only one; none where the catalogue is empty.
pub(super) async fn choose(
    session: &Session,
    client: &Client,
) -> Result<Option<KernelName>, CommandError> {
    let params = ListParams::default();
    let default = session.call::<GetDefault>(client, &params).await?;
    if let Some(kernel) = default.kernel {
        return Ok(Some(kernel.name));
    }
    let mut kernels = session.call::<List>(client, &params).await?.items;
    match (kernels.pop(), kernels.len()) {
        (Some(only), 0) => Ok(Some(only.name)),
        (Some(last), _) => {
            let message = "there are several kernels, and none is the default";
            let command = format!("kiln demo --kernel {}", last.name);
            Err(Failure::new(codes::kernel::NO_DEFAULT, message)
                .with_hint("name one:", Some(command))
                .into())
        }
        (None, _) => Ok(None),
    }
}

/// Imports a Debian package.
pub(super) async fn import_package(
    session: &Session,
    name: KernelName,
    deb: &Path,
) -> Result<(), CommandError> {
    let words = ["kernel", "import", name.as_str(), "--deb"];
    super::typed(&[&words[..], &[&deb.display().to_string()]].concat());
    let arguments = ImportArguments::of(name, Some(deb.to_owned()));
    take_in(arguments, session).await.map(drop)
}

/// Imports the kernel that the host runs.
pub(super) async fn import_running(
    session: &Session,
    name: KernelName,
) -> Result<(), CommandError> {
    super::typed(&["kernel", "import", name.as_str(), "--running"]);
    match take_in(ImportArguments::of(name, None), session).await {
        Ok(_) => Ok(()),
        Err(CommandError::Failed(failure)) => Err(none_found(&failure)),
        Err(other) => Err(other),
    }
}

/// Says that there is nothing to boot with, and why the host's kernel is none.
fn none_found(cause: &Failure) -> CommandError {
    let message = "there is no kernel to boot with: the catalogue is empty, and the kernel that \
                   this host runs does not serve";
    let mut failure = Failure::new(codes::kernel::NO_DEFAULT, message);
    failure.cause.push(cause.message.clone());
    failure.cause.extend(cause.cause.iter().cloned());
    failure
        .with_hint("download one, such as Debian's:", Some(DOWNLOAD.to_owned()))
        .into()
}
