//! Images: the named things that own versions and tags.
//!
//! Names are claimed and freed in [`crate::names`]; the words an image is found by lead through
//! [`crate::resolve`].

use std::collections::{BTreeMap, BTreeSet};

use kiln_domain::{ImageId, ImageName, ImageState, OrgId, Timestamp, VersionKind, Visibility};
use rusqlite::Row;
use serde_json::Value;

use crate::columns::{Columns, Micros, Text};
use crate::page::{Conditions, probe_limit};
use crate::{Page, ReadTransaction, StoreError, WriteTransaction, orgs, users};

mod changes;

pub use changes::{
    rename, set_declared_size, set_description, set_keywords, set_label, set_limits, unset_label,
};

/// Who owns the directories of an image's versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custody {
    /// The daemon: it made them and removes them.
    Managed,
    /// Somebody else: the daemon only knows of them.
    Unmanaged,
}

/// An image to be inserted: active, at its first revision.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Its id.
    pub id: ImageId,
    /// Its name; [`crate::names`] must give it in the same transaction.
    pub name: ImageName,
    /// The user it belongs to.
    pub owner_id: u32,
    /// The organisation it belongs to, if one.
    pub org_id: Option<OrgId>,
    /// Who else may see it.
    pub visibility: Visibility,
    /// What its versions are.
    pub kind: VersionKind,
    /// Who owns its directories.
    pub custody: Custody,
    /// Labels by key.
    pub labels: BTreeMap<String, String>,
    /// Words to find it by.
    pub keywords: BTreeSet<String>,
    /// What virtual machines of it may use, as the caller gave it.
    pub limits: Option<Value>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An image as the store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRow {
    /// Its place in the order of all images.
    pub seq: i64,
    /// Its id.
    pub id: ImageId,
    /// The name it has, or had when it was forgotten.
    pub name: ImageName,
    /// The user it belongs to.
    pub owner_id: u32,
    /// The organisation it belongs to, if one.
    pub org_id: Option<OrgId>,
    /// Who else may see it.
    pub visibility: Visibility,
    /// Raised by every change; an update that names an older one came too late.
    pub revision: u64,
    /// What its versions are.
    pub kind: VersionKind,
    /// Where it stands.
    pub state: ImageState,
    /// Who owns its directories.
    pub custody: Custody,
    /// Labels by key.
    pub labels: BTreeMap<String, String>,
    /// Words to find it by.
    pub keywords: BTreeSet<String>,
    /// What virtual machines of it may use.
    pub limits: Option<Value>,
    /// What it is, for people.
    pub description: Option<String>,
    /// What somebody calls its size; what it takes is measured elsewhere.
    pub declared_size_bytes: Option<u64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was forgotten, if it was.
    pub deleted_at: Option<Timestamp>,
    /// When a forgotten image is removed for good.
    pub purge_after: Option<Timestamp>,
}

/// Which images a list shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forgotten {
    /// Active ones only.
    #[default]
    Hidden,
    /// Inactive and forgotten ones too.
    Shown,
}

/// A condition on names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameMatch {
    /// The name begins so.
    Prefix(String),
    /// The name has this somewhere.
    Contains(String),
}

/// Which images a page holds; the default is every active one.
#[derive(Clone, Debug, Default)]
pub struct ImageFilter {
    /// Whether inactive and forgotten images are among them.
    pub forgotten: Forgotten,
    /// Only those of this user.
    pub owner_id: Option<u32>,
    /// Only those so named.
    pub name: Option<NameMatch>,
    /// Only those with a version from this canonical reference.
    pub source_reference: Option<String>,
    /// Only those with all of these labels, by key and value.
    pub labels: BTreeSet<(String, String)>,
    /// Only those with labels of all these keys, whatever their values.
    pub label_keys: BTreeSet<String>,
    /// Only those with all of these keywords.
    pub keywords: BTreeSet<String>,
    /// Only those that this user owns, that are public, or that an organisation of the user's shows;
    /// `None` hides nothing.
    pub visible_to: Option<u32>,
}

