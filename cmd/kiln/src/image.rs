//! `kiln image …`, `kiln images`, `kiln inspect` and `kiln forget`.

use clap::{Args, Subcommand};
use kiln_api::image::{
    Boot, BootChoice, DiskFormat, Forget, ForgetParams, Forgotten, Get, GetParams, Image, List,
    ListParams, Source, TakenDisk,
};
use kiln_client::Client;

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::image_vmm::VmmArguments;
use crate::output::{self, Columns, Format};
use crate::session::Session;
use crate::text::{cell, or_dash, size, time};
use crate::{
    alias, checkout, export, image_open, import, lease, metadata, outdated, pages, pull, push,
    register, removal, scan, storage,
};

/// What there is to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List images
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Tell about images
    #[command(visible_alias = "get")]
    Show(Box<OneArguments>),
    /// Print everything about images as JSON
    Inspect(ShowArguments),
    /// Write a file of an image to standard output
    Open(image_open::Arguments),
    /// Make a private, writable copy of an image's root filesystem in a file
    Checkout(checkout::Arguments),
    /// Put a whole image into one file: root filesystem, kernel, initial ramdisk, modules
    Export(export::Arguments),
    /// Make an image of a file that `kiln export` made
    Import(import::Arguments),
    /// Hide images and free their names
    Forget(ForgetArguments),
    /// Change what is said of an image, several things at once
    #[command(visible_alias = "edit")]
    Modify(metadata::ModifyArguments),
    /// Give an image another name; the old one goes on as an alias
    Rename(metadata::RenameArguments),
    /// Show an image's labels, or set some and take some away
    #[command(visible_alias = "labels")]
    Label(metadata::LabelArguments),
    /// Show an image's keywords, or put others in their place
    Keywords(metadata::KeywordsArguments),
    /// Show what machines of an image get, or limit it
    Limits(metadata::LimitsArguments),
    /// Take all custom limits off images
    #[command(alias = "clear_limits")]
    ClearLimits(metadata::ImagesArguments),
    /// Ask the registry again what it has for an image, and keep the answer
    Scan(scan::ScanArguments),
    /// List images that have something newer at their registries
    Outdated(outdated::Arguments),
    /// Take the tag an image came from off it in the registry, and nothing else
    Untag(scan::UntagArguments),
    /// List what happened to an image and what was changed about it
    History(metadata::HistoryArguments),
    /// Hide images and free their names, by id
    #[command(alias = "forget_by_id")]
    ForgetById(removal::ForgetByIdArguments),
    /// Bring a forgotten or inactive image back
    Restore(removal::RestoreArguments),
    /// Remove images for good, forgotten or not
    Purge(removal::PurgeArguments),
    /// Remove images for good, by id
    #[command(alias = "purge_by_id")]
    PurgeById(removal::PurgeByIdArguments),
    /// Tell what a blob, a layer, a directory or an image is, and what keeps it on the disk
    Why(storage::WhyArguments),
    /// Give an image another name
    Alias(alias::AddArguments),
    /// Take aliases away; their images stay
    Dealias(alias::RemoveArguments),
    /// Keep an image from being forgotten and removed for a while
    Lease(lease::TakeArguments),
    /// Move the end of a lease
    #[command(alias = "renew_lease")]
    RenewLease(lease::RenewArguments),
    /// End leases before their time
    Release(lease::ReleaseArguments),
    /// Pull an OCI image and build a bootable image from it
    Pull(pull::Arguments),
    /// Send an image to a registry
    Push(push::Arguments),
    /// Take an existing root filesystem and a kernel into Kiln's care
    Register(register::Arguments),
}

/// Which images to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Inactive and forgotten images too
    #[arg(short, long)]
    all: bool,
    /// Only images whose name contains this
    #[arg(value_name = "TEXT")]
    name: Option<String>,
    /// Only images with this label; may be given several times
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Only images with this keyword; may be given several times
    #[arg(short, long, value_name = "WORD")]
    keyword: Vec<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Which images to show.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// One architecture of it; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
}

