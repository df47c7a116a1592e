//! What is to be changed about an image: read from a call as a whole, before anything is looked at.

#![expect(
    clippy::option_option,
    reason = "what is absent stays, what is null goes, and what has a value is set"
)]

use std::collections::{BTreeMap, BTreeSet};

use kiln_api::image::modify::{Change, LabelChanges, Modifier, ModifyParams};
use kiln_domain::limits::{self, LimitError, Quantity, SLOTS_MAX, SlotName};
use kiln_domain::{
    Description, ImageName, Keyword, LabelKey, LabelValue, NameError, TagName, Timestamp,
    WordingError,
};
use kiln_store::images::{self, ImageRow};
use kiln_store::names::ReserveError;
use kiln_store::{StoreError, WriteTransaction};
use serde_json::{Value, json};

/// Most labels of one image. Images come with dozens at most.
const LABELS_MAX: usize = 256;

/// Most bytes of labels that one call changes, keys and values together: each change is kept for good in
/// the history.
const LABELS_BYTES_MAX: usize = 16 << 10;

/// Most keywords of one image: who needs more is not finding anything by them.
const KEYWORDS_MAX: usize = 64;

/// Largest size that can be declared, in bytes: what the store can hold.
const SIZE_MAX: u64 = i64::MAX as u64;

/// Changes, each of its own rule. What is absent stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Patch {
    name: Option<(ImageName, Option<TagName>)>,
    description: Option<Option<Description>>,
    labels: BTreeMap<LabelKey, Option<LabelValue>>,
    keywords: Option<BTreeSet<Keyword>>,
    limits: BTreeMap<SlotName, Option<Quantity>>,
    declared_size_bytes: Option<Option<u64>>,
}

