//! Which aliases lead to an image, and what becomes of them when it goes.
//!
//! An alias means what the resolver says, at the moment somebody asks: what is listed, shown and
//! removed with an image is asked of it, and the image that a row remembers is only where it starts
//! looking.

use kiln_domain::access::Actor;
use kiln_domain::{ImageId, ImageName};
use kiln_store::aliases::{self, AliasRow};
use kiln_store::images::ImageRow;
use kiln_store::{ReadTransaction, StoreError, WriteTransaction, names};

use super::follow;
use crate::find_image::{Naming, Viewer, meaning};

/// Lists the aliases that lead the caller to an image, oldest first.
pub(crate) fn leading_to(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    naming: Naming,
    image: &ImageRow,
) -> Result<Vec<AliasRow>, StoreError> {
    let mut leading = Vec::new();
    for row in aliases::near_image(tx, image.id, &image.name)? {
        if meaning(tx, row.name.as_str(), Viewer::of(actor), naming)? == Some(image.id) {
            leading.push(row);
        }
    }
    Ok(leading)
}

/// Tells which image an alias leads the caller to; where that is none, which one it led to.
pub(super) fn led_to(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    naming: Naming,
    row: &AliasRow,
) -> Result<ImageId, StoreError> {
    let found = meaning(tx, row.name.as_str(), Viewer::of(actor), naming)?;
    Ok(found.unwrap_or(row.image_id))
}

/// What a purge does to the aliases of its image. An alias is its maker's, so what it means to the
/// maker decides.
#[derive(Debug, Default)]
pub(crate) struct Settlement {
    /// Those that lead to the image, or led there and lead nowhere now. They go with it: none is to
    /// mean another image all at once because this one went.
    going: Vec<AliasRow>,
    /// Those that led there once and mean another image by now, with that image.
    staying: Vec<(ImageName, ImageId)>,
}

impl Settlement {
    /// Decides, before the image is gone.
    pub(crate) fn foresee(
        tx: &ReadTransaction<'_>,
        naming: Naming,
        image: &ImageRow,
    ) -> Result<Self, StoreError> {
        let mut settlement = Self::default();
        for row in aliases::near_image(tx, image.id, &image.name)? {
            let viewer = Viewer::maker(row.owner_id);
            let remembers = row.image_id == image.id;
            match meaning(tx, row.name.as_str(), viewer, naming)? {
                Some(id) if id == image.id => settlement.going.push(row),
                Some(id) if remembers => settlement.staying.push((row.name, id)),
                None if remembers => settlement.going.push(row),
                Some(_) | None => {}
            }
        }
        Ok(settlement)
    }

    /// Lists the aliases that go.
    pub(crate) fn going(&self) -> Vec<ImageName> {
        self.going.iter().map(|row| row.name.clone()).collect()
    }

    /// Does it, and returns the aliases that went.
    pub(crate) fn carry_out(
        self,
        tx: &WriteTransaction<'_>,
        naming: Naming,
    ) -> Result<Vec<ImageName>, StoreError> {
        let gone = self.going();
        for name in &gone {
            take_away(tx, naming, name, &gone)?;
        }
        for (name, image) in &self.staying {
            aliases::set_image(tx, name, *image)?;
        }
        Ok(gone)
    }
}

/// Removes an alias. What led through it leads on to what it led to, but for what goes along.
/// Returns what was led on.
pub(super) fn take_away(
    tx: &WriteTransaction<'_>,
    naming: Naming,
    name: &ImageName,
    going_along: &[ImageName],
) -> Result<Vec<ImageName>, StoreError> {
    let mut led_on = Vec::new();
    for one in aliases::leading_to(tx, name)? {
        if going_along.contains(&one.name) {
            continue;
        }
        // To the image itself, not to the next alias: nobody is to lose a name twice.
        if let Some(end) = follow(tx, &one.target, None)?.pop() {
            aliases::set_target(tx, &one.name, &end)?;
            led_on.push((one.name, one.owner_id));
        }
    }
    names::remove_alias(tx, name)?;
    for (one, maker) in &led_on {
        if let Some(image) = meaning(tx, one.as_str(), Viewer::maker(*maker), naming)? {
            aliases::set_image(tx, one, image)?;
        }
    }
    Ok(led_on.into_iter().map(|(name, _)| name).collect())
}
