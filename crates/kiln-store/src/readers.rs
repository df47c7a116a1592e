//! The reading connections and who may use one now.
//!
//! Running a query is not here.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::StoreError;

/// Connections that cannot write, each used by one read at a time.
#[derive(Debug)]
pub(crate) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    count: u32,
}

/// The use of one reading connection; it goes home when this is dropped.
///
/// The connection travels with its permit, so that a read whose caller went away can lose
/// neither.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Option<Connection>,
    home: Arc<Mutex<Vec<Connection>>>,
    _permit: OwnedSemaphorePermit,
}

impl Readers {
    /// Takes the connections to lend.
    pub(crate) fn new(connections: Vec<Connection>) -> Self {
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        Self {
            permits: Arc::new(Semaphore::new(connections.len())),
            idle: Arc::new(Mutex::new(connections)),
            count,
        }
    }

    /// Waits for a connection to be idle and lends it.
    pub(crate) async fn lease(&self) -> Result<Lease, StoreError> {
        let permits = Arc::clone(&self.permits);
        let permit = permits
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = idle.pop();
        drop(idle);
        Ok(Lease {
            connection,
            home: Arc::clone(&self.idle),
            _permit: permit,
        })
    }

    /// Waits for running reads to end, then closes every connection. Later leases are refused.
    pub(crate) async fn close(&self) {
        // An error says that another call closed them first.
        if let Ok(all) = self.permits.acquire_many(self.count).await {
            all.forget();
        }
        self.permits.close();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.clear();
    }

    /// Counts the connections that nobody uses now.
    #[cfg(test)]
    pub(crate) fn idle_count(&self) -> usize {
        self.idle.lock().unwrap().len()
    }
}

impl Lease {
    /// Borrows the connection.
    pub(crate) fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        // A permit exists per connection; none can be missing unless the store was closed.
        self.connection.as_mut().ok_or(StoreError::Closed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Runs before the permit is given back, so whoever gets it finds the connection.
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        home.extend(self.connection.take());
    }
}
