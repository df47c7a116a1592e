//! What running operations need of what lies on the disk: it is not removed under them.
//!
//! ```text
//! operation: note ──▶ looks into the cache, reads versions ──▶ ends: lets go
//! prune:     for each thing: needed? stays : removed          (under one lock with `note`)
//! ```
//! So what an operation noted first is there when it looks; what was removed first is looked for in
//! vain, and fetched. What is let go of while a prune is at work counts until that has ended: whoever
//! ended has recorded what it made of it, and the prune has read the record before.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_domain::{Digest, OperationId, VersionId};

/// Something that an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Needed {
    /// A blob, by its digest, or a decoded layer, by its diff id.
    Content(Digest),
    /// The directory of a version.
    Version(VersionId),
}

/// What all of them need. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Who needs it, as often as it was noted.
    by: HashMap<Needed, Vec<OperationId>>,
    /// How many prunes are at work.
    prunes: u32,
    /// What was let go of meanwhile.
    late: HashSet<Needed>,
}

/// What one operation needs, until this is dropped.
#[derive(Debug)]
pub(crate) struct Need {
    needs: Needs,
    operation: OperationId,
    things: Vec<Needed>,
}

/// A prune at work, until this is dropped.
#[derive(Debug)]
pub(crate) struct Pruning {
    needs: Needs,
}

impl Needs {
    /// Notes what an operation needs, before it looks whether it is there.
    pub(crate) fn note(
        &self,
        operation: OperationId,
        things: impl IntoIterator<Item = Needed>,
    ) -> Need {
        let things: Vec<Needed> = things.into_iter().collect();
        let mut shared = self.lock();
        for thing in &things {
            shared.by.entry(*thing).or_default().push(operation);
        }
        drop(shared);
        Need {
            needs: self.clone(),
            operation,
            things,
        }
    }

    /// Lists the operations that need something now.
    pub(crate) fn operations(&self, thing: Needed) -> Vec<OperationId> {
        let mut operations = self.lock().by.get(&thing).cloned().unwrap_or_default();
        operations.sort_unstable();
        operations.dedup();
        operations
    }

    /// Tells whether something is needed now.
    pub(crate) fn has(&self, thing: Needed) -> bool {
        self.lock().has(thing)
    }

    /// Begins to prune.
    pub(crate) fn prune(&self) -> Pruning {
        self.lock().prunes += 1;
        Pruning {
            needs: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pruning {
    /// Removes something unless it is needed: then nothing is done, and nobody can begin to need it
    /// meanwhile. `remove` is short, for operations wait for it.
    pub(crate) fn unless_needed<T>(
        &self,
        thing: Option<Needed>,
        remove: impl FnOnce() -> T,
    ) -> Option<T> {
        let shared = self.needs.lock();
        if thing.is_some_and(|thing| shared.has(thing)) {
            return None;
        }
        Some(remove())
    }
}

impl Shared {
    fn has(&self, thing: Needed) -> bool {
        self.by.contains_key(&thing) || self.late.contains(&thing)
    }
}

impl Drop for Need {
    fn drop(&mut self) {
        let mut shared = self.needs.lock();
        for thing in &self.things {
            let Some(by) = shared.by.get_mut(thing) else {
                continue;
            };
            if let Some(at) = by.iter().position(|id| *id == self.operation) {
                by.swap_remove(at);
            }
            if by.is_empty() {
                shared.by.remove(thing);
                if shared.prunes > 0 {
                    shared.late.insert(*thing);
                }
            }
        }
    }
}

impl Drop for Pruning {
    fn drop(&mut self) {
        let mut shared = self.needs.lock();
        shared.prunes -= 1;
        if shared.prunes == 0 {
            shared.late.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn operation(n: u128) -> OperationId {
        OperationId::new(Uuid::from_u128(n))
    }

    fn thing(content: &str) -> Needed {
        Needed::Content(Digest::of(content.as_bytes()))
    }

    #[test]
    fn what_is_needed_stays_until_the_last_lets_go() {
        let needs = Needs::default();
        let [a, b] = ["a", "b"].map(thing);
        let one = needs.note(operation(1), [a, b, b]);
        let other = needs.note(operation(2), [a]);
        assert_eq!(needs.operations(a), [operation(1), operation(2)]);
        assert_eq!(needs.operations(b), [operation(1)]);
        let prunes = |things: [Needed; 2]| {
            let pruning = needs.prune();
            things.map(|thing| pruning.unless_needed(Some(thing), || ()).is_some())
        };

        assert_eq!(prunes([a, b]), [false, false]);
        drop(one);
        assert_eq!(prunes([a, b]), [false, true]);
        drop(other);
        assert_eq!(prunes([a, b]), [true, true]);
        assert!(needs.lock().by.is_empty());
    }

    #[test]
    fn what_ends_while_a_prune_is_at_work_counts_for_it() {
        let needs = Needs::default();
        let need = needs.note(operation(1), [thing("a")]);

        let pruning = needs.prune();
        drop(need);

        assert!(needs.has(thing("a")));
        assert_eq!(pruning.unless_needed(Some(thing("a")), || ()), None);
        assert_eq!(pruning.unless_needed(None, || 1), Some(1));
        drop(pruning);
        assert!(!needs.has(thing("a")));
    }
}
