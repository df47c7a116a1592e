//! `kiln kernel …`: the kernel catalogue.

mod check;
mod pull;
mod running;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kiln_api::kernel::{
    Default, Get, GetDefault, Import, ImportParams, Kernel, KernelParams, List, ListParams, Remove,
    SetDefault, SetDefaultParams,
};
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
    /// Take a kernel from a registry or a URL into the catalogue
    Pull(pull::Arguments),
    /// List kernels
    #[command(visible_alias = "ls")]
    List,
    /// Tell about a kernel
    #[command(visible_alias = "get", alias = "inspect")]
    Show(ShowArguments),
    /// Remove kernels from the catalogue; images keep their copies
    #[command(visible_alias = "rm")]
    Remove(RemoveArguments),
    /// Tell which monitors boot a kernel, and why or why not
    Check(check::Arguments),
    /// Tell which kernel is used where none is named, or choose it
    Default(DefaultArguments),
    /// Choose the default kernel
    #[command(name = "set_default", hide = true)]
    SetDefault(DefaultArguments),
    /// Tell the default kernel
    #[command(name = "get_default", hide = true)]
    GetDefault,
}

/// What to import.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Name in the catalogue
    name: KernelName,
    /// Kernel file: ELF vmlinux, bzImage or arm64 Image
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel that this host runs, with its modules and configuration, in place of files
    #[arg(long, conflicts_with_all = ["kernel", "modules", "config", "deb"])]
    running: bool,
    /// Initial ramdisk to go with it
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Directory of modules to go with it, such as lib/modules/6.1.0
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// How it was configured, such as /boot/config-6.1.0 or /proc/config.gz
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Debian kernel package, in place of --kernel, --modules and --config
    #[arg(long, value_name = "FILE")]
    deb: Option<PathBuf>,
    /// Use it from now on where no kernel is named
    #[arg(long)]
    default: bool,
}

/// Which kernel is to be the default.
#[derive(Debug, Args)]
pub(crate) struct DefaultArguments {
    /// Name in the catalogue; without one the default is told
    #[arg(conflicts_with = "none")]
    name: Option<KernelName>,
    /// Have no default any more
    #[arg(long)]
    none: bool,
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
            Self::Pull(arguments) => pull::run(arguments, session).await,
            Self::List => list(session).await,
            Self::Show(arguments) => show(arguments, session).await,
            Self::Remove(arguments) => remove(arguments, session).await,
            Self::Check(arguments) => check::run(arguments, session).await,
            Self::Default(arguments) | Self::SetDefault(arguments) => {
                default(arguments, session).await
            }
            Self::GetDefault => {
                let arguments = DefaultArguments {
                    name: None,
                    none: false,
                };
                default(arguments, session).await
            }
        }
    }
}

impl ImportArguments {
    /// Takes a Debian package, else the kernel that this host runs.
    pub(crate) fn of(name: KernelName, deb: Option<PathBuf>) -> Self {
        Self {
            name,
            kernel: None,
            running: deb.is_none(),
            initrd: None,
            modules: None,
            config: None,
            deb,
            default: false,
        }
    }
}

async fn import(arguments: ImportArguments, session: &Session) -> Result<(), CommandError> {
    let kernel = take_in(arguments, session).await?;
    session.output().one(&kernel, kernel.name.as_str(), lines)
}

/// Imports a kernel and returns it as the catalogue has it.
pub(crate) async fn take_in(
    mut arguments: ImportArguments,
    session: &Session,
) -> Result<Kernel, CommandError> {
    if arguments.running {
        let found = running::find()?;
        arguments.kernel = Some(found.kernel);
        arguments.modules = found.modules;
        arguments.config = found.config;
    }
    let client = session.connect().await?;
    let files = client.files();
    let config_path = match &arguments.config {
        Some(path) => Some(files.file(path).await?),
        None => None,
    };
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
        config_path,
        deb_path,
    };
    let imported = session.call::<Import>(&client, &params).await;
    let mut kernel = imported.map_err(|error| passed.explain(error))?;
    if arguments.default {
        let params = SetDefaultParams {
            name: Some(kernel.name.clone()),
        };
        let chosen = session.call::<SetDefault>(&client, &params).await?;
        kernel = chosen.kernel.unwrap_or(kernel);
    }
    Ok(kernel)
}

async fn default(arguments: DefaultArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let is_change = arguments.name.is_some() || arguments.none;
    let told = if is_change {
        let params = SetDefaultParams {
            name: arguments.name,
        };
        session.call::<SetDefault>(&client, &params).await?
    } else {
        let params = ListParams::default();
        session.call::<GetDefault>(&client, &params).await?
    };
    let name = told.kernel.as_ref().map(|kernel| kernel.name.to_string());
    session
        .output()
        .one(&told, name.as_deref().unwrap_or_default(), default_line)
}

fn default_line(told: &Default) -> String {
    match &told.kernel {
        Some(kernel) => format!(
            "{} is the default kernel ({})\n",
            cell(kernel.name.as_str()),
            or_dash(kernel.version.as_deref())
        ),
        None => "no kernel is the default; choose one:  kiln kernel default NAME\n".to_owned(),
    }
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
                "NAME", "DEFAULT", "VERSION", "ARCH", "FORMAT", "SIZE", "INITRD", "MODULES",
                "IMPORTED",
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
        if kernel.is_default { "yes" } else { "" }.to_owned(),
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
    batch::report(session, &items, |name, kernel| {
        let name = cell(name);
        if kernel.is_default {
            format!("kernel {name} is removed; it was the default, and there is none now")
        } else {
            format!("kernel {name} is removed")
        }
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
        (
            "default",
            if kernel.is_default { "yes" } else { "no" }.to_owned(),
        ),
        ("owner", format!("uid {}", kernel.owner_uid)),
        ("imported", time(&kernel.created_at)),
    ])
}
