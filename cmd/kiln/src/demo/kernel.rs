//! The kernel that the demo boots with: one that is there, or one imported for its time.

use std::path::Path;

use kiln_api::kernel::{GetDefault, List, ListParams};
use kiln_api::{Failure, codes};
use kiln_client::Client;
use kiln_domain::KernelName;

use super::NAME;
use crate::failure::CommandError;
use crate::kernel::{ImportArguments, take_in};
use crate::session::Session;

/// How to get a kernel without installing it.
const DOWNLOAD: &str = "apt-get download $(apt-cache depends linux-image-cloud-amd64 | \
                        sed -n 's/.*Depends: //p') && kiln demo --deb linux-image-*.deb";

/// A kernel of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// It was there.
    InCatalogue(KernelName),
    /// It came for the demo, and goes with it.
    Imported(KernelName),
}

impl Chosen {
    /// Returns its name.
    pub(super) fn name(&self) -> &KernelName {
        match self {
            Self::InCatalogue(name) | Self::Imported(name) => name,
        }
    }
}

/// Takes the default kernel, else the only one, else the one that the host runs.
pub(super) async fn choose(session: &Session, client: &Client) -> Result<Chosen, CommandError> {
    let params = ListParams::default();
    let default = session.call::<GetDefault>(client, &params).await?;
    if let Some(kernel) = default.kernel {
        return Ok(Chosen::InCatalogue(kernel.name));
    }
    let mut kernels = session.call::<List>(client, &params).await?.items;
    match (kernels.pop(), kernels.len()) {
        (Some(only), 0) => Ok(Chosen::InCatalogue(only.name)),
        (Some(last), _) => {
            let message = "there are several kernels, and none is the default";
            let command = format!("kiln demo --kernel {}", last.name);
            Err(Failure::new(codes::kernel::NO_DEFAULT, message)
                .with_hint("name one:", Some(command))
                .into())
        }
        (None, _) => import_running(session).await,
    }
}

/// Imports a Debian package.
pub(super) async fn import_package(session: &Session, deb: &Path) -> Result<Chosen, CommandError> {
    let name = own_name()?;
    let words = ["kernel", "import", name.as_str(), "--deb"];
    super::typed(&[&words[..], &[&deb.display().to_string()]].concat());
    let arguments = ImportArguments::of(name, Some(deb.to_owned()));
    Ok(Chosen::Imported(take_in(arguments, session).await?.name))
}

async fn import_running(session: &Session) -> Result<Chosen, CommandError> {
    let name = own_name()?;
    super::typed(&["kernel", "import", name.as_str(), "--running"]);
    let imported = take_in(ImportArguments::of(name, None), session).await;
    match imported {
        Ok(kernel) => Ok(Chosen::Imported(kernel.name)),
        Err(CommandError::Failed(failure)) => Err(none_found(&failure)),
        Err(other) => Err(other),
    }
}

fn own_name() -> Result<KernelName, CommandError> {
    NAME.parse()
        .map_err(|error| Failure::from_error(codes::kernel::NAME_INVALID, &error).into())
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