const COLUMNS: &str = "seq, id, name, owner_id, org_id, visibility, revision, kind, state, managed, \
    limits, description, declared_size_bytes, created_at, updated_at, deleted_at, purge_after, \
    (SELECT json_group_object(key, value) FROM image_labels WHERE image_id = images.id) AS labels, \
    (SELECT json_group_array(keyword) FROM image_keywords WHERE image_id = images.id) AS keywords";

/// Inserts an image with its labels and keywords, enters its owner, and returns its place.
pub fn insert(tx: &WriteTransaction<'_>, image: &NewImage) -> Result<i64, StoreError> {
    const STEP: &str = "insert an image";
    users::see(tx, image.owner_id, image.created_at)?;
    let sql = "INSERT INTO images (id, name, owner_id, org_id, visibility, kind, state, managed, \
               limits, created_at, updated_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)";
    let params = (
        Text(image.id),
        image.name.as_str(),
        image.owner_id,
        image.org_id.map(Text),
        image.visibility.as_str(),
        image.kind.as_str(),
        ImageState::Available.as_str(),
        image.custody == Custody::Managed,
        image.limits.as_ref().map(Text),
        Micros(image.created_at),
    );
    tx.execute(STEP, sql, params)?;
    let seq = tx.last_seq();
    for (key, value) in &image.labels {
        let sql = "INSERT INTO image_labels (image_id, key, value) VALUES (?1, ?2, ?3)";
        tx.execute(STEP, sql, (Text(image.id), key, value))?;
    }
    for keyword in &image.keywords {
        let sql = "INSERT INTO image_keywords (image_id, keyword) VALUES (?1, ?2)";
        tx.execute(STEP, sql, (Text(image.id), keyword))?;
    }
    Ok(seq)
}

/// Returns an image, forgotten or not.
pub fn get(tx: &ReadTransaction<'_>, id: ImageId) -> Result<Option<ImageRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM images WHERE id = ?1");
    tx.first("read an image", &sql, [Text(id)], read)
}

/// Returns the images behind `after`, oldest first, at most `limit` of them.
pub fn page(
    tx: &ReadTransaction<'_>,
    after: i64,
    limit: u32,
    filter: &ImageFilter,
) -> Result<Page<ImageRow>, StoreError> {
    let conditions = conditions(after, limit, filter);
    let organisations = match filter.visible_to {
        Some(uid) => orgs::count_of(tx, uid)?,
        None => 0,
    };
    let sql = page_sql(&conditions, filter, organisations);
    let rows = tx.all("list images", &sql, &*conditions.params(), read)?;
    Ok(Page::cut(rows, limit, |image| image.seq))
}

/// Makes an active image inactive; it keeps its name. Tells whether it was active.
pub fn deactivate(
    tx: &WriteTransaction<'_>,
    id: ImageId,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "UPDATE images SET state = 'inactive', updated_at = ?2, revision = revision + 1 \
               WHERE id = ?1 AND state = 'available'";
    let params = (Text(id), Micros(at));
    Ok(tx.execute("set an image aside", sql, params)? == 1)
}

/// Forgets an image: marks it and frees its name. Tells whether it was not forgotten before.
///
/// Its versions and tags stay until it is purged, at `purge_after` at the earliest.
pub fn mark_deleted(
    tx: &WriteTransaction<'_>,
    id: ImageId,
    at: Timestamp,
    purge_after: Timestamp,
) -> Result<bool, StoreError> {
    const STEP: &str = "forget an image";
    let sql = "UPDATE images SET state = 'deleted', deleted_at = ?2, purge_after = ?3, \
               updated_at = ?2, revision = revision + 1 WHERE id = ?1 AND state <> 'deleted'";
    let was_there = tx.execute(STEP, sql, (Text(id), Micros(at), Micros(purge_after)))? == 1;
    if was_there {
        tx.execute(STEP, "DELETE FROM names WHERE image_id = ?1", [Text(id)])?;
    }
    Ok(was_there)
}

/// Makes an inactive or forgotten image active again under `name`, which [`crate::names`] must give it
/// in the same transaction. Tells whether it was not active.
pub fn restore(
    tx: &WriteTransaction<'_>,
    id: ImageId,
    name: &ImageName,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "UPDATE images SET state = 'available', name = ?2, deleted_at = NULL, \
               purge_after = NULL, updated_at = ?3, revision = revision + 1 \
               WHERE id = ?1 AND state <> 'available'";
    let params = (Text(id), name.as_str(), Micros(at));
    Ok(tx.execute("restore an image", sql, params)? == 1)
}

