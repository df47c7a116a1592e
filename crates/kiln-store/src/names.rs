//! The one namespace of images, aliases and the names that running operations hold.
//!
//! ```text
//!             reserve                 claim_for_image             free, images::mark_deleted
//! (no row) ───────────▶ reservation ──────────────────▶ image ───────────────────────▶ (no row)
//!                            └─ release_reservation, clear_reservations ─▶ (no row)
//! (no row) ── add_alias ──▶ alias ── remove_alias ──▶ (no row)
//! ```
//! The table's primary key decides every race. No name is given that reads as an id. What a name leads to is in [`crate::resolve`].

use kiln_domain::{ImageId, ImageName, NameError, OperationId, Timestamp};
use rusqlite::Row;

use crate::columns::{Columns, Micros, Text};
use crate::error::is_unique_violation;
use crate::words::words;
use crate::{ReadTransaction, StoreError, WriteTransaction};

/// What holds a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameHolder {
    /// An image has it.
    Image {
        /// The image.
        id: ImageId,
        /// Whose it is.
        owner_uid: u32,
        /// When the image was made.
        created_at: Timestamp,
        /// Where its newest version came from, if that was a registry.
        source_reference: Option<String>,
    },
    /// It is another name of something.
    Alias {
        /// What it leads to, as it was given.
        target: String,
    },
    /// An operation works on what will have it.
    Reservation {
        /// The operation.
        operation_id: OperationId,
        /// Whose it is; nothing when the operation's row is gone.
        owner_uid: Option<u32>,
        /// Since when it is held.
        since: Timestamp,
    },
}

/// A name that somebody else holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct NameTaken {
    /// The name.
    pub name: ImageName,
    /// What holds it.
    pub by: NameHolder,
}

impl NameTaken {
    fn text(&self) -> String {
        let name = &self.name;
        match &self.by {
            NameHolder::Image { .. } => format!("an image named \"{name}\" already exists"),
            NameHolder::Alias { .. } => format!("an alias named \"{name}\" already exists"),
            NameHolder::Reservation { operation_id, .. } => {
                format!("the name \"{name}\" is held by the running operation {operation_id}")
            }
        }
    }
}

/// Why a name could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Somebody else holds it.
    #[error(transparent)]
    Taken(#[from] NameTaken),
    /// It is no name to give.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a reservation did not become an image's name.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The operation does not hold the name.
    #[error("operation {operation_id} does not hold the name \"{name}\"")]
    NotReserved {
        /// The name.
        name: ImageName,
        /// Who was to hold it.
        operation_id: OperationId,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A name that an operation held when the daemon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The name.
    pub name: ImageName,
    /// Who held it.
    pub operation_id: OperationId,
}

/// Another name of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasRow {
    /// The name.
    pub name: ImageName,
    /// What it leads to, as it was given.
    pub target: String,
    /// When it was made.
    pub created_at: Timestamp,
}

words! {
    /// What a row of the table is.
    NameKind, "a kind of name" {
        /// An image's name.
        Image = "image",
        /// Another name.
        Alias = "alias",
        /// A held name.
        Reservation = "reservation",
    }
}

/// Holds a free name for an operation.
///
/// Of two that race for it, the later transaction gets [`ReserveError::Taken`] with what won.
pub fn reserve(
    tx: &WriteTransaction<'_>,
    name: &ImageName,
    operation_id: OperationId,
    at: Timestamp,
) -> Result<(), ReserveError> {
    name.refuse_id()?;
    let sql = "INSERT INTO names (name, kind, operation_id, created_at) \
               VALUES (?1, 'reservation', ?2, ?3)";
    let params = (name.as_str(), Text(operation_id), Micros(at));
    let inserted = tx.execute("reserve a name", sql, params);
    taken_or(tx, name, inserted)
}

/// Lets go of every name an operation holds, and returns how many there were.
pub fn release_reservation(
    tx: &WriteTransaction<'_>,
    operation_id: OperationId,
) -> Result<usize, StoreError> {
    let sql = "DELETE FROM names WHERE kind = 'reservation' AND operation_id = ?1";
    tx.execute("release a reservation", sql, [Text(operation_id)])
}

/// Turns the name an operation holds into an image's name.
///
/// The image may be inserted before or after, in the same transaction.
pub fn claim_for_image(
    tx: &WriteTransaction<'_>,
    name: &ImageName,
    image_id: ImageId,
    operation_id: OperationId,
) -> Result<(), ClaimError> {
    let sql = "UPDATE names SET kind = 'image', image_id = ?3, operation_id = NULL \
               WHERE name = ?1 AND kind = 'reservation' AND operation_id = ?2";
    let params = (name.as_str(), Text(operation_id), Text(image_id));
    if tx.execute("give an image its name", sql, params)? == 1 {
        return Ok(());
    }
    Err(ClaimError::NotReserved {
        name: name.clone(),
        operation_id,
    })
}