/// Why changes cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum PatchError {
    #[error("{field} and {other} say different things")]
    TwoWays {
        field: &'static str,
        other: &'static str,
    },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("\"{name}:{tag}\" names a tag that the image does not have")]
    Tag { name: ImageName, tag: TagName },
    #[error(transparent)]
    Wording(#[from] WordingError),
    #[error("an image has at most {limit} {nouns}")]
    TooManyWords { nouns: &'static str, limit: usize },
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("a call changes labels of at most {LABELS_BYTES_MAX} bytes, and these have {bytes}")]
    LabelBytes { bytes: usize },
    #[error("the limit of {slot} is neither a number nor a text")]
    Quantity { slot: SlotName },
    #[error("an image limits at most {SLOTS_MAX} slots")]
    TooManySlots,
    #[error("{size} bytes are more than any image has")]
    Size { size: u64 },
    #[error(transparent)]
    Rename(#[from] ReserveError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Patch {
    /// Reads what a call says, in either of its forms.
    pub(super) fn read(params: ModifyParams) -> Result<Self, PatchError> {
        let Modifier {
            name,
            description,
            resource_limits,
            labels,
            tags,
            size,
        } = params.modifier.unwrap_or_default();
        let name = one("name", params.name, "modifier.name", name)?;
        let description = one(
            "description",
            params.description,
            "modifier.description",
            description,
        )?;
        let keywords = one("keywords", params.keywords, "modifier.tags", tags)?;
        let size = one(
            "declared_size_bytes",
            params.declared_size_bytes,
            "modifier.size",
            size,
        )?;
        if let Some(size) = size.flatten().filter(|size| *size > SIZE_MAX) {
            return Err(PatchError::Size { size });
        }
        let description = description.map(|text| {
            let text = text.map(|text| text.parse::<Description>());
            text.transpose()
        });
        Ok(Self {
            name: name.as_deref().map(named).transpose()?,
            description: description.transpose()?,
            labels: read_labels(params.labels.unwrap_or_default(), labels)?,
            keywords: keywords.as_ref().map(read_keywords).transpose()?,
            limits: read_limits(params.limits, resource_limits)?,
            declared_size_bytes: size,
        })
    }

    /// Takes away every custom limit that an image has.
    pub(super) fn without_limits(row: &ImageRow) -> Self {
        let limits = super::custom(row).into_keys();
        Self {
            limits: limits.map(|slot| (slot, None)).collect(),
            ..Self::default()
        }
    }

    /// Tells whether it says how large the image is called.
    pub(super) fn declares_size(&self) -> bool {
        self.declared_size_bytes.is_some()
    }

    /// Makes the changes and tells which they were; what was so before is none. `tags` are those of
    /// the version that was named.
    pub(super) fn apply(
        &self,
        tx: &WriteTransaction<'_>,
        row: &ImageRow,
        tags: &[TagName],
        now: Timestamp,
    ) -> Result<Vec<Change>, PatchError> {
        let mut changes = Vec::new();
        self.apply_name(tx, row, tags, now, &mut changes)?;
        if let Some(description) = &self.description {
            let to = description.as_ref().map(Description::as_str);
            if note(&mut changes, "description", &row.description, &to) {
                images::set_description(tx, row.id, to)?;
            }
        }
        self.apply_labels(tx, row, &mut changes)?;
        if let Some(keywords) = &self.keywords {
            let to = keywords.iter().map(ToString::to_string).collect();
            if note(&mut changes, "keywords", &row.keywords, &to) {
                images::set_keywords(tx, row.id, &to)?;
            }
        }
        self.apply_limits(tx, row, &mut changes)?;
        if let Some(to) = self.declared_size_bytes
            && note(
                &mut changes,
                "declared_size_bytes",
                &row.declared_size_bytes,
                &to,
            )
        {
            images::set_declared_size(tx, row.id, to)?;
        }
        Ok(changes)
    }

    fn apply_name(
        &self,
        tx: &WriteTransaction<'_>,
        row: &ImageRow,
        tags: &[TagName],
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Result<(), PatchError> {
        let Some((name, tag)) = &self.name else {
            return Ok(());
        };
        if let Some(tag) = tag
            && *tag != TagName::latest()
            && !tags.contains(tag)
        {
            let (name, tag) = (name.clone(), tag.clone());
            return Err(PatchError::Tag { name, tag });
        }
        if note(changes, "name", &row.name, name) {
            images::rename(tx, (row.id, row.owner_id), (&row.name, name), now)?;
        }
        Ok(())
    }

    fn apply_labels(
        &self,
        tx: &WriteTransaction<'_>,
        row: &ImageRow,
        changes: &mut Vec<Change>,
    ) -> Result<(), PatchError> {
        let mut count = row.labels.len();
        for (key, value) in &self.labels {
            let from = row.labels.get(key.as_str());
            let to = value.as_ref().map(LabelValue::as_str);
            if !note(changes, &format!("labels.{key}"), &from, &to) {
                continue;
            }
            if let Some(value) = to {
                images::set_label(tx, row.id, key.as_str(), value)?;
                count += usize::from(from.is_none());
            } else {
                images::unset_label(tx, row.id, key.as_str())?;
                count = count.saturating_sub(1);
            }
        }
        if count > LABELS_MAX.max(row.labels.len()) {
            return Err(too_many("labels", LABELS_MAX));
        }
        Ok(())
    }

    fn apply_limits(
        &self,
        tx: &WriteTransaction<'_>,
        row: &ImageRow,
        changes: &mut Vec<Change>,
    ) -> Result<(), PatchError> {
        let before = super::custom(row);
        let mut after = before.clone();
        for (slot, value) in &self.limits {
            let from = before.get(slot);
            note(changes, &format!("limits.{slot}"), &from, value);
            match value {
                Some(value) => after.insert(slot.clone(), *value),
                None => after.remove(slot),
            };
        }
        if after.len() > SLOTS_MAX {
            return Err(PatchError::TooManySlots);
        }
        if after != before {
            let stored = (!after.is_empty()).then(|| json!(after));
            images::set_limits(tx, row.id, stored.as_ref())?;
        }
        Ok(())
    }
}

/// Notes a change, if it is one, and tells whether it is.
fn note(
    changes: &mut Vec<Change>,
    field: &str,
    from: &impl serde::Serialize,
    to: &impl serde::Serialize,
) -> bool {
    let (from, to) = (json!(from), json!(to));
    if from == to {
        return false;
    }
    let field = field.to_owned();
    changes.push(Change { field, from, to });
    true
}

/// Takes what was said in one of two ways, or in both alike.
fn one<T: PartialEq>(
    field: &'static str,
    said: Option<T>,
    other: &'static str,
    also: Option<T>,
) -> Result<Option<T>, PatchError> {
    match (said, also) {
        (Some(said), Some(also)) if said != also => Err(PatchError::TwoWays { field, other }),
        (Some(said), _) => Ok(Some(said)),
        (None, also) => Ok(also),
    }
}

/// Reads a name that may have a tag behind it.
fn named(text: &str) -> Result<(ImageName, Option<TagName>), PatchError> {
    match text.split_once(':') {
        Some((name, tag)) => Ok((name.parse()?, Some(tag.parse()?))),
        None => Ok((text.parse()?, None)),
    }
}

fn read_labels(
    changes: LabelChanges,
    also: BTreeMap<String, Option<String>>,
) -> Result<BTreeMap<LabelKey, Option<LabelValue>>, PatchError> {
    let set = changes
        .set
        .into_iter()
        .map(|(key, value)| (key, Some(value)));
    let unset = changes.unset.into_iter().map(|key| (key, None));
    let mut read: BTreeMap<LabelKey, Option<LabelValue>> = BTreeMap::new();
    for (key, value) in set.chain(unset).chain(also) {
        let value = value.map(|value| value.parse::<LabelValue>()).transpose()?;
        let key: LabelKey = key.parse()?;
        match read.get(&key) {
            Some(said) if *said != value => {
                let (field, other) = ("labels.set", "labels.unset or modifier.labels");
                return Err(PatchError::TwoWays { field, other });
            }
            _ => read.insert(key, value),
        };
    }
    if read.len() > LABELS_MAX {
        return Err(too_many("labels", LABELS_MAX));
    }
    let lengths = read.iter().map(|(key, value)| {
        key.as_str().len() + value.as_ref().map_or(0, |value| value.as_str().len())
    });
    let bytes = lengths.sum();
    if bytes > LABELS_BYTES_MAX {
        return Err(PatchError::LabelBytes { bytes });
    }
    Ok(read)
}

fn read_keywords(words: &BTreeSet<String>) -> Result<BTreeSet<Keyword>, PatchError> {
    if words.len() > KEYWORDS_MAX {
        return Err(too_many("keywords", KEYWORDS_MAX));
    }
    let words = words.iter().map(|word| word.parse::<Keyword>());
    Ok(words.collect::<Result<_, _>>()?)
}

fn read_limits(
    said: BTreeMap<String, Value>,
    also: BTreeMap<String, Value>,
) -> Result<BTreeMap<SlotName, Option<Quantity>>, PatchError> {
    let mut read = BTreeMap::new();
    for (slot, value) in said.into_iter().chain(also) {
        let slot: SlotName = slot.parse()?;
        let value = quantity(&slot, &value)?;
        match read.get(&slot) {
            Some(said) if *said != value => {
                let (field, other) = ("limits", "modifier.resource_limits");
                return Err(PatchError::TwoWays { field, other });
            }
            _ => read.insert(slot, value),
        };
    }
    if read.len() > SLOTS_MAX {
        return Err(PatchError::TooManySlots);
    }
    Ok(read)
}

fn quantity(slot: &SlotName, value: &Value) -> Result<Option<Quantity>, PatchError> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            return Err(PatchError::Quantity { slot: slot.clone() });
        }
    };
    let value = text.parse()?;
    limits::check(slot, value)?;
    Ok(Some(value))
}

fn too_many(nouns: &'static str, limit: usize) -> PatchError {
    PatchError::TooManyWords { nouns, limit }
}