/// Which images to show, and for whom.
#[derive(Debug, Args)]
pub(crate) struct OneArguments {
    #[command(flatten)]
    show: ShowArguments,
    #[command(flatten)]
    vmm: VmmArguments,
}

/// Which images to forget.
#[derive(Debug, Args)]
pub(crate) struct ForgetArguments {
    /// Id, name or source reference
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Only tell what would happen
    #[arg(long)]
    dry_run: bool,
    /// Also while the image is in use; machines go on
    #[arg(long)]
    force: bool,
    /// The architecture by which it is found; the host's when left out. All of the image goes
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list(arguments, session).await,
            Self::Show(arguments) if arguments.vmm.is_given() => for_vmm(*arguments, session).await,
            Self::Show(arguments) => show(arguments.show, session).await,
            Self::Inspect(arguments) => inspect(arguments, session).await,
            Self::Open(arguments) => image_open::run(arguments, session).await,
            Self::Checkout(arguments) => checkout::run(arguments, session).await,
            Self::Export(arguments) => export::run(arguments, session).await,
            Self::Import(arguments) => import::run(arguments, session).await,
            Self::Forget(arguments) => forget(arguments, session).await,
            Self::Modify(arguments) => metadata::modify(arguments, session).await,
            Self::Rename(arguments) => metadata::rename(arguments, session).await,
            Self::Label(arguments) => metadata::label(arguments, session).await,
            Self::Keywords(arguments) => metadata::keywords(arguments, session).await,
            Self::Limits(arguments) => metadata::limits(arguments, session).await,
            Self::ClearLimits(arguments) => metadata::clear_limits(arguments, session).await,
            Self::Scan(arguments) => scan::scan(arguments, session).await,
            Self::Outdated(arguments) => outdated::run(arguments, session).await,
            Self::Untag(arguments) => scan::untag(arguments, session).await,
            Self::History(arguments) => metadata::history(arguments, session).await,
            Self::ForgetById(arguments) => removal::forget_by_id(arguments, session).await,
            Self::Restore(arguments) => removal::restore(arguments, session).await,
            Self::Purge(arguments) => removal::purge(arguments, session).await,
            Self::PurgeById(arguments) => removal::purge_by_id(arguments, session).await,
            Self::Why(arguments) => storage::why(arguments, session).await,
            Self::Alias(arguments) => alias::add(arguments, session).await,
            Self::Dealias(arguments) => alias::remove(arguments, session).await,
            Self::Lease(arguments) => lease::take(arguments, session).await,
            Self::RenewLease(arguments) => lease::renew(arguments, session).await,
            Self::Release(arguments) => lease::release(arguments, session).await,
            Self::Pull(arguments) => pull::run(arguments, session).await,
            Self::Push(arguments) => push::run(arguments, session).await,
            Self::Register(arguments) => register::run(arguments, session).await,
        }
    }
}

/// Lists images, page after page.
pub(crate) async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let images = pages::collect(None, arguments.limit, async |after, limit| {
        let params = ListParams {
            after,
            limit: Some(limit),
            all: arguments.all,
            name: arguments.name.clone(),
            labels: arguments.label.clone(),
            keywords: arguments.keyword.clone(),
        };
        session.call::<List>(&client, &params).await
    })
    .await?;
    session.output().list(
        &images,
        &Columns {
            header: &[
                "NAME", "VERSION", "ARCH", "STATE", "SIZE", "SOURCE", "CREATED", "ID",
            ],
            row: &row,
            name: &|image: &Image| image.name.to_string(),
        },
    )
}

fn row(image: &Image) -> Vec<String> {
    vec![
        cell(image.name.as_str()),
        image.version.number.to_string(),
        cell(&image.architecture),
        image.state.in_words().to_owned(),
        size(image.rootfs.size_bytes),
        cell(&image.source.reference),
        time(&image.created_at),
        image.id.to_string(),
    ]
}

