//! Which image and version a text means.
//!
//! The steps, of which the first that finds something decides:
//!
//! ```text
//! 1  UUID                 of an image, or of a version; such a text means nothing else
//! 2  name[:tag|:version]  of an image
//! 3  alias[:tag|:version] followed to what it leads to, by the same steps; to the image it led to,
//!                         where that is nothing now
//! 4  canonical reference  of the source a version was pulled from
//! ```
//!
//! Steps 2 to 4 are asked three times: of what is the caller's own, of what an organisation of the
//! caller's shows, of everything the caller may see. So nobody's name or alias takes the place of
//! something nearer to the caller, whichever step finds that. An alias is its maker's, whatever it
//! leads to.
//!
//! A step that finds an image without the tag, or without a version for the architecture, found
//! nothing. What the caller may not see does not exist. Inactive images are looked at, by all
//! steps, only when no active one was found and the caller asks for them; forgotten ones after
//! these.
//!
//! What was asked is made a canonical reference by who asks, what an alias leads to is made one here.
//! Knowing the host's architecture is the caller's.

use std::collections::BTreeSet;

use kiln_domain::{
    ImageId, ImageName, ImageState, Reference, TagName, VersionId, VersionNumber, reads_as_id,
};
use rusqlite::{Row, named_params};

use crate::aliases::AliasRow;
use crate::columns::{Columns, Text};
use crate::images::{Forgotten, SHOWN_BY_ORG};
use crate::names::{self, NameHolder};
use crate::{ReadTransaction, StoreError, aliases, tags, versions};

/// How many aliases may follow each other; people do not chain more, and a longer chain is most
/// likely a circle.
pub const ALIAS_DEPTH_MAX: usize = 16;

/// What is being looked for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// What the caller gave.
    pub text: &'a str,
    /// The same text as a canonical reference, where it can be read as one.
    pub canonical_reference: Option<&'a str>,
    /// The architecture that is meant, such as `amd64`. A version named by its UUID has its own.
    pub architecture: &'a str,
    /// Whose things come first; `None` is nobody.
    pub caller: Option<u32>,
    /// Only images this user owns, public ones, and those that an organisation of the user's shows;
    /// `None` hides nothing.
    pub visible_to: Option<u32>,
    /// Whether an inactive or forgotten image may be the answer when no active one is.
    pub forgotten: Forgotten,
}

/// What a text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The image.
    pub image_id: ImageId,
    /// The version: of the tag or number that was given, else the one tagged `latest`, else the
    /// newest.
    pub version_id: VersionId,
}

/// One of several images a text may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The name it has, or had.
    pub name: ImageName,
    /// The image and version it stands for.
    pub meant: ResolvedImage,
}

/// Why a text does not mean one image.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nothing the caller may see answers to it.
    #[error("no image answers to {text:?}{}", elsewhere(.other_architectures))]
    NotFound {
        /// The text, cut to 200 characters.
        text: String,
        /// The architectures for which the named image does have versions, if it exists.
        other_architectures: Vec<String>,
    },
    /// Several images answer to it.
    #[error("{} images answer to {text:?}: {}", candidates.len(), list(candidates))]
    Ambiguous {
        /// The text, cut to 200 characters.
        text: String,
        /// The images, oldest first.
        candidates: Vec<Candidate>,
    },
    /// It leads through too many aliases, or round in a circle.
    #[error("{text:?} leads through more than {ALIAS_DEPTH_MAX} aliases")]
    AliasTooDeep {
        /// The text, cut to 200 characters.
        text: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Returns the one image, and its version, that a text means.
pub fn image(tx: &ReadTransaction<'_>, query: &Query<'_>) -> Result<ResolvedImage, ResolveError> {
    let mut search = Search {
        tx,
        query,
        standing: ImageState::Available,
        other_architectures: BTreeSet::new(),
    };
    let asked = Step {
        text: query.text,
        reference: query.canonical_reference,
        depth: 0,
    };
    let mut found = search.walk(asked)?;
    if query.forgotten == Forgotten::Shown {
        for standing in [ImageState::Inactive, ImageState::Deleted] {
            if found.is_none() {
                search.standing = standing;
                found = search.walk(asked)?;
            }
        }
    }
    found.ok_or_else(|| ResolveError::NotFound {
        text: shown(query.text),
        other_architectures: search.other_architectures.into_iter().collect(),
    })
}

/// Whose things are looked at, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The caller's own.
    Own,
    /// What organisations of the caller's show.
    Organisations,
    /// What the caller may see.
    Everything,
}

impl Reach {
    const NEAREST_FIRST: [Self; 3] = [Self::Own, Self::Organisations, Self::Everything];

    /// What SQL calls it, see [`within`].
    fn as_sql(self) -> i64 {
        match self {
            Self::Own => 0,
            Self::Organisations => 1,
            Self::Everything => 2,
        }
    }
}

/// The condition that an image is in the reach `:reach` of `:caller`.
fn within() -> String {
    let shown_by_org = SHOWN_BY_ORG.replace(":viewer", ":caller");
    format!(
        "CASE :reach WHEN 0 THEN images.owner_id = :caller WHEN 1 THEN {shown_by_org} ELSE 1 END"
    )
}

