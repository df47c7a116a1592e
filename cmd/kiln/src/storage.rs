//! `kiln df`, `kiln why`, `kiln prune` and the same below `kiln storage` and `kiln image`.

use clap::{Args, Subcommand};
use kiln_api::storage::{
    GetUsage, GetWhy, KindUsage, Prune, PruneParams, Pruned, PrunedItem, Usage, UsageItem,
    UsageParams, Why, WhyImage, WhyParams, WhyUse,
};
use kiln_domain::ImageName;
use kiln_domain::storage::{KeptBy, StorageKind};

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::output::{self, Amount, Format};
use crate::session::Session;
use crate::text::{cell, size, time};
use crate::time_span::Age;

/// What there is to do with what lies on the disk.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell what takes room on the disk, and what of it a prune would free
    #[command(visible_alias = "df")]
    Usage(UsageArguments),
    /// Remove what nothing needs
    Prune(PruneArguments),
}

/// How much to tell.
#[derive(Debug, Args)]
pub(crate) struct UsageArguments {
    /// Also each thing, and what keeps it
    #[arg(short, long)]
    verbose: bool,
}

/// What to ask about.
#[derive(Debug, Args)]
pub(crate) struct WhyArguments {
    /// A digest, a layer's diff id, an image, a version's id, a kernel, or a path of one of them
    #[arg(value_name = "OBJECT")]
    object: String,
}

/// What to remove.
#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Also images that were forgotten so long ago, such as 12h or 30d; 0s is all of them
    #[arg(long, value_name = "TIME")]
    images_older_than: Option<Age>,
    /// Also all of the cache that no running operation needs
    #[arg(long)]
    cache: bool,
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::Usage(arguments) => usage(arguments, session).await,
            Self::Prune(arguments) => prune(arguments, session).await,
        }
    }
}

/// Tells what takes room.
pub(crate) async fn usage(
    arguments: UsageArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = UsageParams {
        verbose: arguments.verbose,
    };
    let usage = session.call::<GetUsage>(&client, &params).await?;
    session
        .output()
        .one(&usage, &usage.total.disk_bytes.to_string(), usage_text)
}

fn usage_text(usage: &Usage) -> String {
    let row = |kind: &KindUsage| {
        vec![
            cell(&kind.kind),
            kind.count.to_string(),
            size(kind.apparent_bytes),
            size(kind.disk_bytes),
            size(kind.reclaimable_bytes),
        ]
    };
    let kinds = usage.kinds.iter().chain([&usage.total]).map(row);
    let header = ["KIND", "COUNT", "LENGTH", "ON DISK", "RECLAIMABLE"];
    let mut text = output::table(&header, kinds.collect());
    if usage.items.is_empty() {
        return text;
    }
    let row = |item: &UsageItem| {
        vec![
            item.kind.to_string(),
            size(item.disk_bytes),
            kept_by(item.kept_by, item.kind).to_owned(),
            named(&item.item, item.image.as_ref().map(ImageName::as_str)),
        ]
    };
    text.push('\n');
    let rows = usage.items.iter().map(row).collect();
    text.push_str(&output::table(
        &["KIND", "ON DISK", "KEPT BY", "WHAT"],
        rows,
    ));
    text + &left_out(usage.items_left_out)
}

/// Tells what something is and what keeps it.
pub(crate) async fn why(arguments: WhyArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = WhyParams {
        object: whole(arguments.object),
    };
    let why = session.call::<GetWhy>(&client, &params).await?;
    session.output().one(&why, &why.item, why_text)
}

/// Makes a path that begins here absolute: the daemon is somewhere else.
fn whole(object: String) -> String {
    let begins_here = [".", ".."].contains(&object.as_str())
        || object.starts_with("./")
        || object.starts_with("../");
    match std::env::current_dir() {
        Ok(here) if begins_here => here.join(&object).display().to_string(),
        _ => object,
    }
}

/// Says what keeps something.
fn kept_by(by: Option<KeptBy>, kind: StorageKind) -> &'static str {
    match (by, kind) {
        (None, _) => "-",
        (Some(KeptBy::Operation), _) => "an operation",
        (Some(KeptBy::Holder), _) => "a machine or a lease",
        (Some(KeptBy::Image), StorageKind::ForgottenImage) => "its retention",
        (Some(KeptBy::Image), _) => "an image",
        (Some(KeptBy::Cache), _) => "the cache, for later",
        (Some(KeptBy::Rule), StorageKind::Kernel) => "the catalogue",
        (Some(KeptBy::Rule), StorageKind::Database) => "the daemon",
        (Some(KeptBy::Rule), StorageKind::Foreign) => "nobody: it is not Kiln's to remove",
        (Some(KeptBy::Rule), _) => "Kiln: no prune removes it",
    }
}