/// Tells about images, in words or as documents.
async fn show(arguments: ShowArguments, session: &Session) -> Result<(), CommandError> {
    if session.output().format != Format::Table {
        return inspect(arguments, session).await;
    }
    let items = get_all(&arguments, session).await?;
    batch::report(session, &items, |_, image| {
        lines(image).trim_end().to_owned()
    })
}

/// Prints what boots images under a monitor.
async fn for_vmm(arguments: OneArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    for name in &arguments.show.images {
        let architecture = arguments.show.architecture.clone();
        let image = get(&client, session, name, architecture).await?;
        arguments.vmm.show(&image)?;
    }
    Ok(())
}

/// Prints images as documents: one alone as an object, several as a list.
pub(crate) async fn inspect(
    arguments: ShowArguments,
    session: &Session,
) -> Result<(), CommandError> {
    if let [image] = &arguments.images[..] {
        let client = session.connect().await?;
        let image = get(&client, session, image, arguments.architecture.clone()).await?;
        return session.output().value(&image);
    }
    let items = get_all(&arguments, session).await?;
    let mut images = Vec::new();
    for item in &items {
        if let batch::Outcome::Ok(image) = &item.outcome {
            images.push(image);
        }
    }
    match session.output().format {
        Format::Ndjson => images
            .iter()
            .try_for_each(|image| session.output().value(image))?,
        Format::Table | Format::Json | Format::Yaml => session.output().value(&images)?,
    }
    batch::verdict(session, &items)
}

async fn get_all(
    arguments: &ShowArguments,
    session: &Session,
) -> Result<Vec<Item<Image>>, CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for image in &arguments.images {
        let result = get(&client, session, image, arguments.architecture.clone()).await;
        items.push(Item::new(image.clone(), result)?);
    }
    Ok(items)
}

async fn get(
    client: &Client,
    session: &Session,
    image: &str,
    architecture: Option<String>,
) -> Result<Image, CommandError> {
    let params = GetParams {
        image: image.to_owned(),
        architecture,
    };
    session.call::<Get>(client, &params).await
}

/// Forgets images, one after the other.
pub(crate) async fn forget(
    arguments: ForgetArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for image in &arguments.images {
        let params = ForgetParams {
            architecture: arguments.architecture.clone(),
            image: image.clone(),
            dry_run: arguments.dry_run,
            force: arguments.force,
        };
        let result = session.call::<Forget>(&client, &params).await;
        items.push(Item::new(image.clone(), result)?);
    }
    batch::report(session, &items, forgotten_line)
}

pub(crate) fn forgotten_line(_: &str, forgotten: &Forgotten) -> String {
    let what = match (forgotten.already_forgotten, forgotten.dry_run) {
        (true, _) => "was forgotten before",
        (false, true) => "would be forgotten",
        (false, false) => "is forgotten",
    };
    format!(
        "{} {what} (id {})",
        cell(forgotten.image.name.as_str()),
        forgotten.image.id
    )
}

/// Says how an image boots and why.
fn boot(boot: &Boot) -> String {
    let mode = match (boot.mode, &boot.init_path) {
        (BootChoice::Init, Some(path)) => format!("its init {}", cell(path)),
        (BootChoice::Init, None) => "its init".to_owned(),
        (BootChoice::Entrypoint | BootChoice::Auto, _) => "its entrypoint".to_owned(),
        (BootChoice::None, _) => "without Kiln's init".to_owned(),
    };
    format!("{mode}: {}", cell(&boot.reason))
}

