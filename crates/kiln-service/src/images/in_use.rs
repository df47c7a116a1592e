//! Images that machines run are not hidden under them.

use std::fmt;

use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, may_see};
use kiln_domain::{ImageName, InstanceName, Timestamp};
use kiln_store::holders::{self, HolderKind};
use kiln_store::images::ImageRow;
use kiln_store::{ReadTransaction, StoreError, instances};

use super::ImageError;

/// Most machines that are called by name; who has more knows what is meant.
const NAMED_MAX: usize = 3;

/// An image is in use.
#[derive(Debug, thiserror::Error)]
#[error("the image \"{image}\" is in use by {}", Users(self))]
pub(crate) struct ImageInUse {
    /// Which image.
    image: ImageName,
    /// Machines that the caller may see, at most three.
    named: Vec<InstanceName>,
    /// How many more there are.
    others: usize,
}

/// Says who uses an image.
struct Users<'a>(&'a ImageInUse);

impl fmt::Display for Users<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.named.iter().map(ToString::to_string).collect();
        let plural = if names.len() + self.0.others == 1 {
            ""
        } else {
            "s"
        };
        match (names.len(), self.0.others) {
            (0, others) => write!(f, "{others} machine{plural} that you may not see"),
            (_, 0) => write!(f, "the machine{plural} {}", names.join(", ")),
            (_, others) => write!(f, "the machines {} and {others} more", names.join(", ")),
        }
    }
}

impl ImageInUse {
    pub(crate) fn to_failure(&self) -> Failure {
        let failure = Failure::from_error(codes::image::IN_USE, self);
        if self.named.is_empty() {
            return failure.with_hint("wait until they have ended, or use --force", None);
        }
        let names: Vec<_> = self.named.iter().map(ToString::to_string).collect();
        let command = format!("kiln stop {}", names.join(" "));
        failure.with_hint("use --force, or stop them first:", Some(command))
    }
}

/// Refuses what must not happen to an image while machines run it.
pub(crate) fn refuse_in_use(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    image: &ImageRow,
    now: Timestamp,
) -> Result<(), ImageError> {
    let holds = holders::of_versions_of(tx, image.id, now)?;
    if holds.is_empty() {
        return Ok(());
    }
    let mut named = Vec::new();
    let machines = holds
        .iter()
        .filter(|hold| hold.holder.kind == HolderKind::Instance);
    for hold in machines {
        if named.len() == NAMED_MAX {
            break;
        }
        named.extend(name_for(tx, actor, &hold.holder.id)?);
    }
    let others = holds.len() - named.len();
    Err(ImageInUse {
        image: image.name.clone(),
        named,
        others,
    }
    .into())
}

/// Returns a machine's name, where the caller may know it.
fn name_for(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    id: &str,
) -> Result<Option<InstanceName>, StoreError> {
    let Ok(id) = id.parse() else {
        return Ok(None);
    };
    let row = instances::get(tx, id)?;
    let seen = row.filter(|row| may_see(actor, row.owner_uid).is_ok());
    Ok(seen.map(|row| row.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_an_image_is_said_as_far_as_it_may_be() {
        let cases: [(&[&str], usize, &str, Option<&str>); 4] = [
            (&["a"], 0, "the machine a", Some("kiln stop a")),
            (&["a", "b"], 0, "the machines a, b", Some("kiln stop a b")),
            (
                &["a", "b", "c"],
                2,
                "the machines a, b, c and 2 more",
                Some("kiln stop a b c"),
            ),
            (&[], 1, "1 machine that you may not see", None),
        ];
        for (names, others, want, command) in cases {
            let in_use = ImageInUse {
                image: "web".parse().unwrap(),
                named: names.iter().map(|name| name.parse().unwrap()).collect(),
                others,
            };

            let failure = in_use.to_failure();

            assert_eq!(
                failure.message,
                format!("the image \"web\" is in use by {want}")
            );
            let hint = failure.hint.unwrap();
            assert_eq!(hint.command.as_deref(), command);
        }
    }
}
