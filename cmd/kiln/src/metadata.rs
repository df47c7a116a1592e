//! `kiln image modify`, `rename`, `label`, `keywords`, `limits`, `clear-limits` and `history`: what is
//! said of an image.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use kiln_api::image::modify::{
    Change, ClearLimits, EffectiveLimits, GetHistory, GetLimits, HistoryEntry, HistoryParams,
    LabelChanges, Limit, Modified, Modify, ModifyParams, OneImageParams,
};
use kiln_api::image::{Get, GetParams, Image};
use kiln_domain::ByteSize;
use serde_json::Value;

use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::output::{self, Columns};
use crate::pages;
use crate::session::Session;
use crate::text::{cell, size, time};

/// What to change about which image.
#[derive(Debug, Args)]
#[command(after_help = "\
All of it is changed, or nothing. What is not named stays as it is.")]
pub(crate) struct ModifyArguments {
    #[command(flatten)]
    one: OneArguments,
    /// New name; the old one goes on as an alias
    #[arg(long)]
    name: Option<String>,
    /// What it is, for people; empty for nothing
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Label to set; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Label to take away; may be given several times
    #[arg(long, value_name = "KEY")]
    unset_label: Vec<String>,
    /// Keywords in the place of those there are, with commas between; empty for none
    #[arg(short, long, value_name = "WORDS")]
    keywords: Option<String>,
    /// Limit, such as cpu=4 or memory=8G; may be given several times
    #[arg(long, value_name = "SLOT=VALUE", value_parser = pair)]
    limit: Vec<(String, String)>,
    /// Limit to take away; may be given several times
    #[arg(long, value_name = "SLOT")]
    unset_limit: Vec<String>,
    /// What to call its size, for superadmins
    #[arg(long, value_name = "SIZE")]
    declared_size: Option<ByteSize>,
}

/// Which image, and at which revision.
#[derive(Debug, Args)]
pub(crate) struct OneArguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    image: String,
    /// Change it only while it is at this revision
    #[arg(long, value_name = "NUMBER")]
    if_revision: Option<u64>,
}

/// What to call which image.
#[derive(Debug, Args)]
pub(crate) struct RenameArguments {
    #[command(flatten)]
    one: OneArguments,
    /// New name
    name: String,
}

/// Labels of which image.
#[derive(Debug, Args)]
pub(crate) struct LabelArguments {
    #[command(flatten)]
    one: OneArguments,
    /// Labels to set, KEY=VALUE, and to take away, KEY- ; none to show those there are
    #[arg(value_name = "KEY=VALUE|KEY-", value_parser = setting)]
    labels: Vec<Setting>,
}

/// Keywords of which image.
#[derive(Debug, Args)]
pub(crate) struct KeywordsArguments {
    #[command(flatten)]
    one: OneArguments,
    /// Keywords in the place of those there are; none to show them
    #[arg(value_name = "WORD")]
    words: Vec<String>,
    /// Take all keywords away
    #[arg(long, conflicts_with = "words")]
    none: bool,
}

/// Limits of which image.
#[derive(Debug, Args)]
#[command(after_help = "\
What holds for a slot is said, the last one winning, by Kiln itself, by the daemon's configuration
(images.limits), by the image's labels (dev.kiln.limits.SLOT), and by what is set here.
`kiln run` gives a machine cpu and memory accordingly. A bare G is 2^30.")]
pub(crate) struct LimitsArguments {
    #[command(flatten)]
    one: OneArguments,
    /// Limits to set, such as cpu=4, and to take away, such as cpu- ; none to show what holds
    #[arg(value_name = "SLOT=VALUE|SLOT-", value_parser = setting)]
    limits: Vec<Setting>,
}

