//! Who follows a running operation, so that somebody who leaves it knows whether others stay.
//!
//! What they are told is not here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tells one connection from every other of this process: who follows an operation in two ways
/// over one connection is one watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Makes one that there was not before.
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The connections that follow one operation, each with how often it does.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    connections: Mutex<HashMap<ConnectionId, usize>>,
}

impl Watchers {
    /// Counts `connection` until what is returned is dropped.
    pub(crate) fn enter(self: &Arc<Self>, connection: ConnectionId) -> Watching {
        *self.lock().entry(connection).or_default() += 1;
        Watching {
            watchers: self.clone(),
            connection,
        }
    }

    /// Counts the connections.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Tells whether any connection but `connection` is among them.
    pub(crate) fn has_others_than(&self, connection: ConnectionId) -> bool {
        self.lock().keys().any(|other| *other != connection)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, usize>> {
        let connections = self.connections.lock();
        connections.unwrap_or_else(PoisonError::into_inner)
    }
}

/// One way in which one connection follows the operation.
#[derive(Debug)]
pub(crate) struct Watching {
    watchers: Arc<Watchers>,
    connection: ConnectionId,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut connections = self.watchers.lock();
        if let Some(count) = connections.get_mut(&self.connection) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_once_until_its_last_way_of_watching_is_dropped() {
        let watchers = Arc::new(Watchers::default());
        let (one, other) = (ConnectionId::unique(), ConnectionId::unique());

        let subscription = watchers.enter(one);
        let call = watchers.enter(one);
        assert_eq!(watchers.count(), 1);
        assert!(!watchers.has_others_than(one));
        assert!(watchers.has_others_than(other));

        let another = watchers.enter(other);
        assert_eq!(watchers.count(), 2);
        assert!(watchers.has_others_than(one));

        drop(subscription);
        assert_eq!(watchers.count(), 2);
        drop(call);
        assert_eq!(watchers.count(), 1);
        assert!(!watchers.has_others_than(other));
        drop(another);
        assert_eq!(watchers.count(), 0);
    }
}
