//! `kiln kernel …`: the kernel catalogue.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kiln_api::kernel::{Get, Import, ImportParams, Kernel, KernelParams, List, ListParams, Remove};
use kiln_domain::KernelName;

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::kernel_choice::PassedKernel;
use crate::output::{self, Columns};
use crate::session::Session;
use crate::text::{cell, or_dash, size, time};

/// What there is to do with kernels.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take a kernel into the catalogue
    Import(ImportArguments),
    /// List kernels
    #[command(visible_alias = "ls")]
    List,
    /// Tell about a kernel
    #[command(visible_alias = "get", alias = "inspect")]
    Show(ShowArguments),
    /// Remove kernels from the catalogue; images keep their copies
    #[command(visible_alias = "rm")]
    Remove(RemoveArguments),
}

/// What to import.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Name in the catalogue
    name: KernelName,
    /// Kernel file: ELF vmlinux, bzImage or arm64 Image
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial ramdisk to go with it
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Directory of modules to go with it, such as lib/modules/6.1.0
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Debian kernel package, in place of --kernel and --modules
    #[arg(long, value_name = "FILE")]
    deb: Option<PathBuf>,
}

/// Which kernel to show.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Name in the catalogue
    name: KernelName,
}

/// Which kernels to remove.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Names in the catalogue
    #[arg(value_name = "NAME", required = true)]
    names: Vec<KernelName>,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::Import(arguments) => import(arguments, session).await,
            Self::List => list(session).await,
            Self::Show(arguments) => show(arguments, session).await,
            Self::Remove(arguments) => remove(arguments, session).await,
        }
    }
}

async fn import(arguments: ImportArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let files = client.files();
    let deb_path = match &arguments.deb {
        Some(path) => Some(files.file(path).await?),
        None => None,
    };
    let passed = PassedKernel::pass(
        &files,
        arguments.kernel.as_deref(),
        arguments.initrd.as_deref(),
        arguments.modules.as_deref(),
    )
    .await?;
    let params = ImportParams {
        name: arguments.name,
        kernel_path: passed.kernel.clone(),
        initrd_path: passed.initrd.clone(),
        modules_dir: passed.modules_file(),
        deb_path,
    };
    let imported = session.call::<Import>(&client, &params).await;
    let kernel = imported.map_err(|error| passed.explain(error))?;
    session.output().one(&kernel, kernel.name.as_str(), lines)
}

async fn list(session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let kernels = session
        .call::<List>(&client, &ListParams::default())
        .await?;
    session.output().list(
        &kernels.items,
        &Columns {
            header: &[
                "NAME", "VERSION", "ARCH", "FORMAT", "SIZE", "INITRD", "MODULES", "IMPORTED",
            ],
            row: &row,
            name: &|kernel: &Kernel| kernel.name.to_string(),
        },
    )
}

fn row(kernel: &Kernel) -> Vec<String> {
    let yes_or_no = |path: &Option<String>| if path.is_some() { "yes" } else { "no" }.to_owned();
    vec![
        cell(kernel.name.as_str()),
        or_dash(kernel.version.as_deref()),
        cell(&kernel.architecture),
        cell(&kernel.format),
        size(kernel.size_bytes),
        yes_or_no(&kernel.initrd_path),
        yes_or_no(&kernel.modules_path),
        time(&kernel.created_at),
    ]
}

async fn show(arguments: ShowArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = KernelParams {
        name: arguments.name,
    };
    let kernel = session.call::<Get>(&client, &params).await?;
    session.output().one(&kernel, kernel.name.as_str(), lines)
}

async fn remove(arguments: RemoveArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for name in arguments.names {
        let item = name.to_string();
        let result = session
            .call::<Remove>(&client, &KernelParams { name })
            .await;
        items.push(Item::new(item, result)?);
    }
    batch::report(session, &items, |name, _| {
        format!("kernel {} is removed", cell(name))
    })
}

fn lines(kernel: &Kernel) -> String {
    output::pairs(&[
        ("name", cell(kernel.name.as_str())),
        ("version", or_dash(kernel.version.as_deref())),
        ("architecture", cell(&kernel.architecture)),
        ("format", cell(&kernel.format)),
        (
            "file",
            format!("{}  {}", cell(&kernel.path), size(kernel.size_bytes)),
        ),
        ("sha256", cell(&kernel.sha256)),
        ("elf", or_dash(kernel.elf_path.as_deref())),
        ("initrd", or_dash(kernel.initrd_path.as_deref())),
        ("modules", or_dash(kernel.modules_path.as_deref())),
        ("owner", format!("uid {}", kernel.owner_uid)),
        ("imported", time(&kernel.created_at)),
    ])
}