/// A search among the images of one standing.
struct Search<'s> {
    tx: &'s ReadTransaction<'s>,
    query: &'s Query<'s>,
    standing: ImageState,
    other_architectures: BTreeSet<String>,
}

/// A text on the way: what was asked, or what an alias leads to.
#[derive(Clone, Copy)]
struct Step<'t> {
    text: &'t str,
    reference: Option<&'t str>,
    depth: usize,
}

type Found = Result<Option<ResolvedImage>, ResolveError>;

impl Search<'_> {
    fn walk(&mut self, step: Step<'_>) -> Found {
        let (base, selector) = split(step.text);
        if reads_as_id(base) {
            return self.by_id(base, selector.as_ref());
        }
        for reach in Reach::NEAREST_FIRST {
            if reach != Reach::Everything && self.query.caller.is_none() {
                continue;
            }
            if let Some(found) = self.within(reach, step)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn within(&mut self, reach: Reach, step: Step<'_>) -> Found {
        let (base, selector) = split(step.text);
        if let Ok(name) = base.parse() {
            if let Some(found) = self.by_name(&name, selector.as_ref(), reach)? {
                return Ok(Some(found));
            }
            if let Some(found) = self.by_alias(&name, selector.as_ref(), reach, step.depth)? {
                return Ok(Some(found));
            }
        }
        match step.reference {
            Some(reference) => self.by_reference(reference, reach),
            None => Ok(None),
        }
    }

    fn by_id(&mut self, base: &str, selector: Option<&TagName>) -> Found {
        let Ok(id) = base.parse::<ImageId>() else {
            return Ok(None);
        };
        let found = self.images("images.id = :key", &id.to_string(), Reach::Everything)?;
        if let Some(found) = self.pick_one(found, selector)? {
            return Ok(Some(found));
        }
        match base.parse::<VersionId>() {
            Ok(id) if selector.is_none() => self.by_version_id(id),
            _ => Ok(None),
        }
    }

    fn by_version_id(&self, version_id: VersionId) -> Found {
        let Some(version) = versions::get(self.tx, version_id)? else {
            return Ok(None);
        };
        let image_id = version.image_id;
        let owner = self.images("images.id = :key", &image_id.to_string(), Reach::Everything)?;
        Ok(owner.first().map(|_| ResolvedImage {
            image_id,
            version_id,
        }))
    }

    /// Finds the image that has a name; among forgotten ones, those that had it.
    fn by_name(&mut self, name: &ImageName, selector: Option<&TagName>, reach: Reach) -> Found {
        let clause = match self.standing {
            ImageState::Available | ImageState::Inactive => {
                "images.id = (SELECT image_id FROM names WHERE names.name = :key)"
            }
            ImageState::Deleted => "images.name = :key",
        };
        let found = self.images(clause, name.as_str(), reach)?;
        self.pick_one(found, selector)
    }

    fn by_alias(
        &mut self,
        name: &ImageName,
        selector: Option<&TagName>,
        reach: Reach,
        depth: usize,
    ) -> Found {
        let Some(NameHolder::Alias { target }) = names::holder_of(self.tx, name)? else {
            return Ok(None);
        };
        let row = aliases::get(self.tx, name)?;
        let maker = row.as_ref().map(|row| row.owner_id);
        let is_own = maker.is_some() && maker == self.query.caller;
        // Each is followed once, so that a chain costs as much as it is long.
        if reach == Reach::Organisations || is_own != (reach == Reach::Own) {
            return Ok(None);
        }
        if depth >= ALIAS_DEPTH_MAX {
            let text = shown(self.query.text);
            return Err(ResolveError::AliasTooDeep { text });
        }
        let text = match (selector, split(&target)) {
            (None, _) => target,
            (Some(selector), (_, None)) => format!("{target}:{selector}"),
            // The alias means one version already; it has no tags of its own.
            (Some(_), (_, Some(_))) => return Ok(None),
        };
        let reference = text.parse::<Reference>().ok();
        let reference = reference.map(|reference| reference.to_string());
        let found = self.walk(Step {
            text: &text,
            reference: reference.as_deref(),
            depth: depth + 1,
        })?;
        if found.is_some() {
            return Ok(found);
        }
        match row {
            Some(row) => self.by_remembered_image(&row, split(&text).1.as_ref()),
            None => Ok(None),
        }
    }

    /// Finds the image that an alias led to, whatever it is called by now.
    fn by_remembered_image(&mut self, alias: &AliasRow, selector: Option<&TagName>) -> Found {
        let found = self.images(
            "images.id = :key",
            &alias.image_id.to_string(),
            Reach::Everything,
        )?;
        self.pick_one(found, selector)
    }

    fn by_reference(&self, reference: &str, reach: Reach) -> Found {
        // max() makes SQLite take the other columns from the row that has it (SQLite manual,
        // "Bare columns in an aggregate query").
        let sql = format!(
            "SELECT images.id AS image_id, images.name, versions.id AS version_id, \
                    max(versions.seq) \
             FROM versions JOIN images ON images.id = versions.image_id \
             WHERE versions.source_reference = :reference \
               AND versions.architecture = :architecture AND images.state = :state \
               AND (:viewer IS NULL OR images.owner_id = :viewer \
                    OR images.visibility = 'public' OR {SHOWN_BY_ORG}) AND {} \
             GROUP BY images.seq ORDER BY images.seq",
            within()
        );
        let params = named_params! {
            ":reference": reference,
            ":architecture": self.query.architecture,
            ":state": self.standing.as_str(),
            ":viewer": self.query.visible_to,
            ":caller": self.query.caller,
            ":reach": reach.as_sql(),
        };
        let found = self
            .tx
            .all("resolve a source reference", &sql, params, read_candidate)?;
        self.the_only(found)
    }

    /// Returns the images of this standing and reach that the caller may see and that satisfy
    /// `clause`, oldest first.
    fn images(
        &self,
        clause: &'static str,
        key: &str,
        reach: Reach,
    ) -> Result<Vec<(ImageId, ImageName)>, StoreError> {
        let sql = format!(
            "SELECT id, name FROM images WHERE {clause} AND state = :state \
             AND (:viewer IS NULL OR owner_id = :viewer OR visibility = 'public' \
                  OR {SHOWN_BY_ORG}) AND {} ORDER BY seq",
            within()
        );
        let params = named_params! {
            ":key": key,
            ":state": self.standing.as_str(),
            ":viewer": self.query.visible_to,
            ":caller": self.query.caller,
            ":reach": reach.as_sql(),
        };
        self.tx.all("resolve an image", &sql, params, |row| {
            let columns = Columns::of("images", "id", row);
            Ok((columns.parsed("id")?, columns.parsed("name")?))
        })
    }

    fn pick_one(&mut self, images: Vec<(ImageId, ImageName)>, selector: Option<&TagName>) -> Found {
        let mut candidates = Vec::new();
        for (image_id, name) in images {
            if let Some(version_id) = self.pick(image_id, selector)? {
                let meant = ResolvedImage {
                    image_id,
                    version_id,
                };
                candidates.push(Candidate { name, meant });
            }
        }
        self.the_only(candidates)
    }

    /// Picks the version of an image: by tag, then by number; without either the one tagged
    /// `latest`, then the newest.
    fn pick(
        &mut self,
        image_id: ImageId,
        selector: Option<&TagName>,
    ) -> Result<Option<VersionId>, StoreError> {
        let architecture = self.query.architecture;
        let latest = TagName::latest();
        let tag = selector.unwrap_or(&latest);
        if let Some(tagged) = tags::resolve(self.tx, image_id, tag, architecture)? {
            return Ok(Some(tagged));
        }
        let version = match selector.map(|text| text.as_str().parse::<VersionNumber>()) {
            Some(Ok(number)) => versions::by_number(self.tx, image_id, number, architecture)?,
            Some(Err(_)) => None,
            None => versions::newest_of_image(self.tx, image_id, architecture)?,
        };
        if version.is_none() {
            self.note_other_architectures(image_id)?;
        }
        Ok(version.map(|version| version.id))
    }

    fn note_other_architectures(&mut self, image_id: ImageId) -> Result<(), StoreError> {
        let sql = "SELECT DISTINCT image_id, architecture FROM versions \
                   WHERE image_id = ?1 AND architecture <> ?2";
        let params = (Text(image_id), self.query.architecture);
        let others = self.tx.all("list architectures", sql, params, |row| {
            Columns::of("versions", "image_id", row).raw::<String>("architecture")
        })?;
        self.other_architectures.extend(others);
        Ok(())
    }

    fn the_only(&self, mut candidates: Vec<Candidate>) -> Found {
        if candidates.len() > 1 {
            return Err(ResolveError::Ambiguous {
                text: shown(self.query.text),
                candidates,
            });
        }
        Ok(candidates.pop().map(|candidate| candidate.meant))
    }
}

/// Splits a tag or version number off the end of a text, if there is one.
fn split(text: &str) -> (&str, Option<TagName>) {
    let parts = text.rsplit_once(':');
    parts
        .and_then(|(base, selector)| Some((base, Some(selector.parse().ok()?))))
        .unwrap_or((text, None))
}

fn read_candidate(row: &Row<'_>) -> Result<Candidate, StoreError> {
    let columns = Columns::of("versions", "version_id", row);
    Ok(Candidate {
        name: columns.parsed("name")?,
        meant: ResolvedImage {
            image_id: columns.parsed("image_id")?,
            version_id: columns.parsed("version_id")?,
        },
    })
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

fn elsewhere(architectures: &[String]) -> String {
    if architectures.is_empty() {
        return String::new();
    }
    format!(
        " for this architecture, only for {}",
        architectures.join(", ")
    )
}

fn list(candidates: &[Candidate]) -> String {
    let names: Vec<_> = candidates
        .iter()
        .map(|candidate| format!("{} ({})", candidate.name, candidate.meant.image_id))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