/// Which images.
#[derive(Debug, Args)]
pub(crate) struct ImagesArguments {
    /// Id, name or source reference
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Most characters of the changes of one entry that the table shows.
const CHANGES_MAX: usize = 200;

/// Whose history.
#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// Id, name or source reference
    image: String,
    /// Only what is behind this sequence number
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// A word that sets something, or takes it away.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    key: String,
    value: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("it is not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn setting(text: &str) -> Result<Setting, String> {
    if let Ok((key, value)) = pair(text) {
        let value = Some(value);
        return Ok(Setting { key, value });
    }
    let key = text.strip_suffix('-').filter(|key| !key.is_empty());
    let key = key.ok_or("it is neither KEY=VALUE nor KEY-")?.to_owned();
    Ok(Setting { key, value: None })
}

impl OneArguments {
    fn params(self) -> ModifyParams {
        ModifyParams {
            image: self.image,
            if_revision: self.if_revision,
            ..ModifyParams::default()
        }
    }
}

/// Changes several things.
pub(crate) async fn modify(
    arguments: ModifyArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let limits = arguments.limit.into_iter();
    let limits = limits.map(|(slot, value)| (slot, Value::String(value)));
    let unset = arguments.unset_limit.into_iter();
    let words = |text: String| words(text.split(','));
    let params = ModifyParams {
        name: arguments.name,
        description: arguments
            .description
            .map(|text| Some(text).filter(|text| !text.is_empty())),
        labels: Some(LabelChanges {
            set: arguments.label.into_iter().collect(),
            unset: arguments.unset_label.into_iter().collect(),
        }),
        keywords: arguments.keywords.map(words),
        limits: limits
            .chain(unset.map(|slot| (slot, Value::Null)))
            .collect(),
        declared_size_bytes: arguments.declared_size.map(|size| Some(size.0)),
        ..arguments.one.params()
    };
    change(params, session).await
}

/// Renames.
pub(crate) async fn rename(
    arguments: RenameArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let params = ModifyParams {
        name: Some(arguments.name),
        ..arguments.one.params()
    };
    change(params, session).await
}

/// Shows labels, or changes them.
pub(crate) async fn label(
    arguments: LabelArguments,
    session: &Session,
) -> Result<(), CommandError> {
    if arguments.labels.is_empty() {
        let image = get(&arguments.one.image, session).await?;
        return session
            .output()
            .one(&image.labels, image.name.as_str(), |labels| {
                let lines = labels.iter();
                let lines = lines.map(|(key, value)| format!("{}={}\n", cell(key), cell(value)));
                lines.collect::<Vec<_>>().concat()
            });
    }
    let mut labels = LabelChanges::default();
    for Setting { key, value } in arguments.labels {
        match value {
            Some(value) => drop(labels.set.insert(key, value)),
            None => drop(labels.unset.insert(key)),
        }
    }
    let params = ModifyParams {
        labels: Some(labels),
        ..arguments.one.params()
    };
    change(params, session).await
}

/// Shows keywords, or changes them.
pub(crate) async fn keywords(
    arguments: KeywordsArguments,
    session: &Session,
) -> Result<(), CommandError> {
    if arguments.words.is_empty() && !arguments.none {
        let image = get(&arguments.one.image, session).await?;
        return session
            .output()
            .one(&image.keywords, image.name.as_str(), |keywords| {
                keywords.iter().map(|word| cell(word) + "\n").collect()
            });
    }
    let given = arguments.words.iter();
    let params = ModifyParams {
        keywords: Some(words(given.flat_map(|word| word.split(',')))),
        ..arguments.one.params()
    };
    change(params, session).await
}

/// Shows limits, or changes them.
pub(crate) async fn limits(
    arguments: LimitsArguments,
    session: &Session,
) -> Result<(), CommandError> {
    if arguments.limits.is_empty() {
        let client = session.connect().await?;
        let params = OneImageParams {
            image: arguments.one.image,
            ..OneImageParams::default()
        };
        let told = session.call::<GetLimits>(&client, &params).await?;
        return session.output().one(&told, &told.name, shown);
    }
    let limits = arguments.limits.into_iter();
    let limits: BTreeMap<String, Value> = limits
        .map(|Setting { key, value }| (key, value.map_or(Value::Null, Value::String)))
        .collect();
    let params = ModifyParams {
        limits,
        ..arguments.one.params()
    };
    change(params, session).await
}

/// Takes limits away, one image after the other.
pub(crate) async fn clear_limits(
    arguments: ImagesArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for image in arguments.images {
        let params = OneImageParams {
            image: image.clone(),
            ..OneImageParams::default()
        };
        let cleared = session.call::<ClearLimits>(&client, &params).await;
        items.push(Item::new(image, cleared)?);
    }
    batch::report(session, &items, |_, modified| {
        told(modified).trim_end().to_owned()
    })
}

/// Lists what happened, page after page.
pub(crate) async fn history(
    arguments: HistoryArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let entries = pages::listed::<GetHistory, _>(
        session,
        arguments.after,
        arguments.limit,
        |after, limit| HistoryParams {
            image: arguments.image.clone(),
            after,
            limit,
        },
    )
    .await?;
    session.output().list(
        &entries,
        &Columns {
            header: &["SEQ", "TIME", "ACTOR", "WHAT", "CHANGES"],
            row: &|entry: &HistoryEntry| {
                let changes: Vec<String> = entry.changes.iter().map(in_words).collect();
                vec![
                    entry.seq.to_string(),
                    time(&entry.at),
                    cell(&entry.actor),
                    cell(&entry.kind),
                    shortened(&changes.join("; ")),
                ]
            },
            name: &|entry: &HistoryEntry| entry.seq.to_string(),
        },
    )
}

/// Cuts what would be longer than anybody reads in a table; `--json` has all of it.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(CHANGES_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

async fn change(params: ModifyParams, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let modified = session.call::<Modify>(&client, &params).await?;
    session
        .output()
        .one(&modified, modified.image.name.as_str(), told)
}

async fn get(image: &str, session: &Session) -> Result<Image, CommandError> {
    let client = session.connect().await?;
    let params = GetParams {
        image: image.to_owned(),
        architecture: None,
    };
    session.call::<Get>(&client, &params).await
}

fn words<'w>(words: impl Iterator<Item = &'w str>) -> BTreeSet<String> {
    let words = words.filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn told(modified: &Modified) -> String {
    let name = cell(modified.image.name.as_str());
    if modified.changes.is_empty() {
        return format!("{name}: nothing to change\n");
    }
    let lines = modified.changes.iter();
    let lines = lines.map(|change| format!("{name}: {}\n", in_words(change)));
    lines.collect::<Vec<_>>().concat()
}

fn in_words(change: &Change) -> String {
    let word = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => cell(text),
        Value::Array(items) => {
            let words: Vec<String> = items.iter().filter_map(Value::as_str).map(cell).collect();
            words.join(",")
        }
        other => other.to_string(),
    };
    let (from, to) = (word(&change.from), word(&change.to));
    format!("{} {from} -> {to}", cell(&change.field))
}