fn why_text(why: &Why) -> String {
    let on_disk = match &why.path {
        Some(path) => format!(
            "{} of {} in {}",
            size(why.disk_bytes),
            size(why.apparent_bytes),
            cell(path)
        ),
        None => "nothing: it is gone".to_owned(),
    };
    let mut lines = vec![
        ("what", format!("{} {}", why.kind, cell(&why.item))),
        ("on disk", on_disk),
    ];
    lines.extend(why.images.iter().map(|image| ("image", image_line(image))));
    if why.other_images > 0 {
        lines.push(("image", format!("{} more", why.other_images)));
    }
    lines.extend(why.uses.iter().map(|used| ("used by", use_line(used))));
    if why.other_uses > 0 {
        lines.push(("used by", format!("{} more", why.other_uses)));
    }
    let kept = match (&why.kept_by, &why.freed_by, &why.path) {
        (Some(by), Some(command), _) => {
            let by = kept_by(Some(*by), why.kind);
            format!("{by}; `{}` frees it", cell(command))
        }
        (Some(by), None, _) => kept_by(Some(*by), why.kind).to_owned(),
        (None, Some(command), _) => format!("nothing: `{}` frees it", cell(command)),
        (None, None, None) => "-".to_owned(),
        (None, None, Some(_)) => "nothing".to_owned(),
    };
    lines.push(("kept by", kept));
    output::pairs(&lines)
}

fn image_line(image: &WhyImage) -> String {
    let name = cell(image.name.as_str());
    let architecture = cell(&image.architecture);
    let tags: Vec<String> = image.tags.iter().map(|tag| cell(tag.as_str())).collect();
    let tags = if tags.is_empty() {
        String::new()
    } else {
        format!(" ({})", tags.join(", "))
    };
    let mut words = vec![format!("{name} {} {architecture}{tags}", image.number)];
    words.extend(image.part.iter().map(|part| format!("its {}", cell(part))));
    if !image.state.is_active() {
        words.push(image.state.in_words().to_owned());
    }
    let after = image.purge_after.iter();
    words.extend(after.map(|after| format!("kept until {}", time(after))));
    words.join(", ")
}

fn use_line(used: &WhyUse) -> String {
    let words = [used.id.as_deref(), used.name.as_deref()];
    let words: Vec<String> = words.into_iter().flatten().map(cell).collect();
    format!("{} {}", cell(&used.kind), words.join(" "))
}

/// Removes what nothing needs.
pub(crate) async fn prune(
    arguments: PruneArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = PruneParams {
        images_older_than_seconds: arguments.images_older_than.map(Age::seconds),
        cache: arguments.cache,
        dry_run: arguments.dry_run,
    };
    let pruned = session.call::<Prune>(&client, &params).await?;
    match (session.output().format, session.output().amount) {
        (Format::Table, Amount::Everything) => output::write(&pruned_text(&pruned))?,
        (Format::Table, Amount::Names) => {
            let gone = pruned.items.iter().filter(|item| item.ok.is_some());
            let names: String = gone.map(|item| item.item.clone() + "\n").collect();
            output::write(&names)?;
        }
        _ => session.output().value(&pruned)?,
    }
    let outcome = |item: &PrunedItem| match (&item.ok, &item.error) {
        (_, Some(failure)) => Err(CommandError::from(failure.clone())),
        (_, None) => Ok(()),
    };
    let items: Result<Vec<Item<()>>, CommandError> = pruned
        .items
        .iter()
        .map(|item| Item::new(item.item.clone(), outcome(item)))
        .collect();
    batch::verdict(session, &items?)
}

fn pruned_text(pruned: &Pruned) -> String {
    let mut text = String::new();
    let gone = pruned.items.iter().filter_map(|item| {
        let freed = item.ok?;
        Some(vec![
            item.kind.to_string(),
            size(freed.freed_bytes),
            named(&item.item, item.image.as_ref().map(ImageName::as_str)),
        ])
    });
    let rows: Vec<Vec<String>> = gone.collect();
    if !rows.is_empty() {
        text.push_str(&output::table(&["KIND", "FREED", "WHAT"], rows));
        text.push_str(&left_out(pruned.items_left_out));
        text.push('\n');
    }
    let bytes = size(pruned.freed_bytes);
    let count: u64 = pruned.kinds.iter().map(|kind| kind.count).sum();
    let things = if count == 1 { "thing" } else { "things" };
    let mut lines = vec![if pruned.dry_run {
        format!("{count} {things} would go, and {bytes} would be freed")
    } else {
        format!("{count} {things} went, and {bytes} are freed")
    }];
    if pruned.left_alone > 0 {
        let left = pruned.left_alone;
        lines.push(format!(
            "{left} came into use or changed meanwhile, and stayed"
        ));
    }
    text + &lines.join("\n") + "\n"
}

fn named(item: &str, image: Option<&str>) -> String {
    match image {
        Some(image) => format!("{} ({})", cell(item), cell(image)),
        None => cell(item),
    }
}

fn left_out(count: u64) -> String {
    if count == 0 {
        return String::new();
    }
    format!("and {count} more\n")
}