/// Gives a free name to an image without a reservation, for work done in one transaction.
pub fn give_to_image(
    tx: &WriteTransaction<'_>,
    name: &ImageName,
    image_id: ImageId,
    at: Timestamp,
) -> Result<(), ReserveError> {
    name.refuse_id()?;
    let sql = "INSERT INTO names (name, kind, image_id, created_at) VALUES (?1, 'image', ?2, ?3)";
    let params = (name.as_str(), Text(image_id), Micros(at));
    let inserted = tx.execute("give an image its name", sql, params);
    taken_or(tx, name, inserted)
}

/// Makes a free name lead to `target`: an id, a name, or a canonical reference.
///
/// Whether the target exists, and whether the chain closes, is the caller's to check.
pub fn add_alias(
    tx: &WriteTransaction<'_>,
    name: &ImageName,
    target: &str,
    at: Timestamp,
) -> Result<(), ReserveError> {
    name.refuse_id()?;
    let sql = "INSERT INTO names (name, kind, target, created_at) VALUES (?1, 'alias', ?2, ?3)";
    let inserted = tx.execute("add an alias", sql, (name.as_str(), target, Micros(at)));
    taken_or(tx, name, inserted)
}

/// Removes an alias and tells whether there was one.
pub fn remove_alias(tx: &WriteTransaction<'_>, name: &ImageName) -> Result<bool, StoreError> {
    let sql = "DELETE FROM names WHERE name = ?1 AND kind = 'alias'";
    Ok(tx.execute("remove an alias", sql, [name.as_str()])? == 1)
}

/// Returns the aliases that lead straight to exactly this text, by name.
pub fn aliases_of(tx: &ReadTransaction<'_>, target: &str) -> Result<Vec<AliasRow>, StoreError> {
    let sql = "SELECT name, target, created_at FROM names WHERE target = ?1 ORDER BY name";
    tx.all("list aliases", sql, [target], |row| {
        let columns = Columns::of("names", "name", row);
        Ok(AliasRow {
            name: columns.parsed("name")?,
            target: columns.raw("target")?,
            created_at: columns.time("created_at")?,
        })
    })
}

/// Makes a name free, whatever holds it, and tells whether something did.
pub fn free(tx: &WriteTransaction<'_>, name: &ImageName) -> Result<bool, StoreError> {
    let sql = "DELETE FROM names WHERE name = ?1";
    Ok(tx.execute("free a name", sql, [name.as_str()])? == 1)
}

/// Returns what holds a name; `None` when it is free.
pub fn holder_of(
    tx: &ReadTransaction<'_>,
    name: &ImageName,
) -> Result<Option<NameHolder>, StoreError> {
    let sql = "SELECT names.name, names.kind, image_id, operation_id, target, \
                      names.created_at, images.created_at AS image_created_at, \
                      COALESCE(images.owner_id, operations.owner_uid) AS owner_uid, \
                      (SELECT source_reference FROM versions \
                       WHERE versions.image_id = names.image_id \
                       ORDER BY versions.seq DESC LIMIT 1) AS source_reference \
               FROM names LEFT JOIN images ON images.id = names.image_id \
                          LEFT JOIN operations ON operations.id = names.operation_id \
               WHERE names.name = ?1";
    tx.first("look a name up", sql, [name.as_str()], read_holder)
}

/// Drops every reservation and returns them by name: at start-up no operation runs yet, so whoever held
/// one is gone.
pub fn clear_reservations(tx: &WriteTransaction<'_>) -> Result<Vec<Reservation>, StoreError> {
    // Every id is greater than the empty text; said so, SQLite searches the small index of
    // reservations instead of walking all names.
    let sql = "DELETE FROM names WHERE operation_id > '' RETURNING name, operation_id";
    let mut cleared = tx.execute_returning("clear reservations", sql, [], |row| {
        let columns = Columns::of("names", "name", row);
        Ok(Reservation {
            name: columns.parsed("name")?,
            operation_id: columns.parsed("operation_id")?,
        })
    })?;
    cleared.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(cleared)
}

fn taken_or(
    tx: &ReadTransaction<'_>,
    name: &ImageName,
    inserted: Result<usize, StoreError>,
) -> Result<(), ReserveError> {
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if is_unique_violation(&error) => match holder_of(tx, name)? {
            Some(by) => Err(NameTaken {
                name: name.clone(),
                by,
            }
            .into()),
            // The other unique column: the image has a name already.
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn read_holder(row: &Row<'_>) -> Result<NameHolder, StoreError> {
    let columns = Columns::of("names", "name", row);
    Ok(match columns.parsed("kind")? {
        NameKind::Image => NameHolder::Image {
            id: columns.parsed("image_id")?,
            owner_uid: columns.raw("owner_uid")?,
            created_at: columns.time("image_created_at")?,
            source_reference: columns.raw("source_reference")?,
        },
        NameKind::Alias => NameHolder::Alias {
            target: columns.raw("target")?,
        },
        NameKind::Reservation => NameHolder::Reservation {
            operation_id: columns.parsed("operation_id")?,
            owner_uid: columns.raw("owner_uid")?,
            since: columns.time("created_at")?,
        },
    })
}

#[cfg(test)]
mod tests;