/// Removes an image with its name, versions, tags, labels, keywords and leases, and with every hold
/// on it or on a version of it. Tells whether it was there.
///
/// Its aliases are the caller's to settle, and so are its files.
pub fn purge(tx: &WriteTransaction<'_>, id: ImageId) -> Result<bool, StoreError> {
    const STEP: &str = "purge an image";
    let sql = "DELETE FROM holders WHERE object_kind = 'version' \
               AND object_id IN (SELECT id FROM versions WHERE image_id = ?1)";
    tx.execute(STEP, sql, [Text(id)])?;
    let sql = "DELETE FROM holders WHERE object_kind = 'image' AND object_id = ?1";
    tx.execute(STEP, sql, [Text(id)])?;
    Ok(tx.execute(STEP, "DELETE FROM images WHERE id = ?1", [Text(id)])? == 1)
}

/// Returns the forgotten images whose retention has ended by a time, those behind `after` in the
/// order in which it ended, at most `limit` of them.
pub fn to_purge(
    tx: &ReadTransaction<'_>,
    now: Timestamp,
    after: Option<(Timestamp, i64)>,
    limit: u32,
) -> Result<Vec<ImageRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM images WHERE purge_after IS NOT NULL AND purge_after <= ?1 \
         AND (purge_after, seq) > (?2, ?3) ORDER BY purge_after, seq LIMIT ?4"
    );
    let (ended, seq) = after.unwrap_or((Timestamp::EPOCH, 0));
    let params = (Micros(now), Micros(ended), seq, limit);
    tx.all("list images to purge", &sql, params, read)
}

/// Records that something of an image changed and returns its new revision; `None` when there
/// is no such image.
pub fn touch(
    tx: &WriteTransaction<'_>,
    id: ImageId,
    at: Timestamp,
) -> Result<Option<u64>, StoreError> {
    let sql = "UPDATE images SET updated_at = ?2, revision = revision + 1 WHERE id = ?1 \
               RETURNING id, revision";
    let params = (Text(id), Micros(at));
    let revisions = tx.execute_returning("touch an image", sql, params, |row| {
        Columns::of("images", "id", row).integer("revision")
    })?;
    Ok(revisions.into_iter().next())
}

/// Counts active images.
pub fn count_active(tx: &ReadTransaction<'_>) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM images WHERE state = 'available'";
    let count: Option<i64> = tx.value("count images", sql, [])?;
    Ok(count
        .and_then(|count| u64::try_from(count).ok())
        .unwrap_or(0))
}

fn conditions(after: i64, limit: u32, filter: &ImageFilter) -> Conditions {
    let mut conditions = Conditions::default();
    conditions.bind("seq > :after", ":after", after);
    conditions.set(":limit", probe_limit(limit));
    if filter.forgotten == Forgotten::Hidden {
        conditions.require("state = 'available'");
    }
    if let Some(owner_id) = filter.owner_id {
        conditions.bind("owner_id = :owner", ":owner", owner_id);
    }
    match &filter.name {
        Some(NameMatch::Prefix(text)) => {
            let clause = "substr(name, 1, length(:name)) = :name";
            conditions.bind(clause, ":name", text.clone());
        }
        Some(NameMatch::Contains(text)) => {
            conditions.bind("instr(name, :name) > 0", ":name", text.clone());
        }
        None => {}
    }
    if let Some(reference) = &filter.source_reference {
        let clause = "id IN (SELECT image_id FROM versions WHERE source_reference = :source)";
        conditions.bind(clause, ":source", reference.clone());
    }
    said_of(&mut conditions, filter);
    if let Some(uid) = filter.visible_to {
        conditions.set(":viewer", uid);
    }
    conditions
}

