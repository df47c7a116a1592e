//! Images that machines run, and that leases keep, are not hidden or removed under them.

use std::fmt;

use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, may_see};
use kiln_domain::{ImageName, InstanceName, Timestamp};
use kiln_store::holders::{self, HolderKind, HolderRow};
use kiln_store::images::ImageRow;
use kiln_store::{ReadTransaction, StoreError, instances};

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
    /// How many more machines there are.
    others: usize,
    /// How many leases keep it.
    leases: usize,
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
            (0, 0) => {}
            (0, others) => write!(f, "{others} machine{plural} that you may not see")?,
            (_, 0) => write!(f, "the machine{plural} {}", names.join(", "))?,
            (_, others) => write!(f, "the machines {} and {others} more", names.join(", "))?,
        }
        let and = if names.len() + self.0.others == 0 {
            ""
        } else {
            ", and by "
        };
        match self.0.leases {
            0 => Ok(()),
            1 => write!(f, "{and}1 lease"),
            leases => write!(f, "{and}{leases} leases"),
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

/// Tells what must not happen to an image because machines run it or leases keep it.
pub(crate) fn refuse_in_use(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    image: &ImageRow,
    now: Timestamp,
) -> Result<Option<ImageInUse>, StoreError> {
    let holds = holders::of_versions_of(tx, image.id, now)?;
    if holds.is_empty() {
        return Ok(None);
    }
    let is_lease = |hold: &&HolderRow| hold.holder.kind == HolderKind::Lease;
    let leases = holds.iter().filter(is_lease).count();
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
    let others = holds.len() - leases - named.len();
    Ok(Some(ImageInUse {
        image: image.name.clone(),
        named,
        others,
        leases,
    }))
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
        type Case = (
            &'static [&'static str],
            usize,
            usize,
            &'static str,
            Option<&'static str>,
        );
        let cases: [Case; 7] = [
            (&["a"], 0, 0, "the machine a", Some("kiln stop a")),
            (
                &["a", "b"],
                0,
                0,
                "the machines a, b",
                Some("kiln stop a b"),
            ),
            (
                &["a", "b", "c"],
                2,
                0,
                "the machines a, b, c and 2 more",
                Some("kiln stop a b c"),
            ),
            (&[], 1, 0, "1 machine that you may not see", None),
            (&[], 0, 1, "1 lease", None),
            (&[], 0, 2, "2 leases", None),
            (
                &["a"],
                0,
                2,
                "the machine a, and by 2 leases",
                Some("kiln stop a"),
            ),
        ];
        for (names, others, leases, want, command) in cases {
            let in_use = ImageInUse {
                image: "web".parse().unwrap(),
                named: names.iter().map(|name| name.parse().unwrap()).collect(),
                others,
                leases,
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