fn shown(told: &EffectiveLimits) -> String {
    let rows = told.limits.iter().map(|limit| {
        let origin = limit.origin.to_string();
        vec![cell(&limit.slot), amount(limit), origin]
    });
    let mut text = output::table(&["SLOT", "LIMIT", "FROM"], rows.collect());
    for label in &told.ignored_labels {
        let label = cell(label);
        text.push_str("the label ");
        text.push_str(&label);
        text.push_str(" sets no limit that can be\n");
    }
    text
}

fn amount(limit: &Limit) -> String {
    match limit.slot.as_str() {
        "memory" => size(limit.value.rounded_up()),
        _ => limit.value.to_string(),
    }
}

/// Adds what is said of an image to what is shown of it.
pub(crate) fn pairs(image: &Image, pairs: &mut Vec<(&str, String)>) {
    if let Some(text) = &image.description {
        pairs.push(("description", cell(text)));
    }
    pairs.extend(image.labels.iter().map(|(key, value)| {
        let text = format!("{}={}", cell(key), cell(value));
        ("label", text)
    }));
    if !image.keywords.is_empty() {
        let words: Vec<String> = image.keywords.iter().map(|word| cell(word)).collect();
        pairs.push(("keywords", words.join(", ")));
    }
    if let Some(bytes) = image.declared_size_bytes {
        pairs.push(("declared size", size(bytes)));
    }
    pairs.extend(image.limits.iter().map(|limit| {
        let text = format!("{} {} ({})", cell(&limit.slot), amount(limit), limit.origin);
        ("limit", text)
    }));
    pairs.push(("revision", image.revision.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_sets_or_takes_away() {
        let is = |key: &str, value: Option<&str>| {
            let (key, value) = (key.to_owned(), value.map(str::to_owned));
            Ok(Setting { key, value })
        };
        assert_eq!(setting("cpu=4"), is("cpu", Some("4")));
        assert_eq!(setting("cpu-"), is("cpu", None));
        assert_eq!(setting("a=b-"), is("a", Some("b-")));
        assert_eq!(setting("a="), is("a", Some("")));
        for text in ["cpu", "-", "=4", ""] {
            setting(text).unwrap_err();
        }
    }
}