fn lines(image: &Image) -> String {
    let rootfs = &image.rootfs;
    let kernel = &image.kernel;
    let tags: Vec<String> = image.tags.iter().map(ToString::to_string).collect();
    let mut pairs = vec![
        ("name", cell(image.name.as_str())),
        ("id", image.id.to_string()),
        ("state", image.state.in_words().to_owned()),
        (
            "version",
            format!("{} (id {})", image.version.number, image.version.id),
        ),
        (
            "tags",
            or_dash(
                Some(tags.join(", "))
                    .as_deref()
                    .filter(|tags| !tags.is_empty()),
            ),
        ),
        ("architecture", cell(&image.architecture)),
        ("source", cell(&image.source.reference)),
        ("manifest", or_dash(image.source.manifest_digest.as_deref())),
        ("built from", built_from(&image.source)),
        ("taken from", taken_from(image)),
        ("directory", cell(&image.artifact_dir)),
        (
            "rootfs",
            format!("{}  {}", cell(&rootfs.path), size(rootfs.size_bytes)),
        ),
        ("derivation", or_dash(rootfs.derivation.as_deref())),
        ("kernel", cell(&kernel.path)),
        ("kernel name", or_dash(kernel.name.as_deref())),
        ("initrd", or_dash(kernel.initrd_path.as_deref())),
        (
            "boot",
            image.boot.as_ref().map_or_else(|| "-".to_owned(), boot),
        ),
        ("arguments", cell(&image.kernel_arguments)),
        ("modules", or_dash(kernel.modules_path.as_deref())),
        (
            "owner",
            match image.org_id {
                Some(org) => format!(
                    "uid {}, organisation {org}, {}",
                    image.owner_uid, image.visibility
                ),
                None => format!("uid {}, {}", image.owner_uid, image.visibility),
            },
        ),
        ("aliases", aliases(image)),
        ("in use", in_use(image)),
        ("created", time(&image.created_at)),
        ("updated", time(&image.updated_at)),
    ];
    metadata::pairs(image, &mut pairs);
    if let Some(at) = &image.deleted_at {
        pairs.push(("forgotten", time(at)));
    }
    output::pairs(&pairs)
}

/// Names what a bootable artifact says it was built from.
fn built_from(source: &Source) -> String {
    let Some(original) = &source.original else {
        return "-".to_owned();
    };
    let words = [&original.reference, &original.manifest_digest];
    let words: Vec<String> = words.into_iter().flatten().map(|word| cell(word)).collect();
    or_dash(
        Some(words.join("  "))
            .as_deref()
            .filter(|words| !words.is_empty()),
    )
}

/// Names the disk that the root filesystem was taken out of.
fn taken_from(image: &Image) -> String {
    let disk = image.boot.as_ref().and_then(|boot| boot.disk);
    let Some(TakenDisk { format, partition }) = disk else {
        return "-".to_owned();
    };
    let format = match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    match partition {
        Some(number) => format!("partition {number} of a {format} disk"),
        None => format!("a {format} disk"),
    }
}

fn aliases(image: &Image) -> String {
    let names = image.aliases.iter();
    let names: Vec<String> = names.map(|name| cell(name.as_str())).collect();
    or_dash(
        Some(names.join(", "))
            .as_deref()
            .filter(|names| !names.is_empty()),
    )
}

/// Says who uses an image: machines by their number, leases by what for and until when.
fn in_use(image: &Image) -> String {
    let Some(users) = image.in_use else {
        return "-".to_owned();
    };
    let leases = image.leases.iter().map(|lease| {
        let until = time(&lease.expires_at);
        format!(
            "lease {} for {} until {until}",
            lease.id,
            cell(&lease.purpose)
        )
    });
    let machines = users.saturating_sub(image.leases.len() as u64);
    let machines = match machines {
        0 => None,
        1 => Some("1 machine".to_owned()),
        machines => Some(format!("{machines} machines")),
    };
    let parts: Vec<String> = machines.into_iter().chain(leases).collect();
    if parts.is_empty() {
        "no".to_owned()
    } else {
        format!("by {}", parts.join(", "))
    }
}