/// Conditions on labels and keywords. Each list goes as one JSON array, so that queries of one kind
/// are one text; the index of the words finds the images, and only those that have all count.
fn said_of(conditions: &mut Conditions, filter: &ImageFilter) {
    if !filter.labels.is_empty() {
        let clause = "id IN (SELECT image_id FROM json_each(:labels) AS want \
             CROSS JOIN image_labels ON image_labels.key = want.value ->> 0 AND image_labels.value = want.value ->> 1 \
             GROUP BY image_id HAVING count(*) = json_array_length(:labels))";
        conditions.bind(
            clause,
            ":labels",
            serde_json::json!(filter.labels).to_string(),
        );
    }
    if !filter.label_keys.is_empty() {
        let clause = "id IN (SELECT image_id FROM json_each(:label_keys) AS want \
             CROSS JOIN image_labels ON image_labels.key = want.value \
             GROUP BY image_id HAVING count(*) = json_array_length(:label_keys))";
        let keys = serde_json::json!(filter.label_keys).to_string();
        conditions.bind(clause, ":label_keys", keys);
    }
    if !filter.keywords.is_empty() {
        let clause = "id IN (SELECT image_id FROM json_each(:keywords) AS want \
             CROSS JOIN image_keywords ON keyword = want.value \
             GROUP BY image_id HAVING count(*) = json_array_length(:keywords))";
        let keywords = serde_json::json!(filter.keywords).to_string();
        conditions.bind(clause, ":keywords", keywords);
    }
}

/// The organisations that show an image to `:viewer`: their members see what is the organisation's,
/// their administrators what is private too.
pub(crate) const SHOWN_BY_ORG: &str = "EXISTS (SELECT 1 FROM org_members \
    WHERE org_members.org_id = images.org_id AND org_members.uid = :viewer \
      AND (images.visibility = 'organization' OR org_members.standing = 'admin'))";

/// Writes the query of a page.
///
/// What a user may see is read as ranges, each in the order of `seq` and each cut to the page's
/// length: the user's own, the public ones, and those of each organisation. One `OR` over them would
/// walk past every private image of others.
fn page_sql(conditions: &Conditions, filter: &ImageFilter, organisations: u32) -> String {
    let clauses = conditions.to_sql();
    if filter.visible_to.is_none() {
        return format!("SELECT {COLUMNS} FROM images WHERE {clauses} ORDER BY seq LIMIT :limit");
    }
    let range = |visible: &str| {
        format!(
            "SELECT seq FROM (SELECT seq FROM images WHERE {visible} AND {clauses} \
             ORDER BY seq LIMIT :limit)"
        )
    };
    let mut ranges = vec![range("owner_id = :viewer"), range("visibility = 'public'")];
    ranges.extend((0..organisations).map(|n| {
        range(&format!(
            "org_id = (SELECT org_id FROM org_members WHERE uid = :viewer \
             ORDER BY org_id LIMIT 1 OFFSET {n}) AND {SHOWN_BY_ORG}"
        ))
    }));
    format!(
        "SELECT {COLUMNS} FROM images WHERE seq IN ({}) ORDER BY seq LIMIT :limit",
        ranges.join(" UNION ALL ")
    )
}

fn read(row: &Row<'_>) -> Result<ImageRow, StoreError> {
    let columns = Columns::of("images", "id", row);
    Ok(ImageRow {
        seq: columns.raw("seq")?,
        id: columns.parsed("id")?,
        name: columns.parsed("name")?,
        owner_id: columns.integer("owner_id")?,
        org_id: columns.parsed_option("org_id")?,
        visibility: columns.parsed("visibility")?,
        revision: columns.integer("revision")?,
        kind: columns.parsed("kind")?,
        state: columns.parsed("state")?,
        custody: if columns.raw("managed")? {
            Custody::Managed
        } else {
            Custody::Unmanaged
        },
        limits: columns.json_option("limits")?,
        description: columns.raw("description")?,
        declared_size_bytes: columns
            .raw::<Option<i64>>("declared_size_bytes")?
            .map(u64::try_from)
            .transpose()
            .map_err(|error| columns.invalid("declared_size_bytes", error))?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
        deleted_at: columns.time_option("deleted_at")?,
        purge_after: columns.time_option("purge_after")?,
        labels: serde_json::from_str(&columns.raw::<String>("labels")?)
            .map_err(|error| columns.invalid("labels", error))?,
        keywords: serde_json::from_str(&columns.raw::<String>("keywords")?)
            .map_err(|error| columns.invalid("keywords", error))?,
    })
}

#[cfg(test)]
mod tests;
