//! The machine that a caller's word means.
//!
//! ```text
//! 1  id                    of any machine
//! 2  name                  of one that has not ended: the caller's own, else the only one
//! 3  name                  of one that has: the caller's own, else any; the newest
//! 4  beginning of an id    four digits at least
//! ```
//! The first step that finds one decides. What the caller may not see does not exist.

use kiln_domain::access::{Actor, may_see};
use kiln_domain::{InstanceId, InstanceName};
use kiln_store::instances::{self, InstanceRow};
use kiln_store::{ReadTransaction, StoreError};

use crate::find_image::visible_to;

/// Fewest digits that count as the beginning of an id.
const DIGITS_MIN: usize = 4;

/// Most machines that are listed where a word means several.
const LISTED_MAX: u32 = 5;

/// Why a word does not mean one machine.
#[derive(Debug, thiserror::Error)]
pub(super) enum FindInstanceError {
    /// Nothing the caller may see answers to it.
    #[error("no machine answers to {text:?}")]
    NotFound { text: String },
    /// Several do.
    #[error("several machines answer to {text:?}: {}", list(ids))]
    Ambiguous { text: String, ids: Vec<InstanceId> },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Finds a machine by its id.
pub(super) fn by_id(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    id: InstanceId,
) -> Result<InstanceRow, FindInstanceError> {
    let row = instances::get(tx, id)?;
    let seen = row.filter(|row| may_see(actor, row.owner_uid).is_ok());
    seen.ok_or_else(|| FindInstanceError::NotFound {
        text: id.to_string(),
    })
}

/// Finds the machine that a word means.
pub(super) fn by_word(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    text: &str,
) -> Result<InstanceRow, FindInstanceError> {
    if let Ok(id) = text.parse() {
        return by_id(tx, actor, id);
    }
    if let Ok(name) = text.parse()
        && let Some(found) = by_name(tx, actor, &name)?
    {
        return Ok(found);
    }
    if is_beginning(text) {
        let rows = instances::beginning_with(tx, text, visible_to(actor), LISTED_MAX)?;
        if let Some(found) = only(rows, text)? {
            return Ok(found);
        }
    }
    Err(FindInstanceError::NotFound { text: shown(text) })
}

fn by_name(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    name: &InstanceName,
) -> Result<Option<InstanceRow>, FindInstanceError> {
    let rows = instances::named(tx, name, visible_to(actor))?;
    let (ended, live): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.ended_at.is_some());
    let is_own = |row: &InstanceRow| row.owner_uid == actor.uid;
    let (own, others): (Vec<_>, Vec<_>) = live.into_iter().partition(is_own);
    if let Some(found) = own.into_iter().next() {
        return Ok(Some(found));
    }
    if let Some(found) = only(others, name.as_str())? {
        return Ok(Some(found));
    }
    // Newest first, and of two the first is kept.
    Ok(ended.into_iter().max_by(|one, other| {
        let rank = |row: &InstanceRow| (is_own(row), row.seq);
        rank(one).cmp(&rank(other))
    }))
}

/// Returns the one row there is, nothing when there is none.
fn only(rows: Vec<InstanceRow>, text: &str) -> Result<Option<InstanceRow>, FindInstanceError> {
    if rows.len() > 1 {
        return Err(FindInstanceError::Ambiguous {
            text: shown(text),
            ids: rows.into_iter().map(|row| row.id).collect(),
        });
    }
    Ok(rows.into_iter().next())
}

fn is_beginning(text: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    text.len() >= DIGITS_MIN && text.bytes().all(is_digit)
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

fn list(ids: &[InstanceId]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}
