//! One lock per key, made when somebody wants it and gone when nobody does.
//!
//! It is what makes many pulls of one layer fetch it once: the first works, the others wait and
//! then find it done.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Locks by key.
#[derive(Debug)]
pub(crate) struct KeyedLock<K> {
    locks: Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>,
}

impl<K> Default for KeyedLock<K> {
    fn default() -> Self {
        Self {
            locks: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash> KeyedLock<K> {
    /// Waits for the key's lock. Dropping the guard, or the wait, gives it up.
    pub(crate) async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
                lock
            } else {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(key, Arc::downgrade(&lock));
                lock
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_excludes_itself_and_no_other() {
        let locks = KeyedLock::default();
        let first = locks.lock("a").await;

        let other = locks.lock("b").await;
        let same =
            tokio::time::timeout(std::time::Duration::from_millis(20), locks.lock("a")).await;
        assert!(same.is_err());

        drop(first);
        drop(other);
        drop(locks.lock("a").await);
        drop(locks.lock("c").await);
        assert_eq!(locks.locks.lock().unwrap().len(), 1);
    }
}
